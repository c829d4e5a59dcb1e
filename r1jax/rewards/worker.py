"""The process that scores: `python -m r1jax.rewards.worker`, started by `pool.Grader` alone.

Arguments: the connection's and the board's file descriptors, the seconds one item may take, the
names of the rewards. The *board* is memory shared with the parent: i64 begun (the item of the batch
being scored), i64 done (items scored so far), f64[BATCH, parts] scores. So a worker that dies at any
moment has lost nothing but the item it was on, and the parent can see which one that was.

The time limit is a kernel timer with its default action, which ends the process even inside a long
operation in C, and even if the parent is gone. No Python handler runs.
"""
import mmap
from multiprocessing.connection import Connection
import resource
import signal
import sys

from r1jax import rewards

BATCH = 64                   # items at most in one message
MEMORY = 4 << 30             # bytes of address space, before a MemoryError: sympy must not take the run's
START_SECONDS = 120.0        # to import and prepare
_HEADER = 16                 # bytes


class Board:
  """begun, done: the batch's position; scores: f64[BATCH * parts], item by item."""

  def __init__(self, fd, parts):
    view = memoryview(mmap.mmap(fd, Board.size(parts)))
    self._position = view[:_HEADER].cast('q')
    self.scores = view[_HEADER:].cast('d')

  @staticmethod
  def size(parts):
    """Bytes."""
    return _HEADER + 8 * BATCH * parts

  @property
  def begun(self):
    return self._position[0]

  @begun.setter
  def begun(self, item):
    self._position[0] = item

  @property
  def done(self):
    return self._position[1]

  @done.setter
  def done(self, count):
    self._position[1] = count


def score(items, functions, board, seconds):
  """Scores a batch onto the board, item by item, each under the time limit."""
  parts = len(functions)
  for i, item in enumerate(items):
    signal.setitimer(signal.ITIMER_REAL, seconds)
    board.begun = i
    for p, function in enumerate(functions):
      board.scores[i * parts + p] = function([item])[0]
    board.done = i + 1
  signal.setitimer(signal.ITIMER_REAL, 0)


def main(connection, board, seconds, *names):
  signal.signal(signal.SIGINT, signal.SIG_IGN)    # Ctrl-C is the parent's to answer; its end closes the pipe
  signal.signal(signal.SIGALRM, signal.SIG_DFL)   # a parent that ignores it would pass that on
  signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
  signal.setitimer(signal.ITIMER_REAL, START_SECONDS)
  _, hard = resource.getrlimit(resource.RLIMIT_AS)
  resource.setrlimit(resource.RLIMIT_AS, (MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard), hard))
  connection = Connection(int(connection))
  board = Board(int(board), len(names))
  functions = [rewards.resolve(name) for name in names]
  for name in names:
    if name in rewards.PREPARE:
      rewards.PREPARE[name]()
  signal.setitimer(signal.ITIMER_REAL, 0)
  connection.send_bytes(b'ready')
  while True:
    try:
      items = connection.recv()
    except (EOFError, ConnectionResetError):   # the parent is gone
      return
    error = ''
    try:
      score(items, functions, board, float(seconds))
    except Exception as raised:
      signal.setitimer(signal.ITIMER_REAL, 0)
      error = f'{type(raised).__name__}: {raised}'
    connection.send_bytes(error.encode())


if __name__ == '__main__':
  main(*sys.argv[1:])
