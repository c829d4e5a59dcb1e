"""For the tests of the code reward: programs, kept as text in `programs/`, and what they leave running."""

import os
import pathlib
import time

import pytest

from r1jax.config import ConfigError
from r1jax.rewards.coding import code_tests

LEFT = 'r1jax-hostile'  # begins the names of files that hostile programs leave
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
  """Why no sandbox works here, in one line; '' where one does."""
  try:
    return code_tests.verdict({'program': 'def f():\n  return 1', 'asserts': ['assert f() == 1']})['reason']
  except ConfigError as error:
    return str(error)


WHY_NOT = _why_not()
NEEDED = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or 'sandboxes work')


def read(name):
  """The listings of a file, by what stands after their `###`, in order."""
  _, *parts = (pathlib.Path(__file__).parent / 'programs' / f'{name}.txt').read_text().split('\n### ')
  return dict(part.strip().split('\n', 1) for part in parts)


def language(heading):
  """(name, language) of 'name [language]'."""
  name, _, rest = heading.partition(' [')
  return name, rest.rstrip(']')


def strangers():
  """Processes in another UTS namespace than this one, as those in a sandbox are: {(pid, start)}."""
  found = set()
  for path in pathlib.Path('/proc').glob('[0-9]*'):
    try:
      if os.readlink(path / 'ns/uts') != os.readlink('/proc/self/ns/uts'):
        found.add((path.name, (path / 'stat').read_text().rpartition(')')[2].split()[19]))
    except OSError:
      pass
  return found


def left(before, seconds=60):
  """Which strangers have come since `before`, and stay: other tests may run sandboxes of their own."""
  end = time.monotonic() + seconds
  found = strangers() - before
  while found and time.monotonic() < end:
    time.sleep(0.05)
    found &= strangers()
  return found
