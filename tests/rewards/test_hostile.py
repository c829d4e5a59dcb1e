"""Hostile programs score 0 within the time limit, leave nothing behind, and do not affect other programs."""

import concurrent.futures
import glob
import os
import shutil
import socket
import threading

import pytest

from r1jax.rewards.coding import code_tests, programs
from r1jax.rewards.workers import pool
from tests.rewards import sandboxed

pytestmark = sandboxed.NEEDED

HONEST = 'def double(x):\n  return 2 * x\nif __name__ == "__main__":\n  print(double(int(input())))'
CALLS = ['assert double(2) == 4', 'assert sorted([double(3), double(1)]) == [2, 6]', 'assert abs(double(5) - 10) < 1']


def calls(program):
  return {'program': program, 'asserts': CALLS}


def runs(program, **fields):
  return {'program': program, 'io': [{'input': '2\n', 'output': '4\n'}], **fields}


def score(item, **options):
  return code_tests.verdict(item, **options)['score']


@pytest.fixture(scope='module')
def outside(tmp_path_factory):
  """Targets outside the sandbox: a port, an abstract socket, a secret. Checks that none was reached."""
  secret = tmp_path_factory.mktemp('home') / 'secret'
  secret.write_text('secret')
  with socket.create_server(('127.0.0.1', 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
    port = tcp.getsockname()[1]
    unix.bind(f'\0r1jax-test-{port}')
    unix.listen()
    yield {'PORT': port, 'SECRET': secret, 'PID': os.getpid(), 'LEFT': sandboxed.LEFT}
    for listener in (tcp, unix):
      listener.setblocking(False)
      with pytest.raises(BlockingIOError):
        listener.accept()


HELD = 600  # seconds after which a program is said to hold its grader


def leavings():
  places = ['/', '/tmp', '/var/tmp', '/dev', '/dev/shm', '/usr', '/usr/bin', '/etc', '/root', '/home', '.']
  return [path for place in places for path in glob.glob(f'{place}/{sandboxed.LEFT}*')]


def score_of_hostile(item, **options):
  """The score of a hostile item; checks that it comes, that nothing is left, and that an honest item passes."""
  before, spared, stop = sandboxed.strangers(), [], threading.Event()

  def neighbour():
    while not spared or not stop.is_set():
      spared.append(score(calls(HONEST), time_limit=10))

  thread = threading.Thread(target=neighbour)
  thread.start()
  # In a thread, so that a program which holds its grader fails the test instead of stopping it.
  verdict = concurrent.futures.ThreadPoolExecutor(1).submit(code_tests.verdict, item, **options).result(HELD)
  stop.set()
  thread.join()
  assert spared == [1.0] * len(spared)
  assert not sandboxed.remaining(before)
  assert not leavings()
  return verdict['score']


ALL = {
  **sandboxed.read('cheats'),
  **sandboxed.read('floods'),
  **{name: sandboxed.SOLVE + text for name, text in sandboxed.read('escapes').items()},
}
OTHERS = sandboxed.read('others')
QUICK = [
  'equal to everything',
  'exit in a call',
  'verdicts to every descriptor',
  'an object made where the tests are',
  '/etc/passwd',
  'a fork bomb',
  'sockets to the loopback',
  'a daemon',
]


def attack(text, outside):
  for place, value in outside.items():
    text = text.replace(f'@{place}@', str(value))
  return text


@pytest.mark.parametrize('name', [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in ALL])
def test_hostile_programs_score_nothing_and_leave_nothing(name, outside):
  source = attack(ALL[name], outside)
  for item in (calls(source), runs(source), calls(source + '\ndouble = globals().get("double", lambda x: 0)')):
    assert score_of_hostile(item, time_limit=1, memory_mb=256) == 0, name


@pytest.mark.slow
@pytest.mark.parametrize('heading', list(OTHERS))
def test_hostile_programs_of_other_languages(heading, outside):
  language = sandboxed.language(heading)[1]
  if not all(shutil.which(tool) for tool in programs.LANGUAGES[language].tools):
    pytest.skip(f'no compiler of {language} here')
  item = runs(attack(OTHERS[heading], outside), language=language)
  assert score_of_hostile(item, time_limit=2, memory_mb=256) == 0


def test_the_sandbox_works_for_what_hostile_programs_try():
  """Otherwise they could score 0 for another reason than the sandbox."""
  solved = sandboxed.SOLVE + 'import os, ctypes, socket, gc, resource, subprocess, threading\nsolve()'
  assert score(calls(solved)) == score(runs(solved)) == 1
  assert len(ALL) + len(OTHERS) >= 40


@pytest.mark.slow
def test_hostile_and_honest_items_beside_each_other_in_the_pool(outside):
  items = [item for name in list(ALL)[::4] for item in (calls(attack(ALL[name], outside)), calls(HONEST), runs(HONEST))]
  with pool.Grader({'code': {'time_limit': 1, 'memory_mb': 256}}, workers=2, timeout=60) as grader:
    scores = grader.submit(items).result()
  assert scores.parts['code'].tolist() == [0, 1, 1] * (len(items) // 3)
  assert scores.timeouts == 0
