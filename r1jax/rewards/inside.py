"""What runs inside two sandboxes to test functions: the program in one, its tests in the other.

`python inside.py candidate|checker IN OUT`, IN and OUT being descriptors of pipes to the other one.
Calls and results cross as text: plain data by value, rebuilt from built-in types alone, and everything
else by a number, behind which its owner keeps it. So nothing of the program is ever in the same process
as a test: what it overrides, patches or searches through is its own.

Of the standard library almost nothing is imported: half of a short program's time would go there.
"""
import builtins
import os
import sys

MESSAGE = 16 << 20                 # bytes
REASON = 500                       # characters of an error's text

CONSTANTS = {'N': None, 'T': True, 'F': False}
SCALARS = {'i': lambda text: int(text, 16), 'f': float, 'c': complex, 'b': bytes.fromhex}
CONTAINERS = {'l': list, 't': tuple, 's': set, 'z': frozenset}
FUNCTIONS = tuple(map(type, (lambda: 0, len, str.upper)))      # the kinds that a test may pass
NO_MESSAGE = 'the program wrote into the pipe of its results'


def call_back(function, *args, **named):
  """For the program, which may call functions that a test has passed it.

  No classes: out of `type` it would make, in the tests' process, an object that equals everything.
  """
  if not isinstance(function, FUNCTIONS):
    raise TypeError('this is no function of the tests')
  return function(*args, **named)


# What the tests may do with an object of the program's. It is never compared with anything, and always
# true: no word of the program's decides a test.
OPERATIONS = {'call': lambda f, *args, **named: f(*args, **named), 'getitem': lambda o, key: o[key],
              'getattr': getattr, 'setattr': setattr, 'iter': iter, 'next': next}


def _asks(operation):
  return lambda remote, *args, **named: remote._peer.ask(operation, remote, *args, **named)


class Remote:
  """An object that the other side keeps; `number` is its place there."""

  def __init__(self, peer, number):
    vars(self).update(_peer=peer, _number=number)

  def __getattr__(self, name):
    if name.startswith('__'):
      raise AttributeError(name)   # copy and the like ask for these
    return self._peer.ask('getattr', self, name)

  def __bool__(self):
    return True

  # No `len`: an object could tell a test another length than it then goes through.
  __call__, __setattr__, __iter__, __next__, __getitem__ = map(_asks, ('call', 'setattr', 'iter', 'next', 'getitem'))


class Peer:
  """One end of the pipes."""

  def __init__(self, incoming, outgoing, serves, keeps, fail):
    """serves: operations that the other end may ask for. keeps: whether it may hold an object of ours.

    fail: called with the reason where the other end has ended, or writes what is no message. It does
    not return: no `except` of a test's may take that for an error of the function it tests.
    """
    self._in, self._out = open(incoming, 'rb'), open(outgoing, 'wb')
    self._serves, self._keeps, self._fail = serves, keeps, fail
    self._kept, self._numbers, self._remotes = [], {}, {}

  def send(self, *message):
    data = self.encode(message).encode(errors='surrogatepass')
    if len(data) > MESSAGE:
      raise ValueError(f'more than {MESSAGE >> 20} MiB in one call or result')
    try:
      self._out.write(b'%d\n' % len(data) + data)
      self._out.flush()
    except OSError:
      self._fail('the program ended')

  def receive(self):
    """The next message: (kind, ...)."""
    head = self._in.readline(20)
    if not head:
      self._fail('the program ended')
    try:
      size = int(head)
      data = self._in.read(size) if 0 <= size <= MESSAGE else b''
      return self.decode(data.decode(errors='surrogatepass'))
    except ValueError:
      self._fail(NO_MESSAGE)

  def ask(self, operation, *args, **named):
    """Has the other end do something. Returns its result, or raises its error."""
    self.send('ask', operation, [self.encode(a) for a in args], {k: self.encode(v) for k, v in named.items()})
    while True:
      kind, *content = self.receive()
      if kind == 'ask':
        self.serve(*content)
        continue
      if kind == 'raise':
        error = error_of(*content)
        if isinstance(error, StopIteration) and operation != 'next':
          error = RuntimeError('StopIteration')    # it would end a loop of the test's as if all were well
        raise error
      result, changed = content
      for place, value in changed:
        self._replace(args[place], self.decode(value))
      return self.decode(result)

  @staticmethod
  def _replace(old, new):
    if isinstance(old, list):
      old[:] = new
    else:
      old.clear()
      old.update(new)

  def serve(self, operation, encoded, named):
    """Does what the other end asks for; its lists, sets and dicts that this changes go back changed."""
    try:
      args = [self.decode(a) for a in encoded]
      result = self.encode(self._serves[operation](*args, **{k: self.decode(v) for k, v in named.items()}))
      after = [(i, self.encode(a)) for i, a in enumerate(args) if isinstance(a, (list, set, dict))]
      self.send('result', result, [(i, text) for i, text in after if text != encoded[i]])
    except BaseException as error:
      self.send('raise', *described(error))

  def encode(self, value):
    """A letter; then for all but constants a number, name or length, ';', and the content."""
    parts = []
    self._write(value, parts)
    return ''.join(parts)

  def _write(self, value, parts):
    for letter, constant in CONSTANTS.items():
      if value is constant:
        return parts.append(letter)
    if isinstance(value, str):
      parts.append(f'u{len(value)};{str(value)}')
    elif isinstance(value, int):
      parts.append(f'i{int(value):x};')            # decimal digits have a limit
    elif isinstance(value, float):
      parts.append(f'f{float(value)!r};')
    elif isinstance(value, complex):
      parts.append(f'c{complex(value)!r};')
    elif isinstance(value, (bytes, bytearray)):
      parts.append(f'b{value.hex()};')
    elif isinstance(value, (dict, *CONTAINERS.values())):
      letter = next((c for c, kind in CONTAINERS.items() if isinstance(value, kind)), 'd')
      items = list(value) if letter != 'd' else [item for pair in value.items() for item in pair]
      parts.append(f'{letter}{len(items)};')
      for item in items:
        self._write(item, parts)
    elif isinstance(value, Remote):
      parts.append(f'y{value._number};')
    elif isinstance(value, type) and value is getattr(builtins, value.__name__, None):
      parts.append(f'n{value.__name__};')
    else:
      parts.append(f'm{self._keep(value)};')

  def _keep(self, value):
    if not self._keeps(value):
      raise TypeError(f'a test may not pass a {type(value).__name__}')
    if id(value) not in self._numbers:
      self._numbers[id(value)] = len(self._kept)
      self._kept.append(value)     # so it lives, and its id stays its own
    return self._numbers[id(value)]

  def decode(self, text):
    """The reverse; built-in types alone."""
    try:
      value, end = self._read(text, 0)
    except Exception:
      self._fail(NO_MESSAGE)
    return value if end == len(text) else self._fail(NO_MESSAGE)

  def _read(self, text, at):
    """(the value that begins at `at`, where it ends)."""
    letter = text[at]
    if letter in CONSTANTS:
      return CONSTANTS[letter], at + 1
    end = text.index(';', at)
    head, at = text[at + 1:end], end + 1
    if letter in SCALARS:
      return SCALARS[letter](head), at
    if letter == 'n':
      kind = getattr(builtins, head)
      return kind if isinstance(kind, type) else self._fail(NO_MESSAGE), at
    number = int(head)
    if number < 0:
      raise ValueError(head)
    if letter == 'u':
      return text[at:at + number], at + number
    if letter == 'y':
      return self._kept[number], at
    if letter == 'm':
      return self._remotes.setdefault(number, Remote(self, number)), at
    items = []
    for _ in range(number):
      item, at = self._read(text, at)
      items.append(item)
    return dict(zip(items[::2], items[1::2])) if letter == 'd' else CONTAINERS[letter](items), at


def described(error):
  """(name of the nearest built-in class, text) of an exception."""
  name = next(c.__name__ for c in type(error).__mro__ if c.__module__ == 'builtins')
  try:
    return name, str(error.args[0] if len(error.args) == 1 else error)[:REASON]
  except BaseException:
    return name, ''


def error_of(name, text):
  """The reverse. SystemExit and the like become an error: no test stops by the program's word."""
  kind = getattr(builtins, name, None)
  if isinstance(kind, type) and issubclass(kind, Exception):
    try:
      return kind(text)
    except TypeError:              # UnicodeDecodeError wants more
      pass
  return RuntimeError(f'{name}: {text}')


def candidate(pipes):
  """Runs program.py, says which functions, classes and modules it has, and does what is asked."""
  peer = Peer(*pipes, serves=OPERATIONS, keeps=lambda value: True, fail=sys.exit)
  program = sys.modules['program'] = type(sys)('program')
  with open('program.py', encoding='utf-8') as file:
    source = file.read()
  try:
    exec(compile(source, 'program.py', 'exec'), vars(program))
  except BaseException as error:
    peer.send('raise', *described(error))
    return
  names = {k: v for k, v in vars(program).items() if not k.startswith('__')}
  modules = [k for k, v in names.items() if isinstance(v, type(sys)) and v.__name__ == k]
  peer.send('names', {k: v for k, v in names.items() if callable(v)}, modules)
  while True:
    peer.serve(*peer.receive()[1:])


def checker(pipes):
  """Runs the tests of job.txt against the program, and prints a line for each: 1, or 0 and the reason."""
  with open('job.txt', encoding='utf-8') as file:
    stop, setup, *tests = file.read().split('\0')
  verdicts = os.fdopen(os.dup(1), 'w', errors='replace')
  os.dup2(os.open(os.devnull, os.O_WRONLY), 1)     # tests print

  def tell(reason=''):
    print(int(not reason), ' '.join(reason[:REASON].split()), file=verdicts, flush=True)

  def fail(reason):
    tell(reason)
    os._exit(0)

  peer = Peer(*pipes, serves={'call': call_back}, keeps=lambda value: isinstance(value, FUNCTIONS), fail=fail)
  try:
    space = _namespace(peer, ' '.join([setup, *tests]))
    exec(compile(setup, 'setup', 'exec'), space)
  except Exception as error:
    fail(_told(error))
  for test in tests:
    try:
      exec(compile(test, 'test', 'exec'), space)
      tell()
    except Exception as error:
      tell(_told(error))
      if stop:
        break
  os._exit(0)


def _namespace(peer, text):
  """What the tests see: of the program, the functions, classes and modules that `text` names.

  Not under the name of a built-in: a test means Python's own `sum` or `len`, unless the program has nothing
  else that it names.
  """
  kind, *content = peer.receive()
  if kind == 'raise':
    raise error_of(*content)
  words = set(''.join(c if c.isalnum() or c == '_' else ' ' for c in text).split())
  names, modules = content
  named = {k: v for k, v in names.items() if k in words}
  space = {k: v for k, v in named.items() if not hasattr(builtins, k)} or named
  # The tests' own module, not the program's: they counted on the program's import, or it took the module's name.
  tight = ''.join(text.split())
  taken = [k for k in words & sys.stdlib_module_names if k in modules or k in named and k + '.' in tight]
  space.update({k: __import__(k) for k in taken})
  return space


def _told(error):
  return ': '.join(filter(None, [type(error).__name__, str(error)]))


def main(role, *pipes):
  sys.path.pop(0)                  # the working directory
  {'candidate': candidate, 'checker': checker}[role](map(int, pipes))


if __name__ == '__main__':
  main(*sys.argv[1:])
