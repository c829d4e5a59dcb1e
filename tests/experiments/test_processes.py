"""Two processes of four devices compared with one of eight; a lost process; restoring on other devices."""

import json
import os
import shutil
import signal
import socket
import time

import numpy as np
import pytest

# Other devices sum in another order. A large eps keeps Adam from amplifying that where a gradient is nearly zero, so
# that samples rarely differ.
SETTINGS = {
  'steps': 4,
  'checkpoint.every': 1,
  'checkpoint.keep': 5,
  'optimizer.eps': 1e-3,
  'rollout.prompts': 8,
  'rollout.chunk': 8,
  'eval.every': 3,
  'eval.problems': 8,
  'eval.final_problems': 8,
}
MESH = {'mesh.fsdp': 4, 'mesh.tp': 2}
END_WITHIN = 60.0  # seconds within which the loss of a process must end the others


def devices(count):
  # On a busy machine a thread may be late for a collective; by default the runtime gives up after 40 s.
  return {
    'JAX_NUM_CPU_DEVICES': str(count),
    'XLA_FLAGS': f'{os.environ.get("XLA_FLAGS", "")} --xla_cpu_collective_call_terminate_timeout_seconds=300',
  }


def start_two(runs, workdir):
  with socket.socket() as s:
    s.bind(('localhost', 0))
    address = f'localhost:{s.getsockname()[1]}'
  return [
    runs.start(
      workdir,
      SETTINGS | MESH,
      env=devices(4) | {'R1JAX_COORDINATOR': address, 'R1JAX_PROCESSES': '2', 'R1JAX_PROCESS': str(rank)},
    )
    for rank in (0, 1)
  ]


def finish_two(runs, workdir):
  processes = start_two(runs, workdir)
  try:
    stderrs = [process.communicate(timeout=600)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], stderrs
  finally:
    for process in processes:
      kill(process)
  return stderrs


def kill(process):
  try:
    os.killpg(process.pid, signal.SIGKILL)
  except ProcessLookupError:
    pass


def assert_close(actual, expected):
  """Metrics agree up to the last digits, in which sums over devices differ."""
  assert [row['step'] for row in actual] == [row['step'] for row in expected]
  for row, want in zip(actual, expected):
    assert row.keys() == want.keys()
    for name, value in want.items():
      np.testing.assert_allclose(row[name], value, rtol=1e-4, atol=1e-5, err_msg=f'step {row["step"]} {name}')


@pytest.fixture(scope='module')
def two(runs, tmp_path_factory):
  """The workdir of an uninterrupted run of two processes, and their stderr."""
  path = tmp_path_factory.mktemp('two')
  return path, finish_two(runs, path)


@pytest.mark.slow
def test_two_processes_are_one_run_and_only_the_first_logs(runs, two, tmp_path):
  runs.finish(tmp_path, SETTINGS | MESH, env=devices(8))
  assert_close(runs.metrics(two[0]), runs.metrics(tmp_path))
  assert all(word in two[1][0] and word not in two[1][1] for word in ('RL:', 'sampler: compiled'))
  assert (two[0] / 'report.html').exists() and (two[0] / 'summary.json').exists()


@pytest.mark.slow
@pytest.mark.parametrize(('count', 'mesh'), [(1, {}), (8, {'mesh.fsdp': 8})])
def test_a_checkpoint_of_two_processes_resumes_on_other_devices(count, mesh, runs, two, tmp_path):
  run, before = tmp_path / 'run', tmp_path / 'before'
  drop = lambda path, step: shutil.rmtree(path / 'checkpoints' / f'step_{step:06d}')
  for path in (run, before):
    shutil.copytree(two[0], path)
    drop(path, 4)
  drop(run, 3)
  assert 'resumed at step 2' in runs.finish(run, SETTINGS | mesh, env=devices(count))
  # The next step has the same rollout, metrics and update; later samples may differ.
  assert_close(runs.metrics(run)[:3], runs.metrics(before)[:3])
  drop(run, 4)
  (step, arrays), (want_step, want) = map(runs.last_checkpoint, (run, before))
  assert step == want_step == 3
  for name, value in want.items():
    np.testing.assert_allclose(arrays[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize('lost', [0, 1])
def test_a_lost_process_ends_the_other_and_the_same_command_resumes(lost, runs, two, tmp_path):
  processes = start_two(runs, tmp_path)
  try:
    deadline = time.monotonic() + 600
    while not (tmp_path / 'checkpoints' / 'step_000002').exists():
      assert all(p.poll() is None for p in processes), [p.communicate()[1] for p in processes]
      assert time.monotonic() < deadline
      time.sleep(0.05)
    kill(processes[lost])
    stderr = processes[1 - lost].communicate(timeout=END_WITHIN)[1]
    assert processes[1 - lost].returncode not in (0, None)
    # Our message if a collective fails first; if the coordinator's silence is noticed first, JAX ends the process.
    assert 'the same command again' in stderr or 'another task died' in stderr, stderr
  finally:
    for process in processes:
      kill(process)
  if lost:
    return  # only the other case resumes
  finish_two(runs, tmp_path)
  assert_close(runs.metrics(tmp_path), runs.metrics(two[0]))
  summaries = [json.loads((path / 'summary.json').read_text()) for path in (tmp_path, two[0])]
  for key in ('base', 'final'):
    assert summaries[0][key] == summaries[1][key]
