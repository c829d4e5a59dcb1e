"""Random keys from numbers, under a transfer guard too."""

import jax
import numpy as np


def fold_in(key, number):
  """jax.random.fold_in, with `number` (0 <= int < 2**32) moved to the device explicitly."""
  return _fold_in(key, jax.device_put(np.uint32(number)))


_fold_in = jax.jit(jax.random.fold_in)
