"""Sharding as data: logical axis names -> mesh axes, with a check that says what does not fit."""
import math

import jax
from jax.sharding import NamedSharding, PartitionSpec

from r1jax.config import ConfigError
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
    'experts': None,
}
BATCH_AXES = ('data', 'fsdp')


def partition(axes, rules=TRAIN_RULES):
  """PartitionSpec of a tensor with these logical axes."""
  return PartitionSpec(*(rules[a] for a in axes))


def check(specs, mesh, rules=TRAIN_RULES):
  """Raises ConfigError where an axis has no rule, is used twice in one tensor, or does not divide."""
  for path, spec in jax.tree_util.tree_leaves_with_path(specs, is_leaf=is_spec):
    name, used = jax.tree_util.keystr(path), {}
    for size, axis in zip(spec.shape, spec.axes):
      if axis not in rules:
        raise ConfigError(f"{name}: no sharding rule for logical axis '{axis}'; known: {', '.join(rules)}.")
      over = rules[axis]
      if over is None:
        continue
      if over in used:
        raise ConfigError(f"{name}: axes '{used[over]}' and '{axis}' both go to mesh axis '{over}'; change one rule.")
      used[over] = axis
      if size % mesh.shape[over]:
        raise ConfigError(f"{name}: {size} '{axis}' do not divide over {mesh.shape[over]} devices on axis '{over}'; "
                          f'choose a mesh whose {over} divides {size}.')


def shardings(specs, mesh, rules=TRAIN_RULES):
  """NamedShardings in the place of specs, after `check`."""
  check(specs, mesh, rules)
  return jax.tree.map(lambda s: plain(NamedSharding(mesh, partition(s.axes, rules))), specs, is_leaf=is_spec)


def plain(sharding):
  """The same NamedSharding in its shortest spelling, so that equal layouts compare equal; others as they are."""
  if not isinstance(sharding, NamedSharding):
    return sharding
  spec = [axis if axis is not None and sharding.mesh.shape[axis] > 1 else None for axis in sharding.spec]
  while spec and spec[-1] is None:
    spec.pop()
  return NamedSharding(sharding.mesh, PartitionSpec(*spec))


def batch_sharding(mesh):
  """Leading (prompt) axis over data and fsdp together."""
  return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def batch_shards(mesh):
  """Into how many parts `batch_sharding` cuts a batch."""
  return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def replicated(mesh):
  return NamedSharding(mesh, PartitionSpec())
