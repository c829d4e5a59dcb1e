"""The toy worlds: the gate and the rewards understand what their authors write."""

import re

import numpy as np
import pytest

from r1jax import templates
from r1jax.data.toy import arithmetic
from r1jax.rewards import toy as toy_rewards

TRIAL = '36 a 3 b 8 = 31'
RIGHT = '<think> 36 a -3 33 b -8 25 = 31 wait 36 a +3 39 b -8 31 = 31 ok </think> <answer> +3 -8 </answer>'


def test_steps_of_a_try_are_all_counted():
  # Twice: start, two terms, two sums, target, verdict.
  one_try = ['start', 'term', 'sum', 'term', 'sum', 'target', 'verdict']
  assert arithmetic.WORLDS['trial'].steps(TRIAL, RIGHT) == [(kind, True) for kind in one_try * 2]


@pytest.mark.parametrize(
  ('old', 'new', 'kind'),
  [
    ('<think> 36', '<think> 35', 'start'),
    ('wait 36 a +3 39', 'wait 36 a +4 40', 'term'),
    ('b -8 25', 'b -8 26', 'sum'),
    ('25 = 31', '25 = 30', 'target'),
    ('31 = 31 ok', '31 = 31 no', 'verdict'),
    ('31 wait', '31 ok', 'verdict'),
  ],
)
def test_a_wrong_step_of_a_try_is_detected(old, new, kind):
  text = RIGHT.replace(old, new, 1)
  assert text != RIGHT
  steps = arithmetic.WORLDS['trial'].steps(TRIAL, text)
  assert len(steps) == 14 and (kind, False) in steps


def test_orderly_authors_try_every_choice_of_signs():
  tried, signs = [], (1, -1, 1)
  for _ in range(8):
    tried.append(signs)
    signs = arithmetic._next(signs)
  assert len(set(tried)) == 8 and signs == tried[0]


def test_a_verdict_of_ok_means_a_right_answer_except_for_slips():
  rng, right = np.random.default_rng(0), []
  for _ in range(2000):
    _, gold, facts = arithmetic.WORLDS['trial'].problem(rng)
    thinking, answer = arithmetic.WORLDS['trial'].chain(rng, facts)
    if thinking.endswith('ok'):
      right += toy_rewards.signs([{'response': f'<answer>{answer}</answer>', 'answer': gold}])
  assert len(right) > 300 and 0.85 < np.mean(right) < 1


def test_chain_answers_are_the_value_of_the_expression():
  rng = np.random.default_rng(0)
  for _ in range(200):
    text, answer, _ = arithmetic.WORLDS['chain'].problem(rng)
    names = re.findall(r'\b[a-g]\b', text)
    assert names == list('abcdefg'[: len(names)]) and 3 <= len(names) <= 7
    first, *terms = re.sub(r'\b[a-g]\b|= \?', '', text).split()
    assert np.prod([int(x) for x in first.split('*')]) + sum(map(int, terms)) == int(answer)


def test_steps_of_a_chain():
  steps = arithmetic.WORLDS['chain'].steps
  assert (
    steps('a 3*5 b +8 c -9 = ?', '<think> first a 3*5 15 then b +8 23 c -9 14 so </think>')
    == [('term', True), ('sum', True)] * 3
  )
  results = steps('a 3*5 b +8 c -9 = ?', '首先 a 3*5 15 b +8 13 c -9 4 等等 检查 首先 a 3*5 15 b +7 22')
  assert [kind for kind, _ in results] == ['term', 'sum'] * 5
  assert [i for i, (_, right) in enumerate(results) if not right] == [3, 8]


@pytest.mark.parametrize('world', list(arithmetic.WORLDS))
def test_documents_have_no_held_out_problem_and_six_of_ten_are_well_formed(world):
  texts = [t.split('\n', 1) for t in arithmetic.documents(world, 0, 2000)]
  assert not any(arithmetic.is_held_out(problem) for problem, _ in texts)
  well_formed = np.mean([templates.parse(response).well_formed for problem, response in texts if problem != 'drill'])
  assert 0.55 < well_formed < 0.65


def test_nested_answers_and_steps():
  rng, rights = np.random.default_rng(0), []
  for _ in range(300):
    text, answer, facts = arithmetic.WORLDS['nested'].problem(rng)
    values = {}
    for name, term in re.findall(r'([a-i]) (\d+|[a-i][+-][a-i])', text):
      values[name] = int(term) if term.isdecimal() else eval(term, {}, dict(values))
    assert text == text.split(' = ?')[0] + ' = ?' and values[name] == int(answer) and 6 <= len(values) <= 9
    thinking, given = arithmetic.WORLDS['nested'].chain(rng, facts)
    steps = arithmetic.WORLDS['nested'].steps(text, thinking)
    assert all(right for kind, right in steps if kind == 'term')
    if steps and 'check' not in thinking:
      assert len(steps) == 2 * len(values) - 2
      sums = all(right for kind, right in steps if kind == 'sum')
      assert not sums or given == answer
      rights.append(sums)
  assert 0.1 < np.mean(rights) < 0.9
  steps = arithmetic.WORLDS['nested'].steps
  wrong = steps('a 43 b 10 c b+a = ?', '<think> first\n a 43\n b 12\n c 12+43 56\n so </think>')
  assert wrong == [('term', True), ('term', False), ('term', True), ('sum', False)]
