"""Responses are grouped by their answers, as the reward that grades them compares answers."""

import random

import pytest

from r1jax.rewards import votes
from r1jax.rewards.workers import pool


@pytest.fixture(scope='module')
def grader():
  functions = {'right': 'math', 'tags': 'math'}
  with pool.Grader({'right': {}, 'tags': {'where': 'tags'}}, functions=functions, timeout=20.0) as started:
    yield started


def groups_of(responses, reward='math', options=None, grader=None, fields=()):
  items = [{'prompt': '', 'response': response, **dict(fields)} for response in responses]
  return votes.groups([items], reward, options, grader, 'right')[0]


def boxed(*texts):
  return [f'<think>hm \\boxed{{9}}</think>So \\boxed{{{text}}}.' for text in texts]


def test_one_number_in_many_spellings_is_one_vote(grader):
  assert groups_of(
    [*boxed('42', '$42$', '\\boxed{42}', '42.', '042', ' 42 ', '\\text{42}', '41', '84/2', '4 2')], grader=grader
  ) == [0, 0, 0, 0, 0, 0, 0, 1, 0, 2]


def test_right_samples_around_a_box_win_against_fewer_equal_wrong_ones(grader):
  right = [f'Way {i} of it gives \\boxed{{12}}, as {i} shows.' for i in range(40)]
  samples = right + ['\\boxed{13}'] * 24
  random.Random(0).shuffle(samples)
  numbers = groups_of(samples, grader=grader)
  assert len(set(numbers)) == 2
  assert {text in right: number for text, number in zip(samples, numbers, strict=True)} == {
    True: numbers[samples.index(right[0])],
    False: numbers[samples.index('\\boxed{13}')],
  }


@pytest.mark.parametrize(
  ('texts', 'groups'),
  [
    (['x=5', '5', '\\frac{10}{2}', '5.0', 'x=6'], [0, 0, 0, 0, 1]),
    (['\\frac{\\sqrt{2}}{2}', '\\frac{1}{\\sqrt{2}}', '\\sqrt{2}', '2\\sqrt{2}/4'], [0, 0, 1, 0]),
    (['1, 2', '2, 1', '(1, 2)', '(2, 1)'], [0, 0, 0, 1]),
    (['\\text{(C)}', 'C', '(C)', 'D'], [0, 0, 0, 1]),
    (['x+1', '1+x', 'x+2'], [0, 0, 1]),
  ],
)
def test_equal_is_what_the_reward_takes_for_equal(texts, groups, grader):
  assert groups_of(boxed(*texts), grader=grader) == groups


def test_texts_join_the_commonest_that_they_equal_and_are_not_chained(grader):
  short, long, exact = '0.333333', '0.33333333', '1/3'
  assert groups_of(boxed(short, long), grader=grader) == [0, 1]  # equal to 1/3, not to each other
  assert groups_of(boxed(short, long, exact, exact), grader=grader) == [0, 0, 0, 0]
  assert groups_of(boxed(short, short, long, exact), grader=grader) == [0, 0, 1, 0]
  assert groups_of(boxed(long, long, short, exact), grader=grader) == [0, 0, 1, 0]


def test_responses_without_a_vote(grader):
  responses = [
    '\\boxed{5}',
    'It is 5.',
    '<think>\\boxed{5}',
    '<think>t <answer>5</answer></think>',
    '\\boxed{}',
    '\\boxed{5}. No, the answer is 6.',
    '\\boxed{5}. The answer is 5.',
    '',
    '\\boxed{' + '1' * 2000 + '}',
    '<answer>5}</answer>',
    '<answer>5</answer>',
  ]
  assert groups_of(responses, grader=grader) == [0, -1, -1, -1, -1, -1, 0, -1, -1, -1, 0]
  assert groups_of(['It is 5.', ''], grader=grader) == [-1, -1]


def test_options_say_where_and_problems_do_not_mix(grader):
  items = [
    [{'response': f'<answer>{tag}</answer>\\boxed{{{box}}}'} for tag, box in pairs]
    for pairs in ([(1, 1), (1.0, 1)], [(1, 1), (2, 2), ('2/2', 1)], [])
  ]
  assert votes.groups(items, 'math', {'where': 'tags'}, grader, 'tags') == [[0, 0], [0, 1, 0], []]


def test_a_comparison_that_takes_too_long_merges_nothing():
  slow = '\\frac{(10^9)!}{(10^9-1)!}'
  with pool.Grader({'math': {}}, timeout=0.3) as hurried:
    items = [{'response': text} for text in boxed('10^9', slow, '1000000000', '3')]
    assert votes.groups([items], 'math', {}, hurried) == [[0, 1, 0, 2]]


def test_samples_that_all_differ_take_few_comparisons():
  class CountingGrader:
    count = 0

    def submit(self, items, parts):
      assert parts == [['math']] * len(items)
      CountingGrader.count += len(items)
      answers = [item['response'] == f'\\boxed{{{item["answer"]}}}' for item in items]
      result = pool.Scores({'math': [float(a) for a in answers]}, {}, 0, 0.0)
      return type('Future', (), {'result': lambda self: result})()

  items = [{'response': f'\\boxed{{{i}}}'} for i in range(64)]
  assert votes.groups([items], 'math', {}, CountingGrader()) == [list(range(64))]
  assert CountingGrader.count <= 64 + 2 * 16 * 63


@pytest.mark.parametrize(
  ('reward', 'options', 'responses', 'fields', 'groups'),
  [
    (
      'choice',
      {},
      [
        '\\boxed{B}',
        '<answer>(B)</answer>',
        '\\boxed{five}',
        '\\boxed{A}',
        'B',
        '\\boxed{A or B}',
        '\\boxed{B}. The answer is A.',
        '<think>\\boxed{B}</think>',
      ],
      {'options': ['four', 'five']},
      [0, 0, 0, 1, -1, -1, -1, -1],
    ),
    (
      'exact',
      {},
      ['\\boxed{New  York}', '<answer> new york</answer>', '\\boxed{York}', 'x'],
      {'answer': 'York'},
      [0, 0, 1, -1],
    ),
    ('exact', {'case': True}, ['\\boxed{York}', '\\boxed{york}'], {'answer': 'York'}, [0, 1]),
    (
      'logic',
      {},
      [
        '\\boxed{Ann is a knight, Bob is a knave}',
        '<answer>1. Bob: knave 2. Ann: knight</answer>',
        '\\boxed{Ann is a knight and Bob is a knight}',
        '\\boxed{Ann is not a knight}',
        '\\boxed{5}',
      ],
      {'names': ['Ann', 'Bob'], 'is_knight': [True, False]},
      [0, 0, 1, -1, -1],
    ),
    (
      'signs',
      {},
      [
        '<think>t</think><answer>-1 +2</answer>',
        '<think>u</think><answer> -1  +2\n</answer>',
        '<think>t</think><answer>+1 +2</answer>',
        '-1 +2',
        '<answer> </answer>',
      ],
      {},
      [0, 0, 1, -1, -1],
    ),
    (
      'code',
      {},
      ['<think>a</think>```python\nx = 1\n```', '```python\nx  =  1\n```', '```python\nx = 2\n```', '<think>'],
      {},
      [0, 0, 1, -1],
    ),
    (
      'some.module:judge',
      {},
      ['<think>a</think>\\boxed{x}', 'So <answer>x</answer>', 'x', 'y', '<think>x'],
      {},
      [0, 0, 0, 1, -1],
    ),
  ],
)
def test_other_rewards_by_their_own_answers_or_by_text(reward, options, responses, fields, groups):
  assert groups_of(responses, reward, options, fields=fields) == groups
