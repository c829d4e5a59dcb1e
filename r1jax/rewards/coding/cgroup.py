"""Control groups, in which the kernel itself counts the memory of a program: its own for it, too.

What a program makes the kernel keep (page tables, entries of a file system, buffers of sockets and pipes) is in
no resident set, so that a sum of those does not see it. Needed is a group to make others in: for root most
machines have one, for others where systemd delegates the memory controller; most containers have none.
"""

import contextlib
import functools
import itertools
import os
import pathlib
import re
import subprocess

_NAME = 'r1jax-sandbox-{}-{}'
_LIMITS = (('memory.max', 'memory.swap.max'), ('memory.limit_in_bytes', 'memory.memsw.limit_in_bytes'))
_EVENTS = ('memory.events', 'memory.oom_control')
_COUNT = itertools.count()


class Group:
  """A group whose memory is limited."""

  def __init__(self, folder, size):
    """folder: to make it in. size: bytes. Raises OSError where it cannot be made."""
    self._path = folder / _NAME.format(os.getpid(), next(_COUNT))
    self._path.mkdir()
    try:
      limit, swap = next(pair for pair in _LIMITS if (self._path / pair[0]).exists())
      (self._path / limit).write_text(str(size))
      with contextlib.suppress(OSError):  # where swap is not counted
        (self._path / swap).write_text('0' if limit == 'memory.max' else str(size))
      with contextlib.suppress(OSError):  # of version 2: all or none of its processes are ended
        (self._path / 'memory.oom.group').write_text('1')
      self._events = next(self._path / name for name in _EVENTS if (self._path / name).exists())
    except (OSError, StopIteration):
      self._path.rmdir()
      raise

  def entering(self):
    """The command that enters the group and becomes the command that follows it."""
    return ['sh', '-c', 'echo $$ >"$0" && exec "$@"', str(self._path / 'cgroup.procs')]

  def full(self):
    """Whether the kernel has ended a process of the group because its limit was reached."""
    return bool(re.search('^oom_kill [1-9]', self._events.read_text(), re.MULTILINE))

  def close(self):
    """Removes the group, whose processes have ended."""
    with contextlib.suppress(OSError):  # else a process that comes later sweeps it away
      self._path.rmdir()


@functools.cache
def folder():
  """Path of a group in which this process can make others that limit memory; None where there is none."""
  groups, mounts = (pathlib.Path('/proc/self', name).read_text() for name in ('cgroup', 'mounts'))
  for path in _candidates(groups, mounts):
    try:
      _sweep(path)
      group = Group(path, 64 << 20)
    except (OSError, StopIteration):
      continue
    entered = subprocess.run([*group.entering(), 'true'], stderr=subprocess.DEVNULL).returncode == 0
    group.close()
    if entered:
      return path
  return None


def _candidates(groups, mounts):
  """Yields version 1's own group; of version 2 the own one and the one above, where it hands the controller down.

  groups, mounts: text of /proc/self/cgroup and of /proc/self/mounts.
  """
  own = {}
  for line in groups.splitlines():
    _, controllers, path = line.split(':', 2)
    own |= dict.fromkeys(controllers.split(','), path)
  for line in mounts.splitlines():
    _, mount, kind, options, *_ = line.split(' ')
    if kind == 'cgroup' and 'memory' in options.split(',') and 'memory' in own:
      yield pathlib.Path(mount + own['memory'])
    elif kind == 'cgroup2' and '' in own:
      path = pathlib.Path(mount + own[''])
      for group in dict.fromkeys((path, path.parent if own[''] != '/' else path)):
        with contextlib.suppress(OSError):
          if 'memory' in (group / 'cgroup.subtree_control').read_text().split():
            yield group


def _sweep(path):
  """Removes the groups of processes that were killed."""
  for group in path.glob(_NAME.format('*', '*')):
    if not os.path.exists(f'/proc/{group.name.split("-")[2]}'):
      with contextlib.suppress(OSError):
        group.rmdir()
