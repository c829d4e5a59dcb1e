"""Tests of calls by arguments and results, as LiveCodeBench and APPS give them."""

import json

import pytest

from r1jax.rewards.coding import call_tests, code_tests
from tests.rewards import sandboxed

TWO_SUM = {
  'starter_code': 'class Solution:\n    def twoSum(self, nums: List[int], target: int) -> List[int]:\n        ',
  'io': [
    {'input': '[2,7,11,15]\n9', 'output': '[0,1]', 'testtype': 'functional'},
    {'input': '[3,3]\n6', 'output': '[0, 1]'},
  ],
}
SOLVED = """
class Solution:
  def twoSum(self, nums: List[int], target: int) -> List[int]:
    seen = defaultdict(int)
    for i, n in enumerate(nums):
      if target - n in seen:
        return (seen[target - n], i)
      seen[n] = i
"""


def verdict(item, program):
  return code_tests.verdict(item | {'prompt': '', 'response': f'```python\n{program}\n```'})


@sandboxed.NEEDED
def test_methods_of_a_class_are_called():
  assert verdict(TWO_SUM, SOLVED) == {'score': 1.0, 'passed': 2, 'total': 2, 'reason': ''}
  assert verdict(TWO_SUM, SOLVED.replace('i)', 'i + 1)'))['reason'] == 'test 1 of 2: AssertionError'
  # A program can neither change what is expected nor return something that equals everything.
  cheat = 'return type("E", (), {"__eq__": lambda self, other: True})()'
  assert verdict(TWO_SUM, SOLVED.replace('seen = defaultdict(int)', cheat))['score'] == 0
  cheat = 'import json\n    json.loads = lambda text: None'
  assert verdict(TWO_SUM, SOLVED.replace('seen = defaultdict(int)', cheat) + '\nsame_result = 1')['score'] == 0


@sandboxed.NEEDED
def test_functions_are_called():
  item = {'starter_code': '\ndef half(text, n):\n\t', 'io': [{'input': 'Apple pie\n5', 'output': "['Apple pie', 2.5]"}]}
  assert verdict(item, 'def half(text, n): return [text, n / 2 + 1e-9]')['score'] == 1
  assert verdict(item, 'def half(text, n): return [text, n / 2 + 1e-3]')['score'] == 0
  assert verdict(item, 'def half(text, n): return text')['score'] == 0
  assert 'half' in verdict(item, 'def other(): pass')['reason']


@pytest.mark.parametrize(
  ('starter', 'text', 'arguments'),
  [
    ('def f(a):', '[1, 2]', [[1, 2]]),
    ('def f(a):', 'one\ntwo', ['one\ntwo']),
    ('def f(a):', '', ['']),
    ('def f(a, b):', '1\n"1"', [1, '1']),
    ('def f(a, b):', 'x\n(1, 2)\n', ['x', (1, 2)]),
    ('def f():', '', []),
    ('class Solution:\n  def f(self, a: int) -> bool:', 'true', [True]),
    ('# class Node:\n#   def __init__(self):\nclass Solution:\n  def f(self, a, b):', 'null\n-1.5', [None, -1.5]),
  ],
)
def test_arguments_are_json_or_python_or_text(starter, text, arguments):
  item = call_tests.as_asserts({'starter_code': starter, 'io': [{'input': text, 'output': '0'}]}, 0)
  seen = []
  space = {'json': json, 'f': lambda *args: seen.extend(args), 'same_result': lambda *_: True}
  space['Solution'] = lambda: type('S', (), {'f': staticmethod(space['f'])})
  exec(item['asserts'][0], space)
  assert seen == arguments and list(map(type, seen)) == list(map(type, arguments))
  assert item['entry_point'] == ('Solution' if 'Solution' in starter else 'f') and 'io' not in item


@pytest.mark.parametrize(
  ('item', 'words'),
  [
    ({'starter_code': 'def f(a, b):', 'io': [{'input': '1\n2\n3', 'output': '1'}]}, '3 arguments, .* takes 2'),
    ({'starter_code': 'f(a, b)', 'io': [{'input': '1', 'output': '1'}]}, "'starter_code' .* heading"),
    ({'starter_code': 'def f(a):', 'io': [{'input': 1, 'output': '1'}]}, "'io' .* strings"),
    ({'starter_code': 'def f(a):', 'io': 'x'}, "'io' .* strings"),
  ],
)
def test_items_that_cannot_be_called(item, words):
  with pytest.raises(ValueError, match=words):
    code_tests.verdict(item | {'program': ''})


def test_items_without_starter_code_are_left_alone():
  for item in ({'io': [{}]}, {'io': [{}], 'starter_code': ''}, {'asserts': ['x'], 'starter_code': 'def f():'}):
    assert call_tests.as_asserts(item, 0) is item
