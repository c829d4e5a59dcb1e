"""Helpers for the tests of the code reward: programs, stored as text in `programs/`, and the processes they leave."""

import os
import pathlib
import time

import pytest

from r1jax.config import ConfigError
from r1jax.rewards.coding import code_tests

LEFT = 'r1jax-hostile'  # prefix of the names of files that hostile programs leave
SOLVE = """
def solve():
  global double
  double = lambda x: 2 * x
  try:
    print(2 * int(open(0).read()))
  except Exception:
    pass
"""

SHARE = """
import os, sys, time
def share(mb, most, function):
  if mb <= most: return function(mb)
  read, write = os.pipe()
  for _ in range(mb // most):
    if not os.fork():
      function(most)
      os.write(write, b'.')
      time.sleep(99)
  os.close(write)
  held = 0
  while held < mb // most: held += len(os.read(read, 1)) or sys.exit('not more')
"""


def _why_not():
  """Why no sandbox works here, in one line; '' if one does."""
  try:
    return code_tests.verdict({'program': 'def f():\n  return 1', 'asserts': ['assert f() == 1']})['reason']
  except ConfigError as error:
    return str(error)


WHY_NOT = _why_not()
NEEDED = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or 'sandboxes work')


def read(name):
  """The listings of a file by their `###` headings, in order."""
  _, *parts = (pathlib.Path(__file__).parent / 'programs' / f'{name}.txt').read_text().split('\n### ')
  return dict(part.strip().split('\n', 1) for part in parts)


def language(heading):
  """(name, language) of 'name [language]'."""
  name, _, rest = heading.partition(' [')
  return name, rest.rstrip(']')


def strangers():
  """Processes in a different UTS namespace, such as those in a sandbox: {(pid, start)}."""
  processes = set()
  for path in pathlib.Path('/proc').glob('[0-9]*'):
    try:
      if os.readlink(path / 'ns/uts') != os.readlink('/proc/self/ns/uts'):
        processes.add((path.name, (path / 'stat').read_text().rpartition(')')[2].split()[19]))
    except OSError:
      pass
  return processes


def remaining(before, seconds=60):
  """Strangers that have started since `before` and do not end; those of other tests do."""
  end = time.monotonic() + seconds
  processes = strangers() - before
  while processes and time.monotonic() < end:
    time.sleep(0.05)
    processes &= strangers()
  return processes
