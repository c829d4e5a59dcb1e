"""Grades responses in worker processes that can be killed, beside whatever the device does.

One thread per worker owns a process (`r1jax.rewards.workers.worker`), hands it batches and reads verdict after
verdict off their pipe. A worker that overruns the time limit of an item is ended by its own timers;
the item scores 0 and a new process goes on with the rest. A worker that dies of anything else has its
item tried once more.
"""

import concurrent.futures
import dataclasses
import json
import multiprocessing
import os
import queue
import signal
import subprocess
import sys
import threading
import time

import numpy as np

from r1jax import rewards
from r1jax.config import require
from r1jax.rewards.coding.sandbox import PATIENCE
from r1jax.rewards.workers import worker

_IDLE_DEATHS = 3  # of a worker between items, in a row, before it is not chance
LONGEST = 86_400.0  # seconds that one item may take
MOST_WORKERS = 1024  # processes, of some 100 MB each


class GradeError(RuntimeError):
  """Grading cannot go on: a worker does not start, or a reward function raised."""


class ItemError(GradeError):
  """A reward function raised on an item; others can still be graded. said: what it raised."""

  def __init__(self, said, place):
    super().__init__(f'a reward function raised {said} (item {place} of the submission).')
    self.said = said


@dataclasses.dataclass(frozen=True)
class Scores:
  """Of one submission, in the order of its items.

  parts: name -> f32[B], unweighted; 0 where it was not asked.
  verdicts: name -> of each item a dict with 'score' and, where the reward says why, 'reason' and more; or None where
    the part was not asked of it.
  timeouts: items given up, each scoring 0 in every part: past the time limit, or two workers died of it.
  seconds: from submission to the last verdict.
  """

  parts: dict[str, np.ndarray]
  verdicts: dict[str, list]
  timeouts: int
  seconds: float


class Grader:
  """Worker processes that score items by some rewards. A context manager."""

  def __init__(self, parts, workers=1, timeout=5.0, functions=None):
    """Starts the processes, which get ready while the caller does other things.

    Args:
      parts: name of a part -> its options.
      workers: processes.
      timeout: seconds of processor time for one item, with what programs in sandboxes use; it is given up, too, after
        `sandbox.PATIENCE` times as many by the clock.
      functions: part -> its reward, for parts of another name than their reward's.

    Raises:
      config.ConfigError: a part that is no reward, or options that it does not have or refuses; a number out of range.
    """
    require(
      isinstance(workers, int) and 1 <= workers <= MOST_WORKERS,
      f'workers is {workers}; it must lie in [1, {MOST_WORKERS}], and this machine has {os.cpu_count()} cores.',
    )
    require(0.01 <= timeout <= LONGEST, f'timeout is {timeout} s; it must lie in [0.01, {LONGEST:g}].')
    functions = {name: (functions or {}).get(name, name) for name in parts}
    for name, options in parts.items():
      rewards.check(functions[name], options)
    self._names = list(parts)
    self._batches = queue.SimpleQueue()
    self._jobs = set()
    self._lock = threading.Lock()
    self._closed = False
    self._slots = [_Slot([[functions[n], dict(o)] for n, o in parts.items()], timeout) for _ in range(workers)]
    self._threads = [threading.Thread(target=self._serve, args=(s,), daemon=True) for s in self._slots]
    for thread in self._threads:
      thread.start()

  def submit(self, items, asked=None):
    """Starts grading.

    Args:
      items: list of dicts (see `r1jax.rewards`).
      asked: of each item the names of the parts that score it (others are ignored); None: all, of each.

    Returns:
      a Future of Scores. Its result() raises GradeError where a worker cannot start, ItemError where a reward
      function raised.
    """
    places = {name: place for place, name in enumerate(self._names)}
    asked = [[places[n] for n in names if n in places] for names in asked or [places] * len(items)]
    work = list(zip(items, asked, strict=True))
    job = _Job(items, self._names)
    with self._lock:
      if self._closed:
        raise GradeError('the grader is closed; submit before close().')
      self._jobs.add(job.future)
    job.future.add_done_callback(self._jobs.discard)
    size = min(worker.BATCH, -(-len(items) // len(self._slots)) or 1)
    for start in range(0, len(items), size):
      self._batches.put((job, start, work[start : start + size]))
    return job.future

  def close(self):
    """Ends the workers; a submission not yet graded raises GradeError."""
    with self._lock:
      self._closed = True
    for slot in self._slots:
      self._batches.put(None)
      slot.close()
    for thread in self._threads:
      thread.join()
    for future in list(self._jobs):
      _settle(future, error=GradeError('the grader was closed before this submission was graded.'))

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()

  def _serve(self, slot):
    while (batch := self._batches.get()) is not None and not self._closed:
      job, start, work = batch
      if job.future.done():
        continue  # failed already
      try:
        job.add(start, *slot.grade(work, start))
      except Exception as error:  # whatever it is, the one who waits must hear of it
        _settle(job.future, error=error)


class _Job:
  """One submission: collects the verdicts of its batches, from any thread."""

  def __init__(self, items, names):
    self.future = concurrent.futures.Future()
    self._names = names
    self._verdicts = [None] * len(items)
    self._left = len(items)
    self._timeouts = 0
    self._start = time.monotonic()
    self._lock = threading.Lock()
    if not items:
      self._finish()

  def add(self, start, verdicts, timeouts):
    """verdicts: of the items from `start` on, a list with one verdict a part."""
    with self._lock:
      self._verdicts[start : start + len(verdicts)] = verdicts
      self._timeouts += timeouts
      self._left -= len(verdicts)
      if not self._left:
        self._finish()

  def _finish(self):
    columns = {name: [v[i] for v in self._verdicts] for i, name in enumerate(self._names)}
    parts = {name: np.array([v['score'] if v else 0.0 for v in column], np.float32) for name, column in columns.items()}
    _settle(self.future, Scores(parts, columns, self._timeouts, time.monotonic() - self._start))


def _settle(future, result=None, error=None):
  """Sets what a future holds, unless it has been set: several batches of one submission can fail."""
  try:
    future.set_exception(error) if error else future.set_result(result)
  except concurrent.futures.InvalidStateError:
    pass


class _Slot:
  """One worker process at a time, and the pipe to it. Used by one thread, but for `close`."""

  def __init__(self, parts, seconds):
    self._parts, self._seconds = parts, seconds
    self._lock = threading.Lock()
    self._closed = False
    self._process = self._connection = None
    self._ready = False
    self._start()  # its imports run while the caller does other things

  def grade(self, items, first):
    """Scores one batch of (item, places of the parts to ask), whose first item is the submission's `first`.

    Returns of each item a list with one verdict a part (None for one not asked), and how many items were given up.
    """
    verdicts, timeouts, died, idle = [], 0, 0, 0  # died: workers lost to the next item
    while len(verdicts) < len(items):
      before = len(verdicts)
      begun, code = self._run(items[before:], verdicts, first)
      if len(verdicts) == len(items):
        break
      if len(verdicts) > before:
        died = idle = 0
      if begun:  # it died of this item
        died += 1
        given_up = {
          -signal.SIGPROF: f'given up after {self._seconds:g} s of processor time',
          -signal.SIGALRM: f'given up after {self._seconds * PATIENCE:g} s by the clock',
        }.get(code)
        if given_up or died == 2:
          reason = given_up or f'ended two workers ({-code})'
          verdicts.append([{'score': 0.0, 'reason': reason} for _ in self._parts])
          timeouts, died = timeouts + 1, 0
      else:  # it died between two items
        idle += 1
        if idle == _IDLE_DEATHS:
          raise GradeError(
            f'{idle} reward workers in a row were ended by a signal (the last: {-code}) before their '
            f'first item; is memory short, or does a start take over {worker.START_SECONDS:.0f} s?'
          )
    return verdicts, timeouts

  def _run(self, items, verdicts, first):
    """Has the worker score the items; appends what it says to `verdicts`, whose first is the submission's `first`.

    Returns whether it was on an item, and its exit code, if it died; else False, None.
    """
    begun = False
    try:
      if not self._ready:
        self._connection.recv_bytes()
        self._ready = True
      self._connection.send(items)
      for _ in items:
        said = self._connection.recv_bytes()
        if said == worker.BEGUN:
          begun = True
          said = self._connection.recv_bytes()
        if said.startswith(worker.ERROR):
          raise ItemError(said.removeprefix(worker.ERROR).decode(), first + len(verdicts))
        verdicts.append(json.loads(said))
        begun = False
    except (EOFError, OSError):
      code = self._process.wait()
      self._start()
      if code >= 0:
        raise GradeError(f'a reward worker ended with code {code}; its own error stands above.') from None
      return begun, code
    return False, None

  def _start(self):
    """Starts a process; what it says first is waited for when there is work."""
    with self._lock:
      if self._closed:
        raise GradeError('the grader is closed.')
      if self._connection:
        self._connection.close()
      self._ready = False
      self._connection, theirs = multiprocessing.Pipe()
      # The same import path as here. A fixed hash seed: the order of sympy's terms, and with it now and
      # then a verdict, follows from it.
      env = dict(os.environ, PYTHONPATH=os.pathsep.join(p or os.getcwd() for p in sys.path), PYTHONHASHSEED='0')
      command = [
        sys.executable,
        '-P',
        '-m',
        'r1jax.rewards.workers.worker',
        str(theirs.fileno()),
        str(self._seconds),
        json.dumps(self._parts),
      ]
      with theirs:
        self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=env, stdin=subprocess.DEVNULL)

  def close(self):
    """Kills the process, from any thread."""
    with self._lock:
      self._closed = True
      self._process.kill()
    self._process.wait()
