"""The reward of the trial-and-error world, against every choice of signs."""

import itertools

import pytest

from r1jax import rewards

CONSTRAINT = '36 ?3 ?8 ?2 = 33'


def score(answer, constraint=CONSTRAINT):
  response = f'<think>-3 33 ... ok</think><answer>{answer}</answer>'
  return rewards.REWARDS['signs']([{'response': response, 'answer': constraint}])[0]


def test_every_choice_of_signs_scores_by_its_sum():
  for a, b, c in itertools.product((1, -1), repeat=3):
    answer = f'{3 * a:+d} {8 * b:+d} {2 * c:+d}'
    for target in range(20, 52):
      assert score(answer, f'36 ?3 ?8 ?2 = {target}') == (36 + 3 * a + 8 * b + 2 * c == target)


def test_any_valid_choice_scores():
  assert score('+1 -1', '30 ?1 ?1 = 30') == score('-1 +1', '30 ?1 ?1 = 30') == 1.0
  assert score('\n +1   -1 \n', '30 ?1 ?1 = 30') == 1.0


@pytest.mark.parametrize(
  'answer',
  [
    '',
    ' ',
    '-3',
    '-3 -8',
    '+8 -3 -2',
    '-8 +3 -2',
    '+3 -8 +2 +0',
    '+3 -8 +2 = 33',
    '3 -8 +2',
    '+3-8+2',
    '+3 - 8 +2',
    '+03 -8 +2',
    '+3 -8 +②',
    '+3 −8 +2',
    '+3 -8 +2.0',
    '33',
    '+-3 -8 +2',
    '+1 -6 +2',
  ],
)
def test_only_the_terms_in_order_each_with_its_sign(answer):
  assert score('+3 -8 +2', '36 ?3 ?8 ?2 = 33') == 1.0
  assert score(answer) == 0.0


def test_the_answer_must_be_in_its_tag():
  items = [{'response': r, 'answer': '30 ?1 = 31'} for r in ('+1', '<answer>+1', '<answer>+1</answer>')]
  assert rewards.REWARDS['signs'](items) == [0.0, 0.0, 1.0]


@pytest.mark.parametrize(
  'constraint', ['', '33', '36 = 36', '36 ?3 ?8 33', '36 3 8 = 33', '36 ?x = 3', '36 ?③ = 39', '= = = =']
)
def test_a_malformed_constraint_is_named(constraint):
  with pytest.raises(ValueError, match=f"'answer' is {constraint!r};".replace('?', r'\?')):
    score('+3', constraint)


def test_a_megabyte_is_split_once_and_never_converted():
  assert score('-3 ' * 350_000) == 0.0
  assert score('+' + '3' * 1_000_000) == 0.0  # int() would raise
