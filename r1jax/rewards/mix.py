"""Several rewards make one."""
import numpy as np


def total(scores, cfg):
  """What is learned from: the weighted sum of the parts, times the product of the gates.

  A gate lets the sum count as far as its own score goes: with 'format' as a gate, nothing counts that is not well
  formed. A gate may have weight 0.

  Args:
    scores: name -> f32[B], of all of cfg.parts.
    cfg: config.Reward.

  Returns:
    f32[B].
  """
  # Term by term: the rounding of a matrix product may depend on the row.
  out = sum(weight * scores[name].astype(np.float64) for name, weight in cfg.parts.items())
  for name in cfg.gates:
    out = out * scores[name]
  return out.astype(np.float32)
