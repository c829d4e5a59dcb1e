"""Combines several reward functions into one reward; the kind of an item decides which of them it has."""

import numpy as np


def weights(items, cfg, step=None):
  """The weights {part: weight} of each item, by its kind.

  Args:
    items: list of dicts, with or without 'kind'.
    cfg: config.Reward.
    step: training step; parts whose start_step is later are left out. None: all parts, as in an evaluation.

  Returns:
    list of dicts, one per item.
  """
  inactive = {name for name, first in cfg.start_step.items() if step is not None and step < first}
  weights_by_kind = {}
  for kind in {kind_of(item) for item in items}:
    weights_by_kind[kind] = {name: weight for name, weight in cfg.weights(kind).items() if name not in inactive}
  return [weights_by_kind[kind_of(item)] for item in items]


def total(scores, cfg, parts=None):
  """The reward to train on: the weighted sum of the parts, times the product of the gates.

  A gate multiplies the sum by its own score: with 'format' as a gate, a response that is not well formed gets 0. A gate
  may have weight 0. A gate has no effect on an item that does not have that part.

  Args:
    scores: name of a part -> f32[B]; every part that any item has.
    cfg: config.Reward.
    parts: the {part: weight} of each item, as from `weights`; None: those of an item without a kind, for all items.

  Returns:
    f32[B].
  """
  if parts is None:
    parts = [cfg.weights()] * len(next(iter(scores.values())))
  out = np.zeros(len(parts))
  for name in cfg.names():
    if any(name in p for p in parts):  # term by term: the rounding of a matrix product may depend on the row
      out += np.array([p.get(name, 0.0) for p in parts]) * scores[name].astype(np.float64)
  for name in cfg.gates:
    if any(name in p for p in parts):
      out = out * np.where([name in p for p in parts], scores[name], np.float32(1))
  return out.astype(np.float32)


def right(scores, cfg, items):
  """Which responses are correct, by the accuracy part of each item's kind; False for a kind that has none.

  Args:
    scores: name of a part -> f32[B], or f32 of another shape with B elements.
    cfg: config.Reward.
    items: list of B dicts.

  Returns:
    bool[B].
  """
  out = np.zeros(len(items), bool)
  for i, item in enumerate(items):
    name = cfg.accuracy_of(kind_of(item))
    out[i] = bool(name) and scores[name].reshape(-1)[i] >= cfg.thresholds.get(name, 1)
  return out


def by_kind(items):
  """{kind: bool[B]}: the mask of the items of each kind, sorted by kind; items without a kind are in no mask."""
  kinds = np.array([kind_of(item) or '' for item in items], object)
  return {kind: kinds == kind for kind in sorted(set(kinds) - {''})}


def kind_of(item):
  """The item's 'kind' if it is a string, else None."""
  kind = item.get('kind')
  return kind if isinstance(kind, str) else None
