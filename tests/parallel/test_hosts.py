"""What the environment says about other processes; and that a lone one needs none of it."""

import jax
import numpy as np
import pytest

from r1jax import config, parallel
from r1jax.config import ConfigError
from r1jax.parallel import hosts


@pytest.mark.parametrize(
  ('environ', 'want'),
  [
    ({}, None),
    ({'SLURM_NTASKS': '4'}, None),  # an allocation, but not under srun
    ({'SLURM_STEP_NUM_TASKS': '1', 'TPU_WORKER_HOSTNAMES': 'localhost'}, None),
    ({'SLURM_STEP_NUM_TASKS': '2'}, ()),
    ({'TPU_WORKER_HOSTNAMES': 'a,b'}, ()),
    ({'R1JAX_COORDINATOR': 'auto'}, ()),
    ({'R1JAX_COORDINATOR': 'h:1', 'R1JAX_PROCESSES': '4', 'R1JAX_PROCESS': '3'}, ('h:1', 4, 3)),
    ({'JAX_COORDINATOR_ADDRESS': 'h:1', 'JAX_NUM_PROCESSES': '4', 'JAX_PROCESS_ID': '0'}, ('h:1', 4, 0)),
  ],
)
def test_the_environment_says_who_the_others_are(environ, want):
  assert hosts._settings(environ) == want


@pytest.mark.parametrize(
  ('environ', 'said'),
  [
    ({'R1JAX_COORDINATOR': 'h:1'}, 'R1JAX_COORDINATOR set without R1JAX_PROCESSES, R1JAX_PROCESS; set all'),
    ({'R1JAX_COORDINATOR': 'h:1', 'R1JAX_PROCESSES': '2', 'R1JAX_PROCESS': '2'}, 'R1JAX_PROCESS=2 of'),
    ({'R1JAX_COORDINATOR': 'h:1', 'R1JAX_PROCESSES': 'two', 'R1JAX_PROCESS': '0'}, 'PROCESSES=two'),
  ],
)
def test_half_an_environment_is_refused(environ, said):
  with pytest.raises(ConfigError, match=said):
    hosts._settings(environ)


def test_a_lone_process_owns_all_and_adds_nothing():
  assert parallel.is_primary() and parallel.local_slice(7) == slice(0, 7)
  table = {'a': np.arange(3.0)}
  assert parallel.sum_across_processes(table) is table
  assert parallel.broadcast_from_primary(True) is True and parallel.broadcast_from_primary(False) is False
  mesh = parallel.make_mesh(config.Mesh(), jax.devices()[:1])
  there = parallel.to_global(table, parallel.replicated(mesh))
  np.testing.assert_array_equal(parallel.to_host(there)['a'], table['a'])


@pytest.mark.parametrize('count', [8, 7, 1])
def test_the_rows_of_all_processes_are_all_rows(count, monkeypatch):
  monkeypatch.setattr(jax, 'process_count', lambda: 3)
  rows = []
  for process in range(3):
    monkeypatch.setattr(jax, 'process_index', lambda process=process: process)
    rows += list(range(count))[parallel.local_slice(count)]
  assert rows == list(range(count))
