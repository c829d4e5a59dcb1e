"""Weights of 8 or 4 bits, for the sampler alone: the matrices of all layers, which each layer multiplies out.

Rounding is to the nearest value of a symmetric grid, whose scale is that of an output channel (int8), or of TILE
inputs of one (int4; of a channel where its inputs are no whole tiles). Embeddings, norms, biases and routers stay as
they are.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import qwix

from r1jax import parallel
from r1jax import params as params_lib
from r1jax.models.moe import FLOAT32_PARAMS

TILE = 32  # inputs that share a scale of int4


def is_quantized(x):
  return isinstance(x, qwix.QArray)


def is_matrix(path, spec):
  """Whether a parameter is one of the matrices that are quantized; path: its own in `models.specs(stacked=False)`."""
  in_layer = isinstance(path[1] if len(path) > 1 else None, jax.tree_util.SequenceKey)
  return in_layer and spec.init == 'normal' and path[-1].key not in FLOAT32_PARAMS


def quantize(params, specs, dtype):
  """Unstacked parameters with the matrices of all layers as qwix.QArray.

  Args:
    params: as `models.unstack` gives them. specs: theirs.
    dtype: 'int8' or 'int4'.
  """

  one = lambda path, spec, w: _quantize(w, spec, dtype) if is_matrix(path, spec) else w
  return jax.tree_util.tree_map_with_path(one, specs, params, is_leaf=params_lib.is_spec)


def _quantize(w, spec, dtype):
  summed = range(spec.stacked, spec.stacked + spec.fan_in)
  tiles = {summed[-1]: TILE} if dtype == 'int4' and w.shape[summed[-1]] % TILE == 0 else {}
  alone = [axis for axis in range(w.ndim) if axis not in (tiles or summed)]
  exact = w.astype(jnp.float32)  # the library divides in the dtype of `w`: in bfloat16 that would round twice
  return qwix.quantize(exact, jnp.dtype(dtype), channelwise_axes=alone, tiled_axes=tiles, scale_dtype=jnp.float32)


def multiply_out(weights, dtype):
  """A layer's weights with its quantized matrices as arrays of `dtype`; others are returned as they are."""
  one = lambda w: qwix.dequantize(w).astype(dtype) if is_quantized(w) else w
  return jax.tree.map(one, weights, is_leaf=is_quantized)


def shardings(specs, mesh, abstract):
  """Shardings of unstacked parameters, quantized or not; scales lie as their weights, as far as they divide.

  Args:
    specs: of the parameters. mesh: the devices. abstract: the parameters as ShapeDtypeStructs.
  """

  def one(sharding, w):
    return dataclasses.replace(w, qvalue=sharding, scale=_of_scale(sharding, w.scale)) if is_quantized(w) else sharding

  return jax.tree.map(one, parallel.shardings(specs, mesh), abstract)


def _of_scale(sharding, scale):
  over = [*sharding.spec, *[None] * (scale.ndim - len(sharding.spec))]
  whole = lambda axis, size: axis is None or size % sharding.mesh.shape[axis] or size == 1
  return parallel.canonical(
    NamedSharding(sharding.mesh, PartitionSpec(*(None if whole(a, n) else a for a, n in zip(over, scale.shape))))
  )
