"""Grades responses in worker processes that can be killed, concurrently with the work of the accelerator.

One thread per worker owns a process (`r1jax.rewards.workers.worker`), sends it batches and reads its verdicts one by
one from a pipe. A worker that exceeds the time limit of an item is killed by its own timers; the item scores 0 and a
new process continues with the rest. If a worker dies of anything else, the item is tried once more.
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
from typing import Any

import numpy as np

from r1jax import rewards
from r1jax.config import require
from r1jax.rewards.coding.sandbox import PATIENCE
from r1jax.rewards.workers import worker

_IDLE_DEATHS = 3  # deaths of a worker between items, in a row, after which grading stops
LONGEST = 86_400.0  # largest time limit of one item, in seconds
MOST_WORKERS = 1024  # processes of about 100 MB each


class GradeError(RuntimeError):
  """Grading cannot continue: a worker does not start, or a reward function raised."""


class ItemError(GradeError):
  """A reward function raised on an item; other items can still be graded.

  Attributes:
    message: type and text of what it raised.
  """

  def __init__(self, message, index):
    super().__init__(f'a reward function raised {message} (item {index} of the submission).')
    self.message = message


@dataclasses.dataclass(frozen=True)
class Scores:
  """The scores of one submission, in the order of its items.

  Attributes:
    parts: name -> f32[B], unweighted; 0 for an item that the part does not score.
    verdicts: name -> list with one entry per item: a dict with 'score' and, if the reward can explain it, 'reason' and
      more; None for an item that the part does not score.
    timeouts: number of items given up, because of the time limit or because two workers died of them. They score 0 in
      every part.
    seconds: from submission to the last verdict.
  """

  parts: dict[str, np.ndarray]
  verdicts: dict[str, list]
  timeouts: int
  seconds: float


class Grader:
  """Worker processes that score items with several rewards. A context manager."""

  def __init__(self, parts, workers=1, timeout=5.0, functions=None):
    """Starts the processes without waiting until they are ready.

    Args:
      parts: name of a part -> options of its reward.
      workers: number of processes.
      timeout: seconds of processor time for one item, including that of its programs in sandboxes. An item is also
        given up after `sandbox.PATIENCE` times as many seconds of wall-clock time.
      functions: name of a part -> name of its reward, for parts that are not named like their reward.

    Raises:
      config.ConfigError: a part with an unknown reward, bad options, or a number out of range.
    """
    require(
      isinstance(workers, int) and 1 <= workers <= MOST_WORKERS,
      f'workers is {workers}; it must be an integer in [1, {MOST_WORKERS}] (this machine has {os.cpu_count()} cores).',
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

  def submit(self, items, parts=None):
    """Starts grading.

    Args:
      items: list of dicts (see `r1jax.rewards`).
      parts: for each item the names of the parts that score it; names that the grader does not have are ignored. None:
        every part scores every item.

    Returns:
      a Future of Scores. Its result() raises GradeError if a worker cannot start, ItemError if a reward function
      raised.
    """
    indices = {name: i for i, name in enumerate(self._names)}
    parts = [[indices[n] for n in names if n in indices] for names in parts or [indices] * len(items)]
    work = list(zip(items, parts, strict=True))
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
    """Kills the workers; the futures of submissions not yet graded raise GradeError."""
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
        continue  # it has failed already
      try:
        job.add(start, *slot.grade(work, start))
      except Exception as error:  # of any kind: whoever waits for the future must see it
        _settle(job.future, error=error)


class _Job:
  """One submission: collects the verdicts of its batches. Thread-safe."""

  def __init__(self, items, names):
    self.future = concurrent.futures.Future()
    self._names = names
    self._verdicts: list[Any] = [None] * len(items)
    self._remaining = len(items)
    self._timeouts = 0
    self._start = time.monotonic()
    self._lock = threading.Lock()
    if not items:
      self._finish()

  def add(self, start, verdicts, timeouts):
    """Takes the verdicts of the items from `start` on: for each item a list with one verdict per part."""
    with self._lock:
      self._verdicts[start : start + len(verdicts)] = verdicts
      self._timeouts += timeouts
      self._remaining -= len(verdicts)
      if not self._remaining:
        self._finish()

  def _finish(self):
    columns = {name: [v[i] for v in self._verdicts] for i, name in enumerate(self._names)}
    parts = {name: np.array([v['score'] if v else 0.0 for v in column], np.float32) for name, column in columns.items()}
    _settle(self.future, Scores(parts, columns, self._timeouts, time.monotonic() - self._start))


def _settle(future, result=None, error=None):
  """Sets the result or the error of a future, unless it is set already: several batches of a submission can fail."""
  try:
    future.set_exception(error) if error else future.set_result(result)
  except concurrent.futures.InvalidStateError:
    pass


class _Slot:
  """One worker process at a time, and the pipe to it. Used by one thread, except for `close`."""

  def __init__(self, parts, seconds):
    self._parts, self._seconds = parts, seconds
    self._lock = threading.Lock()
    self._closed = False
    self._ready = False
    self._process, self._connection = self._start()

  def grade(self, items, first):
    """Scores one batch.

    Args:
      items: list of (item, indices of the parts that score it).
      first: index of the batch's first item in the submission.

    Returns:
      for each item a list with one verdict per part (None for a part that does not score it), and the number of items
      that were given up.

    Raises:
      GradeError: the workers cannot continue.
    """
    verdicts, timeouts, died, idle = [], 0, 0, 0  # died: workers lost on the next item; idle: between items
    while len(verdicts) < len(items):
      before = len(verdicts)
      begun, code = self._run(items[before:], verdicts, first)
      if code is None:
        break
      if len(verdicts) > before:
        died = idle = 0
      if begun:
        died += 1
        given_up = {
          -signal.SIGPROF: f'given up after {self._seconds:g} s of processor time',
          -signal.SIGALRM: f'given up after {self._seconds * PATIENCE:g} s by the clock',
        }.get(code)
        if given_up or died == 2:
          reason = given_up or f'ended two workers ({-code})'
          verdicts.append([{'score': 0.0, 'reason': reason} for _ in self._parts])
          timeouts, died = timeouts + 1, 0
      else:
        idle += 1
        if idle == _IDLE_DEATHS:
          raise GradeError(
            f'{idle} reward workers in a row were killed by a signal (the last: {-code}) before their first item; '
            f'check that there is enough memory, and that a start takes less than {worker.START_SECONDS:.0f} s.'
          )
    return verdicts, timeouts

  def _run(self, items, verdicts, first):
    """Lets the worker score the items and appends its verdicts to `verdicts`.

    Args:
      items: as in `grade`, those that are left.
      verdicts: list to append to.
      first: index in the submission of the item whose verdict is verdicts[0].

    Returns:
      (True if the worker died on an item, its exit code), or (False, None) if it did not die.
    """
    begun = False
    try:
      if not self._ready:
        self._connection.recv_bytes()
        self._ready = True
      self._connection.send(items)
      for _ in items:
        message = self._connection.recv_bytes()
        if message == worker.BEGUN:
          begun = True
          message = self._connection.recv_bytes()
        if message.startswith(worker.ERROR):
          raise ItemError(message.removeprefix(worker.ERROR).decode(), first + len(verdicts))
        verdicts.append(json.loads(message))
        begun = False
    except (EOFError, OSError):
      code = self._process.wait()
      self._restart()
      if code >= 0:
        raise GradeError(f'a reward worker ended with code {code}; see its own error above.') from None
      return begun, code
    return False, None

  def _restart(self):
    with self._lock:
      if self._closed:
        raise GradeError('the grader is closed.')
      self._connection.close()
      self._ready = False
      self._process, self._connection = self._start()

  def _start(self):
    """Starts a process. Its first message, that it is ready, is awaited only when there is work."""
    ours, theirs = multiprocessing.Pipe()
    # The same import path as here. The hash seed is fixed because sympy's order of terms, and so in rare cases a
    # verdict, depends on it.
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
      return subprocess.Popen(command, pass_fds=[theirs.fileno()], env=env, stdin=subprocess.DEVNULL), ours

  def close(self):
    """Kills the process, from any thread."""
    with self._lock:
      self._closed = True
      self._process.kill()
    self._process.wait()
