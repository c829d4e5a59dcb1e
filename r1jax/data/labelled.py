"""What a reward model learns from: items of a source, parted into training and held-out ones, and as token ids."""

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
    rows: tuple of conversation.Row: chosen and rejected, or one.
    labels: f32[rows, S], of each row's marks; negative where a step has none.
  """

  id: str
  rows: tuple
  labels: np.ndarray


def load(cfg, objective):
  """The items that a config.RewardModelData names.

  The held-out ones are those of data.eval_path, or the share data.eval_fraction of the prompts by their hash. A
  training item whose prompt is held out is dropped and counted.

  Returns:
    (training items, held-out items, {reason: number dropped}).

  Raises:
    ConfigError: a setting that cannot work. DataError: data that cannot be used.
  """
  require(cfg.source in SOURCES, f'data.source is {cfg.source!r}; known: {", ".join(SOURCES)}.')
  train, held_out, dropped = SOURCES[cfg.source](cfg, objective)
  keys = {item['key'] for item in held_out}
  kept = [item for item in train if item['key'] not in keys]
  for name, part in (('train on', kept), ('hold out', held_out)):
    if not part:
      raise DataError(
        f'no example is left to {name} ({len(kept)} to train on, {len(held_out)} held out; left out: '
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
  train, dropped = read(cfg.path)
  if cfg.eval_path:
    held_out, more = read(cfg.eval_path)
    return train, held_out, {reason: count + more[reason] for reason, count in dropped.items()}
  inside = lambda item: sources.share(item['key']) < cfg.eval_fraction  # keys are conversations in JSON: no other's
  return [i for i in train if not inside(i)], [i for i in train if inside(i)], dropped


def _toy(cfg, objective):
  require(
    not cfg.path and not cfg.eval_path,
    f'data.path {cfg.path or cfg.eval_path!r} would not be read: data.source is {cfg.source!r}, which makes its '
    "own examples; set data.source to 'jsonl' to read a file.",
  )
  make = scored.WORLDS[objective]
  if objective == 'steps':
    return *(make(count, held) for count, held in scored.SPLITS), {}
  return *(make(count, held, cfg.view) for count, held in scored.SPLITS), {}


SOURCES = {'jsonl': _jsonl, 'toy': _toy}


def encode(items, encoder, objective):
  """Items as examples, and what the limit has cost.

  Args:
    encoder: conversation.Encoder. objective: of config.OBJECTIVES.

  Returns:
    list of Example, and {'cut': examples that lost tokens, 'long': those of which nothing to learn from was left}.
  """
  examples, counts = [], {'cut': 0, 'long': 0}
  for item in items:
    if objective == 'steps':
      rows = (encoder.steps(item['turns'], item['texts']),)
      labels = np.array([item['labels'][: len(rows[0].marks)]], np.float32)
    else:
      rows = tuple(encoder.whole(item['turns'], text) for text in item['texts'])
      labels = np.array(item['labels'], np.float32)[:, None]
    counts['cut'] += any(row.cut for row in rows)
    same = len(rows) == 2 and np.array_equal(rows[0].ids, rows[1].ids)
    if same or not (labels >= 0).any():
      counts['long'] += 1
    else:
      examples.append(Example(item['id'], rows, labels))
  return examples, counts
