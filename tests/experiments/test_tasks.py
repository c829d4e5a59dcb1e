"""experiments.evaluate on tasks: killed at any moment it ends with the same tables; several processes are one run."""

import os
import random
import socket

import pytest

EVALUATE = {'module': 'evaluate', 'config': 'configs/evaluation.py:small'}
PROBLEMS = 20


def settings(runs, **more):
  small = {f'tasks.{name}.problems': PROBLEMS for name in ('chain', 'countdown')}
  limits = {'rollout.prompts': 4, 'rollout.max_response': 24, 'only': "('chain', 'countdown')"}
  return {'models.base': runs.base, 'models.again': f'{runs.base},{runs.base}'} | small | limits | more


def contents(workdir):
  """{name: bytes} of what a finished evaluation has written; the page names its folder."""
  paths = [p for p in workdir.rglob('*') if p.is_file() and p.name != 'table.html']
  return {str(p.relative_to(workdir)): p.read_bytes() for p in paths}


@pytest.fixture(scope='module')
def uninterrupted(runs, tmp_path_factory):
  path = tmp_path_factory.mktemp('uninterrupted')
  runs.finish(path, settings(runs), **EVALUATE)
  return path


def lines(workdir):
  return sum(p.read_bytes().count(b'\n') for p in workdir.glob('*/*.jsonl'))


@pytest.mark.slow
def test_killed_five_times_it_ends_with_the_same_tables(runs, uninterrupted, tmp_path):
  want, dice = contents(uninterrupted), random.Random(0)
  assert lines(uninterrupted) == 3 * 2 * PROBLEMS * 4
  for _ in range(5):
    before = lines(tmp_path)
    delay = dice.uniform(0, 0.3)
    print(f'killed {delay:.3f} s after the first chunk behind {before} lines')  # shown if the test fails
    runs.kill(tmp_path, lambda before=before: lines(tmp_path) > before, settings(runs), delay, **EVALUATE)
    assert not (tmp_path / 'table.json').exists()
  runs.finish(tmp_path, settings(runs), **EVALUATE)
  assert contents(tmp_path) == want


@pytest.mark.slow
def test_slots_give_the_same_samples(runs, uninterrupted, tmp_path):
  runs.finish(tmp_path, settings(runs, **{'rollout.slots': 6}), **EVALUATE)
  settings_apart = lambda workdir: {name: x for name, x in contents(workdir).items() if name != 'summary.json'}
  assert settings_apart(tmp_path) == settings_apart(uninterrupted)


@pytest.mark.slow
def test_two_processes_are_one_evaluation(runs, tmp_path):
  """Of one device each, against one process of two."""
  only = {'only': "('countdown',)"}
  runs.finish(tmp_path / 'one', settings(runs, **only), env={'JAX_NUM_CPU_DEVICES': '2'}, **EVALUATE)
  with socket.socket() as s:
    s.bind(('localhost', 0))
    address = f'localhost:{s.getsockname()[1]}'
  flags = f'{os.environ.get("XLA_FLAGS", "")} --xla_cpu_collective_call_terminate_timeout_seconds=300'
  shared = {'JAX_NUM_CPU_DEVICES': '1', 'XLA_FLAGS': flags, 'R1JAX_COORDINATOR': address, 'R1JAX_PROCESSES': '2'}
  start = lambda rank: runs.start(
    tmp_path / 'two', settings(runs, **only), env=shared | {'R1JAX_PROCESS': str(rank)}, **EVALUATE
  )
  processes = [start(rank) for rank in (0, 1)]
  errors = [process.communicate(timeout=900)[1] for process in processes]
  assert [process.returncode for process in processes] == [0, 0], errors
  assert contents(tmp_path / 'two') == contents(tmp_path / 'one')  # reasons of both halves of the graded rows too
