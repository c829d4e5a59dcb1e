"""The code that runs inside two sandboxes to test functions: the program in one, its tests in the other.

`python inside.py candidate|checker IN OUT`, where IN and OUT are file descriptors of pipes to the other process. It is
copied into the sandbox together with `exchange.py`, and imports almost nothing else, because that would take half of
the time of a short program.
"""

import _sitebuiltins
import builtins
import os
import sys

from exchange import FUNCTIONS, OPERATIONS, REASON, Peer, Remote, call_back, described, error_of


def candidate(pipes):
  """Runs program.py, sends its functions and classes, and serves the operations of the tests."""
  peer = Peer(*pipes, serves=OPERATIONS, keeps=lambda value: True, fail=sys.exit)
  program = sys.modules['program'] = type(sys)('program')
  builtins.exit = builtins.quit = _sitebuiltins.Quitter('exit', '')  # missing without site-packages
  with open('program.py', encoding='utf-8') as file:
    source = file.read()
  with open('starter.txt', encoding='utf-8') as file:
    for statement in file.read().split('\0'):
      try:
        exec(compile(statement, 'starter', 'exec'), vars(program))
      except Exception:  # a module that is missing here; the program may not need it
        pass
  starter_names = dict(vars(program))
  try:
    exec(compile(source, 'program.py', 'exec'), vars(program))
  except BaseException as error:
    peer.send('raise', *described(error))
    return
  # Imports of the starter are not sent; its classes are, as tests may use them besides the program's functions.
  peer.send(
    'names',
    {
      k: v
      for k, v in vars(program).items()
      if callable(v)
      and not k.startswith('__')
      and (v is not starter_names.get(k) or getattr(v, '__module__', '') == 'program')
    },
  )
  while True:
    peer.serve(*peer.receive()[1:])


def checker(pipes):
  """Runs the tests of job.txt against the program, and prints a line per test: 1, or 0 and the reason."""
  with open('job.txt', encoding='utf-8') as file:
    stop, names, setup, *tests = file.read().split('\0')
  verdicts = os.fdopen(os.dup(1), 'w', errors='replace')
  os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # tests may print

  def report(reason=''):
    print(int(not reason), ' '.join(reason[:REASON].split()), file=verdicts, flush=True)

  def fail(reason):
    report(reason)
    os._exit(0)

  peer = Peer(*pipes, serves={'call': call_back}, keeps=lambda value: isinstance(value, FUNCTIONS), fail=fail)
  try:
    space = _namespace(peer, names.split())
    from_program = dict(space)
    exec(compile(setup, 'setup', 'exec'), space)
    for name in names.split():
      space.pop(name, None)  # a setup may contain a stub of an entry point
    space.update(from_program)
  except Exception as error:
    fail(_message(error))
  for test in tests:
    try:
      peer.settle(0)
      exec(compile(test, 'test', 'exec'), space)
      report()
    except Exception as error:
      report(_message(error))
      if stop:
        break
  os._exit(0)


def _namespace(peer, names):
  """The namespace of the tests: the `names` of the program, and the functions that `_ArgumentHolder` calls."""
  kind, *content = peer.receive()
  if kind == 'raise':
    raise error_of(*content)
  (program_names,) = content
  for name, value in program_names.items():
    if isinstance(value, Remote):
      vars(value)['_class'] = name[:1].isupper()
  helpers = {'__hold__': peer.hold, '__settle__': peer.settle, '__new__': peer.new}
  return {k: v for k, v in program_names.items() if k in names} | helpers


def _message(error):
  return ': '.join(filter(None, [type(error).__name__, str(error)]))


def main(role, *pipes):
  sys.path.pop(0)  # the working directory
  del sys.modules['exchange']  # programs may have a module of this name
  {'candidate': candidate, 'checker': checker}[role](map(int, pipes))


if __name__ == '__main__':
  main(*sys.argv[1:])
