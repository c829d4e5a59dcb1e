"""The command lines that put a program into a sandbox: what it sees of the system, and what it may use."""

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

TMP = 64 << 20  # bytes that a program may write into /tmp, and of any one file
DESCRIPTORS = 64  # open files of a process
ENVIRONMENT = {'PATH': '/usr/local/bin:/usr/bin:/bin', 'LANG': 'C.UTF-8', 'PYTHONHASHSEED': '0'}

_NOBODY = '65534'
_UNSAFE = '(In a container of your own: reward.options.code.unsafe = True.)'


@contextlib.contextmanager
def setting_up(files, runtime, size, counted):
  """Gives the command that sets a sandbox up around another command, and the descriptors that it reads.

  Raises ConfigError where there is no bubblewrap, or an old one.

  Args:
    files: name -> bytes in /tmp.
    runtime: what /proc/self/exe is: the path by which a JVM finds its libraries.
    size: bytes in /tmp.
    counted: see `seccomp.program`.
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


def limiting(limits, unsafe):
  """The command that sets the limits of each process. To be run inside: processes are counted by namespace."""
  ceiling = resource.getrlimit(resource.RLIMIT_AS)[1]
  mapped = limits.memory_mb << 20 if limits.mapped else 'unlimited' if ceiling == resource.RLIM_INFINITY else ceiling
  most = resource.getrlimit(resource.RLIMIT_STACK)[1]  # a program may raise its own: memory bounds it all the same
  stack = f'{limits.stack_mb << 20}:{"unlimited" if most == resource.RLIM_INFINITY else most}'
  command = [
    'prlimit',
    f'--as={mapped}',
    f'--stack={stack}',
    f'--fsize={TMP}',
    '--core=0',
    f'--nofile={DESCRIPTORS}',
    '--sigpending=1024',
  ]
  return command if unsafe else [*command, f'--nproc={limits.processes}']


def refusal(message):
  """The error for a sandbox that does not start; message: bubblewrap's."""
  return config.ConfigError(
    f'the sandbox does not start: {message or "no message"}. bubblewrap needs user namespaces: see sysctl '
    'user.max_user_namespaces, kernel.unprivileged_userns_clone (Debian) and '
    'kernel.apparmor_restrict_unprivileged_userns (Ubuntu); Docker allows them with --security-opt '
    f'seccomp=unconfined. {_UNSAFE}'
  )


@functools.cache
def python(unsafe=False):
  """A Python that the sandbox can run: this one, or where its folder is closed to nobody, the system's.

  Raises ConfigError where there is neither.
  """
  own = f'{sys.base_prefix}/bin/python{sys.version_info.major}.{sys.version_info.minor}'
  for path in (own, '/usr/local/bin/python3', '/usr/bin/python3'):
    if os.path.exists(path) and (unsafe or _open_to_nobody(path)):
      return path
  raise config.ConfigError(
    f'the sandbox runs as nobody, who may not enter the folder of {own}, and there is no '
    '/usr/bin/python3; install one (apt-get install python3-minimal), or open the folder.'
  )


def _open_to_nobody(path):
  path = os.path.realpath(path)
  steps = [path] + [path[:i] for i, c in enumerate(path) if c == '/' and i]
  return os.geteuid() != 0 or all(os.stat(step).st_mode & 1 for step in steps)


@functools.cache
def _system():
  """bwrap with the arguments that are always the same: the namespaces, and what of the system is seen."""
  bwrap = shutil.which('bwrap')
  config.require(
    bwrap,
    f"the reward 'code' runs programs inside bubblewrap, which is not installed: apt-get install bubblewrap. {_UNSAFE}",
  )
  version = subprocess.run([bwrap, '--version'], capture_output=True, text=True, check=True).stdout.split()[-1]
  config.require(
    [int(n) for n in re.findall('[0-9]+', version)] >= [0, 8],
    f'bubblewrap {version} is too old: 0.8 or newer is needed, for --size and --disable-userns.',
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
  for device in ('/dev/null', '/dev/urandom'):  # not --dev: that is a tmpfs without bounds
    command += ['--dev-bind', device, device]
  shown = ['/etc/ld.so.cache', *glob.glob('/etc/java-*')]  # where Debian keeps part of a JDK
  if not python().startswith('/usr/'):
    shown += [python(), f'{sys.base_prefix}/lib']
  for path in shown:
    command += ['--ro-bind-try', path, path]
  return command
