"""The game Countdown: an expression of given numbers, each used exactly once, whose value is a target.

Nothing is evaluated by Python: the answer is parsed, and its value is computed in exact fractions.
"""

import ast
import collections
from fractions import Fraction
import operator
import re

from r1jax.config import ConfigError
from r1jax.rewards import answers

LIMIT = 200  # longest expression in characters, which also bounds how deep it is

_ALLOWED = re.compile('[0-9+*/() -]*')  # and so no names, no decimals, no digits of other scripts
_OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


class _NoExpressionError(ValueError):
  """A text that is not an expression of the game; the message says why in a few words."""


def countdown(items, *, where='both', attempt=0.0):
  """1.0 if the response's answer is an expression of the item's numbers that equals its target, else 0.0.

  An expression has whole numbers, + - * / between two of them, and parentheses. A sign before a number is no operation
  of the game, and an equals sign belongs to no expression: `(44 + 19) + 35`, not `44 + 19 + 35 = 98`. Every number is
  used exactly once; one that is given twice is used twice. Fractions on the way are allowed.

  Args:
    items: list of dicts with 'response', 'numbers' (list of int) and 'target' (int).
    where: 'tags', 'boxed' or 'both', see `answers`.
    attempt: the score of an answer in that place that is wrong. TinyZero's is 0.1.

  Returns:
    list of float: 0.0, `attempt` or 1.0.

  Raises:
    ConfigError: an unknown `where`, or an `attempt` that is not in [0, 1).
  """
  _check(where, attempt)
  return [verdict(item, where=where, attempt=attempt)['score'] for item in items]


def verdict(item, *, where='both', attempt=0.0):
  """How `countdown` scores one item: a dict with 'score', 'reason' and 'extracted', the answer found or None."""
  _check(where, attempt)
  answer = answers.find(item, where)
  if answer.text is None:
    return {'score': 0.0, 'reason': answer.reason, 'extracted': None}
  wrong = _fault(answer.text, item['numbers'], item['target'])
  if wrong is None and answer.later is not None:
    wrong = f'followed by another answer: {answer.later[:80]}'
  score = float(attempt) if wrong else 1.0
  return {'score': score, 'reason': wrong or 'reaches the target', 'extracted': answer.text}


def vote(item, *, where='both', attempt=0.0):
  """The expression that the response answers with, without spaces; None if it answers with none."""
  del attempt
  answer = answers.find(item, where)
  if answer.text is None or answer.later is not None:
    return None
  try:
    _parse(answer.text)
  except _NoExpressionError:
    return None
  return ''.join(answer.text.split())


def _fault(text, numbers, target):
  """What is wrong with an answer; None if it is right."""
  try:
    tree = _parse(text)
    # Before the value is computed, which is then bounded by the numbers that are given.
    if fault := _numbers_fault(tree, numbers):
      return fault
    reached = _value(tree)
  except _NoExpressionError as error:
    return str(error)
  return None if reached == target else f'the value is {reached}, not {target}'


def _parse(text):
  """The syntax tree of an expression, made of BinOp and Constant alone."""
  text = ' '.join(text.split())
  if len(text) > LIMIT:
    raise _NoExpressionError(f'an expression of {len(text)} characters; more than {LIMIT} are not read')
  if not _ALLOWED.fullmatch(text):
    raise _NoExpressionError('not an expression of whole numbers, + - * / and parentheses')
  try:
    tree = ast.parse(text, mode='eval').body
  except (SyntaxError, ValueError, RecursionError, MemoryError):
    raise _NoExpressionError('not a complete expression') from None
  for node in ast.walk(tree):
    if not isinstance(node, ast.BinOp | ast.Constant | ast.operator):
      raise _NoExpressionError('a sign before a number, or a call, is not one of the operations + - * /')
    if isinstance(node, ast.operator) and type(node) not in _OPERATIONS:
      raise _NoExpressionError(f'the operation {type(node).__name__} is not one of + - * /')
    if isinstance(node, ast.Constant) and type(node.value) is not int:
      raise _NoExpressionError(f'{node.value!r} is not a whole number')
  return tree


def _numbers_fault(tree, numbers):
  """Which number of the expression is not given or used too often, or which is left over; None if none is."""
  constants = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
  used = collections.Counter(value for value in constants if isinstance(value, int))
  given = collections.Counter(numbers)
  if extra := used - given:
    return f'{min(extra)} is not given, or not so often'
  return f'{min(given - used)} is not used' if given != used else None


def _value(node):
  if not isinstance(node, ast.BinOp):
    return Fraction(node.value)
  left, right = _value(node.left), _value(node.right)
  if isinstance(node.op, ast.Div) and right == 0:
    raise _NoExpressionError('a division by zero')
  return _OPERATIONS[type(node.op)](left, right)


def _check(where, attempt):
  answers.check_where(where)
  if isinstance(attempt, bool) or not isinstance(attempt, int | float) or not 0 <= attempt < 1:
    raise ConfigError(f'attempt is {attempt!r}; it must be a number from 0 to 1, and below 1.')
