"""The sandbox by itself: what is visible inside, the limits, and that nothing outlives the process that started it."""

import concurrent.futures
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time

import pytest

from r1jax import config
from r1jax.rewards.coding import bubblewrap, sandbox, seccomp
from tests.rewards import sandboxed

needed = sandboxed.NEEDED


def run(code, stdin=b'', unsafe=False, **limits):
  """Runs Python code in a box. Returns the closed box."""
  limits = sandbox.Limits(**{'seconds': 10, 'memory_mb': 256, **limits})
  files = {'main.py': code.encode(), 'stdin': stdin}
  with sandbox.Box([bubblewrap.python(unsafe), '-S', '-s', '-B', 'main.py'], limits, files=files, unsafe=unsafe) as box:
    sandbox.run([box])
  return box


@needed
def test_a_program_reads_prints_and_ends_with_a_status():
  box = run('import sys\nprint(input())\nprint(open("/dev/stdin").read(), file=sys.stderr)\nsys.exit(7)', b'a\nb\n')
  assert (bytes(box.output), bytes(box.errors), box.code, box.broken) == (b'a\n', b'a\nb\n\n', 7, '')
  assert run('import os\nos.abort()').code > 128


@needed
def test_little_is_seen_inside():
  box = run(
    'import os, socket\nls = lambda path: sorted(os.listdir(path))\n'
    'print(ls("/"), os.getpid(), socket.gethostname(), os.getuid(), os.getcwd())\n'
    'print(ls("/etc"), ls("/dev"), ls("/proc/self"), sorted(os.environ))'
  )
  first, second = box.output.decode().splitlines()
  entries = set(re.findall(r"'(.*?)'", first.split(']')[0]))
  prefix = {pathlib.Path(bubblewrap.python()).parts[1]}
  assert entries <= {'usr', 'bin', 'lib', 'lib64', 'dev', 'etc', 'proc', 'tmp'} | prefix
  assert first.split(']')[1].split() == ['1', 'sandbox', '65534', '/tmp']
  etc, dev, proc, environment = [re.findall(r"'(.*?)'", part) for part in second.split(']')[:4]]
  assert all(name == 'ld.so.cache' or name.startswith('java-') for name in etc)
  assert dev == ['null', 'stdin', 'urandom'] and proc == ['exe']
  assert environment == ['LANG', 'PATH', 'PWD', 'PYTHONHASHSEED']


@needed
@pytest.mark.parametrize(
  ('code', 'limits', 'broken'),
  [
    ('import time\ntime.sleep(99)', {'seconds': 0.3}, 'time limit of 0.3 s'),
    ('import os\nfor i in range(3): os.fork()\nwhile True: pass', {'seconds': 0.5}, 'time limit of 0.5 s'),
    (
      'import os, time\nx = bytearray(60 << 20)\nfor i in range(9):\n  if not os.fork():\n'
      '    x[::4096] = b"a" * 15360\n    time.sleep(9)\ntime.sleep(9)',
      {'memory_mb': 200},
      'memory limit of 200 MiB',
    ),
    ('while True: print("x" * 999)', {'output': 1 << 20}, 'output limit of 1 MiB'),
  ],
)
def test_limits_of_all_processes_together(code, limits, broken):
  box = run(code, **limits)
  assert box.broken == broken and box.code is None


WORK = 'import time\nwhile time.process_time() < {}: pass\nprint(1)'
BESIDE = (
  'import threading, time\ndef work():\n  while time.thread_time() < {}: pass\n'
  'thread = threading.Thread(target=work)\nthread.start()\nthread.join()\nprint(1)'
)


@needed
@pytest.mark.parametrize(
  ('code', 'broken'),
  [
    (WORK.format(0.2), ''),
    (BESIDE.format(0.2), ''),
    (WORK.format(1), 'time limit of 0.4 s'),
    ('import time\ntime.sleep(0.2)\n' + WORK.format(0.25), ''),
    ('import time\ntime.sleep(60)', 'time limit of 0.4 s'),
  ],
)
def test_a_busy_machine_changes_no_verdict(code, broken):
  """Four others share one processor with the program, which then takes twice its limit in wall-clock time."""
  processors = os.sched_getaffinity(0)
  os.sched_setaffinity(0, {min(processors)})
  others = [subprocess.Popen([sys.executable, '-S', '-c', 'while True: pass']) for _ in range(4)]
  try:
    box = run(code, seconds=0.4)
  finally:
    for other in others:
      other.kill()
      other.wait()
    os.sched_setaffinity(0, processors)
  assert (box.broken, box.output) == (broken, b'' if broken else b'1\n')


@needed
def test_time_is_counted_to_the_end_however_seldom_one_looks(monkeypatch):
  monkeypatch.setattr(sandbox, 'LOOK_SECONDS', 60)
  assert run(WORK.format(0.3), seconds=0.2).broken == 'time limit of 0.2 s'
  assert run(WORK.format(0.1), seconds=0.3).output == b'1\n'


@needed
@pytest.mark.parametrize(
  ('code', 'error'),
  [
    ('bytearray(1 << 30)', 'MemoryError'),
    ('for i in range(99): open(f"/tmp/{i}", "wb").write(bytes(1 << 23))', 'No space left'),
    ('import os\nos.truncate("/tmp/main.py", (64 << 20) + 1)', 'File too large'),
    ('open("/a", "w")', 'Read-only file system'),
    ('open("/usr/a", "w")', 'Read-only file system|Permission denied'),
    ('x = [open("/dev/null") for i in range(99)]', 'Too many open files'),
    ('import os\nos.memfd_create("a")', 'Operation not permitted'),
    ('import socket\nsocket.create_connection(("127.0.0.1", 22), 1)', 'Address family not supported'),
  ],
)
def test_limits_of_a_process(code, error):
  box = run(code)
  assert box.code == 1 and re.search(error, box.errors.decode())


BOMB = (
  'import os, time\nn = 0\ntry:\n  while True:\n    if not os.fork():\n      time.sleep(1.5)\n      os._exit(0)\n'
  '    n += 1\nexcept OSError: print(n, flush=True)\ntime.sleep(1)'
)


@needed
def test_each_sandbox_counts_its_own_processes():
  with concurrent.futures.ThreadPoolExecutor(3) as threads:
    boxes = list(threads.map(lambda _: run(BOMB, processes=20), range(3)))
  assert [box.output for box in boxes] == [b'19\n'] * 3


@needed
def test_nothing_is_left_open():
  def descriptors():
    return len(os.listdir('/proc/self/fd'))

  run('')
  before = descriptors()
  for code in ('', 'while True: pass', 'print("x" * 99999999)'):
    run(code, seconds=0.2, output=99999)
  assert descriptors() == before


STARTS = """
import os, sys, time
from r1jax.rewards.coding import code_tests
programs = ['import time\\ntime.sleep(99)', 'while True: pass', 'double = int',
            'import os, time\\nif not os.fork():\\n  os.setsid()\\n  os.fork()\\n  time.sleep(99)\\ntime.sleep(99)']
item = {'program': programs[int(sys.argv[1]) % 4], 'asserts': ['assert double(1)']}
code_tests.verdict({'program': 'double = int', 'asserts': ['assert double(1)']})
print('up', flush=True)
while True: code_tests.verdict(item, time_limit=0.1)
"""


@needed
@pytest.mark.parametrize('times', [4, pytest.param(200, marks=pytest.mark.slow)])
def test_nothing_outlives_the_process_that_started_it(times):
  rng = random.Random(times)
  env = dict(os.environ, PYTHONPATH=os.pathsep.join(p or os.getcwd() for p in sys.path))
  for i in range(times):
    before = sandboxed.strangers()
    starter = subprocess.Popen([sys.executable, '-c', STARTS, str(i)], env=env, stdout=subprocess.PIPE)
    assert starter.stdout.readline() == b'up\n'
    time.sleep(rng.uniform(0, 0.1))
    starter.send_signal(rng.choice([signal.SIGKILL, signal.SIGALRM]))
    starter.communicate()
    for _ in range(3):
      time.sleep(0.05)  # a sandbox that was being set up may appear for a moment
      assert not sandboxed.remaining(before)


@needed
def test_a_sandbox_that_does_not_start_says_why(monkeypatch):
  fails = ['sh', '-c', 'echo "bwrap: No permissions to create a new namespace" >&2; exit 1', 'sh']
  monkeypatch.setattr(bubblewrap, '_system', lambda: fails)
  with pytest.raises(config.ConfigError, match='No permissions to create a new namespace.*max_user_namespaces'):
    run('')


@pytest.mark.parametrize(('version', 'message'), [(None, 'apt-get install bubblewrap'), ('0.6.1', '0.6.1 is too old')])
def test_no_bubblewrap_or_an_old_one_is_refused(version, message, tmp_path, monkeypatch):
  if version:
    (tmp_path / 'bwrap').write_text(f'#!/bin/sh\necho bubblewrap {version}\n')
    (tmp_path / 'bwrap').chmod(0o755)
  monkeypatch.setenv('PATH', str(tmp_path))
  bubblewrap._system.cache_clear()
  with pytest.raises(config.ConfigError, match=message):
    bubblewrap.sandbox_command({}, 'x', 0, True).__enter__()
  bubblewrap._system.cache_clear()


def test_a_python_that_nobody_can_run_is_not_taken(monkeypatch):
  bubblewrap.python.cache_clear()
  monkeypatch.setattr(bubblewrap, '_open_to_nobody', lambda path: path == '/usr/bin/python3')
  monkeypatch.setattr(bubblewrap.os.path, 'exists', lambda path: True)
  assert bubblewrap.python() == '/usr/bin/python3'
  assert bubblewrap.python(unsafe=True).startswith(sys.base_prefix)
  bubblewrap.python.cache_clear()
  monkeypatch.setattr(bubblewrap, '_open_to_nobody', lambda path: False)
  with pytest.raises(config.ConfigError, match='python3-minimal'):
    bubblewrap.python()
  bubblewrap.python.cache_clear()


def test_the_filter_of_system_calls_is_for_known_machines_alone(monkeypatch):
  assert len(seccomp.program(False)) % 8 == 0
  for machine, known in (('x86_64', True), ('aarch64', True), ('riscv64', False)):
    monkeypatch.setattr(seccomp.platform, 'machine', lambda machine=machine: machine)
    assert bool(seccomp.program(True)) == known


def test_unsafe_leaves_no_folder_and_stops_a_group():
  before = set(pathlib.Path('/tmp').glob('r1jax-*'))
  box = run('import os, time\nos.fork()\nprint(os.getcwd(), flush=True)\ntime.sleep(99)', unsafe=True, seconds=0.5)
  assert box.broken == 'time limit of 0.5 s' and box.output.startswith(b'/tmp/r1jax-')
  assert set(pathlib.Path('/tmp').glob('r1jax-*')) <= before
