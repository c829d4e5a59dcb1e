"""The device mesh, how arrays lie on it, the processes that share it, and the signals that end them."""

from r1jax.parallel.hosts import (
  broadcast_from_primary,
  connect,
  is_primary,
  local_slice,
  merge_across_processes,
  sum_across_processes,
  to_global,
  to_host,
)
from r1jax.parallel.mesh import make_mesh, with_default_sizes
from r1jax.parallel.rules import (
  BATCH_AXES,
  TRAIN_RULES,
  batch_sharding,
  batch_shards,
  canonical,
  check_divisible,
  entries_received,
  partition_spec,
  replicated,
  require_divisible,
  shardings,
)

__all__ = [
  'BATCH_AXES',
  'TRAIN_RULES',
  'batch_sharding',
  'batch_shards',
  'broadcast_from_primary',
  'canonical',
  'check_divisible',
  'connect',
  'entries_received',
  'is_primary',
  'local_slice',
  'make_mesh',
  'merge_across_processes',
  'partition_spec',
  'replicated',
  'require_divisible',
  'shardings',
  'sum_across_processes',
  'to_global',
  'to_host',
  'with_default_sizes',
]
