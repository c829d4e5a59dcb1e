"""Locks of run folders, and how a command ends when a signal asks it to."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import types

import pytest

from r1jax.config import ConfigError
from r1jax.parallel import interrupt
from r1jax.runs import workdir

ROOT = pathlib.Path(__file__).parents[2]
HOLD = """
import pathlib, sys, time
from r1jax.runs import workdir
workdir.Lock(pathlib.Path(sys.argv[1]))
print('held', flush=True)
time.sleep(600)
"""


@pytest.fixture
def lock(tmp_path):
  return tmp_path / '.lock'


def python(code, *args):
  return subprocess.Popen(
    [sys.executable, '-c', code, *map(str, args)],
    cwd=ROOT,
    text=True,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    env=os.environ | {'JAX_PLATFORMS': 'cpu'},
  )


def write_remote_lock(path, age=0.0, **fields):
  """Writes a lock of another host, last touched `age` seconds ago."""
  remote = {'host': 'far', 'pid': 7, 'command': 'experiments.rl'}
  path.write_text(json.dumps(workdir._this_process() | remote | fields))
  os.utime(path, (time.time() - age,) * 2)


def can_lock(path):
  """Whether the lock can be taken; it is released again."""
  try:
    workdir.Lock(path).release()
  except ConfigError as error:
    assert '\n' not in str(error) and 'in use' in str(error) and '--workdir' in str(error)
    return False
  assert [p.name for p in path.parent.iterdir()] == []
  return True


def test_a_running_holder_keeps_the_lock_and_a_killed_one_loses_it_at_once(lock):
  holder = python(HOLD, lock)
  assert holder.stdout.readline() == 'held\n', holder.stderr.read()
  assert not can_lock(lock)
  holder.kill()
  os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # a zombie: dead, but not yet reaped by its parent
  assert lock.exists() and can_lock(lock)
  holder.communicate()


@pytest.mark.parametrize(
  ('change', 'free'),
  [
    ({}, False),
    ({'started': '1'}, True),
    ({'pid': 2**22 + 5}, True),
    ({'pid': 10**30}, True),
    ({'command': 'x\n' * 10}, False),
  ],
)
def test_another_process_with_the_same_pid_is_not_the_holder(lock, change, free):
  lock.write_text(json.dumps(workdir._this_process() | change))
  if 'command' in change:
    with pytest.raises(ConfigError):
      workdir.Lock(lock)
  else:
    assert can_lock(lock) == free


@pytest.mark.parametrize('other', [{}, {'host': None, 'boot': 'another boot'}, {'namespace': 'pid:[1]'}])
def test_a_lock_of_another_machine_is_judged_by_its_last_touch(lock, monkeypatch, other):
  monkeypatch.setattr(workdir, 'BEAT', 0.1)
  monkeypatch.setattr(workdir, 'DEAD', 1.0)
  write_remote_lock(lock, 2.0, **other)
  assert can_lock(lock)
  write_remote_lock(lock, 0.0, **other)
  began = time.monotonic()
  assert can_lock(lock) and time.monotonic() - began > 0.9  # not touched while we watched
  write_remote_lock(lock, -3600, **other)  # its clock is an hour ahead
  assert can_lock(lock)
  write_remote_lock(lock, 0.0, **other)
  beating = threading.Timer(0.3, lambda: os.utime(lock))
  beating.start()
  assert not can_lock(lock)
  beating.join()


@pytest.mark.parametrize('text', ['', 'null', '[1]', '{"pid": "x"}', '{"host": 3', '\x00' * 300])
def test_a_damaged_lock_is_judged_by_its_age(lock, monkeypatch, text):
  monkeypatch.setattr(workdir, 'DEAD', 0.5)
  lock.write_text(text)
  assert can_lock(lock)


def test_only_one_of_several_takeovers_wins(lock):
  winners, barrier = [], threading.Barrier(6)

  def take():
    barrier.wait()
    try:
      winners.append(workdir.Lock(lock))
    except ConfigError:
      pass

  write_remote_lock(lock, 3600)
  threads = [threading.Thread(target=take) for _ in range(6)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert len(winners) == 1 and json.loads(lock.read_text()) == winners[0]._me
  winners[0].release()
  assert not lock.exists()


def test_a_stale_lock_is_removed_by_one_process_at_a_time(lock):
  write_remote_lock(lock, 3600)
  guard, taken = lock.with_name('.lock.takeover'), []
  guard.touch()  # another process is looking at the stale lock
  text = lock.read_text()
  thread = threading.Thread(target=lambda: taken.append(workdir.Lock(lock)))
  thread.start()
  thread.join(0.3)
  assert thread.is_alive() and lock.read_text() == text and guard.exists()
  os.utime(guard, (0, 0))  # it was killed there long ago
  thread.join(60)
  assert json.loads(lock.read_text()) == taken[0]._me and not guard.exists()
  taken[0].release()


def test_a_holder_touches_its_lock_and_recreates_it_when_deleted(lock, monkeypatch):
  monkeypatch.setattr(workdir, 'BEAT', 0.05)
  held = workdir.Lock(lock)
  os.utime(lock, (0, 0))
  lock_again = lambda: lock.exists() and lock.stat().st_mtime > 0
  for _ in range(2):
    deadline = time.monotonic() + 60
    while not lock_again():
      assert time.monotonic() < deadline
      time.sleep(0.01)
    lock.unlink()
  held.release()


def test_parts_and_subfolders_have_their_own_locks(tmp_path):
  with (
    workdir.working_in(tmp_path / 'run'),
    workdir.working_in(tmp_path / 'run'),
    workdir.working_in(tmp_path / 'run', part=0),
    workdir.working_in(tmp_path / 'run', part=1),
    workdir.working_in(tmp_path / 'run/a'),
  ):
    assert {p.name for p in (tmp_path / 'run').iterdir()} == {'.lock', '.lock-0', '.lock-1', 'a'}
  assert list(tmp_path.iterdir()) == []  # the new folder was removed again
  with pytest.raises(ConfigError, match='in use'):
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / '.lock').write_text(json.dumps(workdir._this_process()))
    with workdir.working_in(tmp_path / 'run'):
      pass


@pytest.mark.parametrize('number', interrupt.SIGNALS)
def test_a_signal_is_kept_until_the_next_check(number):
  before = signal.getsignal(number)
  calls = []
  run = types.SimpleNamespace(
    save=lambda *args: calls.append(args), store=types.SimpleNamespace(wait=lambda: calls.append('written'))
  )
  with interrupt.signals_handled():
    interrupt.raise_if_stopped()
    os.kill(os.getpid(), number)
    deadline = time.monotonic() + 60
    while not interrupt.stop_requested():
      assert time.monotonic() < deadline
    for step, first in ((3, 2), (3, 3), (0, 0)):
      with pytest.raises(interrupt.Interrupted) as error, workdir.save_on_interrupt(run, 'state', step, first, 9):
        raise AssertionError('not reached')
      assert error.value.code == 128 + number and signal.Signals(number).name in str(error.value)
      assert (f'{step} of 9 steps are saved' in str(error.value)) == bool(step)
      assert 'run the same command again' in str(error.value)
  assert calls == [(3, 'state'), 'written'] and signal.getsignal(number) == before
  with interrupt.signals_handled():
    interrupt.raise_if_stopped()  # the next command starts without the old signal


def test_a_second_ctrl_c_ends_the_process_at_once():
  code = (
    'import time\nfrom r1jax.parallel import interrupt\nwith interrupt.signals_handled():\n  print(1, flush=True)\n'
    '  deadline = time.monotonic() + 600\n  while time.monotonic() < deadline:\n    time.sleep(1)'
  )
  process = python(code)
  process.stdout.readline()
  process.send_signal(signal.SIGINT)
  assert 'SIGINT' in process.stderr.readline() + process.stderr.readline()
  assert process.poll() is None
  process.send_signal(signal.SIGINT)
  stderr = process.communicate(timeout=60)[1]
  assert process.returncode == 130 and 'Traceback' not in stderr
