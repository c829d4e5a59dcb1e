"""For the tests of the code reward: programs, kept as text in `programs/`, and what they leave running."""
import os
import pathlib
import time

LEFT = 'r1jax-hostile'             # begins the names of files that hostile programs leave
SOLVE = '''
def solve():
  global double
  double = lambda x: 2 * x
  try:
    print(2 * int(open(0).read()))
  except Exception:
    pass
'''


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


def left(before, seconds=10):
  """Which strangers have come since `before`, and stay: other tests may run sandboxes of their own."""
  end = time.monotonic() + seconds
  found = strangers() - before
  while found and time.monotonic() < end:
    time.sleep(0.05)
    found &= strangers()
  return found
