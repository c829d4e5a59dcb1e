"""What runs inside two sandboxes to test functions: the program in one, its tests in the other.

`python inside.py candidate|checker IN OUT`, IN and OUT being descriptors of pipes to the other one.
Calls and results cross as text: plain data by value, rebuilt from built-in types and a few of the standard
library, and everything else by a number, behind which its owner keeps it. So nothing of the program is ever in
the same process as a test: what it overrides, patches or searches through is its own.

Of the standard library almost nothing is imported: half of a short program's time would go there.
"""

import _sitebuiltins
import builtins
import os
import sys

MESSAGE = 16 << 20  # bytes
REASON = 500  # characters of an error's text

CONSTANTS = {'N': None, 'T': True, 'F': False}
SCALARS = {'i': lambda text: int(text, 16), 'f': float, 'c': complex, 'b': bytes.fromhex}
CONTAINERS = {'l': list, 't': tuple, 's': set, 'z': frozenset}
# Classes of the standard library: module, name -> (what makes one again, how it is made; None: by the class itself).
VALUES = {
  ('builtins', 'range'): (lambda v: (v.start, v.stop, v.step), None),
  ('builtins', 'slice'): (lambda v: (v.start, v.stop, v.step), None),
  ('builtins', 'dict_keys'): (lambda v: list(v), lambda *keys: dict.fromkeys(keys).keys()),
  ('builtins', 'dict_values'): (lambda v: list(v), lambda *values: dict(enumerate(values)).values()),
  ('builtins', 'dict_items'): (lambda v: list(v), lambda *items: dict(items).items()),
  ('fractions', 'Fraction'): (lambda v: (v.numerator, v.denominator), None),
  ('decimal', 'Decimal'): (lambda v: (str(v),), None),
  ('collections', 'deque'): (lambda v: (list(v), v.maxlen), None),
  ('datetime', 'datetime'): (
    lambda v: (v.year, v.month, v.day, v.hour, v.minute, v.second, v.microsecond, v.tzinfo),
    None,
  ),
  ('datetime', 'date'): (lambda v: (v.year, v.month, v.day), None),
  ('datetime', 'time'): (lambda v: (v.hour, v.minute, v.second, v.microsecond, v.tzinfo), None),
  ('datetime', 'timedelta'): (lambda v: (v.days, v.seconds, v.microseconds), None),
  ('datetime', 'timezone'): (lambda v: (v.utcoffset(None),), None),
  ('uuid', 'UUID'): (lambda v: (str(v),), None),
}
FUNCTIONS = tuple(map(type, (lambda: 0, len, str.upper)))  # the kinds that a test may pass
NO_MESSAGE = 'the program wrote into the pipe of its results'


def call_back(function, *args, **named):
  """For the program, which may call functions that a test has passed it.

  No classes: out of `type` it would make, in the tests' process, an object that equals everything.
  """
  if not isinstance(function, FUNCTIONS):
    raise TypeError('this is no function of the tests')
  return function(*args, **named)


# What the tests may do with an object of the program's. It is always true, and compared here (see `Remote`): no word
# of the program's decides a test.
OPERATIONS = {
  'call': lambda f, *args, **named: f(*args, **named),
  'getitem': lambda o, key: o[key],
  'getattr': getattr,
  'setattr': setattr,
  'iter': iter,
  'next': next,
}


def _asks(operation):
  return lambda remote, *args, **named: remote._peer.ask(operation, remote, *args, **named)


class Remote:
  """An object that the other side keeps; `number` is its place there.

  Where its class has an `__eq__`, it comes with what it then holds, as data: `state` is (class, values, names). Two
  are equal where these are, but only if the test itself has made one of them, after the other had come, and it holds
  what it was made from and no more. So a program cannot return what it will be compared with, nor leave out what
  tells two apart.
  """

  def __init__(self, peer, number, state=None):
    vars(self).update(_peer=peer, _number=number, _state=state, _order=len(peer._remotes), _class=False, _made=None)

  def __eq__(self, other):
    if self is other or not isinstance(other, Remote) or self._state is None or self._state != other._state:
      return self is other
    made = max(self, other, key=lambda remote: remote._order)._made
    rest = list(self._state[1])
    for arg in made or ():
      if arg not in rest:
        return False
      rest.remove(arg)
    return made is not None and all(value in (None, [], {}) for value in rest)

  __hash__ = object.__hash__

  def __getattr__(self, name):
    if name.startswith('__'):
      raise AttributeError(name)  # copy and the like ask for these
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
    self._pending, self._held, self._told = {}, 0, None

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
          error = RuntimeError('StopIteration')  # it would end a loop of the test's as if all were well
        raise error
      result, changed = content
      given = {**dict(enumerate(args)), **named}
      for place, value in changed:
        self._pending[id(given[place])] = given[place], self.decode(value)
      self.settle(self._held)
      known = len(self._remotes)
      result = self.decode(result)
      if operation == 'call' and args[0]._class and isinstance(result, Remote) and result._order >= known:
        vars(result)['_made'] = [*args[1:], *named.values()]
      return result

  @staticmethod
  def new(value):
    """The value, which a test has made to compare with; an error where it is none that the program's class makes."""
    if not isinstance(value, Remote) or value._made is None:
      raise TypeError('a class of the program makes no new object')
    return value

  def hold(self):
    """Begins an expression in which changes of arguments wait. Returns what `settle` takes."""
    self._held += 1
    return self._held - 1

  def settle(self, held, value=None):
    """Ends it, and returns its value: the changes are made, unless it stands in another one."""
    self._held = held
    if not held:
      for old, new in self._pending.values():
        old.clear()
        old.extend(new) if isinstance(old, list) or _kind(old) == ('collections', 'deque') else old.update(new)
      self._pending.clear()
    return value

  def serve(self, operation, encoded, named):
    """Does what the other end asks for; its lists, sets and dicts that this changes go back changed."""
    try:
      args = [self.decode(a) for a in encoded]
      encoded, named = {**dict(enumerate(encoded)), **named}, {k: self.decode(v) for k, v in named.items()}
      result = self.encode(self._serves[operation](*args, **named))
      after = [
        (i, self.encode(a))
        for i, a in (*enumerate(args), *named.items())
        if isinstance(a, (list, set, dict)) or _kind(a) == ('collections', 'deque')
      ]
      self.send('result', result, [(i, text) for i, text in after if text != encoded[i]])
    except BaseException as error:
      self.send('raise', *described(error))

  def encode(self, value):
    """A letter; then for all but constants a number, name or length, ';', and the content."""
    parts, self._told = [], set()
    self._write(value, parts)
    return ''.join(parts)

  def _write(self, value, parts):
    _, value = self._pending.get(id(value), (None, value))
    for letter, constant in CONSTANTS.items():
      if value is constant:
        return parts.append(letter)
    if isinstance(value, str):
      parts.append(f'u{len(value)};{str(value)}')
    elif isinstance(value, int):
      parts.append(f'i{int(value):x};')  # decimal digits have a limit
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
    elif kind := _kind(value):
      items = list(VALUES[kind][0](value))
      parts.append(f'v{".".join(kind)};l{len(items)};')
      for item in items:
        self._write(item, parts)
    elif isinstance(value, type) and value is getattr(builtins, value.__name__, None):
      parts.append(f'n{value.__name__};')
    elif not self._keeps(value) and hasattr(type(value), '__next__'):
      parts.append('j')
      self._write(list(value), parts)
    else:
      state = self._state(value)
      parts.append(f'{"m" if state is None else "o"}{self._keep(value)};{state or ""}')

  def _state(self, value):
    """The class and attributes of an object that has an `__eq__` of its own, encoded; None of another."""
    if type(value).__eq__ is object.__eq__ or isinstance(value, type) or id(value) in self._told:
      return None
    self._told.add(id(value))
    parts = []
    try:
      if value == object():
        return None  # it equals everything
    except Exception:
      pass
    try:
      names = [name for kind in type(value).__mro__ for name in _slots(kind) if hasattr(value, name)]
      found = {name: getattr(value, name) for name in names} | dict(getattr(value, '__dict__', {}))
      self._write([type(value).__name__, list(found.values()), list(found)], parts)
    except Exception:
      return None
    return ''.join(parts)

  def _keep(self, value):
    if not self._keeps(value):
      raise TypeError(f'a test may not pass a {type(value).__name__}')
    if id(value) not in self._numbers:
      self._numbers[id(value)] = len(self._kept)
      self._kept.append(value)  # so it lives, and its id stays its own
    return self._numbers[id(value)]

  def decode(self, text):
    """The reverse; built-in types and those of VALUES alone."""
    try:
      value, end = self._read(text, 0)
    except Exception:
      self._fail(NO_MESSAGE)
    return value if end == len(text) else self._fail(NO_MESSAGE)

  def _read(self, text, at):
    """(the value that begins at `at`, where it ends)."""
    letter = text[at]
    if letter == 'j':
      items, at = self._read(text, at + 1)
      return iter(items), at
    if letter in CONSTANTS:
      return CONSTANTS[letter], at + 1
    end = text.index(';', at)
    head, at = text[at + 1 : end], end + 1
    if letter in SCALARS:
      return SCALARS[letter](head), at
    if letter == 'n':
      kind = getattr(builtins, head)
      return kind if isinstance(kind, type) else self._fail(NO_MESSAGE), at
    if letter == 'v':
      args, at = self._read(text, at)
      module, name = kind = tuple(head.split('.'))
      make = VALUES[kind][1] or getattr(__import__(module), name)
      return make(*args), at
    number = int(head)
    if number < 0:
      raise ValueError(head)
    if letter == 'u':
      return text[at : at + number], at + number
    if letter == 'y':
      return self._kept[number], at
    if letter == 'm':
      return self._remotes.setdefault(number, Remote(self, number)), at
    if letter == 'o':
      state, at = self._read(text, at)
      return self._remotes.setdefault(number, Remote(self, number, state)), at
    items = []
    for _ in range(number):
      item, at = self._read(text, at)
      items.append(item)
    return dict(zip(items[::2], items[1::2])) if letter == 'd' else CONTAINERS[letter](items), at


def _kind(value):
  """The key of VALUES that a value goes by; None where there is none."""
  return next((kind for kind in ((c.__module__, c.__qualname__) for c in type(value).__mro__) if kind in VALUES), None)


def _slots(kind):
  names = vars(kind).get('__slots__', ())
  return [names] if isinstance(names, str) else list(names)


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
    except TypeError:  # UnicodeDecodeError wants more
      pass
  return RuntimeError(f'{name}: {text}')


def candidate(pipes):
  """Runs program.py, says which functions and classes it has, and does what is asked."""
  peer = Peer(*pipes, serves=OPERATIONS, keeps=lambda value: True, fail=sys.exit)
  program = sys.modules['program'] = type(sys)('program')
  builtins.exit = builtins.quit = _sitebuiltins.Quitter('exit', '')  # without site-packages there is none
  with open('program.py', encoding='utf-8') as file:
    source = file.read()
  with open('starter.txt', encoding='utf-8') as file:
    for statement in file.read().split('\0'):
      try:
        exec(compile(statement, 'starter', 'exec'), vars(program))
      except Exception:  # what cannot be imported here; the program may not need it
        pass
  given = dict(vars(program))
  try:
    exec(compile(source, 'program.py', 'exec'), vars(program))
  except BaseException as error:
    peer.send('raise', *described(error))
    return
  # What the starter imports answers no test; classes that it shows may be asked for beside the program's functions.
  peer.send(
    'names',
    {
      k: v
      for k, v in vars(program).items()
      if callable(v) and not k.startswith('__') and (v is not given.get(k) or getattr(v, '__module__', '') == 'program')
    },
  )
  while True:
    peer.serve(*peer.receive()[1:])


def checker(pipes):
  """Runs the tests of job.txt against the program, and prints a line for each: 1, or 0 and the reason."""
  with open('job.txt', encoding='utf-8') as file:
    stop, names, setup, *tests = file.read().split('\0')
  verdicts = os.fdopen(os.dup(1), 'w', errors='replace')
  os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # tests print

  def tell(reason=''):
    print(int(not reason), ' '.join(reason[:REASON].split()), file=verdicts, flush=True)

  def fail(reason):
    tell(reason)
    os._exit(0)

  peer = Peer(*pipes, serves={'call': call_back}, keeps=lambda value: isinstance(value, FUNCTIONS), fail=fail)
  try:
    space = _namespace(peer, names.split())
    asked = dict(space)
    exec(compile(setup, 'setup', 'exec'), space)
    for name in names.split():
      space.pop(name, None)  # a setup may show what is asked for, unfinished
    space.update(asked)
  except Exception as error:
    fail(_told(error))
  for test in tests:
    try:
      peer.settle(0)
      exec(compile(test, 'test', 'exec'), space)
      tell()
    except Exception as error:
      tell(_told(error))
      if stop:
        break
  os._exit(0)


def _namespace(peer, names):
  """What the tests see: of the program, what stands under `names`."""
  kind, *content = peer.receive()
  if kind == 'raise':
    raise error_of(*content)
  (found,) = content
  for name, value in found.items():
    if isinstance(value, Remote):
      vars(value)['_class'] = name[:1].isupper()
  own = {'__hold__': peer.hold, '__settle__': peer.settle, '__new__': peer.new}
  return {k: v for k, v in found.items() if k in names} | own


def _told(error):
  return ': '.join(filter(None, [type(error).__name__, str(error)]))


def main(role, *pipes):
  sys.path.pop(0)  # the working directory
  {'candidate': candidate, 'checker': checker}[role](map(int, pipes))


if __name__ == '__main__':
  main(*sys.argv[1:])
