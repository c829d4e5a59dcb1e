"""The device mesh and how arrays lie on it."""
from r1jax.parallel.mesh import make_mesh
from r1jax.parallel.rules import (
    TRAIN_RULES,
    batch_sharding,
    batch_shards,
    check,
    partition,
    plain,
    replicated,
    shardings,
)

__all__ = ['TRAIN_RULES', 'batch_sharding', 'batch_shards', 'check', 'make_mesh', 'partition', 'plain', 'replicated',
           'shardings']
