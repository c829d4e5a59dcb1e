"""Decides which names the tests of functions take from the program, and which they have themselves.

From the program, tests get the entry points, or if none are named, the functions that the tests ask for. Built-ins,
what the tests import and define, and the helpers in the prompt belong to the tests; a name found in neither is an error
of the test. So a program cannot supply an `isclose` that is always true.
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

# Tests use functions of these modules without importing them, because they rely on the imports of the program.
LIBRARY = ('collections', 'copy', 'math', 'cmath', 'itertools', 'functools', 'fractions', 'decimal', 'datetime')
PROMPT = 100_000  # characters of a prompt that are searched for helpers

_LONG = re.compile('[0-9]{4000,}')  # integers that are too long for this Python to parse
_PARSING = threading.Lock()  # parsing in two threads at once can fail: github.com/python/cpython/issues/106905
_STUB = (ast.Pass, ast.Expr, ast.Raise)
_BINDS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@dataclasses.dataclass(frozen=True)
class Tests:
  """Tests that are ready to run.

  Attributes:
    names: names that come from the program.
    setup: Python to run before the tests.
    tests: Python sources, each a test.
    starter: Python to run before the program: the imports of the prompt and the setup, and the prompt's helpers;
      statements are separated by NUL.
  """

  names: tuple[str, ...]
  setup: str
  tests: tuple[str, ...]
  starter: str = ''


@functools.lru_cache(maxsize=1024)
def prepare(tests, setup='', entry_points=(), prompt=''):
  """Prepares tests. Sources that cannot be parsed are returned unchanged, and fail when they are run.

  Args:
    tests: tuple of Python sources.
    setup: Python source to run before them.
    entry_points: names that the tests take from the program; empty: those that `_find_entry_points` finds.
    prompt: text that may contain code.

  Returns:
    Tests.
  """
  with _PARSING:
    return _prepare(tests, setup, entry_points, prompt)


def _prepare(tests, setup, entry_points, prompt):
  try:
    trees = [ast.parse(_LONG.sub('0', text)) for text in (setup, *tests)]
    loaded, bound = _loaded_names(trees), _bound_names(trees)
    free = loaded - bound - set(vars(builtins)) - {'__name__'}
    names = _loaded_names(map(ast.parse, entry_points)) or _find_entry_points(trees[1:], free, loaded - bound, bound)
    helpers, starter = _split_helpers(_parse_prompt(prompt), names)
    setup_imports = [node for node in trees[0].body if isinstance(node, (ast.Import, ast.ImportFrom))]
    needed = free - names
    helpers = _needed_helpers(helpers, needed)
    missing = needed - _bound_names(helpers)
    preamble = ''.join(
      f'{line}\n' for line in [*map(_import_statement, sorted(missing)), *map(ast.unparse, helpers)] if line
    )
    callables = names | {
      arg.arg
      for tree in trees
      for node in ast.walk(tree)
      if isinstance(node, ast.FunctionDef)
      for arg in node.args.args
      if entry_points and node.name == 'check'
    }
    for node in (node for tree in trees for node in ast.walk(tree)):
      callables |= _aliases(node, callables)
    return Tests(
      tuple(sorted(names)),
      f'{preamble}{setup}',
      tuple(map(_hold_arguments, tests, trees[1:], [callables] * len(tests))),
      '\0'.join(map(ast.unparse, [*starter, *setup_imports])),
    )
  except (SyntaxError, ValueError, RecursionError, MemoryError):  # the tests' sandbox reports what is wrong
    return Tests(tuple(entry_points), setup, tests)


def _loaded_names(trees):
  """Names that code reads, in any scope."""
  return {
    node.id
    for tree in trees
    for node in ast.walk(tree)
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
  }


def _called_names(tree):
  """Names of the functions that code calls."""
  return {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}


def _bound_names(trees):
  """Names that code binds, in any scope."""
  names = set()
  for tree in trees:
    for node in ast.walk(tree):
      if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
        names.add(node.id)
      elif isinstance(node, (*_BINDS, ast.ExceptHandler)):
        names.add(node.name)
      elif isinstance(node, ast.arg):
        names.add(node.arg)
      elif isinstance(node, ast.alias):
        names.add((node.asname or node.name).partition('.')[0])
  return names


def _find_entry_points(tests, free, unbound, bound):
  """Finds the names that asserts take from the program.

  A single free name is the entry point. Of several free names, these are helpers that belong to the tests: modules;
  names that are used only by their attributes; names in the standard library; and names that judge the result of
  another one, such as `close` in `assert close(f(1), 2)`, `key` in `key(f(1)) == key(2)`, `want` in `f(1) == want(1)`.
  But a name that is alone in an assert is an entry point. A built-in is one only if there is no other, and if it does
  not compute its own expected value.

  Args:
    tests: syntax trees.
    free: names that are neither bound nor built in.
    unbound: names that are not bound.
    bound: names that setup and tests bind.

  Returns:
    set of names.
  """
  called = set().union(*map(_called_names, tests))
  with_attributes = {
    node.value.id
    for tree in tests
    for node in ast.walk(tree)
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
  }
  candidates = {
    name for name in free if name in called or name not in sys.stdlib_module_names or name not in with_attributes
  }
  if candidates & called:
    candidates = {name for name in candidates if name in called or name not in with_attributes}
  if not candidates:
    candidates = unbound & called & set(vars(builtins))
    if len(candidates) != 1 or any(_judges(tree, name, candidates, True) for name in candidates for tree in tests):
      return set()
  if len(candidates) == 1:
    return candidates
  alone = set()
  for tree in tests:
    names = _loaded_names([tree])
    if any(isinstance(node, ast.Assert) for node in ast.walk(tree)) and not (names & bound) - _bound_names([tree]):
      alone |= names & candidates if len(names & candidates) == 1 else set()
  helpers = {
    name
    for name in candidates - alone
    if _import_statement(name) or any(_judges(tree, name, candidates) for tree in tests)
  }
  return candidates - helpers or candidates


def _assignments(nodes):
  """{variable: expression} of the simple assignments among the nodes."""
  return {
    node.targets[0].id: node.value
    for node in nodes
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
  }


def _operands(compare, assigned):
  """The operands of a comparison, with variables replaced by what they were assigned: `want = g(2)`, `f(2) == want`."""
  return [
    assigned.get(side.id, side) if isinstance(side, ast.Name) else side for side in (compare.left, *compare.comparators)
  ]


def _judges(tree, name, others, both=False):
  """Whether calls of `name` decide an assert about the result of one of `others`; `both`: on both sides of it."""
  assigned = _assignments(ast.walk(tree))
  calls = lambda node, names: bool(_called_names(node) & names)
  others = others if both else others - {name}
  for node in ast.walk(tree):
    if isinstance(node, ast.Compare):
      operands = _operands(node, assigned)
      judged = any(calls(operand, others) for operand in operands)
      if judged and sum(calls(operand, {name}) for operand in operands) > 1:
        return True
      if (
        not both
        and calls(operands[0], others)
        and not calls(operands[0], {name})
        and not name[:1].isupper()
        and any(calls(operand, {name}) for operand in operands[1:])
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
def _import_statement(name):
  """The statement that imports a module or function of the standard library; '' if there is none of that name."""
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


def _parse_prompt(prompt):
  """The Python statements in a prompt: in its fenced blocks, or the whole prompt."""
  prompt = prompt[:PROMPT]
  statements = []
  for text in programs.blocks(prompt, 'python') or [prompt]:
    try:
      statements += ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
      pass
  return statements


def _split_helpers(code, names):
  """Returns the statements of a prompt that the tests may use, and those that the program may use.

  Stubs and entry points are left out. But if there are several entry points, the program gets a class in the prompt,
  because the tests make objects of it.
  """
  helpers, starter = [], []
  for node in code:
    if isinstance(node, ast.ClassDef):
      starter += [node] if node.name not in names or (len(names) > 1 and not _is_stub(node)) else []
    elif isinstance(node, (ast.Import, ast.ImportFrom)) or (
      isinstance(node, _BINDS) and node.name not in names and (not _is_stub(node))
    ):
      starter.append(node)
      helpers.append(node)
  return helpers, starter


def _is_stub(node):
  """Whether a function, or a method of a class, has no implementation."""
  methods = [n for n in node.body if isinstance(n, _BINDS)] if isinstance(node, ast.ClassDef) else [node]
  return any(all(isinstance(n, _STUB) for n in method.body) for method in methods)


def _needed_helpers(helpers, names):
  """The helpers that define the names, directly or for one another; imports are helpers, too."""
  kept = []
  while new := [node for node in helpers if node not in kept and _bound_names([node]) & names]:
    kept += new
    names = names | _loaded_names(new)
  return [node for node in helpers if node in kept]


def _aliases(node, calls):
  """Further names by which a test calls the program: f in `f = candidate` and `def f(x): return candidate(x)`."""
  if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name) and node.value.id in calls:
    return _bound_names([node])
  if isinstance(node, ast.FunctionDef) and isinstance(node.body[-1], ast.Return):
    value = node.body[-1].value
    if isinstance(value, ast.Call) and _loaded_names([value.func]) & calls:
      return {node.name}
  return set()


def _hold_arguments(text, tree, calls):
  """The source of a test transformed by `_ArgumentHolder`; `calls` are the names by which it calls the program."""
  try:
    transformed = ast.unparse(ast.fix_missing_locations(_ArgumentHolder(calls).visit(tree)))
  except (ValueError, RecursionError):
    return text
  return transformed if ('__hold__' in transformed or '__new__' in transformed) and not _LONG.search(text) else text


class _ArgumentHolder(ast.NodeTransformer):
  """Delays the program's changes to its arguments until the other operands have been evaluated.

  In `assert rev(x) == x[::-1]` the program could otherwise empty x, and with it the expected value. Changes are only
  delayed if another operand reads a variable: in `assert sort(x) is None and x == [1, 2]` they are not.

  It also makes sure that `P(1)` in `assert f(0) == P(1)` makes a new object of a class, so that the program does not
  decide what is expected.
  """

  def __init__(self, names):
    self._names, self._new_objects = names, set()

  def _hold(self, node, operands):
    self.generic_visit(node)
    calls = [self._calls(operand) for operand in operands]
    reads = [_loaded_names([operand]) - self._names - set(vars(builtins)) for operand in operands]
    if not any(call and any(reads[:i] + reads[i + 1 :]) for i, call in enumerate(calls)):
      return node
    begin = ast.Call(ast.Name('__hold__', ast.Load()), [], [])
    return ast.Call(ast.Name('__settle__', ast.Load()), [begin, node], [])

  def generic_visit(self, node):
    """Delays changes for `r = rev(x)` followed by `assert r == x[::-1]`, too."""
    node = super().generic_visit(node)
    for block in ('body', 'orelse'):
      if isinstance(statements := getattr(node, block, None), list):
        for i in reversed(range(len(statements) - 1)):
          if end := self._end(statements, i):
            statements[end:end] = ast.parse('__settle__(0)').body
            statements[i:i] = ast.parse('__hold__()').body
    return node

  def _end(self, statements, i):
    """The end of the asserts about the call in statements[i]; 0 if there are none.

    Between them may be assignments of expected values, such as `want = x[::-1]`, and asserts that do not read the
    arguments of the call, such as `assert isinstance(r, list)`.
    """
    end, assigned = 0, {}
    for next_index, check in enumerate(statements[i + 1 :], i + 2):
      if self._expects_of(check, statements[i], assigned):
        end = next_index
      elif _assignments([check]) and not self._calls(check.value):
        assigned |= _assignments([check])
      elif not isinstance(check, ast.Assert) or _loaded_names([check]) & _loaded_names([statements[i]]):
        break
    return end

  def _expects_of(self, check, assign, assigned):
    """Whether an assert compares the result of a call only with values computed from the arguments of the call."""
    if not isinstance(check, ast.Assert) or not isinstance(assign, ast.Assign) or not self._calls(assign.value):
      return False
    compare = next((n for n in ast.walk(check.test) if isinstance(n, ast.Compare)), None)
    results = _bound_names([assign])
    sides = [_loaded_names([side]) for side in _operands(compare, assigned)] if compare else []
    others = [side for side in sides if not side & results]
    return 0 < len(others) < len(sides) and all(side & _loaded_names([assign.value]) for side in others)

  def _calls(self, node):
    return any(isinstance(n, ast.Call) and _loaded_names([n.func]) & self._names for n in ast.walk(node))

  def visit_Compare(self, node):
    operands = [node.left, *node.comparators]
    calls = [_called_names(operand) & self._names for operand in operands]
    for i, operand in enumerate(operands):
      others = set().union(*calls[:i], *calls[i + 1 :])
      for call in ast.walk(operand):
        if (
          isinstance(call, ast.Call)
          and isinstance(call.func, ast.Name)
          and call.func.id in self._names
          and (call.func.id[:1].isupper() and others - {call.func.id})
        ):
          self._new_objects.add(call)
    return self._hold(node, operands)

  def visit_BinOp(self, node):
    return self._hold(node, [node.left, node.right])

  def visit_Call(self, node):
    if _loaded_names([node.func]) & self._names:
      is_new = node in self._new_objects
      self.generic_visit(node)
      return ast.Call(ast.Name('__new__', ast.Load()), [node], []) if is_new else node
    return self._hold(node, [*node.args, *(k.value for k in node.keywords)])
