"""How activations and a layer's weights are sharded while they are computed with.

On one device, or without a mesh, everything here returns its argument unchanged.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from r1jax.parallel.rules import BATCH_AXES, TRAIN_RULES
from r1jax.params import is_spec

# Mesh axes: prompts are split over ROWS, a row's tokens over TOKENS, heads and the features of the residual stream over
# HEADS. FSDP, one of ROWS, also shards parameters while they are not in use.
ROWS, TOKENS, HEADS, FSDP = BATCH_AXES, 'seq', 'tp', 'fsdp'
DATA = tuple(a for a in ROWS if a != FSDP)


def size(mesh, *axes):
  """Devices along axes of a mesh; 1 without one."""
  return 1 if mesh is None else math.prod(mesh.shape.get(a, 1) for a in axes)


def sharding(shape, mesh, *axes):
  """NamedSharding over mesh axes, one name (or tuple of names, or None) a dimension, where they divide it."""
  used = lambda a: tuple(n for n in (a if isinstance(a, tuple) else (a,)) if size(mesh, n) > 1)
  # A row's tokens need not divide: they are padded.
  spec = [used(a) if n % size(mesh, *used(a)) == 0 or (a == TOKENS and n > 1) else None for n, a in zip(shape, axes)]
  return NamedSharding(mesh, PartitionSpec(*spec))


def constrain(x, mesh, *axes):
  """x with the sharding that `sharding` gives."""
  if mesh is None or mesh.size == 1:
    return x
  return jax.lax.with_sharding_constraint(x, sharding(x.shape, mesh, *axes))


def residual(x, mesh):
  """The residual stream between layers, [P, G, T, embed]: what remat keeps of a layer is split over all devices."""
  return constrain(x, mesh, ROWS, None, TOKENS, HEADS)


def weight_stationary(x, mesh):
  """The residual stream while decoding: at one token per row it is cheaper to move activations than weights."""
  return constrain(x, mesh, DATA, None, None, FSDP)


def cached(kv, mesh, put=constrain):
  """The cached keys and values (`attention.KV`): split by head where heads divide, else by token."""
  by_head = kv.k.shape[1] % size(mesh, HEADS) == 0
  place = lambda x, tokens: put(
    x, mesh, *(ROWS if i == 0 else HEADS if i == (1 if by_head else tokens % x.ndim) else None for i in range(x.ndim))
  )
  return kv.map(lambda x: place(x, -1), lambda x: place(x, -2))


def gather_features(x, mesh):
  """Activations [P, G, T, embed] before a product over embed."""
  return constrain(x, mesh, ROWS, None, TOKENS, None)


def prevent_cast_hoisting(weights, norm, dtype, mesh):
  """Multiplies a layer's weights by a 1 that the compiler cannot fold, where they will be cast to `dtype`.

  Otherwise the TPU compiler hoists the cast out of the loop over layers, and keeps a cast copy of the whole stack. An
  optimization barrier does not prevent that.

  Args:
    norm: [embed], a scale of this layer.
  """
  if mesh is None or mesh.size == 1:
    return weights
  one = jnp.where(jnp.isnan(jax.lax.stop_gradient(norm[0])), jnp.nan, 1.0)
  return jax.tree.map(lambda w: w if w.dtype == dtype else w * one.astype(w.dtype), weights)


def gather(weights, specs, mesh):
  """A layer's weights, all-gathered along the model dimension; their gradients are reduced back to the shards.

  Args:
    weights: pytree of arrays, cast already to the computation's dtype, so that this is what is sent.
    specs: pytree of Spec, like weights, stacked or not.
  """
  if size(mesh, FSDP) == 1:
    return weights

  def one(spec, w):
    stored = tuple(TRAIN_RULES[a] for a in spec.axes[-w.ndim :])
    return _gather(w, mesh, stored, tuple(None if a == FSDP else a for a in stored))

  return jax.tree.map(one, specs, weights, is_leaf=is_spec)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _gather(w, mesh, stored, used):
  return constrain(w, mesh, *used)


_gather.defvjp(
  lambda w, mesh, stored, used: (constrain(w, mesh, *used), None),
  lambda mesh, stored, used, _, ct: (constrain(ct, mesh, *stored),),
)
