"""Sharding as data: logical axis names -> mesh axes, with a check that says what does not fit."""

import math

import jax
from jax.sharding import NamedSharding, PartitionSpec

from r1jax.config import ConfigError, require
from r1jax.params import is_spec

# Weights are split over fsdp along the model dimension and over tp along heads, ffn or vocabulary.
TRAIN_RULES = {
  'layers': None,
  'embed': 'fsdp',
  'heads': 'tp',
  'kv_heads': 'tp',
  'head_dim': None,
  'mlp': 'tp',
  'vocab': 'tp',
  'norm': None,
  'latent': None,
  'latent_in': 'fsdp',
  'experts': 'expert',
  'rank': None,
}
# Replicated where the mesh axis does not divide them: they are small, and every device needs most of them.
WHOLE_IF_INDIVISIBLE = ('kv_heads', 'latent_in')
BATCH_AXES = ('data', 'fsdp', 'expert')


def partition_spec(spec, mesh, rules=TRAIN_RULES):
  """PartitionSpec of a params.Spec on this mesh."""
  return PartitionSpec(*(_over(size, axis, mesh, rules) for size, axis in zip(spec.shape, spec.axes)))


def _over(size, axis, mesh, rules):
  """The mesh axis that splits `size` entries of a logical axis, or None."""
  over = rules[axis]
  return None if over and axis in WHOLE_IF_INDIVISIBLE and size % mesh.shape[over] else over


def check_divisible(specs, mesh, rules=TRAIN_RULES):
  """Raises ConfigError where an axis has no rule, is used twice in one tensor, or does not divide."""
  for path, spec in jax.tree_util.tree_leaves_with_path(specs, is_leaf=is_spec):
    name, used = jax.tree_util.keystr(path), {}
    for size, axis in zip(spec.shape, spec.axes):
      if axis not in rules:
        raise ConfigError(f"{name}: no sharding rule for logical axis '{axis}'; known: {', '.join(rules)}.")
      over = _over(size, axis, mesh, rules)
      if over is None:
        continue
      if over in used:
        raise ConfigError(f"{name}: axes '{used[over]}' and '{axis}' both go to mesh axis '{over}'; change one rule.")
      used[over] = axis
      if size % mesh.shape[over]:
        raise ConfigError(
          f"{name}: {size} '{axis}' do not divide over {mesh.shape[over]} devices on axis '{over}'; "
          f'choose a mesh whose {over} divides {size}.'
        )


def shardings(specs, mesh, rules=TRAIN_RULES):
  """NamedShardings in the place of specs, after `check_divisible`."""
  check_divisible(specs, mesh, rules)
  return jax.tree.map(lambda s: canonical(NamedSharding(mesh, partition_spec(s, mesh, rules))), specs, is_leaf=is_spec)


def canonical(sharding):
  """The same NamedSharding in its shortest spelling, so that equal layouts compare equal; others as they are."""
  if not isinstance(sharding, NamedSharding):
    return sharding
  spec = [_wide(axis, sharding.mesh) for axis in sharding.spec]
  while spec and spec[-1] is None:
    spec.pop()
  return NamedSharding(sharding.mesh, PartitionSpec(*spec))


def _wide(over, mesh):
  """An entry of a PartitionSpec less the mesh axes of one device."""
  if isinstance(over, tuple):
    wide = tuple(axis for axis in over if mesh.shape[axis] > 1)
    return wide if len(wide) > 1 else wide[0] if wide else None
  return over if over is not None and mesh.shape[over] > 1 else None


def batch_sharding(mesh):
  """Leading (prompt) axis over all of BATCH_AXES together."""
  return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def batch_shards(mesh):
  """Into how many parts `batch_sharding` cuts a batch."""
  return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def require_divisible(size, what, mesh):
  """Raises ConfigError where a microbatch of `size` rows or examples does not divide over the mesh."""
  shards = batch_shards(mesh)
  require(
    size % shards == 0,
    f"{size} {what} a microbatch do not divide over {shards} devices on axes 'data', 'fsdp' and 'expert'; set "
    f'microbatch (or batch) to a multiple of {shards} or use a smaller mesh.',
  )


def replicated(mesh):
  return NamedSharding(mesh, PartitionSpec())


def entries_received(shape, before, after):
  """Number of elements sent between devices to reshard an array from `before` to `after`.

  Args:
    before, after: Shardings over the same devices.
  """
  total, have = 0, before.devices_indices_map(shape)
  for device, want in after.devices_indices_map(shape).items():
    pairs = [(a.indices(n), b.indices(n)) for a, b, n in zip(want, have[device], shape)]
    kept = math.prod(max(0, min(a[1], b[1]) - max(a[0], b[0])) for a, b in pairs)
    total += math.prod(a[1] - a[0] for a, _ in pairs) - kept
  return total
