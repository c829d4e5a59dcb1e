"""Array types for annotations, and their check.

`Float[Array, 'p g t']` states dtype and shape; a name must stand for the same number in all arguments and results of a
function. Functions marked `typed` are checked at every call, or trace, where R1JAX_CHECK_TYPES is set, as tests do.
"""

import os
from typing import Any

import jax
from jaxtyping import Bool, Float, Int, Key, UInt, jaxtyped
import numpy as np

Array = jax.Array | np.ndarray
Scalar = Float[Array, ''] | np.floating | float

__all__ = ['Array', 'Bool', 'Float', 'Int', 'Key', 'Scalar', 'UInt', 'shape_struct', 'typed']


def shape_struct(shape, dtype, sharding=None) -> Any:
  """A ShapeDtypeStruct in an array's place, also in records of arrays: what is compiled for, restored or planned."""
  return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def typed(function):
  """Marks a function whose annotations are checked where R1JAX_CHECK_TYPES is set."""
  if not os.environ.get('R1JAX_CHECK_TYPES'):
    return function
  from beartype import beartype  # an extra, for tests

  return jaxtyped(function, typechecker=beartype)
