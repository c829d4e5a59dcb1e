"""What tests of functions take from the program, and what is their own.

Of the program they get the entry point, or where none is named, the functions that they ask for. Built-ins, what
they import and define, and the helpers that the prompt shows are their own; a name that neither has is an error of
the test. So a program cannot bring an `isclose` that is always true.
"""

import ast
import builtins
import dataclasses
import functools
import importlib
import re
import sys
import threading

from r1jax.rewards.coding import programs

# Of these, tests use functions that they have not imported: they counted on the program's import.
LIBRARY = ('collections', 'copy', 'math', 'cmath', 'itertools', 'functools', 'fractions', 'decimal', 'datetime')
PROMPT = 100_000  # characters of a prompt that are searched for helpers

_LONG = re.compile('[0-9]{4000,}')  # digits that are too many for this Python to read
_PARSING = threading.Lock()  # two threads that parse at once can fail: github.com/python/cpython/issues/106905
_STUB = (ast.Pass, ast.Expr, ast.Raise)
_BINDS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@dataclasses.dataclass(frozen=True)
class Tests:
  """Tests that are ready to run.

  Attributes:
    names: what comes from the program. setup: Python to run before the tests. tests: each a test.
    starter: Python to run before the program: what the prompt and the setup import, and the prompt's helpers.
  """

  names: tuple[str, ...]
  setup: str
  tests: tuple[str, ...]
  starter: str = ''


@functools.lru_cache(maxsize=1024)
def prepare(tests, setup='', entry_points=(), prompt=''):
  """Tests from texts.

  Args:
    tests: tuple of Python sources. setup: another, before them.
    entry_points: names of the program's that the tests ask for; none: those that `_asked` finds.
    prompt: a text with code, or nothing.
  """
  with _PARSING:
    return _prepare(tests, setup, entry_points, prompt)


def _prepare(tests, setup, entry_points, prompt):
  try:
    trees = [ast.parse(_LONG.sub('0', text)) for text in (setup, *tests)]
    loaded, bound = _loaded(trees), _bound(trees)
    free = loaded - bound - set(vars(builtins)) - {'__name__'}
    names = _loaded(map(ast.parse, entry_points)) or _asked(trees[1:], free, loaded - bound, bound)
    own, starter = _helpers(_code_of(prompt), names)
    imported = [node for node in trees[0].body if isinstance(node, (ast.Import, ast.ImportFrom))]
    used = free - names
    own = _needed(own, used)
    missing = used - _bound(own)
    before = ''.join(f'{line}\n' for line in [*map(_import, sorted(missing)), *map(ast.unparse, own)] if line)
    calls = names | {
      arg.arg
      for tree in trees
      for node in ast.walk(tree)
      if isinstance(node, ast.FunctionDef)
      for arg in node.args.args
      if entry_points and node.name == 'check'
    }
    for node in (node for tree in trees for node in ast.walk(tree)):
      calls |= _again(node, calls)
    return Tests(
      tuple(sorted(names)),
      f'{before}{setup}',
      tuple(map(_held, tests, trees[1:], [calls] * len(tests))),
      '\0'.join(map(ast.unparse, [*starter, *imported])),
    )
  except (SyntaxError, ValueError, RecursionError, MemoryError):  # the tests' sandbox says what is wrong
    return Tests(tuple(entry_points), setup, tests)


def _loaded(trees):
  return {
    node.id
    for tree in trees
    for node in ast.walk(tree)
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
  }


def _called(tree):
  """Names that are called."""
  return {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}


def _bound(trees):
  """Names that code binds, whatever the scope."""
  found = set()
  for tree in trees:
    for node in ast.walk(tree):
      if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
        found.add(node.id)
      elif isinstance(node, (*_BINDS, ast.ExceptHandler)):
        found.add(node.name)
      elif isinstance(node, ast.arg):
        found.add(node.arg)
      elif isinstance(node, ast.alias):
        found.add((node.asname or node.name).partition('.')[0])
  return found


def _asked(tests, free, unbound, bound):
  """The names that asserts ask of the program.

  One free name is what they ask for. Of several, these are helpers, and the tests' own: modules; what is used by its
  attributes alone; what the standard library has under that name; and what judges another one's result, as `close` in
  `assert close(f(1), 2)`, `key` in `key(f(1)) == key(2)` or `want` in `f(1) == want(1)`. But a name that is alone in
  an assert is asked for. A built-in is only where there is nothing else, and it does not make its own expectation.

  Args:
    tests: trees. free: names that are neither bound nor built in. unbound: those that are not bound.
    bound: names that setup and tests bind.
  """
  called = set().union(*map(_called, tests))
  based = {
    node.value.id
    for tree in tests
    for node in ast.walk(tree)
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
  }
  found = {name for name in free if name in called or name not in sys.stdlib_module_names or name not in based}
  if found & called:
    found = {name for name in found if name in called or name not in based}
  if not found:
    found = unbound & called & set(vars(builtins))
    return found if len(found) == 1 and not any(_judges(tree, *found, found, True) for tree in tests) else set()
  if len(found) == 1:
    return found
  alone = set()
  for tree in tests:
    inside = _loaded([tree])
    if any(isinstance(node, ast.Assert) for node in ast.walk(tree)) and not (inside & bound) - _bound([tree]):
      alone |= inside & found if len(inside & found) == 1 else set()
  helpers = {name for name in found - alone if _import(name) or any(_judges(tree, name, found) for tree in tests)}
  return found - helpers or found


def _assigned(nodes):
  """{variable: expression} of simple assignments among nodes."""
  return {
    node.targets[0].id: node.value
    for node in nodes
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
  }


def _sides(compare, assigned):
  """A comparison's operands, for a variable what it was assigned: of `want = g(2)` and then `f(2) == want`."""
  return [
    assigned.get(side.id, side) if isinstance(side, ast.Name) else side for side in (compare.left, *compare.comparators)
  ]


def _judges(tree, name, others, both=False):
  """Whether calls of `name` decide an assert about the result of another of `others`, or `both` sides of one."""
  assigned = _assigned(ast.walk(tree))
  calls = lambda node, names: bool(_called(node) & names)
  others = others if both else others - {name}
  for node in ast.walk(tree):
    if isinstance(node, ast.Compare):
      sides = _sides(node, assigned)
      if sum(calls(side, {name}) for side in sides) > 1 and any(calls(side, others) for side in sides):
        return True
      if (
        not both
        and calls(sides[0], others)
        and not calls(sides[0], {name})
        and not name[:1].isupper()
        and any(calls(side, {name}) for side in sides[1:])
      ):
        return True
    elif isinstance(node, (ast.Assert, ast.Expr)) and not both:
      test = node.test if isinstance(node, ast.Assert) else node.value
      test = test.operand if isinstance(test, ast.UnaryOp) else test
      if isinstance(test, ast.Call) and isinstance(test.func, ast.Name) and test.func.id == name:
        if any(calls(arg, others) for arg in (*test.args, *(k.value for k in test.keywords))):
          return True
  return False


@functools.cache
def _import(name):
  """The statement that imports a module or function of the standard library; '' where there is none."""
  if name in sys.stdlib_module_names:
    return f'import {name}'
  return next(
    (
      f'from {module} import {name}'
      for module in LIBRARY
      if len(name) > 1 and name[0] != '_' and hasattr(importlib.import_module(module), name)
    ),
    '',
  )


def _code_of(prompt):
  """The statements of Python that a prompt holds: its fenced blocks, or all of it."""
  prompt = prompt[:PROMPT]
  found = []
  for text in programs.blocks(prompt, 'python') or [prompt]:
    try:
      found += ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
      pass
  return found


def _helpers(code, names):
  """Statements of a prompt that its tests may use, and those that its program may: nothing unfinished or asked for.

  But where several names are asked for, a class that the prompt shows is given: the tests make its objects.
  """
  own, starter = [], []
  for node in code:
    if isinstance(node, ast.ClassDef):
      starter += [node] if node.name not in names or len(names) > 1 and not _unfinished(node) else []
    elif (
      isinstance(node, (ast.Import, ast.ImportFrom))
      or isinstance(node, _BINDS)
      and node.name not in names
      and (not _unfinished(node))
    ):
      starter.append(node)
      own.append(node)
  return own, starter


def _unfinished(node):
  """Whether a function, or a method of a class, is a stub."""
  methods = [n for n in node.body if isinstance(n, _BINDS)] if isinstance(node, ast.ClassDef) else [node]
  return any(all(isinstance(n, _STUB) for n in method.body) for method in methods)


def _needed(own, used):
  """The helpers behind names, and behind each other; imports are."""
  kept = []
  while more := [node for node in own if node not in kept and _bound([node]) & used]:
    kept += more
    used = used | _loaded(more)
  return [node for node in own if node in kept]


def _again(node, calls):
  """The names by which a test calls the program too: of `f = candidate`, and `def f(x): return candidate(x)`."""
  if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name) and node.value.id in calls:
    return _bound([node])
  if isinstance(node, ast.FunctionDef) and isinstance(node.body[-1], ast.Return):
    value = node.body[-1].value
    if isinstance(value, ast.Call) and _loaded([value.func]) & calls:
      return {node.name}
  return set()


def _held(text, tree, calls):
  """A test's text as `_Held` makes it; `calls` are the names by which it calls the program."""
  try:
    held = ast.unparse(ast.fix_missing_locations(_Held(calls).visit(tree)))
  except (ValueError, RecursionError):
    return text
  return held if ('__hold__' in held or '__new__' in held) and not _LONG.search(text) else text


class _Held(ast.NodeTransformer):
  """Has what the program changes in its arguments wait until the operands beside its call have been looked at.

  In `assert rev(x) == x[::-1]` the program could else empty x, and so the expectation. Only where another operand
  looks at a variable: in `assert sort(x) is None and x == [1, 2]` nothing waits.

  And has `P(1)` in `assert f(0) == P(1)` make an object of a class: what is expected is not for the program to say.
  """

  def __init__(self, names):
    self._names, self._made = names, set()

  def _hold(self, node, operands):
    self.generic_visit(node)
    calls = [self._calls(operand) for operand in operands]
    looks = [_loaded([operand]) - self._names - set(vars(builtins)) for operand in operands]
    if not any(call and any(looks[:at] + looks[at + 1 :]) for at, call in enumerate(calls)):
      return node
    begin = ast.Call(ast.Name('__hold__', ast.Load()), [], [])
    return ast.Call(ast.Name('__settle__', ast.Load()), [begin, node], [])

  def generic_visit(self, node):
    """As in `r = rev(x)` and then `assert r == x[::-1]`."""
    node = super().generic_visit(node)
    for block in ('body', 'orelse'):
      if isinstance(statements := getattr(node, block, None), list):
        for at in reversed(range(len(statements) - 1)):
          if end := self._end(statements, at):
            statements[end:end] = ast.parse('__settle__(0)').body
            statements[at:at] = ast.parse('__hold__()').body
    return node

  def _end(self, statements, at):
    """Where the asserts end that expect something of the call in statements[at]; 0 where there are none.

    Between them may stand what makes the expectation, as `want = x[::-1]`, and asserts that do not look at the call's
    arguments: `assert isinstance(r, list)`.
    """
    end, assigned = 0, {}
    for place, check in enumerate(statements[at + 1 :], at + 2):
      if self._expects_of(check, statements[at], assigned):
        end = place
      elif _assigned([check]) and not self._calls(check.value):
        assigned |= _assigned([check])
      elif not isinstance(check, ast.Assert) or _loaded([check]) & _loaded([statements[at]]):
        break
    return end

  def _expects_of(self, check, assign, assigned):
    """Does an assert compare the result of a call with what is made of the call's arguments, and with nothing else?"""
    if not isinstance(check, ast.Assert) or not isinstance(assign, ast.Assign) or not self._calls(assign.value):
      return False
    compare = next((n for n in ast.walk(check.test) if isinstance(n, ast.Compare)), None)
    results = _bound([assign])
    sides = [_loaded([side]) for side in _sides(compare, assigned)] if compare else []
    others = [side for side in sides if not side & results]
    return 0 < len(others) < len(sides) and all(side & _loaded([assign.value]) for side in others)

  def _calls(self, node):
    return any(isinstance(n, ast.Call) and _loaded([n.func]) & self._names for n in ast.walk(node))

  def visit_Compare(self, node):
    sides = [node.left, *node.comparators]
    asked = [_called(side) & self._names for side in sides]
    for at, side in enumerate(sides):
      others = set().union(*asked[:at], *asked[at + 1 :])
      for call in ast.walk(side):
        if (
          isinstance(call, ast.Call)
          and isinstance(call.func, ast.Name)
          and call.func.id in self._names
          and (call.func.id[:1].isupper() and others - {call.func.id})
        ):
          self._made.add(call)
    return self._hold(node, sides)

  def visit_BinOp(self, node):
    return self._hold(node, [node.left, node.right])

  def visit_Call(self, node):
    if _loaded([node.func]) & self._names:
      made = node in self._made
      node = self.generic_visit(node)
      return ast.Call(ast.Name('__new__', ast.Load()), [node], []) if made else node
    return self._hold(node, [*node.args, *(k.value for k in node.keywords)])
