"""Runs programs that nobody trusts, each in a sandbox of bubblewrap's.

Inside there is no network, no /proc, /etc or home, no environment and no other process. /usr (and the
Python that runs here) is read-only; /tmp is the one place to write, of bounded size, and gone with the
program. Where this process is root, the sandbox runs as nobody: root is under no limit of processes.

Nothing is written on the host: files reach the sandbox through memory. And nothing outlives it: the
program is process 1 of a PID namespace of its own, so that its end is the end of all others, and it
dies with bubblewrap, which dies with the thread that started it. That chain stands only once bubblewrap
has set up, so a shell inside reports over a pipe and waits for an answer before the program starts;
where the one who would answer has died, it reads the pipe's end instead, and goes.

Time is processor time, and time in which nothing inside wants a processor: how busy the machine is decides nothing.
Memory is what the processes hold, their page tables, files beside their contents, and buffers of sockets. What else
the kernel keeps for a program is counted where it has a control group (see cgroup.py), and elsewhere bounded by what
the filter of system calls leaves (see seccomp.py).
"""

import contextlib
import dataclasses
import functools
import glob
import os
import select
import selectors
import signal
import subprocess
import tempfile
import time

from r1jax.rewards.coding import bubblewrap, cgroup

START_SECONDS = 60.0  # for bubblewrap to set up, on a machine however busy
LOOK_SECONDS = 0.03  # between two looks at what is used inside
PATIENCE = 20  # the clock ends what takes this many times its seconds, whatever it does
ENTRY = 2048  # bytes that the kernel takes for an entry of /tmp, with a long name

# Says that it is there, waits for the answer, unpacks what a compiler made, and becomes the program.
_SCRIPT = 'echo; read _ || exit; if [ -e built.tar ]; then tar -xf built.tar || exit; fi; exec "$@" <stdin'
_TICK, _PAGE = os.sysconf('SC_CLK_TCK'), os.sysconf('SC_PAGE_SIZE')
_DATAGRAMS, _STREAM = 12, 2  # buffers of the default size that a receiver of datagrams, or another socket, holds


@dataclasses.dataclass(frozen=True)
class Limits:
  """Of everything in one sandbox together, unless it says otherwise."""

  seconds: float  # of processor time; and of sleep. By the clock, PATIENCE times as many
  memory_mb: int  # without the contents of /tmp; and the address space of each process, where `mapped`
  mapped: bool = True  # False for runtimes that map far more than they use
  stack_mb: int = 8  # of a process
  processes: int = 32  # and threads
  output: int = 16 << 20  # bytes of stdout and stderr


class Box:
  """One program in its sandbox. A context manager: nothing of it is left after its end.

  output, errors: bytearrays, what it has printed so far.
  broken: '' or which limit it broke ('time limit of ...').
  code: its exit code, or 128 + the number of the signal that ended it; None before it has ended.
  """

  def __init__(self, command, limits, *, files, runtime=None, fds=(), unsafe=False):
    """Sets the sandbox up; `run` lets the program begin.

    Args:
      command: list of str; paths are relative to the working directory, which is /tmp.
      limits: Limits.
      files: name -> bytes, put into the working directory. 'stdin' is what the program reads;
        'built.tar' is unpacked first.
      runtime: absolute path of the program that looks for its own files beside itself; None: command[0].
      fds: further file descriptors that the program inherits, under their numbers here.
      unsafe: without bubblewrap, in a folder under the host's /tmp: only the limits on time, memory and
        output hold, and a program that wants to can get away from them.

    Raises:
      ConfigError: there is no bubblewrap, or it is too old.
    """
    self.output, self.errors, self.broken, self.code = bytearray(), bytearray(), '', None
    self.ready = self.begun = False
    self._limits, self._used, self._inside, self._tmp = limits, 0.0, None, None
    self._since, self._spent, self._asleep = time.monotonic(), 0.0, 0.0
    files = {'stdin': b'', **files}
    size = bubblewrap.TMP + sum(map(len, files.values()))
    folder = None if unsafe else cgroup.folder()
    self._folder = tempfile.TemporaryDirectory(prefix='r1jax-') if unsafe else None
    with (
      _unsafe(files, self._folder.name)
      if unsafe
      else bubblewrap.setting_up(files, runtime or command[0], size, counted=bool(folder)) as (start, descriptors)
    ):
      self._group = folder and cgroup.Group(folder, (limits.memory_mb << 20) + size)
      entering = self._group.entering() if self._group else []
      self._process = subprocess.Popen(
        [*entering, *start, *bubblewrap.limiting(limits, unsafe), 'sh', '-c', _SCRIPT, 'sh', *command],
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=[*descriptors, *fds],
        env=bubblewrap.ENVIRONMENT,
        cwd=self._folder.name if unsafe else '/',
        start_new_session=unsafe,
      )
    self.end = os.pidfd_open(self._process.pid)  # readable once it has ended
    self.streams = {self._process.stdout: self.output, self._process.stderr: self.errors}
    for stream in self.streams:
      os.set_blocking(stream.fileno(), False)

  def lap(self):
    """Gives the program its time anew."""
    self._used, _ = _usage(self._process.pid)
    self._since, self._spent, self._asleep = time.monotonic(), self._used, 0.0

  def begin(self):
    """Answers the shell that waits inside: the program starts, and its time."""
    self.begun = True
    for pid in _children(self._process.pid):
      with _vanishing(), open(f'/proc/{pid}/oom_score_adj', 'w') as file:
        file.write('1000')  # where the machine runs out of memory, this goes first
      if not self._folder:
        with _vanishing():
          self._inside, self._tmp = pid, os.open(f'/proc/{pid}/root/tmp', os.O_RDONLY)
    self.lap()
    with _vanishing():
      self._process.stdin.write(b'\n')

  def read(self, stream):
    """Takes what has been printed, and returns it: None where there is nothing now, b'' at the end."""
    data = stream.read(1 << 16)
    self.streams[stream] += data or b''
    if data and not self.ready and stream is self._process.stdout:
      self.ready = True
      del self.output[:1]  # the shell's line: nothing comes before it
    if len(self.output) + len(self.errors) > self._limits.output:
      self.broken = f'output limit of {self._limits.output >> 20} MiB'
    return data

  def look(self):
    """Sets `broken` where more is used than the limits allow. Returns whether the program has been at work."""
    elapsed = time.monotonic() - self._since
    if not self.begun:
      if elapsed > START_SECONDS:
        raise RuntimeError(f'a sandbox did not start within {START_SECONDS:.0f} s; is the machine overloaded?')
      return True
    before = self._used
    self._used, memory = _usage(self._process.pid)
    self._check_time(elapsed / PATIENCE)
    if self._full(memory):
      self.broken = f'memory limit of {self._limits.memory_mb} MiB'
    return self._used > before or _at_work(self._process.pid)

  def rest(self, seconds):
    """Counts time in which no program that runs beside this one, and neither this one, was at work."""
    self._asleep += seconds
    self._check_time(self._asleep)

  def _check_time(self, seconds):
    if max(seconds, self._used - self._spent) > self._limits.seconds:
      self.broken = f'time limit of {self._limits.seconds:g} s'

  def _full(self, memory):
    """Whether the memory of the processes is too much, with what the kernel keeps for them beside it."""
    if self._tmp is not None:
      found = os.fstatvfs(self._tmp)
      memory += (found.f_files - found.f_ffree) * ENTRY + _sockets(self._inside)
    return memory > self._limits.memory_mb << 20 or self._group and self._group.full()

  def finish(self):
    """Takes the rest of the output, and the exit code, of a program that has ended."""
    for stream in self.streams:
      while not self.broken and self.read(stream):
        pass
    self._reap()
    self.code = self._process.returncode
    if not self.ready:
      raise bubblewrap.refusal(self.errors.decode(errors='replace').strip())
    self._check_time(0)
    if self._full(0):
      self.broken = f'memory limit of {self._limits.memory_mb} MiB'

  def _reap(self):
    """Waits until the process has ended, whose processor time, exactly, is then taken off this process' own timer."""
    if self._process.returncode is None:
      _, status, usage = os.wait4(self._process.pid, 0)
      self._process.returncode = os.waitstatus_to_exitcode(status)
      self._used = usage.ru_utime + usage.ru_stime
      left, _ = signal.getitimer(signal.ITIMER_PROF)
      if left:
        signal.setitimer(signal.ITIMER_PROF, max(left - self._used, 1e-6))

  def close(self):
    """Ends everything inside, and waits until it has ended."""
    self._process.stdin.close()  # one that still sets up will read this end, and go
    inside = _children(self._process.pid)
    for pid in inside:  # process 1 of the sandbox; bubblewrap reaps it after all others, and ends
      with _vanishing():
        os.kill(pid, signal.SIGKILL)
    if self.begun and not inside:
      self._process.kill()  # it has ended, or this kernel does not list children
    if self._folder:
      with _vanishing():
        os.killpg(self._process.pid, signal.SIGKILL)
    if not select.select([self.end], [], [], START_SECONDS)[0]:
      self._process.kill()
    self._reap()
    for stream in self.streams:
      stream.close()
    os.close(self.end)
    if self._tmp is not None:
      os.close(self._tmp)
    if self._group:
      self._group.close()
    if self._folder:
      self._folder.cleanup()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()


def run(boxes, heard=lambda: None):
  """Runs boxes side by side until the last one has ended, or one is `broken`.

  heard: called when something has happened: the last one may have printed.

  Raises:
    ConfigError: bubblewrap does not work here; the message says why.
  """
  last = boxes[-1]
  with selectors.DefaultSelector() as waiting:
    for box in boxes:
      for source in (*box.streams, box.end):
        waiting.register(source, selectors.EVENT_READ, box)
    next_look = time.monotonic() + LOOK_SECONDS
    while last.code is None and not any(box.broken for box in boxes):
      for key, _ in waiting.select(LOOK_SECONDS):
        box = key.data
        if key.fileobj == box.end:
          box.finish()
        elif box.read(key.fileobj) != b'':
          continue
        waiting.unregister(key.fileobj)
      if not last.begun and all(box.ready for box in boxes):
        for box in boxes:
          box.begin()  # all at once: none waits in its own time for another
      heard()
      if time.monotonic() >= next_look:
        if not any([box.look() for box in boxes if box.code is None]):
          for box in boxes:
            box.rest(LOOK_SECONDS)  # the least that has passed: a late look says nothing of the time before it
        next_look = time.monotonic() + LOOK_SECONDS


@contextlib.contextmanager
def _unsafe(files, folder):
  """As bubblewrap.setting_up."""
  for name, content in files.items():
    with open(os.path.join(folder, name), 'wb') as file:
      file.write(content)
  yield ['setpriv', '--pdeathsig', 'KILL'], []


def _children(pid):
  """Process ids of the children of all threads of a process; none where it is gone."""
  children = []
  with _vanishing():
    for task in os.listdir(f'/proc/{pid}/task'):
      with open(f'/proc/{pid}/task/{task}/children') as file:
        children += map(int, file.read().split())
  return children


def _below(pid):
  """Yields a process and all below it."""
  pids = [pid]
  while pids:
    pids += _children(pid := pids.pop())
    yield pid


def _usage(pid):
  """(CPU seconds, bytes) of a process and all below it: resident, and tables of pages; shared ones count for each."""
  ticks = memory = 0
  for one in _below(pid):
    with _vanishing(), open(f'/proc/{one}/stat') as stat, open(f'/proc/{one}/status') as status:
      fields = stat.read().rpartition(')')[2].split()
      ticks += sum(map(int, fields[11:15]))  # its own, and of its children that have ended
      tables = status.read().partition('VmPTE:')[2].split(None, 1)
      memory += int(fields[21]) * _PAGE + (int(tables[0]) << 10 if tables else 0)
  return ticks / _TICK, memory


def _at_work(pid):
  """Whether a thread of a process or of one below it runs, or would if it had a processor, or waits for a disk."""
  for one in _below(pid):
    for thread in glob.glob(f'/proc/{one}/task/*/stat'):
      with _vanishing(), open(thread) as file:
        if file.read().rpartition(')')[2].split()[0] in 'RD':
          return True
  return False


def _sockets(pid):
  """Bytes that the sockets in a process' network may hold."""
  kinds = []
  with _vanishing():
    with open(f'/proc/{pid}/net/unix') as file:
      kinds = [line.split()[4] for line in file][1:]
  return sum(_DATAGRAMS if kind == '0002' else _STREAM for kind in kinds) * _buffer()


@functools.cache
def _buffer():
  with open('/proc/sys/net/core/wmem_default') as file:
    return int(file.read())


def _vanishing():
  """Around what is done to a process that may end at any moment."""
  return contextlib.suppress(FileNotFoundError, ProcessLookupError, BrokenPipeError, PermissionError)
