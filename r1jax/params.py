"""Declared parameters: one `Spec` per tensor gives its shape, its sharding, its first value and its count."""

import dataclasses
import math

import jax
import jax.numpy as jnp

STACKED = ('layers', 'experts')


@dataclasses.dataclass(frozen=True)
class Spec:
  """A parameter tensor.

  Attributes:
    shape: its shape.
    axes: a logical name for each dimension; `parallel.rules` maps the names to mesh axes.
    init: 'normal' (standard deviation 1/sqrt(fan_in)), 'embedding' (0.02), 'ones' or 'zeros'.
    fan_in: how many dimensions, from the first after the stacked ones, are summed over; for 'normal'.
  """

  shape: tuple[int, ...]
  axes: tuple[str, ...]
  init: str = 'normal'
  fan_in: int = 1

  def __post_init__(self):
    if len(self.shape) != len(self.axes):
      raise ValueError(f'{len(self.shape)} dimensions {self.shape} but {len(self.axes)} axis names {self.axes}.')

  @property
  def stacked(self):
    """How many leading dimensions only stack tensors of one kind: layers, and experts within them."""
    rest = [a for a in self.axes if a not in STACKED]
    return self.axes.index(rest[0]) if rest else len(self.axes)


def is_spec(x):
  return isinstance(x, Spec)


def stack(specs, layers):
  """The same specs for `layers` layers, on a new leading axis that `lax.scan` runs over."""
  return jax.tree.map(
    lambda s: dataclasses.replace(s, shape=(layers, *s.shape), axes=('layers', *s.axes)), specs, is_leaf=is_spec
  )


def abstract(specs, dtype=jnp.float32, shardings=None):
  """ShapeDtypeStructs in the place of specs: for tracing and restoring without allocating.

  Args:
    dtype: of all, or {dotted name: dtype}.
    shardings: in the place of specs; or None.
  """

  def one(path, spec, sharding=None):
    name = jax.tree_util.keystr(path, simple=True, separator='.')
    return jax.ShapeDtypeStruct(spec.shape, dtype[name] if isinstance(dtype, dict) else dtype, sharding=sharding)

  more = () if shardings is None else (shardings,)
  return jax.tree_util.tree_map_with_path(one, specs, *more, is_leaf=is_spec)


def count(specs):
  """Number of parameters."""
  return sum(math.prod(s.shape) for s in jax.tree.leaves(specs, is_leaf=is_spec))


def init(specs, key, dtype=jnp.float32):
  """First values. Each tensor's depend on the key and its place in the tree, not on the sharding."""
  leaves, treedef = jax.tree.flatten(specs, is_leaf=is_spec)
  return jax.tree.unflatten(treedef, [_init(s, jax.random.fold_in(key, i), dtype) for i, s in enumerate(leaves)])


def _init(spec, key, dtype):
  if spec.init == 'ones':
    return jnp.ones(spec.shape, dtype)
  if spec.init == 'zeros':
    return jnp.zeros(spec.shape, dtype)
  if spec.init == 'embedding':
    std = 0.02
  else:
    std = math.prod(spec.shape[spec.stacked : spec.stacked + spec.fan_in]) ** -0.5
  return std * jax.random.normal(key, spec.shape, dtype)
