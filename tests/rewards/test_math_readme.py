"""The examples of math-verify's README, in its order, and how the reward decides them."""

import pytest

from r1jax import rewards
from r1jax.rewards.mathematics import math_answer


@pytest.fixture(scope='module', autouse=True)
def prepared():
  math_answer.prepare()


def score(gold, answer):
  item = {'response': f'<think>t</think><answer>{answer}</answer>', 'answer': gold}
  boxed = {'response': f'So \\boxed{{{answer}}}.', 'answer': gold}
  bare = {'response': answer, 'answer': gold}
  out = {rewards.REWARDS['math']([item])[0], rewards.REWARDS['math']([bare], bare=True)[0]}
  if '\\boxed' not in answer and answer.count('{') == answer.count('}'):
    out.add(rewards.REWARDS['math']([boxed])[0])
  assert len(out) == 1  # the same in tags, in a box and alone
  return out.pop()


@pytest.mark.parametrize(
  ('gold', 'answer'),
  [
    # Example usage
    (r'${1,3} \cup {2,4}$', '${1,2,3,4}$'),
    # Extraction targets: LaTeX, a plain expression, a string
    (r'\sqrt{2}', r'\[ \sqrt{2} \]'),
    ('1/2', '1/2'),
    ('0.5', '1/2'),
    ('A', 'A'),
    # Advanced parsing
    (r'\beta', 'β'),
    ('1/3', 'frac13'),
    ('1/3', r'\frac13'),
    ('1', 'x = 1'),
    ('0.1', '10%'),
    ('10', '10 cm'),
    ('0.333', '0.333'),
    ('333/1000', '0.333'),
    # Comparison: numbers, within a precision; symbols; matrices; sets and intervals; relations, flipped too
    ('1/3', '0.333333'),
    ('0.333333', '1/3'),
    ('a + b', 'b + a'),
    ('a < 2', '2 > a'),
    (r'a \le b', r'b \ge a'),
    (r'\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}', r'\begin{pmatrix} 1 & 2.0 \\ \frac{6}{2} & 4 \end{pmatrix}'),
    ('(1,2)', '(1, 2)'),
    ('[0,1)', r'\left[0, 1\right)'),
    (r'\{1,2\}', r'\{2,1\}'),
    (r'(-\infty, 0) \cup (1, \infty)', r'(1, \infty) \cup (-\infty, 0)'),
    ('3 + 4i', '4i + 3'),
    ('2x', r'\frac{d}{dx} x^2'),
    # Why is verify not symmetric?
    ('1 < x < 2', '(1,2)'),
    ('101', 'a+2z = 2z + a = 101'),
    # The environments LaTeX is read in
    ('1', r'\[ x = 1 \]'),
    ('1', '\\[\nx = 1\n\\]'),
    ('1', '$$ x = 1 $$'),
    ('1', '$$\nx = 1\n$$'),
    ('1', r'\boxed{x = 1}'),
    ('1', '$x = 1$'),
    ('1', r'\( x = 1 \)'),
    ('1', '[ x = 1 ]'),
  ],
)
def test_equal(gold, answer):
  assert score(gold, answer) == 1.0


@pytest.mark.parametrize(
  ('gold', 'answer'),
  [
    ('1/3', '0.333'),  # not rounded to the reference
    ('(1,2)', '1 < x < 2'),
    ('a+2z = 2z + a = 101', '101'),  # the other way round
    (r'\begin{pmatrix} 1 & 2 \end{pmatrix}', r'\begin{pmatrix} 1 \\ 2 \end{pmatrix}'),  # a different shape
    ('[0,1)', '[0,1]'),
    ('a < 2', '2 < a'),
    ('A', 'B'),
    (r'\beta', 'α'),
  ],
)
def test_not_equal(gold, answer):
  assert score(gold, answer) == 0.0
