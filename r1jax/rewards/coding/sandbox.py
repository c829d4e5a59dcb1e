"""Runs untrusted programs, each in a sandbox of bubblewrap.

Inside there is no network, no /proc, /etc or home, no environment and no other process. /usr (and the Python that runs
here) is read-only. Only /tmp is writable; its size is limited, and it is gone when the program ends. If this process is
root, the sandbox runs as the user nobody, because limits on the number of processes do not apply to root.

Nothing is written on the host: files reach the sandbox through memory. Nothing outlives the sandbox: the program is
process 1 of its own PID namespace, so all others end with it, and it dies with bubblewrap, which dies with the thread
that started it. That chain exists only once bubblewrap has set up the sandbox. So a shell inside first reports over a
pipe and waits for an answer before it starts the program; if this process has died, it reads the end of the pipe
instead, and exits.

Time is processor time, plus time in which nothing inside wants a processor, so the load of the machine does not affect
verdicts. Memory is what the processes hold, their page tables, file system entries in /tmp, and socket buffers. Other
memory that the kernel holds for a program is counted if it has a control group (see cgroup.py), and otherwise bounded
by the filter of system calls (see seccomp.py).
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

START_SECONDS = 60.0  # time limit for bubblewrap to set up the sandbox, however busy the machine is
LOOK_SECONDS = 0.03  # interval between two checks of the limits
PATIENCE = 20  # a program is also ended after this many times its limit of wall-clock time, whatever it does
ENTRY = 2048  # bytes that the kernel needs for an entry of /tmp with a long name

# Reports that it is ready, waits for the answer, unpacks the output of a compiler, and becomes the program.
_SCRIPT = 'echo; read _ || exit; if [ -e built.tar ]; then tar -xf built.tar || exit; fi; exec "$@" <stdin'
_TICK, _PAGE = os.sysconf('SC_CLK_TCK'), os.sysconf('SC_PAGE_SIZE')
_DATAGRAMS, _STREAM = 12, 2  # buffers of the default size that a datagram receiver, or another socket, can hold


@dataclasses.dataclass(frozen=True)
class Limits:
  """Limits of a sandbox, for all of its processes together unless stated otherwise."""

  seconds: float  # of processor time, and of sleep; PATIENCE times as many of wall-clock time
  memory_mb: int  # without the contents of /tmp; if `mapped`, also the address space of each process
  mapped: bool = True  # False for runtimes that map far more memory than they use
  stack_mb: int = 8  # per process
  processes: int = 32  # processes and threads
  output: int = 16 << 20  # bytes of stdout and stderr together


class Box:
  """One program in its sandbox. A context manager; nothing of the program is left after its end.

  Attributes:
    output, errors: bytearrays, what the program has printed so far.
    broken: the limit that it has broken ('time limit of ...'), or ''.
    code: exit code, or 128 + the number of the signal that killed it; None while it runs.
    ready: whether the shell inside is ready to start the program.
    begun: whether the program has been started.
    pidfd: file descriptor that becomes readable when the sandbox has ended.
    streams: pipe of stdout or stderr -> the bytearray that its data goes to.
  """

  def __init__(self, command, limits, *, files, runtime=None, fds=(), unsafe=False):
    """Sets up the sandbox; `run` starts the program.

    Args:
      command: list of str; paths are relative to the working directory, which is /tmp.
      limits: Limits.
      files: name -> bytes; put into the working directory. 'stdin' is the standard input of the program, and
        'built.tar' is unpacked first.
      runtime: absolute path of an executable that looks for its own files beside itself; None: command[0].
      fds: further file descriptors that the program inherits, under the same numbers.
      unsafe: run without bubblewrap, in a folder under the host's /tmp. Then only the limits on time, memory and output
        hold, and a malicious program can escape them.

    Raises:
      ConfigError: bubblewrap is missing or too old.
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
      if self._folder
      else bubblewrap.sandbox_command(files, runtime or command[0], size, counted=bool(folder)) as (start, descriptors)
    ):
      self._group = folder and cgroup.Group(folder, (limits.memory_mb << 20) + size)
      enter_command = self._group.enter_command() if self._group else []
      self._process = subprocess.Popen(
        [*enter_command, *start, *bubblewrap.limit_command(limits, unsafe), 'sh', '-c', _SCRIPT, 'sh', *command],
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=[*descriptors, *fds],
        env=bubblewrap.ENVIRONMENT,
        cwd=self._folder.name if self._folder else '/',
        start_new_session=unsafe,
      )
    self.pidfd = os.pidfd_open(self._process.pid)
    stdin, stdout, stderr = self._process.stdin, self._process.stdout, self._process.stderr
    assert stdin and stdout and stderr  # all are pipes
    self._stdin, self._stdout = stdin, stdout
    self.streams = {stdout: self.output, stderr: self.errors}
    for stream in self.streams:
      os.set_blocking(stream.fileno(), False)

  def restart_clock(self):
    """Gives the program its full time again."""
    self._used, _ = _usage(self._process.pid)
    self._since, self._spent, self._asleep = time.monotonic(), self._used, 0.0

  def begin(self):
    """Answers the shell that waits inside, so that the program starts. Its time starts, too."""
    self.begun = True
    for pid in _children(self._process.pid):
      with _ignore_vanished(), open(f'/proc/{pid}/oom_score_adj', 'w') as file:
        file.write('1000')  # if the machine runs out of memory, this process is killed first
      if not self._folder:
        with _ignore_vanished():
          self._inside, self._tmp = pid, os.open(f'/proc/{pid}/root/tmp', os.O_RDONLY)
    self.restart_clock()
    with _ignore_vanished():
      self._stdin.write(b'\n')

  def read(self, stream):
    """Reads what has been printed and returns it; None if there is nothing now, b'' at the end of the stream."""
    data = stream.read(1 << 16)
    self.streams[stream] += data or b''
    if data and not self.ready and stream is self._stdout:
      self.ready = True
      del self.output[:1]  # the line of the shell, which comes first
    if len(self.output) + len(self.errors) > self._limits.output:
      self.broken = f'output limit of {self._limits.output >> 20} MiB'
    return data

  def check_limits(self):
    """Sets `broken` if a limit is exceeded. Returns whether the program has used or wanted a processor."""
    elapsed = time.monotonic() - self._since
    if not self.begun:
      if elapsed > START_SECONDS:
        raise RuntimeError(f'a sandbox did not start within {START_SECONDS:.0f} s; reduce the load of the machine.')
      return True
    before = self._used
    self._used, memory = _usage(self._process.pid)
    self._check_time(elapsed / PATIENCE)
    if self._exceeds_memory(memory):
      self.broken = f'memory limit of {self._limits.memory_mb} MiB'
    return self._used > before or _is_running(self._process.pid)

  def add_idle_time(self, seconds):
    """Counts time in which neither this program nor those that run beside it used or wanted a processor."""
    self._asleep += seconds
    self._check_time(self._asleep)

  def _check_time(self, seconds):
    if max(seconds, self._used - self._spent) > self._limits.seconds:
      self.broken = f'time limit of {self._limits.seconds:g} s'

  def _exceeds_memory(self, memory):
    """Whether the memory of the processes and what the kernel holds for them are above the limit."""
    if self._tmp is not None:
      stats = os.fstatvfs(self._tmp)
      memory += (stats.f_files - stats.f_ffree) * ENTRY + _sockets(self._inside)
    return memory > self._limits.memory_mb << 20 or (self._group and self._group.full())

  def finish(self):
    """Reads the rest of the output and the exit code of a program that has ended."""
    for stream in self.streams:
      while not self.broken and self.read(stream):
        pass
    self._reap()
    self.code = self._process.returncode
    if not self.ready:
      raise bubblewrap.refusal(self.errors.decode(errors='replace').strip())
    self._check_time(0)
    if self._exceeds_memory(0):
      self.broken = f'memory limit of {self._limits.memory_mb} MiB'

  def _reap(self):
    """Waits for the process to end, and deducts the exact processor time that it used from this process's own timer."""
    if self._process.returncode is None:
      _, status, usage = os.wait4(self._process.pid, 0)
      self._process.returncode = os.waitstatus_to_exitcode(status)
      self._used = usage.ru_utime + usage.ru_stime
      left, _ = signal.getitimer(signal.ITIMER_PROF)
      if left:
        signal.setitimer(signal.ITIMER_PROF, max(left - self._used, 1e-6))

  def close(self):
    """Kills everything inside, and waits until it has ended."""
    self._stdin.close()  # a sandbox that is still being set up will read the end of the pipe, and exit
    inside = _children(self._process.pid)
    for pid in inside:  # process 1 of the sandbox; bubblewrap reaps it after all others, and ends
      with _ignore_vanished():
        os.kill(pid, signal.SIGKILL)
    if self.begun and not inside:
      self._process.kill()  # process 1 has ended, or this kernel does not list children
    if self._folder:
      with _ignore_vanished():
        os.killpg(self._process.pid, signal.SIGKILL)
    if not select.select([self.pidfd], [], [], START_SECONDS)[0]:
      self._process.kill()
    self._reap()
    for stream in self.streams:
      stream.close()
    os.close(self.pidfd)
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


def run(boxes, on_event=lambda: None):
  """Runs boxes side by side until the last one has ended, or one is `broken`.

  Args:
    boxes: list of Box.
    on_event: function that is called after every wait for events; the last box may have printed by then.

  Raises:
    ConfigError: bubblewrap does not work here; the message says why.
  """
  last = boxes[-1]
  with selectors.DefaultSelector() as waiting:
    for box in boxes:
      for source in (*box.streams, box.pidfd):
        waiting.register(source, selectors.EVENT_READ, box)
    next_check = time.monotonic() + LOOK_SECONDS
    while last.code is None and not any(box.broken for box in boxes):
      for key, _ in waiting.select(LOOK_SECONDS):
        box = key.data
        if key.fileobj == box.pidfd:
          box.finish()
        elif box.read(key.fileobj) != b'':
          continue
        waiting.unregister(key.fileobj)
      if not last.begun and all(box.ready for box in boxes):
        for box in boxes:
          box.begin()  # all at once, so that no box spends its own time waiting for another
      on_event()
      if time.monotonic() >= next_check:
        if not any([box.check_limits() for box in boxes if box.code is None]):
          for box in boxes:
            box.add_idle_time(LOOK_SECONDS)  # the least that has passed: if this check is late, more is not known
        next_check = time.monotonic() + LOOK_SECONDS


@contextlib.contextmanager
def _unsafe(files, folder):
  """As `bubblewrap.sandbox_command`, without a sandbox."""
  for name, content in files.items():
    with open(os.path.join(folder, name), 'wb') as file:
      file.write(content)
  yield ['setpriv', '--pdeathsig', 'KILL'], []


def _children(pid):
  """Process ids of the children of all threads of a process; empty if it is gone."""
  children = []
  with _ignore_vanished():
    for task in os.listdir(f'/proc/{pid}/task'):
      with open(f'/proc/{pid}/task/{task}/children') as file:
        children += map(int, file.read().split())
  return children


def _process_tree(pid):
  """Yields the process ids of a process and all its descendants."""
  pids = [pid]
  while pids:
    pids += _children(pid := pids.pop())
    yield pid


def _usage(pid):
  """(processor seconds, bytes) of a process and its descendants: resident pages, shared ones too, and page tables."""
  ticks = memory = 0
  for descendant in _process_tree(pid):
    with _ignore_vanished(), open(f'/proc/{descendant}/stat') as stat, open(f'/proc/{descendant}/status') as status:
      fields = stat.read().rpartition(')')[2].split()
      ticks += sum(map(int, fields[11:15]))  # of the process and of its children that have ended
      page_tables = status.read().partition('VmPTE:')[2].split(None, 1)
      memory += int(fields[21]) * _PAGE + (int(page_tables[0]) << 10 if page_tables else 0)
  return ticks / _TICK, memory


def _is_running(pid):
  """Whether a thread of a process or its descendants runs, waits for a processor, or waits for a disk."""
  for descendant in _process_tree(pid):
    for thread in glob.glob(f'/proc/{descendant}/task/*/stat'):
      with _ignore_vanished(), open(thread) as file:
        if file.read().rpartition(')')[2].split()[0] in 'RD':
          return True
  return False


def _sockets(pid):
  """Most bytes that the sockets in the network namespace of a process can hold."""
  kinds = []
  with _ignore_vanished():
    with open(f'/proc/{pid}/net/unix') as file:
      kinds = [line.split()[4] for line in file][1:]
  return sum(_DATAGRAMS if kind == '0002' else _STREAM for kind in kinds) * _default_buffer_size()


@functools.cache
def _default_buffer_size():
  with open('/proc/sys/net/core/wmem_default') as file:
    return int(file.read())


def _ignore_vanished():
  """Suppresses the errors of accessing a process that may end at any moment."""
  return contextlib.suppress(FileNotFoundError, ProcessLookupError, BrokenPipeError, PermissionError)
