"""How the two processes of `inside.py` exchange calls and results: as text, over pipes.

Plain data goes by value, rebuilt from built-in types and a few types of the standard library, and every other object by
a number under which its owner keeps it. So nothing of the program is ever in the process of the tests: it can only
override, patch or search its own process.

This file is copied into the sandbox, so it must be self-contained. It imports almost nothing of the standard library,
because that would take half of the time of a short program.
"""

import builtins

MESSAGE = 16 << 20  # bytes
REASON = 500  # characters that are kept of an error's text

CONSTANTS = {'N': None, 'T': True, 'F': False}
SCALARS = {'i': lambda text: int(text, 16), 'f': float, 'c': complex, 'b': bytes.fromhex}
CONTAINERS = {'l': list, 't': tuple, 's': set, 'z': frozenset}
# Classes of the standard library: (module, name) -> (function from a value to the arguments that rebuild it, function
# that rebuilds it; None: the class itself).
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
FUNCTIONS = tuple(map(type, (lambda: 0, len, str.upper)))  # the types of functions that a test may pass
NO_MESSAGE = 'the program wrote into the pipe of its results'


def call_back(function, *args, **named):
  """Lets the program call a function that a test has passed to it.

  Classes are not allowed: with `type` the program could make an object in the tests' process that equals everything.
  """
  if not isinstance(function, FUNCTIONS):
    raise TypeError('this is not a function of the tests')
  return function(*args, **named)


# What the tests may do with an object of the program. It is always true, and compared in this process (see `Remote`),
# so the program cannot decide a test.
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
  """An object that the other process keeps, under `number`.

  If its class has an `__eq__`, its content is sent along as data: `state` is (class, values, names). Two objects are
  equal if their states are equal, but only if the test itself has made one of them after it received the other, and
  that one contains the arguments it was made with and nothing else. So a program can neither return the object that it
  will be compared with, nor leave out what distinguishes two objects.
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
      raise AttributeError(name)  # looked up by copy and others
    return self._peer.ask('getattr', self, name)

  def __bool__(self):
    return True

  # No `len`: an object could report a different length than it has when a test iterates over it.
  __call__, __setattr__, __iter__, __next__, __getitem__ = map(_asks, ('call', 'setattr', 'iter', 'next', 'getitem'))


class Peer:
  """One end of the pipes."""

  def __init__(self, incoming, outgoing, serves, keeps, fail):
    """Opens the pipes.

    Args:
      incoming, outgoing: file descriptors.
      serves: name -> function: the operations that the other end may ask for.
      keeps: function from an object to whether the other end may refer to it by a number.
      fail: function that is called with the reason if the other end has ended or sends an invalid message. It must not
        return, so that no `except` of a test can take that for an error of the tested function.
    """
    self._in, self._out = open(incoming, 'rb'), open(outgoing, 'wb')
    self._serves, self._keeps, self._fail = serves, keeps, fail
    self._objects, self._numbers, self._remotes = [], {}, {}
    self._pending, self._depth, self._visited = {}, 0, set()

  def send(self, *message):
    data = self.encode(message).encode(errors='surrogatepass')
    if len(data) > MESSAGE:
      raise ValueError(f'more than {MESSAGE >> 20} MiB in one call or result')
    try:
      self._out.write(b'%d\n' % len(data) + data)
      self._out.flush()
    except OSError:
      self._fail('the program ended')

  def receive(self) -> tuple:
    """Reads the next message: (kind, ...)."""
    head = self._in.readline(20)
    if not head:
      self._fail('the program ended')
    try:
      size = int(head)
      data = self._in.read(size) if 0 <= size <= MESSAGE else b''
      return self.decode(data.decode(errors='surrogatepass'))
    except ValueError:
      return self._fail(NO_MESSAGE)

  def ask(self, operation, *args, **named):
    """Lets the other end do an operation. Returns its result, or raises its error."""
    self.send('ask', operation, [self.encode(a) for a in args], {k: self.encode(v) for k, v in named.items()})
    while True:
      kind, *content = self.receive()
      if kind == 'ask':
        self.serve(*content)
        continue
      if kind == 'raise':
        error = error_of(*content)
        if isinstance(error, StopIteration) and operation != 'next':
          error = RuntimeError('StopIteration')  # otherwise it would silently end a loop of the test
        raise error
      result, changed = content
      arguments = {**dict(enumerate(args)), **named}
      for key, value in changed:
        self._pending[id(arguments[key])] = arguments[key], self.decode(value)
      self.settle(self._depth)
      known = len(self._remotes)
      result = self.decode(result)
      if operation == 'call' and args[0]._class and isinstance(result, Remote) and result._order >= known:
        vars(result)['_made'] = [*args[1:], *named.values()]
      return result

  @staticmethod
  def new(value):
    """Returns a value that a test has made to compare with. TypeError if it is no new object of the program's class."""
    if not isinstance(value, Remote) or value._made is None:
      raise TypeError('a class of the program did not make a new object')
    return value

  def hold(self):
    """Begins an expression during which changes to arguments are delayed. Returns the depth for `settle`."""
    self._depth += 1
    return self._depth - 1

  def settle(self, depth, value=None):
    """Ends such an expression and returns its value; applies the changes unless it is nested in another one."""
    self._depth = depth
    if not depth:
      for old, new in self._pending.values():
        old.clear()
        old.extend(new) if isinstance(old, list) or _kind(old) == ('collections', 'deque') else old.update(new)
      self._pending.clear()
    return value

  def serve(self, operation, encoded, named):
    """Does an operation for the other end, and sends the result and the arguments that it has changed in place.

    These may be lists, sets, dicts and deques.
    """
    try:
      args = [self.decode(a) for a in encoded]
      encoded, named = {**dict(enumerate(encoded)), **named}, {k: self.decode(v) for k, v in named.items()}
      result = self.encode(self._serves[operation](*args, **named))
      after = [
        (key, self.encode(arg))
        for key, arg in (*enumerate(args), *named.items())
        if isinstance(arg, (list, set, dict)) or _kind(arg) == ('collections', 'deque')
      ]
      self.send('result', result, [(key, text) for key, text in after if text != encoded[key]])
    except BaseException as error:
      self.send('raise', *described(error))

  def encode(self, value):
    """Encodes a value: a letter, and except for constants a number, name or length, ';', and the content."""
    parts, self._visited = [], set()
    self._write(value, parts)
    return ''.join(parts)

  def _write(self, value, parts):
    _, value = self._pending.get(id(value), (None, value))
    for letter, constant in CONSTANTS.items():
      if value is constant:
        return parts.append(letter)
    if isinstance(value, str):
      parts.append(f'u{len(value)};{value!s}')
    elif isinstance(value, int):
      parts.append(f'i{int(value):x};')  # hexadecimal, since Python limits the number of decimal digits
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
    elif not self._keeps(value) and hasattr(type(value), '__next__'):
      parts.append('j')
      self._write(list(value), parts)
    elif isinstance(value, type) and value is getattr(builtins, value.__name__, None):
      parts.append(f'n{value.__name__};')
    else:
      state = self._state(value)
      parts.append(f'{"m" if state is None else "o"}{self._keep(value)};{state or ""}')

  def _state(self, value):
    """The encoded class and attributes of an object whose class defines `__eq__`; None for any other."""
    if type(value).__eq__ is object.__eq__ or isinstance(value, type) or id(value) in self._visited:
      return None
    self._visited.add(id(value))
    parts = []
    try:
      if value == object():
        return None  # it equals everything
    except Exception:
      pass
    try:
      names = [name for kind in type(value).__mro__ for name in _slots(kind) if hasattr(value, name)]
      attributes = {name: getattr(value, name) for name in names} | dict(getattr(value, '__dict__', {}))
      self._write([type(value).__name__, list(attributes.values()), list(attributes)], parts)
    except Exception:
      return None
    return ''.join(parts)

  def _keep(self, value):
    if not self._keeps(value):
      raise TypeError(f'a test may not pass a {type(value).__name__}')
    if id(value) not in self._numbers:
      self._numbers[id(value)] = len(self._objects)
      self._objects.append(value)  # keeps it alive, so that its id is not reused
    return self._numbers[id(value)]

  def decode(self, text):
    """The reverse of `encode`; makes only built-in types and those of VALUES."""
    try:
      value, end = self._read(text, 0)
    except Exception:
      self._fail(NO_MESSAGE)
    return value if end == len(text) else self._fail(NO_MESSAGE)

  def _read(self, text, at) -> tuple:
    """Returns (value that begins at index `at`, index of its end)."""
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
      return self._objects[number], at
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
  """The key of VALUES for a value, by its classes; None if there is none."""
  return next((kind for kind in ((c.__module__, c.__qualname__) for c in type(value).__mro__) if kind in VALUES), None)


def _slots(kind):
  names = vars(kind).get('__slots__', ())
  return [names] if isinstance(names, str) else list(names)


def described(error):
  """Encodes an exception as (name of its nearest built-in class, text)."""
  name = next(c.__name__ for c in type(error).__mro__ if c.__module__ == 'builtins')
  try:
    return name, str(error.args[0] if len(error.args) == 1 else error)[:REASON]
  except BaseException:
    return name, ''


def error_of(name, text):
  """The reverse of `described`. SystemExit and the like become a RuntimeError, so the program cannot end a test."""
  kind = getattr(builtins, name, None)
  if isinstance(kind, type) and issubclass(kind, Exception):
    try:
      return kind(text)
    except TypeError:  # UnicodeDecodeError takes more arguments
      pass
  return RuntimeError(f'{name}: {text}')
