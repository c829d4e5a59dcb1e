"""The process that scores items: `python -m r1jax.rewards.workers.worker`, started only by `pool.Grader`.

Arguments: the file descriptor of the connection, the time limit of one item in seconds, and the parts as JSON,
[[reward, options], ...]. For each item of a batch the process sends BEGUN, then the verdicts of the parts as JSON.
Messages can still be read after the process is gone, so a worker that dies loses only the item it was working on, and
the parent knows which one that was.

The time limit counts processor time, so that no verdict depends on how busy the machine is. It is a kernel timer with
its default action and no Python handler: it kills the process even inside a long operation in C, and even if the parent
is gone. Processor time of programs in sandboxes counts against the limit, too (`sandbox.Box`). A second timer counts
wall-clock time, for code that only waits.
"""

import json
from multiprocessing.connection import Connection
import os
import resource
import signal
import sys

from r1jax import rewards
from r1jax.rewards.coding.sandbox import PATIENCE
from r1jax.rewards.printable import printable

BATCH = 64  # most items in one message
MEMORY = 4 << 30  # limit of the address space in bytes, so that sympy cannot exhaust the memory of the run
START_SECONDS = 120.0  # time limit for imports and preparation
BEGUN, ERROR = b'begun', b'error'


def limit(seconds):
  """Kills this process after `seconds` of processor time or PATIENCE times as many of wall-clock time; 0: no limit."""
  signal.setitimer(signal.ITIMER_PROF, seconds)
  signal.setitimer(signal.ITIMER_REAL, seconds * PATIENCE)


def score(items, parts, connection, seconds):
  """Sends the verdicts of a batch, item by item, each under the time limit.

  Args:
    items: list of (item, indices of the parts that score it); the verdicts of the other parts are null.
    parts: list of functions from an item to its verdict.
    connection: to the parent.
    seconds: time limit of one item.
  """
  for item, indices in items:
    limit(seconds)
    connection.send_bytes(BEGUN)
    try:
      verdicts = [part(item) if i in indices else None for i, part in enumerate(parts)]
    except MemoryError:  # the state of this process is unknown now; the item is lost, as at a time limit
      os.kill(os.getpid(), signal.SIGKILL)
    limit(0)
    connection.send_bytes(json.dumps(verdicts).encode())


def main(connection, seconds, parts):
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C; when it exits, the pipe is closed
  for number in (signal.SIGPROF, signal.SIGALRM):
    signal.signal(number, signal.SIG_DFL)  # a signal that the parent ignores would be ignored here, too
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
  signal.setitimer(signal.ITIMER_REAL, START_SECONDS)
  _, hard = resource.getrlimit(resource.RLIMIT_AS)
  resource.setrlimit(resource.RLIMIT_AS, (MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard), hard))
  connection = Connection(int(connection))
  parts = json.loads(parts)
  functions = [rewards.verdict_function(name, options) for name, options in parts]
  for name in dict.fromkeys(name for name, _ in parts if name in rewards.PREPARE):
    rewards.PREPARE[name]()
  signal.setitimer(signal.ITIMER_REAL, 0)
  connection.send_bytes(b'ready')
  while True:
    try:
      items = connection.recv()
    except (EOFError, ConnectionResetError):  # the parent is gone
      return
    try:
      score(items, functions, connection, float(seconds))
    except Exception as error:
      limit(0)
      connection.send_bytes(ERROR + printable(f'{type(error).__name__}: {error}').encode())


if __name__ == '__main__':
  main(*sys.argv[1:])
