"""Builds the command lines that run a program in a sandbox: what it sees of the system, and which limits it has."""

import contextlib
import functools
import glob
import os
import re
import resource
import shutil
import subprocess
import sys

from r1jax import config
from r1jax.rewards.coding import seccomp

TMP = 64 << 20  # most bytes that a program may write into /tmp; also the largest file
DESCRIPTORS = 64  # most open files of a process
ENVIRONMENT = {'PATH': '/usr/local/bin:/usr/bin:/bin', 'LANG': 'C.UTF-8', 'PYTHONHASHSEED': '0'}

_NOBODY = '65534'
_UNSAFE = '(Inside a container of your own you can set reward.options.code.unsafe = True.)'


@contextlib.contextmanager
def sandbox_command(files, runtime, size, counted):
  """Context manager that yields the command prefix for running another command in a sandbox.

  Args:
    files: name -> bytes; put into /tmp.
    runtime: target of /proc/self/exe, the path by which a JVM finds its libraries.
    size: capacity of /tmp in bytes.
    counted: see `seccomp.program`.

  Yields:
    (command prefix, file descriptors that it must inherit).

  Raises:
    ConfigError: bubblewrap is missing or too old.
  """
  descriptors = []

  def readable(content):
    descriptors.append(os.memfd_create('r1jax'))
    with open(descriptors[-1], 'wb', closefd=False) as file:
      file.write(content)
    os.lseek(descriptors[-1], 0, os.SEEK_SET)
    return str(descriptors[-1])

  try:
    command = ['setpriv', f'--reuid={_NOBODY}', f'--regid={_NOBODY}', '--clear-groups'] if os.geteuid() == 0 else []
    command += [*_system(), '--size', str(size), '--tmpfs', '/tmp']
    for name, content in files.items():
      command += ['--file', readable(content), f'/tmp/{name}']
    command += ['--symlink', '/tmp/stdin', '/dev/stdin', '--symlink', runtime, '/proc/self/exe']
    command += ['--remount-ro', '/', '--chdir', '/tmp']
    rules = seccomp.program(counted)
    yield command + (['--seccomp', readable(rules)] if rules else []), descriptors
  finally:
    for fd in descriptors:
      os.close(fd)


def limit_command(limits, unsafe):
  """The command prefix that sets the limits per process. It must run inside, as processes are counted by namespace."""
  hard_address_space = resource.getrlimit(resource.RLIMIT_AS)[1]
  address_space = (
    limits.memory_mb << 20
    if limits.mapped
    else 'unlimited'
    if hard_address_space == resource.RLIM_INFINITY
    else hard_address_space
  )
  hard_stack = resource.getrlimit(resource.RLIMIT_STACK)[
    1
  ]  # a program may raise its own limit, but is still bound by memory
  stack = f'{limits.stack_mb << 20}:{"unlimited" if hard_stack == resource.RLIM_INFINITY else hard_stack}'
  command = [
    'prlimit',
    f'--as={address_space}',
    f'--stack={stack}',
    f'--fsize={TMP}',
    '--core=0',
    f'--nofile={DESCRIPTORS}',
    '--sigpending=1024',
  ]
  return command if unsafe else [*command, f'--nproc={limits.processes}']


def refusal(message):
  """The ConfigError for a sandbox that does not start, with the message of bubblewrap."""
  return config.ConfigError(
    f'the sandbox does not start: {message or "no message"}. bubblewrap needs user namespaces: see sysctl '
    'user.max_user_namespaces, kernel.unprivileged_userns_clone (Debian) and '
    'kernel.apparmor_restrict_unprivileged_userns (Ubuntu); Docker allows them with --security-opt '
    f'seccomp=unconfined. {_UNSAFE}'
  )


@functools.cache
def python(unsafe=False):
  """Path of a Python that the sandbox can run: this one, or the system's if the user nobody cannot enter its folder.

  Raises ConfigError if there is neither.
  """
  this_python = f'{sys.base_prefix}/bin/python{sys.version_info.major}.{sys.version_info.minor}'
  for path in (this_python, '/usr/local/bin/python3', '/usr/bin/python3'):
    if os.path.exists(path) and (unsafe or _open_to_nobody(path)):
      return path
  raise config.ConfigError(
    f'the sandbox runs as the user nobody, who may not enter the folder of {this_python}, and there is no '
    '/usr/bin/python3; install it (apt-get install python3-minimal), or make the folder accessible.'
  )


def _open_to_nobody(path):
  path = os.path.realpath(path)
  parents = [path] + [path[:i] for i, c in enumerate(path) if c == '/' and i]
  return os.geteuid() != 0 or all(os.stat(parent).st_mode & 1 for parent in parents)


@functools.cache
def _system():
  """bwrap with the arguments that are always the same: the namespaces, and the visible parts of the system."""
  bwrap = shutil.which('bwrap')
  if bwrap is None:
    raise config.ConfigError(
      "the reward 'code' runs programs inside bubblewrap, which is not installed: apt-get install bubblewrap. "
      f'{_UNSAFE}'
    )
  version = subprocess.run([bwrap, '--version'], capture_output=True, text=True, check=True).stdout.split()[-1]
  config.require(
    [int(n) for n in re.findall('[0-9]+', version)] >= [0, 8],
    f'bubblewrap {version} is too old; install 0.8 or newer, which has --size and --disable-userns.',
  )
  command = [
    bwrap,
    '--unshare-all',
    '--unshare-user',
    '--disable-userns',
    '--uid',
    _NOBODY,
    '--gid',
    _NOBODY,
    '--hostname',
    'sandbox',
    '--as-pid-1',
    '--die-with-parent',
    '--new-session',
  ]
  for path in ('/usr', '/bin', '/lib', '/lib64'):
    if os.path.islink(path):
      command += ['--symlink', os.readlink(path), path]
    elif os.path.isdir(path):
      command += ['--ro-bind', path, path]
  for device in ('/dev/null', '/dev/urandom'):  # not --dev, which is a tmpfs without a size limit
    command += ['--dev-bind', device, device]
  visible = ['/etc/ld.so.cache', *glob.glob('/etc/java-*')]  # Debian has part of its JDK there
  if not python().startswith('/usr/'):
    visible += [python(), f'{sys.base_prefix}/lib']
  for path in visible:
    command += ['--ro-bind-try', path, path]
  return command
