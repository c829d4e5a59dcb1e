"""The device mesh, how arrays lie on it, and the processes that share it."""
from r1jax.parallel.hosts import add_up, agree, connect, first, get, own, put
from r1jax.parallel.mesh import make_mesh
from r1jax.parallel.rules import (
    TRAIN_RULES,
    batch_sharding,
    batch_shards,
    check,
    constrain,
    fitting,
    partition,
    plain,
    replicated,
    shardings,
)

__all__ = ['TRAIN_RULES', 'add_up', 'agree', 'batch_sharding', 'batch_shards', 'check', 'connect', 'constrain', 'first',
           'fitting', 'get', 'make_mesh', 'own', 'partition', 'plain', 'put', 'replicated', 'shardings']
