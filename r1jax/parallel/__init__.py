"""The device mesh, how arrays lie on it, the processes that share it, and the signals that end them."""

from r1jax.parallel.hosts import add_up, agree, connect, first, get, own, put
from r1jax.parallel.mesh import make_mesh, or_else
from r1jax.parallel.rules import (
  BATCH_AXES,
  TRAIN_RULES,
  batch_sharding,
  batch_shards,
  check,
  fitting,
  partition,
  plain,
  received,
  replicated,
  shardings,
)

__all__ = [
  'BATCH_AXES',
  'TRAIN_RULES',
  'add_up',
  'agree',
  'batch_sharding',
  'batch_shards',
  'check',
  'connect',
  'first',
  'fitting',
  'get',
  'make_mesh',
  'or_else',
  'own',
  'partition',
  'plain',
  'put',
  'received',
  'replicated',
  'shardings',
]
