"""Several rewards make one; which of them an item has follows from its kind."""

import numpy as np


def weights(items, cfg, step=None):
  """Of each item {part: weight}: the parts of its 'kind' (a text, if any) by config.Reward.

  Args:
    step: of training, at which parts that begin later do not count; None for all of them, as in an evaluation.
  """
  late = {name for name, first in cfg.start_step.items() if step is not None and step < first}
  found = {}
  for kind in {kind_of(item) for item in items}:
    found[kind] = {name: weight for name, weight in cfg.weights(kind).items() if name not in late}
  return [found[kind_of(item)] for item in items]


def total(scores, cfg, parts=None):
  """What is learned from: the weighted sum of the parts, times the product of the gates.

  A gate lets the sum count as far as its own score goes: with 'format' as a gate, nothing counts that is not well
  formed. A gate may have weight 0, and is none to an item that does not have the part.

  Args:
    scores: name -> f32[B], of all parts that an item has.
    cfg: config.Reward.
    parts: of each item its {part: weight}, as from `weights`; None: those of an item without a kind, for all.

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
  """bool[B]: is each response right, by the part that says so of its kind? False where none can.

  scores: name of a part -> f32[B], or f32 of another shape with as many numbers. cfg: config.Reward.
  """
  out = np.zeros(len(items), bool)
  for i, item in enumerate(items):
    name = cfg.accuracy_of(kind_of(item))
    out[i] = bool(name) and scores[name].reshape(-1)[i] >= cfg.thresholds.get(name, 1)
  return out


def by_kind(items):
  """{kind: bool[B]} of the kinds of some items, by name; without those that have none."""
  kinds = np.array([kind_of(item) or '' for item in items], object)
  return {kind: kinds == kind for kind in sorted(set(kinds) - {''})}


def kind_of(item):
  """What an item's 'kind' says where it is a text; or None."""
  kind = item.get('kind')
  return kind if isinstance(kind, str) else None
