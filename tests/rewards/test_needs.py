"""A row that its rewards could not score is refused before anything is sampled, and no other row is."""

import dataclasses

import pytest

from r1jax import config, rewards
from r1jax.rewards import needs, neural

ROUTES = {
  'math': {'math': 1.0},
  'code': {'code': 1.0},
  'logic': {'logic': 1.0},
  'choice': {'choice': 1.0},
  'ifeval': {'ifeval': 1.0},
  'free': {'helpful': 1.0},
  'reading': {'drop_f1': 1.0},
  'versus': {'pairwise': 1.0},
}
REWARD = config.Reward(
  parts={'format': 1.0, 'language': 1.0},
  accuracy='',
  parts_by_kind=ROUTES,
  functions={'helpful': 'preference'},
  timeout=60.0,
)
GOOD = [
  {'kind': 'math', 'answer': '72'},
  {'kind': 'math', 'answer': '\\frac{1}{2}'},
  {'kind': 'math', 'answer': 3},
  {'kind': 'code', 'asserts': ['assert f(1) == 2']},
  {'kind': 'code', 'io': [{'input': '', 'output': '1'}]},
  {'kind': 'code', 'test': 'def check(f): assert f(1)', 'entry_point': 'f', 'language': 'en'},
  {'kind': 'code', 'io': [{'input': '1', 'output': '1'}], 'language': 'cpp', 'time_limit': 2},
  {'kind': 'logic', 'names': ['Ann', 'Bo'], 'is_knight': [True, False]},
  {'kind': 'choice', 'answer': 'B', 'options': ['one', 'two']},
  {'kind': 'choice', 'answer': '(C)'},
  {'kind': 'choice', 'answer': 'B', 'options': {'A': 'one', 'B': 'two'}},
  {'kind': 'ifeval', 'instruction_id_list': ['punctuation:no_comma'], 'kwargs': [{}]},
  {'kind': 'free', 'answer': ''},
  {'kind': 'reading', 'answers': ['four', ['2', '2']]},
  {'kind': 'reading', 'answer': '4'},
  {'kind': 'reading', 'answers': {'number': '', 'spans': ['a', 'b'], 'date': {}}},
  {'kind': 'versus', 'reference': '<think>so</think>yes'},
]
BAD = [
  ({'kind': 'math', 'answer': ''}, "'answer' is empty"),
  ({'kind': 'math'}, "no field 'answer'"),
  ({'kind': 'math', 'answer': ['5']}, "'answer' is"),
  ({'kind': 'code'}, 'no tests'),
  ({'kind': 'code', 'asserts': []}, 'no tests'),
  ({'kind': 'code', 'asserts': 'assert f(1)'}, "its 'asserts'"),
  ({'kind': 'code', 'asserts': [3]}, "its 'asserts'"),
  ({'kind': 'code', 'asserts': ['assert f()'], 'io': [{}]}, 'has asserts and io'),
  ({'kind': 'code', 'test': 'def check(f): ...'}, "its 'test'"),
  ({'kind': 'code', 'io': ['x']}, "its 'io'"),
  ({'kind': 'code', 'asserts': ['assert f()'], 'language': 'cobol'}, 'cobol'),
  ({'kind': 'code', 'asserts': ['assert f()'], 'language': 7}, '7'),
  ({'kind': 'code', 'asserts': ['assert f()'], 'time_limit': 'long'}, 'time_limit'),
  ({'kind': 'logic', 'names': ['Ann'], 'answer': 'x'}, "no field 'is_knight'"),
  ({'kind': 'logic', 'names': ['Ann'], 'is_knight': [True, False]}, "'is_knight' must be a list of 1 "),
  ({'kind': 'logic', 'names': 'Ann', 'is_knight': [True]}, "field 'names' must"),
  ({'kind': 'logic', 'names': [], 'is_knight': []}, "field 'names' must"),
  ({'kind': 'logic', 'names': ['Ann'], 'is_knight': ['yes']}, "'is_knight'"),
  ({'kind': 'choice', 'answer': 'Paris'}, "'Paris'"),
  ({'kind': 'choice', 'answer': 'C', 'options': ['one', 'two']}, 'options A, B'),
  ({'kind': 'choice', 'answer': 'A', 'options': 7}, "'options' is of type int"),
  ({'kind': 'ifeval', 'instruction_id_list': ['no:such'], 'kwargs': [{}]}, 'unknown instruction'),
  ({'kind': 'ifeval', 'instruction_id_list': ['punctuation:no_comma'], 'kwargs': None}, 'cannot score it'),
  ({'kind': 'reading', 'answers': [['a', 3]]}, 'a gold answer'),
  ({'kind': 'reading', 'answers': ['']}, 'no gold answer'),
  ({'kind': 'reading'}, "no field 'answer'"),
  ({'kind': 'versus', 'reference': '<think>so'}, "'reference' must"),
  ({'kind': 'versus'}, "no field 'reference'"),
  ({'kind': 'ifeval'}, "no field 'instruction_id_list'"),
]


@pytest.mark.parametrize('item', GOOD)
def test_a_good_row_passes(item):
  needs.checker(REWARD)({'problem': 'x'} | item)


@pytest.mark.parametrize(('item', 'message'), BAD)
def test_a_bad_row_is_refused_in_one_line(item, message):
  with pytest.raises(ValueError) as error:
    needs.checker(REWARD)({'problem': 'x'} | item)
  assert message in str(error.value) and '\n' not in str(error.value)


def test_an_item_without_a_kind_has_the_common_parts_and_foreign_rewards_are_not_checked():
  plain = config.Reward(parts={'exact': 1.0}, accuracy='exact')
  with pytest.raises(ValueError, match="'exact'.*'answer' is empty"):
    needs.checker(plain)({'problem': 'x', 'answer': ' '})
  needs.checker(dataclasses.replace(plain, parts={'a:b': 1.0}, accuracy='a:b'))({'problem': 'x'})
  assert set(needs.NEEDS) <= set(rewards.REWARDS) | set(neural.NEURAL)
