"""The process that scores: `python -m r1jax.rewards.workers.worker`, started by `pool.Grader` alone.

Arguments: the connection's file descriptor, the seconds one item may take, and the parts as JSON,
[[name, options], ...]. For each item of a batch it sends BEGUN, then the parts' verdicts as JSON. What
was sent can still be read when this process is gone: one that dies at any moment has lost nothing but
the item it was on, and the parent can see which one that was.

The time limit is of processor time, so that no verdict depends on how busy the machine is: a kernel timer with its
default action, which ends the process even inside a long operation in C, and even if the parent is gone. No Python
handler runs. What the programs in sandboxes use is taken off it (`sandbox.Box`). The clock ends what only waits.
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

BATCH = 64  # items at most in one message
MEMORY = 4 << 30  # bytes of address space, before a MemoryError: sympy must not take the run's
START_SECONDS = 120.0  # to import and prepare
BEGUN, ERROR = b'begun', b'error'


def limit(seconds):
  """Ends this process after so many seconds of processor time, or PATIENCE times as many by the clock; 0: not."""
  signal.setitimer(signal.ITIMER_PROF, seconds)
  signal.setitimer(signal.ITIMER_REAL, seconds * PATIENCE)


def score(items, parts, connection, seconds):
  """Sends the verdicts of a batch, item by item, each under the time limit.

  items: (item, places in `parts` of those that score it; the others' verdicts are null). parts: item -> verdict, each.
  """
  for item, asked in items:
    limit(seconds)
    connection.send_bytes(BEGUN)
    try:
      verdicts = [part(item) if place in asked else None for place, part in enumerate(parts)]
    except MemoryError:  # costs the item, as a time limit does; what is left here is not known
      os.kill(os.getpid(), signal.SIGKILL)
    limit(0)
    connection.send_bytes(json.dumps(verdicts).encode())


def main(connection, seconds, parts):
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer; its end closes the pipe
  for ending in (signal.SIGPROF, signal.SIGALRM):
    signal.signal(ending, signal.SIG_DFL)  # a parent that ignores it would pass that on
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [ending])
  signal.setitimer(signal.ITIMER_REAL, START_SECONDS)
  _, hard = resource.getrlimit(resource.RLIMIT_AS)
  resource.setrlimit(resource.RLIMIT_AS, (MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard), hard))
  connection = Connection(int(connection))
  parts = json.loads(parts)
  functions = [rewards.explained(name, options) for name, options in parts]
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
    except Exception as raised:
      limit(0)
      connection.send_bytes(ERROR + printable(f'{type(raised).__name__}: {raised}').encode())


if __name__ == '__main__':
  main(*sys.argv[1:])
