"""Who may work in a folder, and how a command ends when it is asked to."""
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

from experiments import workdir
from r1jax.config import ConfigError
from r1jax.parallel import interrupt

ROOT = pathlib.Path(__file__).parents[2]
HOLD = '''
import pathlib, sys, time
from experiments import workdir
workdir.Lock(pathlib.Path(sys.argv[1]))
print('held', flush=True)
time.sleep(600)
'''


@pytest.fixture
def lock(tmp_path):
  return tmp_path / '.lock'


def python(code, *args):
  return subprocess.Popen([sys.executable, '-c', code, *map(str, args)], cwd=ROOT, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, env=os.environ | {'JAX_PLATFORMS': 'cpu'})


def elsewhere(path, age=0.0, **more):
  """A lock of another host, touched `age` seconds ago."""
  path.write_text(json.dumps(workdir._me() | {'host': 'far', 'pid': 7, 'command': 'experiments.rl', **more}))
  os.utime(path, (time.time() - age,) * 2)


def taken(path):
  """Whether the lock can be had; it is given back."""
  try:
    workdir.Lock(path).release()
  except ConfigError as error:
    assert '\n' not in str(error) and 'is in use by process' in str(error) and '--workdir' in str(error)
    return False
  assert [p.name for p in path.parent.iterdir()] == []
  return True


def test_a_living_holder_keeps_the_folder_and_a_killed_one_loses_it_at_once(lock):
  holder = python(HOLD, lock)
  assert holder.stdout.readline() == 'held\n', holder.stderr.read()
  assert not taken(lock)
  holder.kill()
  os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)     # dead, and its parent has not looked yet
  assert lock.exists() and taken(lock)
  holder.communicate()


@pytest.mark.parametrize('change, free', [
    ({}, False), ({'started': '1'}, True), ({'pid': 2**22 + 5}, True), ({'pid': 10**30}, True),
    ({'command': 'x\n' * 10}, False)])
def test_another_process_of_the_same_number_is_not_the_holder(lock, change, free):
  lock.write_text(json.dumps(workdir._me() | change))
  if 'command' in change:
    with pytest.raises(ConfigError):
      workdir.Lock(lock)
  else:
    assert taken(lock) == free


@pytest.mark.parametrize('other', [{}, {'host': None, 'boot': 'another boot'}, {'namespace': 'pid:[1]'}])
def test_on_other_machines_the_age_of_the_last_sign_of_life_decides(lock, monkeypatch, other):
  monkeypatch.setattr(workdir, 'BEAT', 0.1)
  monkeypatch.setattr(workdir, 'DEAD', 1.0)
  elsewhere(lock, 2.0, **other)
  assert taken(lock)
  elsewhere(lock, 0.0, **other)
  began = time.monotonic()
  assert taken(lock) and time.monotonic() - began > 0.9         # silent while we watched
  elsewhere(lock, -3600, **other)                               # its clock is an hour ahead
  assert taken(lock)
  elsewhere(lock, 0.0, **other)
  beating = threading.Timer(0.3, lambda: os.utime(lock))
  beating.start()
  assert not taken(lock)
  beating.join()


@pytest.mark.parametrize('text', ['', 'null', '[1]', '{"pid": "x"}', '{"host": 3', '\x00' * 300])
def test_a_damaged_lock_goes_by_its_age(lock, monkeypatch, text):
  monkeypatch.setattr(workdir, 'DEAD', 0.5)
  lock.write_text(text)
  assert taken(lock)


def test_of_several_that_take_over_one_wins(lock):
  found, barrier = [], threading.Barrier(6)

  def take():
    barrier.wait()
    try:
      found.append(workdir.Lock(lock))
    except ConfigError:
      pass
  elsewhere(lock, 3600)
  threads = [threading.Thread(target=take) for _ in range(6)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert len(found) == 1 and json.loads(lock.read_text()) == found[0]._me
  found[0].release()
  assert not lock.exists()


def test_a_stale_lock_is_removed_by_one_process_at_a_time(lock):
  elsewhere(lock, 3600)
  guard, taken = lock.with_name('.lock.takeover'), []
  guard.touch()                                        # another process is looking at the stale lock
  text = lock.read_text()
  thread = threading.Thread(target=lambda: taken.append(workdir.Lock(lock)))
  thread.start()
  thread.join(0.3)
  assert thread.is_alive() and lock.read_text() == text and guard.exists()
  os.utime(guard, (0, 0))                              # it was killed there long ago
  thread.join(60)
  assert json.loads(lock.read_text()) == taken[0]._me and not guard.exists()
  taken[0].release()


def test_a_holder_shows_itself_and_makes_its_lock_again(lock, monkeypatch):
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


def test_parts_and_what_lies_within_have_locks_of_their_own(tmp_path):
  with workdir.working_in(tmp_path / 'run'), workdir.working_in(tmp_path / 'run'), workdir.working_in(
      tmp_path / 'run', part=0), workdir.working_in(tmp_path / 'run', part=1), workdir.working_in(tmp_path / 'run/a'):
    assert {p.name for p in (tmp_path / 'run').iterdir()} == {'.lock', '.lock-0', '.lock-1', 'a'}
  assert list(tmp_path.iterdir()) == []                         # nothing was made there
  with pytest.raises(ConfigError, match='in use'):
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / '.lock').write_text(json.dumps(workdir._me()))
    with workdir.working_in(tmp_path / 'run'):
      pass


@pytest.mark.parametrize('number', interrupt.SIGNALS)
def test_a_signal_is_kept_until_it_is_asked_for(number):
  before = signal.getsignal(number)
  saved = []
  run = types.SimpleNamespace(save=lambda *what: saved.append(what), store=types.SimpleNamespace(
      wait=lambda: saved.append('written')))
  with interrupt.listening():
    interrupt.check()
    os.kill(os.getpid(), number)
    deadline = time.monotonic() + 60
    while not interrupt.asked():
      assert time.monotonic() < deadline
    for step, first in ((3, 2), (3, 3), (0, 0)):
      with pytest.raises(interrupt.Interrupted) as error, workdir.stops(run, 'state', step, first, 9):
        raise AssertionError('not reached')
      assert error.value.code == 128 + number and signal.Signals(number).name in str(error.value)
      assert str(error.value).endswith(f'{f"{step} of 9 steps are saved" if step else "no step was done"}; run the '
                                       'same command again to go on.')
  assert saved == [(3, 'state'), 'written'] and signal.getsignal(number) == before
  with interrupt.listening():
    interrupt.check()                                           # another command begins without it


def test_ctrl_c_once_more_ends_at_once():
  code = ('import time\nfrom r1jax.parallel import interrupt\nwith interrupt.listening():\n  print(1, flush=True)\n'
          '  deadline = time.monotonic() + 600\n  while time.monotonic() < deadline:\n    time.sleep(1)')
  process = python(code)
  process.stdout.readline()
  process.send_signal(signal.SIGINT)
  assert 'SIGINT: ends after this step and saves' in process.stderr.readline() + process.stderr.readline()
  assert process.poll() is None
  process.send_signal(signal.SIGINT)
  said = process.communicate(timeout=60)[1]
  assert process.returncode == 130 and 'Traceback' not in said and 'ended at once' in said
