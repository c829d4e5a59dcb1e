"""Locks a run folder for one command at a time, and saves before ending when a signal asks a command to stop.

The lock is the file `.lock`: JSON that identifies the holder, touched every BEAT seconds. A lock whose holder is gone
is taken over. On the same machine (equal host name, boot id and PID namespace) the holder is gone if no process has its
PID and start time. On another machine, as with a shared file system, the holder counts as gone if its lock has not been
touched for DEAD seconds, by the clock that stamps files in that folder, or by our own while we watch. A touch while we
watch means that it is alive.
"""

import contextlib
import functools
import json
import logging
import os
import pathlib
import socket
import sys
import threading
import time
import uuid

from r1jax import config as config_lib
from r1jax import parallel
from r1jax.parallel import interrupt
from r1jax.runs import runtime

log = logging.getLogger('r1jax')

BEAT, DEAD = 10.0, 60.0  # seconds
_held = set()  # paths of the locks that this process holds


@contextlib.contextmanager
def working_in(workdir, part=None):
  """Within, this command alone works in `workdir`, and a signal ends it at the next
  `interrupt.raise_if_stopped` or `save_on_interrupt`.

  Creates the folder if needed. With several processes in a run, the first one holds the lock. Does nothing if this
  process holds the lock already.

  Args:
    workdir: the folder.
    part: number of this part of a job whose parts share the folder; each part has its own lock.

  Raises:
    ConfigError: another command is working there.
  """
  runtime.set_up_process()
  path = pathlib.Path(workdir).resolve() / ('.lock' if part is None else f'.lock-{part}')
  if path in _held:
    yield
    return
  is_new = not path.parent.exists()
  lock, refusal = None, None
  if parallel.is_primary():
    try:
      lock = Lock(path)
    except config_lib.ConfigError as error:
      refusal = error
  if not parallel.broadcast_from_primary(refusal is None):
    raise refusal or config_lib.ConfigError(f'{workdir} is in use; the error of the first process says by whom.')
  _held.add(path)
  try:
    with interrupt.signals_handled():
      yield
  finally:
    _held.discard(path)
    if lock:
      lock.release()
      if is_new:  # a command that failed before it wrote anything leaves no folder behind
        with contextlib.suppress(OSError):
          path.parent.rmdir()


def exclusive(run):
  """Decorator for a function (config, workdir, ...) that is to hold the lock of its workdir while it runs."""

  @functools.wraps(run)
  def wrapped(cfg, workdir, *args, **kwargs):
    with working_in(workdir):
      return run(cfg, workdir, *args, **kwargs)

  return wrapped


@contextlib.contextmanager
def save_on_interrupt(run, state, step, first_step, steps):
  """Within, a signal ends the run after saving it; wraps the part of a training loop that precedes each step.

  Args:
    run: has `save` and `store`.
    state: training state before the step.
    step: the next step.
    first_step: the step at which this command started.
    steps: total number of steps.

  Raises:
    Interrupted: a signal has asked the run to stop.
  """
  try:
    interrupt.raise_if_stopped()
    yield
  except interrupt.Interrupted as error:
    if step > first_step:
      run.save(step, state)
      run.store.wait()
    progress = f'{step} of {steps} steps are saved' if step else 'no step was done'
    raise interrupt.Interrupted(f'{progress}; run the same command again to continue.') from error


class Lock:
  """The lock at `path`, held from construction until `release`. Raises ConfigError if another process holds it."""

  def __init__(self, path):
    self._path, self._me = path, _this_process()
    self._text = json.dumps(self._me)
    path.parent.mkdir(parents=True, exist_ok=True)
    while not self._create():
      existing = self._read()
      if existing is None or self._is_stale(*existing):
        self._remove(existing)
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
    """(text, modification time) of the lock file; None if there is none."""
    try:
      with open(self._path, encoding='utf-8', errors='replace') as file:
        return file.read(10_000), os.stat(file.fileno()).st_mtime
    except FileNotFoundError:
      return None

  def _is_stale(self, text, touched):
    """Whether the holder of the lock is gone; on another machine, watches the file until that is clear.

    Raises ConfigError if the holder is alive.
    """
    holder, began, logged = _parse(text), time.monotonic(), False
    owner = f'process {holder.get("pid", "?")} on {holder.get("host", "an unknown host")}'
    busy = config_lib.ConfigError(
      f'{self._path.parent} is in use by {owner} ({holder.get("command", "?")}); wait for it, '
      'end it, or use another --workdir.'
    )
    if _is_local(holder, self._me):
      if _is_running(holder):
        raise busy
      return True
    while True:
      if self._now() - touched > DEAD or time.monotonic() - began > DEAD:
        log.warning(
          '%s: took over the lock of %s, which has not touched it for %.0f s.', self._path.parent, owner, DEAD
        )
        return True
      now = self._read()
      if now is None or now[0] != text:
        return False  # the lock has changed hands: look again
      if now[1] != touched:
        raise busy
      if not logged:
        log.info('%s is locked by %s: watching for up to %.0f s whether it is alive.', self._path.parent, owner, DEAD)
      logged = True
      time.sleep(min(1.0, BEAT / 5))

  def _now(self):
    """The time by the clock that stamps files in the folder, which may be that of a file server."""
    probe = self._path.with_name(f'{self._path.name}.{self._me["token"]}')
    try:
      probe.touch()
      return probe.stat().st_mtime
    finally:
      probe.unlink(missing_ok=True)

  def _remove(self, stale):
    """Removes the lock that was judged stale, (text, modification time), unless another one has taken its place.

    One process at a time does so, the one that has made the file `.takeover`: between looking and removing, no other
    may put its own lock there.
    """
    if stale is None:
      return
    guard = self._path.with_name(f'{self._path.name}.takeover')
    try:
      os.close(os.open(guard, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
    except FileExistsError:
      with contextlib.suppress(OSError):
        if self._now() - guard.stat().st_mtime > DEAD:  # whoever made it was killed at this very moment
          guard.unlink()
      time.sleep(0.02)
      return
    try:
      now = self._read()
      if now is not None and now[0] == stale[0]:
        self._path.unlink(missing_ok=True)
    finally:
      guard.unlink(missing_ok=True)

  def _beat(self):
    while not self._done.wait(BEAT):
      try:
        if self._path.read_text() != self._text:
          print(
            f'error: another process has taken over {self._path.parent}, as this one had not touched its lock for '
            f'{DEAD:.0f} s; stopping.',
            file=sys.stderr,
            flush=True,
          )
          os._exit(1)
        os.utime(self._path)
      except FileNotFoundError:
        with contextlib.suppress(OSError):
          self._create()
      except OSError:  # such as a file server that is briefly unavailable
        pass


def _this_process():
  return {
    'host': socket.gethostname(),
    'boot': _read_text('/proc/sys/kernel/random/boot_id'),
    'namespace': _read_link('/proc/self/ns/pid'),
    'pid': os.getpid(),
    'started': _start_time(os.getpid()),
    'command': ' '.join(sys.argv)[:200],
    'token': uuid.uuid4().hex,
  }


def _parse(text):
  try:
    holder = json.loads(text)
  except ValueError:  # still being written, or damaged
    return {}
  return holder if isinstance(holder, dict) else {}


def _is_local(holder, me):
  """Whether the holder's PID belongs to this machine and PID namespace."""
  return all(holder.get(key) == me[key] for key in ('host', 'boot', 'namespace')) and isinstance(holder.get('pid'), int)


def _is_running(holder):
  """Whether a process of this machine still runs; its start time tells it from a later process with the same PID."""
  if pathlib.Path('/proc/self/stat').exists():
    return _start_time(holder['pid']) not in ('', 'ended') and _start_time(holder['pid']) == holder.get('started')
  try:
    os.kill(holder['pid'], 0)
  except ProcessLookupError:
    return False
  except OverflowError:
    return False
  except PermissionError:
    pass
  return True


def _start_time(pid):
  """Start time of a process in the kernel's units, as text; 'ended' for a zombie, '' if there is no such process."""
  fields = _read_text(f'/proc/{pid}/stat').rpartition(')')[2].split()
  return '' if len(fields) < 20 else 'ended' if fields[0] in 'ZX' else fields[19]


def _read_text(path):
  try:
    return pathlib.Path(path).read_text().strip()
  except OSError:
    return ''


def _read_link(path):
  try:
    return os.readlink(path)
  except OSError:
    return ''
