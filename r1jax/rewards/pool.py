"""Grades responses in worker processes that can be killed, beside whatever the device does.

One thread per worker owns a process (`r1jax.rewards.worker`), hands it batches and reads the scores
off the memory they share. A worker that overruns the time limit of an item is ended by its own timer;
the item scores 0 and a new process goes on with the rest. A worker that dies of anything else has its
item tried once more.
"""
import concurrent.futures
import dataclasses
import multiprocessing
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np

from r1jax import rewards
from r1jax.rewards import worker

_IDLE_DEATHS = 3  # of a worker between items, in a row, before it is not chance


class GradeError(RuntimeError):
  """Grading cannot go on: a worker does not start, or a reward function raised."""


@dataclasses.dataclass(frozen=True)
class Scores:
  """Of one submission, in the order of its items.

  total: f32[B], the weighted sum of the parts.
  parts: name -> f32[B], unweighted.
  timeouts: items given up, each scoring 0 in every part: past the time limit, or two workers died of it.
  seconds: from submission to the last verdict.
  """
  total: np.ndarray
  parts: dict[str, np.ndarray]
  timeouts: int
  seconds: float


class Grader:
  """Worker processes that score items by the parts of a config.Reward. A context manager.

  Raises config.ConfigError at once for a part that is no reward.
  """

  def __init__(self, cfg):
    """cfg: config.Reward."""
    for name in cfg.parts:
      rewards.resolve(name)
    self._parts = dict(cfg.parts)
    self._batches = queue.SimpleQueue()
    self._jobs = set()
    self._lock = threading.Lock()
    self._closed = False
    self._slots = [_Slot(list(self._parts), cfg.timeout) for _ in range(cfg.workers)]
    self._threads = [threading.Thread(target=self._serve, args=(s,), daemon=True) for s in self._slots]
    for thread in self._threads:
      thread.start()

  def submit(self, items):
    """Starts grading. items: list of dicts (see `r1jax.rewards`). Returns a Future of Scores.

    Its result() raises GradeError where a worker cannot start, or a reward function raised.
    """
    job = _Job(items, self._parts)
    with self._lock:
      if self._closed:
        raise GradeError('the grader is closed; submit before close().')
      self._jobs.add(job.future)
    job.future.add_done_callback(self._jobs.discard)
    size = min(worker.BATCH, -(-len(items) // len(self._slots)) or 1)
    for start in range(0, len(items), size):
      self._batches.put((job, start, items[start:start + size]))
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
      job, start, items = batch
      if job.future.done():
        continue   # failed already
      try:
        job.add(start, *slot.grade(items))
      except Exception as error:  # whatever it is, the one who waits must hear of it
        _settle(job.future, error=error)


class _Job:
  """One submission: collects the verdicts of its batches, from any thread."""

  def __init__(self, items, parts):
    self.future = concurrent.futures.Future()
    self._weights = parts
    self._scores = np.zeros((len(items), len(parts)))
    self._left = len(items)
    self._timeouts = 0
    self._start = time.monotonic()
    self._lock = threading.Lock()
    if not items:
      self._finish()

  def add(self, start, scores, timeouts):
    """scores: f64[n, parts] of the items from `start` on."""
    with self._lock:
      self._scores[start:start + len(scores)] = scores
      self._timeouts += timeouts
      self._left -= len(scores)
      if not self._left:
        self._finish()

  def _finish(self):
    # Not a matrix product: its rounding may depend on the row.
    total = (self._scores * list(self._weights.values())).sum(axis=1)
    columns = self._scores.T.astype(np.float32)
    parts = dict(zip(self._weights, columns, strict=True))
    seconds = time.monotonic() - self._start
    _settle(self.future, Scores(total.astype(np.float32), parts, self._timeouts, seconds))


def _settle(future, result=None, error=None):
  """Sets what a future holds, unless it has been set: several batches of one submission can fail."""
  try:
    future.set_exception(error) if error else future.set_result(result)
  except concurrent.futures.InvalidStateError:
    pass


class _Slot:
  """One worker process at a time, and the board shared with it. Used by one thread, but for `close`."""

  def __init__(self, names, seconds):
    self._names, self._seconds = names, seconds
    self._file = tempfile.TemporaryFile()
    self._file.truncate(worker.Board.size(len(names)))
    self._board = worker.Board(self._file.fileno(), len(names))
    self._lock = threading.Lock()
    self._closed = False
    self._process = self._connection = None
    self._ready = False
    self._start()   # its imports run while the caller does other things

  def grade(self, items):
    """Scores one batch. Returns (f64[n, parts], items given up)."""
    parts = len(self._names)
    scores = np.zeros((len(items), parts))
    first = timeouts = died = idle = 0      # died: workers lost to item `first`
    while first < len(items):
      self._board.begun, self._board.done = -1, 0
      code = self._run(items[first:])
      done = self._board.done
      scores[first:first + done] = np.reshape(self._board.scores[:done * parts], (done, parts))
      first += done
      if code is None or first == len(items):
        continue
      if done:
        died = idle = 0
      if self._board.begun == done:         # it died of this item
        died += 1
        if code == -signal.SIGALRM or died == 2:
          first, timeouts, died = first + 1, timeouts + 1, 0
      else:                                 # it died between two items
        idle += 1
        if idle == _IDLE_DEATHS:
          raise GradeError(f'{idle} reward workers in a row were ended by a signal (the last: {-code}) before their '
                           f'first item; is memory short, or does a start take over {worker.START_SECONDS:.0f} s?')
    return scores, timeouts

  def _run(self, items):
    """Has the worker score the items onto the board. Returns None, or the exit code of one that died."""
    try:
      if not self._ready:
        self._connection.recv_bytes()
        self._ready = True
      self._connection.send(items)
      error = self._connection.recv_bytes().decode()
    except (EOFError, OSError):
      code = self._process.wait()
      self._start()
      if code >= 0:
        raise GradeError(f'a reward worker ended with code {code}; its own error stands above.') from None
      return code
    if error:
      raise GradeError(f'a reward function raised {error} (item {self._board.done} of its batch).')
    return None

  def _start(self):
    """Starts a process; what it says first is waited for when there is work."""
    with self._lock:
      if self._closed:
        raise GradeError('the grader is closed.')
      if self._connection:
        self._connection.close()
      self._connection, theirs = multiprocessing.Pipe()
      fds = theirs.fileno(), self._file.fileno()
      # The same import path as here. A fixed hash seed: the order of sympy's terms, and with it now and
      # then a verdict, follows from it.
      env = dict(os.environ, PYTHONPATH=os.pathsep.join(p or os.getcwd() for p in sys.path), PYTHONHASHSEED='0')
      command = [sys.executable, '-P', '-m', 'r1jax.rewards.worker', *map(str, fds), str(self._seconds), *self._names]
      self._process = subprocess.Popen(command, pass_fds=fds, env=env, stdin=subprocess.DEVNULL)
      self._ready = False
      theirs.close()

  def close(self):
    """Kills the process, from any thread."""
    with self._lock:
      self._closed = True
      self._process.kill()
    self._process.wait()
