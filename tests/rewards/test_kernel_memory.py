"""Memory that the kernel holds for a program counts against the sandbox's limit, with and without a control group."""

import os
import pathlib
import subprocess

import pytest

from r1jax.rewards.coding import bubblewrap, cgroup, sandbox
from tests.rewards import sandboxed

KINDS = sandboxed.read('kernel')
# Denied in any amount; those of UNCOUNTED only if there is no group that counts them.
DENIED = [
  'buffers of loopback connections',
  'datagrams to nobody',
  'sockets of virtual machines',
  'messages to the kernel',
  'larger buffers',
  'pages given to a pipe',
  'pages moved from a socket into a pipe',
  'files that are in memory alone',
  'queues of messages',
  'keys',
  'watches of files',
  'a table of futexes',
]
UNCOUNTED = ['shared memory that nobody has mapped', 'locks of files']
QUICK = [
  *DENIED,
  *UNCOUNTED,
  'buffers of unix sockets',
  'connections that nobody accepts',
  'tables of pages that are only read',
  'attributes of files',
  'timers',
]

modes = pytest.mark.parametrize(
  'grouped',
  [
    pytest.param(True, marks=pytest.mark.skipif(not cgroup.folder(), reason='no control group can be made here')),
    False,
  ],
)
kinds = pytest.mark.parametrize('name', [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in KINDS])
pytestmark = sandboxed.NEEDED


def hold(name, megabytes):
  """The closed box of a program that prints 'held' if the kernel holds that much memory for it."""
  text = f'{sandboxed.SHARE}{KINDS[name]}\nhold({megabytes})\nprint("held", flush=True)\ntime.sleep(0.2)'
  limits = sandbox.Limits(3, 64, mapped=False)  # as for the runtimes of some languages
  with sandbox.Box([bubblewrap.python(), '-S', '-s', '-B', 'main.py'], limits, files={'main.py': text.encode()}) as box:
    sandbox.run([box])
  return box


@modes
@kinds
def test_the_kernel_holds_no_more_than_the_limit(name, grouped, monkeypatch):
  if not grouped:
    monkeypatch.setattr(cgroup, 'folder', lambda: None)
  refused = name in DENIED or (not grouped and name in UNCOUNTED)
  box = hold(name, 1)
  assert (box.output, box.broken, bool(box.code)) == (b'' if refused else b'held\n', '', refused), box.errors
  if not refused:
    box = hold(name, 400)
    assert b'held' not in box.output and (box.broken or box.code)


HONEST = {
  'an event loop': 'import asyncio\nasync def main():\n  await asyncio.sleep(0.01)\n  return 7\n'
  'print(asyncio.run(main()))',
  'a pair of sockets': 'import socket\na, b = socket.socketpair()\na.sendall(b"7")\nprint(b.recv(9).decode())',
  'a server on a unix socket': 'import socket, threading\ns = socket.socket(socket.AF_UNIX)\ns.bind("/tmp/s")\n'
  's.listen()\ndef serve(): s.accept()[0].sendall(b"7")\n'
  'threading.Thread(target=serve).start()\nc = socket.socket(socket.AF_UNIX)\n'
  'c.connect("/tmp/s")\nprint(c.recv(9).decode())',
  'a pipe to a child': 'import subprocess\nprint(subprocess.check_output(["echo", "7"], text=True))',
  'a thousand files': 'import os\nfor i in range(1000): open(f"/tmp/{i}.txt", "w").write("x")\n'
  'print(len([n for n in os.listdir("/tmp") if n.endswith(".txt")]) - 993)',
  'a data base': 'import sqlite3\nc = sqlite3.connect(":memory:")\nprint(*c.execute("select 3 + 4").fetchone())',
  'a copied file': 'import shutil\nopen("/tmp/a", "w").write("7")\nshutil.copyfile("/tmp/a", "/tmp/b")\n'
  'print(open("/tmp/b").read())',
  'half of the memory': 'x = bytearray(b"a" * (15 << 20))\nprint(7 * (x[-1] == 97))',
  'a full folder of temporary files': 'for i in range(6): open(f"/tmp/{i}", "wb").write(bytes(10 << 20))\nprint(7)',
}


@modes
@pytest.mark.parametrize('name', HONEST)
def test_honest_programs_find_what_they_need(name, grouped, monkeypatch):
  if not grouped:
    monkeypatch.setattr(cgroup, 'folder', lambda: None)
  with sandbox.Box(
    [bubblewrap.python(), '-S', '-s', '-B', 'main.py'],
    sandbox.Limits(5, 64, mapped=False),
    files={'main.py': HONEST[name].encode()},
  ) as box:
    sandbox.run([box])
  assert (box.output.split(), box.code, box.broken) == ([b'7'], 0, ''), box.errors


@pytest.mark.skipif(not cgroup.folder(), reason='no control group can be made here')
def test_groups_are_removed_even_those_of_a_killed_process():
  child = subprocess.Popen(['true'])
  child.wait()
  ours, dead = (cgroup.folder() / f'r1jax-sandbox-{pid}-9999' for pid in (os.getpid(), child.pid))
  for path in (ours, dead):
    path.mkdir()
  cgroup.folder.cache_clear()
  assert cgroup.folder() and ours.exists() and not dead.exists()
  ours.rmdir()
  assert hold('timers', 1).output == b'held\n'
  assert not list(cgroup.folder().glob(f'r1jax-sandbox-{os.getpid()}-*'))


def test_groups_of_either_version_are_found(tmp_path):
  first, second = tmp_path / 'memory', tmp_path / 'unified'
  for path, controllers in (
    (second, 'cpu memory'),
    (second / 'a', 'cpu memory pids'),
    (second / 'a/b', ''),
    (first / 'x', ''),
  ):
    path.mkdir(parents=True)
    (path / 'cgroup.subtree_control').write_text(controllers)
  mounts = (
    f'tmpfs / tmpfs rw 0 0\ncgroup2 {second} cgroup2 rw,nsdelegate 0 0\n'
    f'cgroup {tmp_path}/cpu cgroup rw,cpu,cpuacct 0 0\ncgroup {first} cgroup rw,memory 0 0\n'
  )

  def candidates(groups):
    return [str(path.relative_to(tmp_path)) for path in cgroup._candidates(groups, mounts)]

  assert candidates('0::/a/b\n') == ['unified/a']
  assert candidates('0::/\n') == ['unified']
  assert candidates('0::/a/b\n1:cpu,cpuacct:/\n4:memory:/x\n') == ['unified/a', 'memory/x']
  assert candidates('') == []


def test_no_group_where_it_cannot_be_entered(tmp_path, monkeypatch):
  """As in most containers: folders outside of the cgroup file system limit nothing."""
  monkeypatch.setattr(cgroup, '_candidates', lambda *_: [tmp_path, pathlib.Path('/proc')])
  assert cgroup.folder.__wrapped__() is None
  assert not list(tmp_path.iterdir())
