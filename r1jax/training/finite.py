"""Stops a run whose loss or gradient is not a number."""

import numpy as np


class NonFiniteError(FloatingPointError):
  """A loss or gradient that is not a number; nothing was saved since."""


def named(metrics, step):
  """{'train/NAME' (of an expert's metric: NAME): x}; raises NonFiniteError where loss or gradient is not finite."""
  metrics = {name if '/' in name else f'train/{name}': x for name, x in metrics.items()}
  require_finite(metrics, ('train/loss', 'train/grad_norm'), f'step {step}', 'the data')
  return metrics


def require_finite(metrics, names, where, advice):
  """Raises NonFiniteError where the loss or the gradient's norm, `names`, is not finite.

  where: such as 'step 7'. advice: what to look at.
  """
  bad = [name for name in names if not np.isfinite(metrics[name])]
  if bad:
    raise NonFiniteError(
      f'{" and ".join(bad)} not finite at {where} ({metrics[bad[0]]}); the last checkpoint is intact. '
      f'Lower optimizer.learning_rate or look at {advice}.'
    )
