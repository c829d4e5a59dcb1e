"""Training data of reward models: items of a source, split into training and held-out items, as token ids."""

import dataclasses

import numpy as np

from r1jax.config import require
from r1jax.data import preference, process, sources
from r1jax.data.reader import DataError
from r1jax.data.toy import scored


@dataclasses.dataclass(frozen=True)
class Example:
  """One pair, response or solution.

  Attributes:
    id: str.
    rows: tuple of conversation.Row: chosen and rejected for a pair, otherwise one.
    labels: f32[rows, S], a label for each mark of each row; negative for a step without a label.
  """

  id: str
  rows: tuple
  labels: np.ndarray


def load(cfg, objective):
  """Loads the items that a config.RewardModelData describes.

  The held-out items are those of data.eval_path, or the share data.eval_fraction of the prompts, chosen by their hash.
  Training items with a held-out prompt are dropped and counted.

  Args:
    cfg: config.RewardModelData.
    objective: one of config.OBJECTIVES.

  Returns:
    (training items, held-out items, {reason: number dropped}).

  Raises:
    ConfigError: a setting cannot work.
    DataError: the data cannot be used.
  """
  require(cfg.source in SOURCES, f'data.source is {cfg.source!r}; known: {", ".join(SOURCES)}.')
  train, held_out, dropped = SOURCES[cfg.source](cfg, objective)
  keys = {item['key'] for item in held_out}
  kept = [item for item in train if item['key'] not in keys]
  for purpose, split in (('train on', kept), ('hold out', held_out)):
    if not split:
      raise DataError(
        f'no example is left to {purpose} ({len(kept)} to train on, {len(held_out)} held out; dropped: '
        f'{dropped}); check data.path, data.eval_path and data.eval_fraction.'
      )
  return kept, held_out, dropped | {'held_out': len(train) - len(kept)}


def _jsonl(cfg, objective):
  require(cfg.path, 'data.path is empty; pass the JSON Lines file of examples with --config.data.path=FILE.')
  read = {
    'pairs': lambda path: preference.read_pairs(path, cfg.view),
    'points': lambda path: preference.read_points(path, cfg.view),
    'steps': lambda path: process.read_steps(path, cfg.steps),
  }[objective]
  return _split(cfg, read)


def _samples(cfg, objective):
  require(objective == 'points', f"objective is {objective!r}; of data.source 'samples' only 'points' can be learned.")
  require(cfg.path, 'data.path is empty; pass a workdir of experiments.generate with --config.data.path=DIR.')
  return _split(cfg, lambda path: preference.read_samples(path, cfg.view))


def _split(cfg, read):
  """(training items, held-out items, dropped) of data.path and data.eval_path; read: file -> (items, dropped)."""
  train, dropped = read(cfg.path)
  if cfg.eval_path:
    held_out, dropped_held_out = read(cfg.eval_path)
    return train, held_out, {reason: count + dropped_held_out[reason] for reason, count in dropped.items()}
  # The keys are conversations in JSON, so that this split is independent of those of RL and SFT.
  is_held_out = lambda item: sources.share(item['key']) < cfg.eval_fraction
  return [i for i in train if not is_held_out(i)], [i for i in train if is_held_out(i)], dropped


def _toy(cfg, objective):
  require(
    not cfg.path and not cfg.eval_path,
    f'data.path {cfg.path or cfg.eval_path!r} would not be read: data.source {cfg.source!r} generates its '
    "examples; set data.source to 'jsonl' to read a file.",
  )
  make = scored.WORLDS[objective]
  if objective == 'steps':
    return *(make(count, held_out) for count, held_out in scored.SPLITS), {}
  return *(make(count, held_out, cfg.view) for count, held_out in scored.SPLITS), {}


SOURCES = {'jsonl': _jsonl, 'samples': _samples, 'toy': _toy}


def encode(items, encoder, objective):
  """Encodes items as examples.

  Args:
    items: as `load` returns them.
    encoder: conversation.Encoder.
    objective: one of config.OBJECTIVES.

  Returns:
    (list of Example, {'cut': number of items that were truncated, 'long': number of these that were dropped because
    truncation left nothing to learn from}).
  """
  examples, counts = [], {'cut': 0, 'long': 0}
  for item in items:
    if objective == 'steps':
      rows = (encoder.encode_steps(item['turns'], item['texts']),)
      labels = np.array([item['labels'][: len(rows[0].marks)]], np.float32)
    else:
      rows = tuple(encoder.encode_response(item['turns'], text) for text in item['texts'])
      labels = np.array(item['labels'], np.float32)[:, None]
    counts['cut'] += any(row.cut for row in rows)
    equal = len(rows) == 2 and np.array_equal(rows[0].ids, rows[1].ids)
    if equal or not (labels >= 0).any():
      counts['long'] += 1
    else:
      examples.append(Example(item['id'], rows, labels))
  return examples, counts
