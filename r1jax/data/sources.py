"""Where problems come from, and how they divide into training and held-out ones."""

import dataclasses
import hashlib

from absl import logging
import numpy as np

from r1jax.config import Part, require
from r1jax.data import mixture
from r1jax.data.reader import DataError, read_jsonl, text_key


@dataclasses.dataclass(frozen=True)
class Problems:
  train: list  # problems: dicts with the strings 'id', 'problem', 'answer', and more
  held_out: list  # the same; shares no problem's text with train
  dropped: dict[str, int]  # reason -> number: 'malformed' lines, 'held_out' texts met in train


def load(cfg, check=None):
  """Loads the problems that a config.Data names.

  Held-out problems are the source's own where it has them, else those of cfg.eval_path, else the
  share cfg.eval_fraction of the texts by their hash: a problem stays on its side when others come
  or go. Texts are compared with white space collapsed; a training problem whose text is held out
  is dropped and counted.

  Args:
    check: function from a problem to None, which raises ValueError saying what is wrong with it, such as
      `rewards.needs.checker`'s; problems of which it does so are malformed.

  Raises:
    ConfigError: a setting that cannot work.
    DataError: data that cannot be used.
  """
  if cfg.source == 'mixture':
    train, held_out, dropped = mixture.load(cfg, _one, check)
    problems = _disjoint(train, held_out, 0)
    twice = dropped['held_out'] + problems.dropped['held_out']
    return dataclasses.replace(problems, dropped=dropped | {'held_out': twice})
  return _one(Part(cfg.source, cfg.path, cfg.eval_path, cfg.eval_fraction, cfg.name), check)


def _one(cfg, check=None):
  """The problems of a config.Part that pass the check."""
  require(
    cfg.source in SOURCES,
    f"data.source is {cfg.source!r}; use one of {', '.join(SOURCES)} (or, of several, data.source 'mixture').",
  )
  problems = SOURCES[cfg.source](cfg, check)
  if cfg.filter:  # files have been read by it; generated problems have not
    kept = [p for p in problems.train if mixture.wanted(p, cfg.filter)]
    held_out = problems.held_out if cfg.eval_path else [p for p in problems.held_out if mixture.wanted(p, cfg.filter)]
    problems = dataclasses.replace(problems, train=kept, held_out=held_out)
  if not problems.train:
    raise DataError(
      f'no problem is left to train on ({len(problems.held_out)} are held out); '
      'lower data.eval_fraction or check data.eval_path.'
    )
  if not problems.held_out and cfg.eval_fraction > 0:
    raise DataError(
      f'none of the {len(problems.train)} problems fell into the held-out share of '
      f'{cfg.eval_fraction}; raise data.eval_fraction or set data.eval_path.'
    )
  return problems


def drop_long(problems, encode, max_tokens):
  """Drops the problems whose prompt exceeds max_tokens.

  Args:
    problems: list of problems.
    encode: function from a problem to its prompt's tokens, template included.
    max_tokens: most tokens a prompt may have (rollout.max_prompt).

  Returns:
    (kept, dropped): the problems that fit, in order, and the number of the others.

  Raises:
    DataError: none fits.
  """
  lengths = [len(encode(p)) for p in problems]
  kept = [p for p, n in zip(problems, lengths, strict=True) if n <= max_tokens]
  if problems and not kept:
    raise DataError(
      f'all {len(problems)} prompts exceed {max_tokens} tokens (the shortest has {min(lengths)}); '
      f'set rollout.max_prompt to at least {min(lengths)}.'
    )
  return kept, len(problems) - len(kept)


def _jsonl(cfg, check):
  """Problems of the JSON Lines file cfg.path, held-out ones of cfg.eval_path."""
  require(cfg.path, 'data.path is empty; pass the JSON Lines file of problems with --config.data.path=FILE.')
  train, malformed = read_jsonl(cfg.path, mixture.taker(cfg, cfg.filter, check))
  if not cfg.eval_path:
    return _split(train, cfg.eval_fraction, malformed)
  held_out, more = read_jsonl(cfg.eval_path, mixture.taker(cfg, cfg.eval_filter, check))
  return _disjoint(train, held_out, malformed + more)


def _tfds(cfg, check):
  """Problems of a TFDS set prepared as array_record: cfg.name ('gsm8k', 'toy/trial') under cfg.path.

  The set's split 'train' is trained on. Held out is its split 'held_out' if there is one, else the
  split 'train' of the same name under cfg.eval_path, else a share by hash.
  """
  require(cfg.name, "data.name is empty; pass the TFDS set's name with --config.data.name=NAME.")
  require(cfg.path, 'data.path is empty; pass the TFDS data_dir with --config.data.path=DIR.')
  splits, malformed = _passing(_read_tfds(cfg.name, cfg.path, mixture.taker(cfg, cfg.filter)), check, cfg.name)
  if cfg.eval_path:
    there = _read_tfds(cfg.name, cfg.eval_path, mixture.taker(cfg, cfg.eval_filter))
    there, more = _passing(there, check, cfg.name)
    return _disjoint(splits['train'], there['train'], malformed + more)
  if 'held_out' in splits:
    return _disjoint(splits['train'], splits['held_out'], malformed)
  return _split(splits['train'], cfg.eval_fraction, malformed)


def _passing(splits, check, name):
  """{split: problems that pass the check}, and the number of the others, of which the first is reported."""
  kept, bad = {}, []
  for split, problems in splits.items():
    kept[split] = []
    for number, problem in enumerate(problems):
      try:
        if check:
          check(problem)
        kept[split].append(problem)
      except ValueError as error:
        bad.append(f'{split}, record {number}: {error}')
  if bad:
    logging.warning(
      '%s: dropped %d malformed of %d records; the first is %s.', name, len(bad), sum(map(len, splits.values())), bad[0]
    )
  return kept, len(bad)


def _trial(cfg, _):
  """The trial-and-error world: signs to be found. Generated, the same in every run."""
  return _toy('trial', cfg)


def _chain(cfg, _):
  """The chained-arithmetic world. Generated, the same in every run."""
  return _toy('chain', cfg)


def _of_r1(kind):
  def read(cfg, _):
    return _toy(f'r1_{kind}', cfg)

  read.__doc__ = f"""The recipe's toy world: problems of the kind {kind!r}. Generated, the same in every run."""
  return read


def toy_pools(world):
  """(train, held_out) problems of a toy world: the same in every run, whatever its seed."""
  from r1jax.data.toy import arithmetic, r1

  if world.startswith('r1_'):
    return tuple(
      r1.problems(world[3:], 0, count, held_out)
      for count, held_out in ((arithmetic.TRAIN_POOL, False), (arithmetic.HELD_OUT_POOL, True))
    )
  return (
    arithmetic.problems(world, 0, arithmetic.TRAIN_POOL, held_out=False),
    arithmetic.problems(world, 0, arithmetic.HELD_OUT_POOL, held_out=True),
  )


# To add a source: a function from config.Part and the check of `load` to Problems, and its line here.
SOURCES = {
  'jsonl': _jsonl,
  'tfds': _tfds,
  'trial': _trial,
  'chain': _chain,
  **{f'r1_{kind}': _of_r1(kind) for kind in ('chain', 'logic', 'code', 'open')},
}


def _toy(world, cfg):
  require(
    not cfg.path and not cfg.eval_path,
    f'data.path {cfg.path or cfg.eval_path!r} would not be read: data.source {world!r} makes its own problems; '
    "set data.source to 'jsonl' to read a file.",
  )
  require(
    not cfg.fields and not cfg.problem,
    f'data.source {world!r} makes its own problems; leave fields and problem of this part empty.',
  )
  return _disjoint(*toy_pools(world), 0)


def _read_tfds(name, data_dir, take):
  """Returns {split: problems} of a prepared set. Only its files are read: no builder code runs."""
  from tensorflow_datasets.core import read_only_builder  # here: it takes seconds, and most runs need none of it

  folder, _, variant = name.partition('/')
  try:
    builder = read_only_builder.builder_from_files(folder, data_dir=data_dir, config=variant or None)
    splits = ['train', 'held_out'] if 'held_out' in builder.info.splits else ['train']
    # A cut file may yield empty records rather than an error; normalise refuses those.
    rows = {split: enumerate(builder.as_data_source(split)) for split in splits}
    found = {split: [take(_decode(row), f'{name}/{split}/{i}') for i, row in rows[split]] for split in splits}
    return {split: [p for p in problems if p is not None] for split, problems in found.items()}
  except Exception as e:  # absent, damaged or of another format: TFDS and array_record raise as they please
    why = str(e).partition('\n')[0].partition('. ')[0] or type(e).__name__
    raise DataError(
      f'there is no readable TFDS set {name!r} in {data_dir} ({why}); '
      f'write one with python -m r1jax.data.prepare {name} --data_dir {data_dir}'
    ) from None


def _decode(row):
  row = {k: v.item() if isinstance(v, np.generic) else v for k, v in row.items()}
  return {k: v.decode('utf-8') if isinstance(v, bytes) else v for k, v in row.items()}


def _split(problems, fraction, malformed):
  """Holds out the problems whose text hashes into the first `fraction` of the range."""
  held_out, train = [], []
  for p in problems:
    (held_out if share(text_key(p), 'RL') < fraction else train).append(p)
  return Problems(train, held_out, {'malformed': malformed, 'held_out': 0})


def share(text, purpose=''):
  """A number in [0, 1) that the text alone fixes: what is held out of a set stays so when others come or go.

  Args:
    purpose: what the split is for. Those of different purposes are independent: what one has left to train on can be
      parted again by the next, as where the prompts of RL become those of SFT.
  """
  salted = f'{purpose}\0{text}' if purpose else text
  return int.from_bytes(hashlib.sha256(salted.encode('utf-8')).digest()[:8], 'big') / 2**64


def _disjoint(train, held_out, malformed):
  """Drops from train what is held out: an evaluation on trained problems measures memory."""
  texts = {text_key(p) for p in held_out}
  kept = [p for p in train if text_key(p) not in texts]
  dropped = len(train) - len(kept)
  if dropped:
    logging.warning('dropped %d of %d training problems: their text is held out.', dropped, len(train))
  return Problems(kept, held_out, {'malformed': malformed, 'held_out': dropped})
