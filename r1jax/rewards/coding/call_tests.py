"""Tests that give the arguments and the result of a call, as in LiveCodeBench and APPS, as asserts.

Such an item has 'starter_code', the heading of the function that is asked for (or of a class with the method, as on
LeetCode), and in 'io' inputs and outputs of calls instead of what is read and printed. An input has one argument per
line; the whole input is the argument of a function with a single parameter. Arguments and results are JSON, or else
Python literals, or else plain text. So text that looks like a number must be in quotes, as LiveCodeBench has it; APPS
does not always.

The program may use the standard modules that LeetCode imports for its users. Results are compared with ==, lists and
tuples being the same, and floats with the tolerance of outputs.
"""

import ast
import functools
import json

_MODULES = (
  'string re collections heapq bisect copy math random itertools functools operator statistics datetime builtins typing'
).split()  # builtins come late because operator and math hide pow
_SETUP = '\n'.join(
  [*(f'from {module} import *' for module in _MODULES), *(f'import {module}' for module in [*_MODULES, 'json', 'sys'])]
)
_COMPARE = """
def same_result(got, expected, tolerance):
  if isinstance(got, (list, tuple)) and isinstance(expected, (list, tuple)):
    return len(got) == len(expected) and all(same_result(g, e, tolerance) for g, e in zip(got, expected))
  if isinstance(expected, float) and isinstance(got, (int, float)):
    return got == expected or abs(got - expected) <= tolerance * max(1, abs(expected))
  return got == expected
"""


def as_asserts(item, tolerance):
  """Returns the item with 'asserts' and 'entry_point' in place of 'io'; any other item unchanged.

  Args:
    item: dict, see `code_tests.verdict`.
    tolerance: of floats, absolute or relative, whichever is larger.

  Raises:
    ValueError: the starter code is not the heading of a function, or an input does not have its number of arguments.
  """
  tests, starter = item.get('io'), item.get('starter_code')
  if not tests or not starter or not isinstance(starter, str) or not starter.strip():
    return item
  if not isinstance(tests, list) or not all(
    isinstance(test, dict) and isinstance(test.get('input'), str) and isinstance(test.get('output'), str)
    for test in tests
  ):
    raise ValueError("'io' of an item for code must be a list of objects with the strings 'input' and 'output'.")
  name, call, count = _heading(starter)
  asserts = [
    f'assert same_result({call}(*{_source(_arguments(test["input"], count))}), {_source(_value(test["output"]))}, '
    f'{tolerance!r})'
    for test in tests
  ]
  others = {key: value for key, value in item.items() if key not in ('io', 'starter_code')}
  return others | {'asserts': asserts, 'entry_point': name, 'setup': f'{_SETUP}\n{item.get("setup") or ""}\n{_COMPARE}'}


@functools.lru_cache(maxsize=1024)
def _heading(starter):
  """(name that the program must define, expression to call, number of parameters) of the starter code."""
  try:
    node = ast.parse(f'{starter.rstrip()} pass').body[-1]
    functions = node.body if isinstance(node, ast.ClassDef) else [node]
    function = [f for f in functions if isinstance(f, ast.FunctionDef) and not f.name.startswith('__')][-1]
  except (SyntaxError, ValueError, IndexError, RecursionError):
    raise ValueError(
      f"'starter_code' of an item for code is {starter[:80]!r}; it must be the heading of a function or a class."
    ) from None
  count = len(function.args.posonlyargs + function.args.args)
  if isinstance(node, ast.ClassDef):
    return node.name, f'{node.name}().{function.name}', count - 1
  return function.name, function.name, count


def _arguments(text, count):
  lines = [text] if count == 1 else text.split('\n') if text.strip() else []
  if len(lines) != count:
    lines = [line for line in lines if line.strip()]
  if len(lines) > count:
    raise ValueError(f'a test of an item for code has {len(lines)} arguments, but its function takes {count}.')
  return [_value(line) for line in lines]


def _value(text):
  for parse in (json.loads, ast.literal_eval):
    try:
      return parse(text.strip())
    except (SyntaxError, ValueError, RecursionError, MemoryError):
      pass
  return text


def _source(value):
  """A Python expression for a value. JSON keeps a long list from being parsed as a program."""
  try:
    text = json.dumps(value)
    if json.loads(text) == value:
      return f'json.loads({text!r})'
  except (TypeError, ValueError):
    pass
  return repr(value)
