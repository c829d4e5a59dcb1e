"""Control groups, in which the kernel counts the memory of a program, including what it holds for the program itself.

Memory that the kernel holds for a program (page tables, file system entries, buffers of sockets and pipes) is in no
resident set, so a sum of resident sets misses it. This needs a group in which other groups can be made: root has one on
most machines, other users where systemd delegates the memory controller; most containers have none.
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
  """A control group with a memory limit."""

  def __init__(self, folder, size):
    """Makes the group inside `folder` with a limit of `size` bytes. Raises OSError if it cannot be made."""
    self._path = folder / _NAME.format(os.getpid(), next(_COUNT))
    self._path.mkdir()
    try:
      limit, swap = next(pair for pair in _LIMITS if (self._path / pair[0]).exists())
      (self._path / limit).write_text(str(size))
      with contextlib.suppress(OSError):  # swap may not be counted
        (self._path / swap).write_text('0' if limit == 'memory.max' else str(size))
      with contextlib.suppress(OSError):  # only in version 2: kill all processes of the group or none
        (self._path / 'memory.oom.group').write_text('1')
      self._events = next(self._path / name for name in _EVENTS if (self._path / name).exists())
    except (OSError, StopIteration):
      self._path.rmdir()
      raise

  def enter_command(self):
    """The command prefix that enters the group and then executes the command after it."""
    return ['sh', '-c', 'echo $$ >"$0" && exec "$@"', str(self._path / 'cgroup.procs')]

  def full(self):
    """Whether the kernel has killed a process of the group because the limit was reached."""
    return bool(re.search('^oom_kill [1-9]', self._events.read_text(), re.MULTILINE))

  def close(self):
    """Removes the group. Its processes must have ended."""
    with contextlib.suppress(OSError):  # if it fails, a later process removes it in `_sweep`
      self._path.rmdir()


@functools.cache
def folder():
  """Path of a group in which this process can make groups that limit memory; None if there is none."""
  groups, mounts = (pathlib.Path('/proc/self', name).read_text() for name in ('cgroup', 'mounts'))
  for path in _candidates(groups, mounts):
    try:
      _sweep(path)
      group = Group(path, 64 << 20)
    except (OSError, StopIteration):
      continue
    entered = subprocess.run([*group.enter_command(), 'true'], stderr=subprocess.DEVNULL).returncode == 0
    group.close()
    if entered:
      return path
  return None


def _candidates(groups, mounts):
  """Yields paths of groups that may hold others: in version 1 the own group, in version 2 the own one and its parent.

  In version 2 only those that delegate the memory controller.

  Args:
    groups: text of /proc/self/cgroup.
    mounts: text of /proc/self/mounts.
  """
  own_groups = {}
  for line in groups.splitlines():
    _, controllers, path = line.split(':', 2)
    own_groups |= dict.fromkeys(controllers.split(','), path)
  for line in mounts.splitlines():
    _, mount, kind, options, *_ = line.split(' ')
    if kind == 'cgroup' and 'memory' in options.split(',') and 'memory' in own_groups:
      yield pathlib.Path(mount + own_groups['memory'])
    elif kind == 'cgroup2' and '' in own_groups:
      path = pathlib.Path(mount + own_groups[''])
      for group in dict.fromkeys((path, path.parent if own_groups[''] != '/' else path)):
        with contextlib.suppress(OSError):
          if 'memory' in (group / 'cgroup.subtree_control').read_text().split():
            yield group


def _sweep(path):
  """Removes the groups that killed processes have left."""
  for group in path.glob(_NAME.format('*', '*')):
    if not os.path.exists(f'/proc/{group.name.split("-")[2]}'):
      with contextlib.suppress(OSError):
        group.rmdir()
