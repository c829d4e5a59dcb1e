"""Many processes, one run: how they find each other, and what crosses from host arrays to global ones and back.

Every process runs the same host code on the same values: it feeds the devices it owns from the whole batch, and gets
the whole result back. Token arrays are small beside a model, and there is one way to write everything above this file.
Only grading, which costs host time, is split between processes (`local_slice`) and merged (`sum_across_processes`).
"""

import functools
import json
import os

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import numpy as np

from r1jax.config import ConfigError, require

LOST_AFTER = 30  # seconds without a sign of life from a process, before all others end
EXPLICIT = (
  ('R1JAX_COORDINATOR', 'JAX_COORDINATOR_ADDRESS'),
  ('R1JAX_PROCESSES', 'JAX_NUM_PROCESSES'),
  ('R1JAX_PROCESS', 'JAX_PROCESS_ID'),
)


def connect(environ=None):
  """Joins the other processes where the environment tells of any; to be called before JAX touches a device.

  Either R1JAX_COORDINATOR (host:port of process 0), R1JAX_PROCESSES and R1JAX_PROCESS, or JAX_COORDINATOR_ADDRESS,
  JAX_NUM_PROCESSES and JAX_PROCESS_ID; or what JAX finds out itself, with R1JAX_COORDINATOR=auto, under srun or
  mpirun with several tasks, or on a TPU slice of several hosts.

  Raises:
    ConfigError: only some of the variables are set, a number is invalid, or the other processes do not connect.
  """
  found = _settings(os.environ if environ is None else environ)
  if found is None or jax.distributed.is_initialized():
    return
  # Between CPU hosts; other devices have their own way. A gloo collective blocks a thread of XLA's pool, and a pool of
  # one thread per core can fill up with those that wait for one not yet begun; XLA reads its size here.
  os.environ.setdefault('NPROC', str(4 * (os.cpu_count() or 1) + 16))
  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  jax.config.update('jax_enable_preemption_service', False)  # it takes SIGTERM away: the processes would not end
  try:
    jax.distributed.initialize(*found, heartbeat_timeout_seconds=LOST_AFTER)
  except (RuntimeError, ValueError) as error:
    raise ConfigError(f'the processes of this run did not find each other: {str(error).splitlines()[0]}') from error


def _settings(environ) -> tuple | None:
  """Arguments of jax.distributed.initialize: three, or none where JAX is to find them; None for a process alone."""
  several = lambda name: int(environ.get(name, '1')) > 1
  names = [next((name for name in pair if name in environ), None) for pair in EXPLICIT]
  if environ.get('R1JAX_COORDINATOR') == 'auto':
    return ()
  if not any(names):
    auto = several('SLURM_STEP_NUM_TASKS') or several('OMPI_COMM_WORLD_SIZE')
    return () if auto or ',' in environ.get('TPU_WORKER_HOSTNAMES', '') else None
  require(
    all(names),
    f'{", ".join(filter(None, names))} set without '
    f'{", ".join(pair[0] for pair, name in zip(EXPLICIT, names) if not name)}; set all three or none.',
  )
  address, count, process = (environ[name] for name in names)
  require(
    count.isdigit() and process.isdigit() and int(process) < int(count),
    f'{names[2]}={process} of {names[1]}={count} processes; number them from 0.',
  )
  return address, int(count), int(process)


def is_primary():
  """Whether this process is the one that writes records and talks."""
  return jax.process_index() == 0


def to_global(tree, sharding):
  """Host arrays, the same in every process, as global ones; each process copies what its own devices hold."""
  if sharding.is_fully_addressable:
    return jax.device_put(tree, sharding)
  return jax.tree.map(lambda x: _to_global(x, sharding), tree)


def _to_global(x, sharding):
  if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
    return _as_keys(_to_global(jax.random.key_data(x), sharding), impl=jax.random.key_impl(x))
  x = np.asarray(jax.device_get(x))
  with jax.transfer_guard('allow'):
    return jax.make_array_from_callback(x.shape, sharding, lambda at: x[at])


_as_keys = jax.jit(jax.random.wrap_key_data, static_argnames='impl')


def to_host(tree):
  """jax.device_get, also of arrays that lie on other processes' devices; all must call it."""
  if all(x.is_fully_addressable for x in jax.tree.leaves(tree) if isinstance(x, jax.Array)):
    return jax.device_get(tree)
  mesh = next(x.sharding.mesh for x in jax.tree.leaves(tree) if not x.is_fully_addressable)
  return jax.tree.map(lambda x: jax.device_get(x.addressable_data(0)), _replicate(mesh)(tree))


@functools.cache
def _replicate(mesh):
  return jax.jit(lambda tree: tree, out_shardings=jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))


def local_slice(count):
  """The slice of `count` rows that this process works on."""
  process, processes = jax.process_index(), jax.process_count()
  return slice(process * count // processes, (process + 1) * count // processes)


def sum_across_processes(tree):
  """Sums over processes of host arrays, each process having filled in its part of zeros; all must call it."""
  if jax.process_count() == 1:
    return tree
  with jax.transfer_guard('allow'):
    found = multihost_utils.process_allgather(tree)
  return jax.tree.map(lambda x: x.sum(axis=0, dtype=x.dtype), found)


def merge_across_processes(entries):
  """The union of the dicts of all processes, of JSON values by number or text; all must call it."""
  if jax.process_count() == 1:
    return entries
  text = np.frombuffer(json.dumps(list(entries.items())).encode(), np.uint8)
  with jax.transfer_guard('allow'):
    longest = multihost_utils.process_allgather(np.int32(len(text))).max()
    padded = np.pad(text, (0, longest - len(text)), constant_values=ord(' '))
    found = multihost_utils.process_allgather(padded)
  return dict(entry for row in found for entry in json.loads(bytes(row)))


def broadcast_from_primary(value):
  """The bool of the first process, in every process; all must call it."""
  return bool(sum_across_processes(np.int32(value and is_primary())))
