"""Low-rank adapters (LoRA, arXiv 2106.09685): W is used as W + alpha / rank * A B, and only A and B are trained.

An adapter is a tree like that of the parameters, of the adapted matrices alone, each of them {'a': A, 'b': B}. A layer
merges its matrices when it is run, so attention, experts and the layout on a mesh know nothing of adapters. For one
layer at a time the whole matrix and its gradient exist; gradients and moments are kept for A and B only.
"""

import flax.struct
import jax
import jax.numpy as jnp

from r1jax.config import require
from r1jax.models.moe import FLOAT32_PARAMS
from r1jax.params import Spec, is_spec
from r1jax.typed import Array


class Adapted(flax.struct.PyTreeNode):
  """A matrix with its adapter, in the matrix's place among the parameters.

  Attributes:
    weight: [*stacked, *inputs, *outputs], of any dtype. a: f32[*stacked, *inputs, rank]. b: f32[*stacked, rank,
    *outputs]. scale: alpha / rank.
  """

  weight: Array
  a: Array
  b: Array
  scale: float = flax.struct.field(pytree_node=False)

  def merged(self):
    """weight + scale * A B, f32. Sharded as the weight, it needs nothing of other devices."""
    stacked = tuple(range(self.a.ndim + self.b.ndim - self.weight.ndim - 2))
    contracted = (self.a.ndim - 1,), (len(stacked),)
    # With default precision a TPU would round A and B to bfloat16; next to the product with tokens this one is small.
    product = jax.lax.dot_general(self.a, self.b, (contracted, (stacked, stacked)), precision='highest')
    return self.weight.astype(jnp.float32) + self.scale * product


class Base(flax.struct.PyTreeNode):
  """What an adapter adapts: the parameters of a model, and the `scale` of `Adapted`."""

  params: dict
  scale: float = flax.struct.field(pytree_node=False)

  def attach(self, adapter):
    """The parameters of the adapted model; no array is copied."""
    return _attach(self.params, adapter, self.scale)


def is_adapted(x):
  return isinstance(x, Adapted)


def _attach(params, adapter, scale):
  one = lambda w, of: _attach(w, of, scale) if isinstance(w, dict) else Adapted(w, of['a'], of['b'], scale)
  return {name: one(w, adapter[name]) if name in adapter else w for name, w in params.items()}


def adapter_of(params):
  """The adapter of parameters that `Base.attach` has put together."""
  of = lambda w: {'a': w.a, 'b': w.b} if is_adapted(w) else adapter_of(w) if isinstance(w, dict) else {}
  return {name: inner for name, w in params.items() if (inner := of(w))}


def merge(params):
  """Parameters with arrays in the place of adapted matrices, f32; others are returned as they are."""
  return jax.tree.map(lambda w: w.merged() if is_adapted(w) else w, params, is_leaf=is_adapted)


def merge_layers(params, dtype):
  """`merge` of stacked parameters to `dtype`, in float32 for a layer at a time: little exists twice, and a TPU's
  compiler takes one product for each kind of matrix, not one for each matrix.
  """
  one = lambda w: jax.lax.map(lambda layer: layer.merged().astype(dtype), w) if is_adapted(w) else w
  return jax.tree.map(one, params, is_leaf=is_adapted)


def unadapted(params):
  """Parameters with adapted matrices as they were before."""
  return jax.tree.map(lambda w: w.weight if is_adapted(w) else w, params, is_leaf=is_adapted)


def matrices(specs, targets=()):
  """{dotted name: Spec} of the matrices to adapt: all of the layers, but for routers, or those that are named.

  Args:
    specs: as `models.specs` gives them. targets: names within a layer, as 'attention.q'; all where empty.

  Raises:
    ConfigError: the model has no matrix of such a name.
  """
  found = {}
  for path, spec in jax.tree_util.tree_leaves_with_path(specs, is_leaf=is_spec):
    in_layer = spec.axes[0] == 'layers' and path[0].key != 'mtp'  # a layer for multi-token prediction has no adapters
    if in_layer and spec.init == 'normal' and path[-1].key not in FLOAT32_PARAMS:
      found[jax.tree_util.keystr(path, simple=True, separator='.')] = spec
  known = list(dict.fromkeys(map(within_layer, found)))
  unknown = [name for name in targets if name not in known]
  require(
    not unknown, f'lora.targets has {", ".join(unknown)}; the matrices that can be adapted are {", ".join(known)}.'
  )
  return {name: spec for name, spec in found.items() if not targets or within_layer(name) in targets}


def within_layer(name):
  """'attention.q' of 'layers.attention.q'."""
  return name.partition('.')[2]


def adapter_specs(specs, rank, targets=()):
  """Specs of the adapter of a model: A begins random and B at zero, so that the model begins as it is.

  Args:
    specs, targets: as in `matrices`. rank: columns of A and rows of B.
  """
  tree = {}
  for name, spec in matrices(specs, targets).items():
    *outer, last = name.split('.')
    node = tree
    for key in outer:
      node = node.setdefault(key, {})
    node[last] = _pair(spec, rank)
  return tree


def _pair(spec, rank):
  first, split = spec.stacked, spec.stacked + spec.fan_in
  a = lambda of, new: (*of[:split], new)
  b = lambda of, new: (*of[:first], new, *of[split:])
  return {
    'a': Spec(a(spec.shape, rank), a(spec.axes, 'rank'), fan_in=spec.fan_in),
    'b': Spec(b(spec.shape, rank), b(spec.axes, 'rank'), 'zeros'),
  }
