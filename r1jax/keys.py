"""Random keys from numbers, under a transfer guard too."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.typed import Key, typed


def fold_in(key, number):
  """jax.random.fold_in, with `number` (0 <= int < 2**32) moved to the device explicitly."""
  return _fold_in(key, jax.device_put(np.uint32(number)))


_fold_in = jax.jit(jax.random.fold_in)


@typed
def row_keys(key: Key[jax.Array, ''], prompts: int, samples: int, first: int = 0) -> Key[jax.Array, 'p g']:
  """PRNG keys [P, G]: row i gets fold_in(key, first + i), so that samples do not depend on the batch's shape."""
  return _fold_rows(key, jax.device_put(np.uint32(first)), prompts=prompts, samples=samples)


@functools.partial(jax.jit, static_argnames=('prompts', 'samples'))
def _fold_rows(key, first, *, prompts, samples):
  numbers = first + jnp.arange(prompts * samples, dtype=jnp.uint32).reshape(prompts, samples)
  return jax.vmap(jax.vmap(lambda i: jax.random.fold_in(key, i)))(numbers)
