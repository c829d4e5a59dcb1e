"""Sources of problems, and their split into training and held-out problems."""

import dataclasses
import functools
import hashlib

from absl import logging
import numpy as np

from r1jax.config import Part, require
from r1jax.data import mixture
from r1jax.data.reader import DataError, read_jsonl, text_key


@dataclasses.dataclass(frozen=True)
class Problems:
  train: list  # problems: dicts with the strings 'id', 'problem', 'answer', and other fields
  held_out: list  # the same; no problem's text is in both lists
  dropped: dict[str, int]  # 'malformed': number of bad lines; 'held_out': training problems with a held-out text


def load(cfg, check=None):
  """Loads the problems that a config.Data describes.

  The held-out problems are those of cfg.eval_path if it is set, otherwise the source's own if it has any, otherwise the
  share cfg.eval_fraction of the texts, chosen by their hash, so that a problem stays in its split when others are added
  or removed. Texts are compared with white space collapsed. Training problems with a held-out text are dropped and
  counted.

  Args:
    cfg: config.Data.
    check: function problem -> None that raises ValueError saying what is wrong with the problem, such as
      `rewards.needs.checker` returns; such problems count as malformed.

  Returns:
    Problems.

  Raises:
    ConfigError: a setting cannot work.
    DataError: the data cannot be used.
  """
  if cfg.source == 'mixture':
    train, held_out, dropped = mixture.load(cfg, _load_part, check)
    problems = _drop_held_out(train, held_out, 0)
    total = dropped['held_out'] + problems.dropped['held_out']
    return dataclasses.replace(problems, dropped=dropped | {'held_out': total})
  part = Part(cfg.source, path=cfg.path, eval_path=cfg.eval_path, eval_fraction=cfg.eval_fraction, name=cfg.name)
  return _load_part(part, check)


def _load_part(cfg, check=None):
  """Loads the problems of a config.Part that pass the check."""
  require(
    cfg.source in SOURCES,
    f"data.source is {cfg.source!r}; use one of {', '.join(SOURCES)} (or 'mixture', which cannot be nested).",
  )
  problems = SOURCES[cfg.source](cfg, check)
  if cfg.filter:  # rows of files have already passed it, generated problems have not
    kept = [p for p in problems.train if mixture.matches(p, cfg.filter)]
    held_out = problems.held_out if cfg.eval_path else [p for p in problems.held_out if mixture.matches(p, cfg.filter)]
    problems = dataclasses.replace(problems, train=kept, held_out=held_out)
  if not problems.train:
    raise DataError(
      f'no problem is left to train on ({len(problems.held_out)} are held out); '
      'lower data.eval_fraction or check data.eval_path.'
    )
  if not problems.held_out and cfg.eval_fraction > 0:
    raise DataError(
      f'none of the {len(problems.train)} problems is in the held-out share of {cfg.eval_fraction}; '
      'raise data.eval_fraction or set data.eval_path.'
    )
  return problems


def drop_long(problems, encode, max_tokens):
  """Drops the problems with prompts over max_tokens.

  Args:
    problems: list of problems.
    encode: function problem -> tokens of its prompt, template included.
    max_tokens: maximum number of tokens in a prompt (rollout.max_prompt).

  Returns:
    (problems that fit, in order; number of problems dropped).

  Raises:
    DataError: no problem fits.
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
  """Problems of the JSON Lines file cfg.path, and held-out problems of cfg.eval_path."""
  require(cfg.path, 'data.path is empty; pass the JSON Lines file of problems with --config.data.path=FILE.')
  train, malformed = read_jsonl(cfg.path, mixture.row_converter(cfg, cfg.filter, check))
  if not cfg.eval_path:
    return _split(train, cfg.eval_fraction, malformed)
  held_out, malformed_held_out = read_jsonl(cfg.eval_path, mixture.row_converter(cfg, cfg.eval_filter, check))
  return _drop_held_out(train, held_out, malformed + malformed_held_out)


def _tfds(cfg, check):
  """Problems of a TFDS set prepared as array_record: cfg.name ('gsm8k', 'toy/trial') under cfg.path.

  The training problems are the split 'train'. The held-out problems are the split 'train' of the set of the same name
  under cfg.eval_path if that is set, otherwise the split 'held_out' if there is one, otherwise a share by hash.
  """
  require(cfg.name, "data.name is empty; pass the TFDS set's name with --config.data.name=NAME.")
  require(cfg.path, 'data.path is empty; pass the TFDS data_dir with --config.data.path=DIR.')
  splits = _read_tfds(cfg.name, cfg.path, mixture.row_converter(cfg, cfg.filter))
  splits, malformed = _drop_malformed(splits, check, cfg.name)
  if cfg.eval_path:
    eval_splits = _read_tfds(cfg.name, cfg.eval_path, mixture.row_converter(cfg, cfg.eval_filter))
    eval_splits, malformed_held_out = _drop_malformed(eval_splits, check, cfg.name)
    return _drop_held_out(splits['train'], eval_splits['train'], malformed + malformed_held_out)
  if 'held_out' in splits:
    return _drop_held_out(splits['train'], splits['held_out'], malformed)
  return _split(splits['train'], cfg.eval_fraction, malformed)


def _drop_malformed(splits, check, name):
  """Returns {split: problems that pass the check} and the number of the others, and logs the first of these."""
  kept, errors = {}, []
  for split, problems in splits.items():
    kept[split] = []
    for number, problem in enumerate(problems):
      try:
        if check:
          check(problem)
        kept[split].append(problem)
      except ValueError as error:
        errors.append(f'{split}, record {number}: {error}')
  if errors:
    total = sum(map(len, splits.values()))
    logging.warning('%s: dropped %d malformed of %d records; the first is %s.', name, len(errors), total, errors[0])
  return kept, len(errors)


def _trial(cfg, _):
  """The toy world of trial and error: find the signs. Generated, the same in every run."""
  return _toy('trial', cfg)


def _chain(cfg, _):
  """The toy world of chained arithmetic. Generated, the same in every run."""
  return _toy('chain', cfg)


def _nested(cfg, _):
  """The toy world of sums of earlier results. Generated, the same in every run."""
  return _toy('nested', cfg)


def _stories(cfg, _):
  """Arithmetic in words. Generated, the same in every run."""
  return _toy('stories', cfg)


def _countdown(cfg, _):
  """The game Countdown. Generated, the same in every run."""
  return _toy('countdown', cfg)


def _r1(kind):
  def load_kind(cfg, _):
    return _toy(f'r1_{kind}', cfg)

  load_kind.__doc__ = f"""The toy world of R1's recipe, kind {kind!r}. Generated, the same in every run."""
  return load_kind


def toy_pools(world):
  """Returns (train, held_out) problems of a toy world: the same in every run, whatever its seed."""
  from r1jax.data.toy import arithmetic, countdown, r1, stories

  if world == 'countdown':
    pools = countdown.TRAIN_POOL, countdown.HELD_OUT_POOL
    return tuple(countdown.problems(0, count, held_out) for held_out, count in enumerate(pools))
  if world == 'stories':
    make = stories.problems
  elif world.startswith('r1_'):
    make = functools.partial(r1.problems, world.removeprefix('r1_'))
  else:
    make = functools.partial(arithmetic.problems, world)
  return make(0, arithmetic.TRAIN_POOL, held_out=False), make(0, arithmetic.HELD_OUT_POOL, held_out=True)


# To add a source, write a function (config.Part, check of `load`) -> Problems and add it here.
SOURCES = {
  'jsonl': _jsonl,
  'tfds': _tfds,
  'trial': _trial,
  'chain': _chain,
  'nested': _nested,
  'stories': _stories,
  'countdown': _countdown,
  **{f'r1_{kind}': _r1(kind) for kind in ('chain', 'logic', 'code', 'open')},
}


def _toy(world, cfg):
  require(
    not cfg.path and not cfg.eval_path,
    f'data.path {cfg.path or cfg.eval_path!r} would not be read: data.source {world!r} generates its problems; '
    "set data.source to 'jsonl' to read a file.",
  )
  require(
    not cfg.fields and not cfg.problem,
    f'data.source {world!r} generates its problems; leave fields and problem of this part empty.',
  )
  train, held_out = toy_pools(world)
  return _drop_held_out(train, held_out, 0)


def _read_tfds(name, data_dir, to_problem):
  """Returns {split: problems} of a prepared set. Only its files are read: no builder code runs."""
  from tensorflow_datasets.core import read_only_builder  # takes seconds to import, and most runs do not need it

  folder, _, variant = name.partition('/')
  try:
    builder = read_only_builder.builder_from_files(folder, data_dir=data_dir, config=variant or None)
    splits = ['train', 'held_out'] if 'held_out' in builder.info.splits else ['train']
    # A truncated file may yield empty records rather than an error; `normalise` refuses those.
    rows = {split: enumerate(builder.as_data_source(split)) for split in splits}  # pyright: ignore[reportCallIssue]
    problems = {split: [to_problem(_decode(row), f'{name}/{split}/{i}') for i, row in rows[split]] for split in splits}
    return {split: [p for p in converted if p is not None] for split, converted in problems.items()}
  except Exception as e:  # TFDS and array_record raise all kinds of errors for missing, damaged or foreign files
    reason = str(e).partition('\n')[0].partition('. ')[0] or type(e).__name__
    raise DataError(
      f'there is no readable TFDS set {name!r} in {data_dir} ({reason}); '
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
  """Hashes a text to a number in [0, 1), so that a text stays in its split when others are added or removed.

  Args:
    text: the text.
    purpose: what the split is for. Splits for different purposes are independent, so that what one leaves for training
      can be split again by the next, as when training prompts of RL are used for SFT.
  """
  salted = f'{purpose}\0{text}' if purpose else text
  return int.from_bytes(hashlib.sha256(salted.encode('utf-8')).digest()[:8], 'big') / 2**64


def _drop_held_out(train, held_out, malformed):
  """Drops the held-out texts from train, as an evaluation on training problems would measure memory."""
  texts = {text_key(p) for p in held_out}
  kept = [p for p in train if text_key(p) not in texts]
  dropped = len(train) - len(kept)
  if dropped:
    logging.warning('dropped %d of %d training problems, as their text is held out.', dropped, len(train))
  return Problems(kept, held_out, {'malformed': malformed, 'held_out': dropped})
