"""Countdown: every problem has a solution, and the splits share no problem in any order of its numbers."""

import collections
import json
import re

import pytest

from r1jax import config, data
from r1jax.data.toy import countdown


@pytest.fixture(scope='module')
def splits():
  return {held_out: countdown.problems(0, 1500, held_out) for held_out in (False, True)}


def test_the_answer_of_each_is_an_expression_of_its_numbers_with_its_target(splits):
  for problem in splits[False] + splits[True]:
    numbers, target = problem['numbers'], problem['target']
    assert re.fullmatch(r'[0-9+*/() -]+', problem['answer']) and '**' not in problem['answer']
    assert sorted(map(int, re.findall('[0-9]+', problem['answer']))) == sorted(numbers)
    assert eval(problem['answer']) == target
    assert 10 <= target <= 100 and all(1 <= n <= 99 for n in numbers)
    said = problem['problem'].replace('(+, -, *, /)', '')
    assert list(map(int, re.findall('[0-9]+', said))) == [*numbers, target]


def test_three_and_four_numbers_and_all_operations_occur(splits):
  sizes = collections.Counter(len(p['numbers']) for p in splits[False])
  assert set(sizes) == {3, 4} and min(sizes.values()) > 600  # 750 +- 8 standard deviations
  for sign in '+-*/':
    assert sum(f' {sign} ' in p['answer'] for p in splits[False]) > 100


def test_no_problem_is_in_both_splits_in_any_order_and_none_twice(splits):
  keys = {held_out: {(tuple(sorted(p['numbers'])), p['target']) for p in split} for held_out, split in splits.items()}
  assert not keys[True] & keys[False]
  assert all(len(keys[held_out]) == len(split) for held_out, split in splits.items())
  assert countdown.problems(1, 20, False) != splits[False][:20] == countdown.problems(0, 20, False)


def test_a_file_of_the_published_form_is_read_as_a_part(tmp_path):
  rows = [{'nums': [44, 19, 35], 'target': 98}, {'nums': [63, 95, 96], 'target': 64}]
  (tmp_path / 'p.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  part = dict(
    source='jsonl',
    path=str(tmp_path / 'p.jsonl'),
    eval_fraction=0.0,
    answers=False,
    fields=dict(nums='numbers'),
    problem='Reach {target} with\n{numbers}',
  )
  problems = data.load(config.convert(dict(source='mixture', parts=dict(countdown=part)), config.Data)).train
  assert [(p['numbers'], p['target'], p['kind']) for p in problems] == [
    ([44, 19, 35], 98, 'countdown'),
    ([63, 95, 96], 64, 'countdown'),
  ]
  assert problems[0]['problem'] == 'Reach 98 with\n44\n19\n35'
