"""One command at a time works in a folder, and ends where nothing is lost when it is asked to.

The folder's lock is the file `.lock`: who holds it, as JSON, touched every BEAT seconds. One whose holder is gone is
taken over. On one machine (host name, boot, and namespace of process numbers are the same) the holder is gone when no
process of its number and start is there. Elsewhere, as on a file system that hosts share, only the file tells: the
holder is gone when the file has not been touched for DEAD seconds, by the clock that dates files in that folder or by
ours while we watch, and is there as soon as it is touched meanwhile.
"""
import contextlib
import functools
import json
import os
import pathlib
import socket
import sys
import threading
import time
import uuid

from experiments import common
from r1jax import config as config_lib
from r1jax import parallel
from r1jax.parallel import interrupt

BEAT, DEAD = 10.0, 60.0           # seconds
_held = set()                     # paths of the locks of this process


@contextlib.contextmanager
def working_in(workdir, part=None):
  """Within, no other command works in `workdir`, and signals end this one as `interrupt.check` and `stops` have it.

  Makes the folder where there is none. Of several processes of one run the first holds the lock. Does nothing where
  this process has the folder already.

  Args:
    part: of a job whose parts share the folder: each has a lock of its own.

  Raises:
    ConfigError: another command works there.
  """
  common.prepare()
  path = pathlib.Path(workdir).resolve() / ('.lock' if part is None else f'.lock-{part}')
  if path in _held:
    yield
    return
  new = not path.parent.exists()
  lock, refused = None, None
  if parallel.first():
    try:
      lock = Lock(path)
    except config_lib.ConfigError as error:
      refused = error
  if not parallel.agree(refused is None):
    raise refused or config_lib.ConfigError(f'{workdir} is in use, as the first process says.')
  _held.add(path)
  try:
    with interrupt.listening():
      yield
  finally:
    _held.discard(path)
    if lock:
      lock.release()
      if new:                     # a command that was refused leaves nothing
        with contextlib.suppress(OSError):
          path.parent.rmdir()


def alone(run):
  """A run of an experiment, function of (config, workdir, ...), as one that works in its folder alone."""
  @functools.wraps(run)
  def wrapped(cfg, workdir, *args, **kwargs):
    with working_in(workdir):
      return run(cfg, workdir, *args, **kwargs)
  return wrapped


@contextlib.contextmanager
def stops(run, state, step, first, of):
  """Within, a signal ends the run once it is saved; for what comes before a step of a loop.

  Args:
    run: with `save` and `store`. state: before the step.
    step: the next one. first: the one that this command began with. of: all of them.
  """
  try:
    interrupt.check()
    yield
  except interrupt.Interrupted as error:
    if step > first:
      run.save(step, state)
      run.store.wait()
    done = f'{step} of {of} steps are saved' if step else 'no step was done'
    raise interrupt.Interrupted(f'{done}; run the same command again to go on.') from error


class Lock:
  """The lock at `path`, held from here on until `release`. Raises ConfigError where another process holds it."""

  def __init__(self, path):
    self._path, self._me = path, _me()
    self._text = json.dumps(self._me)
    path.parent.mkdir(parents=True, exist_ok=True)
    while not self._create():
      judged = self._read()
      if judged is None or self._gone(*judged):
        self._remove(judged)
    self._done = threading.Event()
    threading.Thread(target=self._beat, daemon=True).start()

  def release(self):
    self._done.set()
    with contextlib.suppress(OSError):
      if self._path.read_text() == self._text:
        self._path.unlink()

  def _create(self):
    try:
      file = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
      return False
    try:
      os.write(file, self._text.encode())
    except OSError:
      self._path.unlink()
      raise
    finally:
      os.close(file)
    return True

  def _read(self):
    """(text, when it was touched) of the lock that is there; None where it is gone."""
    try:
      with open(self._path, encoding='utf-8', errors='replace') as file:
        return file.read(10_000), os.stat(file.fileno()).st_mtime
    except FileNotFoundError:
      return None

  def _gone(self, text, touched):
    """Whether the holder is; waits until that is clear. Raises ConfigError where it is there."""
    holder, began, told = _parse(text), time.monotonic(), False
    of = f'process {holder.get("pid", "?")} on {holder.get("host", "a host not named")}'
    busy = config_lib.ConfigError(f'{self._path.parent} is in use by {of} ({holder.get("command", "?")}); wait for it, '
                                  'end it, or use another --workdir.')
    if _here(holder, self._me):
      if _runs(holder):
        raise busy
      return True
    while True:
      if self._now() - touched > DEAD or time.monotonic() - began > DEAD:
        common.log.warning('%s was in use by %s, which gave no sign of life for %.0f s: taken over.',
                           self._path.parent, of, DEAD)
        return True
      now = self._read()
      if now is None or now[0] != text:
        return False              # another one to look at
      if now[1] != touched:
        raise busy
      if not told:
        common.log.info('%s is or was in use by %s: looking for up to %.0f s whether that is alive.',
                        self._path.parent, of, DEAD)
      told = True
      time.sleep(min(1.0, BEAT / 5))

  def _now(self):
    """What the folder's own clock says: of a file server's, where it is one."""
    probe = self._path.with_name(f'{self._path.name}.{self._me["token"]}')
    try:
      probe.touch()
      return probe.stat().st_mtime
    finally:
      probe.unlink(missing_ok=True)

  def _remove(self, judged):
    """Removes the lock that was judged stale, (text, modification time), unless another one has taken its place.

    One process at a time does so, the one that has made the file `.takeover`: between looking and removing, no other
    may put its own lock there.
    """
    if judged is None:
      return
    guard = self._path.with_name(f'{self._path.name}.takeover')
    try:
      os.close(os.open(guard, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
    except FileExistsError:
      with contextlib.suppress(OSError):
        if self._now() - guard.stat().st_mtime > DEAD:   # whoever made it was killed at this very moment
          guard.unlink()
      time.sleep(0.02)
      return
    try:
      now = self._read()
      if now is not None and now[0] == judged[0]:
        self._path.unlink(missing_ok=True)
    finally:
      guard.unlink(missing_ok=True)

  def _beat(self):
    while not self._done.wait(BEAT):
      try:
        if self._path.read_text() != self._text:
          print(f'error: another process has taken over {self._path.parent}, as this one gave no sign of life for '
                f'{DEAD:.0f} s; ended.', file=sys.stderr, flush=True)
          os._exit(1)
        os.utime(self._path)
      except FileNotFoundError:
        with contextlib.suppress(OSError):
          self._create()
      except OSError:             # a file server that is away for a moment
        pass


def _me():
  return {'host': socket.gethostname(), 'boot': _text('/proc/sys/kernel/random/boot_id'),
          'namespace': _link('/proc/self/ns/pid'), 'pid': os.getpid(), 'started': _started(os.getpid()),
          'command': ' '.join(sys.argv)[:200], 'token': uuid.uuid4().hex}


def _parse(text):
  try:
    found = json.loads(text)
  except ValueError:              # being written, or damaged
    return {}
  return found if isinstance(found, dict) else {}


def _here(holder, me):
  """Whether the holder's process number is one of this machine."""
  return all(holder.get(key) == me[key] for key in ('host', 'boot', 'namespace')) and isinstance(holder.get('pid'), int)


def _runs(holder):
  """Whether a process of this machine runs still; its start tells it from a later one of its number."""
  if pathlib.Path('/proc/self/stat').exists():
    return _started(holder['pid']) not in ('', 'ended') and _started(holder['pid']) == holder.get('started')
  try:
    os.kill(holder['pid'], 0)
  except ProcessLookupError:
    return False
  except OverflowError:
    return False
  except PermissionError:
    pass
  return True


def _started(pid):
  """When a process began, as the kernel counts; 'ended' for one whose parent has yet to look, '' without one."""
  fields = _text(f'/proc/{pid}/stat').rpartition(')')[2].split()
  return '' if len(fields) < 20 else 'ended' if fields[0] in 'ZX' else fields[19]


def _text(path):
  try:
    return pathlib.Path(path).read_text().strip()
  except OSError:
    return ''


def _link(path):
  try:
    return os.readlink(path)
  except OSError:
    return ''
