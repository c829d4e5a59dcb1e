"""Answer accuracy. The functions are called in this process: no item here takes long."""
import subprocess
import sys

import pytest

from r1jax import rewards
from r1jax.rewards import math_answer


def score(answer, gold, wrap='<think>t</think><answer>{}</answer>'):
  return rewards.REWARDS['math']([{'response': wrap.replace('{}', answer), 'answer': gold}])[0]


@pytest.mark.parametrize('answer, gold', [
    ('42', '42'), (' 042\n', '42'), ('+42', '42'), ('-0', '0'), ('1,234', '1234'), ('1234', '1,234'), ('42', 42),
    ('9' * 900, '9' * 900),                                     # more digits than int() takes by default
    (r'\frac{1}{2}', '1/2'), ('0.5', r'\frac12'), ('1/2', '0.5'), ('2/4', '1/2'), ('-3.0', '-3'),
    (r'50\%', '50%'), ('0.5', '50%'), ('5.', '5'), ('$5$', '5'), ('$18.00', '18'), ('1234.5', '1,234.50'),
    ('(x+1)^2', 'x^2+2x+1'), (r'2\sqrt{2}', r'\sqrt{8}'), ('1-1', '0'), (r'\{2,1\}', r'\{1,2\}'), ('x=5', '5'),
    (r'\boxed{5}', '5'), (r'so \boxed{\frac{1}{2}}.', '0.5'), (r'\boxed{4} no \boxed{5}', '5'),
    (r'\boxed{\{1,2\}}', r'\{1,2\}'),
])
def test_right(answer, gold):
  assert score(answer, gold) == 1.0


@pytest.mark.parametrize('answer, gold', [
    ('41', '42'), ('-42', '42'), ('12,34', '1234'), ('1,2', '12'), ('⑥', '6'), ('٦', '6'), ('0.333', '1/3'),
    ('(x-1)^2', 'x^2+2x+1'), (r'\sqrt{2}', '1.41'), ('', '0'), (' ', '0'), ('none', '0'), ('nan', '5'), ('x+5', '5'),
    ('4, 5', '5'), ('5 or 6', '5'), ('5 or 6', '6'), (r'5} and \boxed{6', '6'), (r'5} and \boxed{6', '5'),
    ('}', '5'), ('{{{', '5'), ('5\\', '5'), (r'\boxed{5', '5'), (r'\boxed{}', '5'), ('(' * 90, '5'), ('1' * 900, '5'),
    ('9**9**9**9', '9'), ("__import__('os').getpid()", '5'), (r'\frac{1}{0}', '5'),
])
def test_wrong(answer, gold):
  assert score(answer, gold) == 0.0


@pytest.mark.parametrize('wrap, found', [
    ('<think>t</think><answer>{}</answer>', 1), ('<answer>{}</answer>', 1),
    ('<answer>6</answer><answer>{}</answer>', 1),
    ('<answer>{}</answer><answer>6</answer>', 0), ('so \\boxed{{}}.', 1), ('\\boxed{6} \\boxed{{}} end', 1),
    ('\\boxed{{}} \\boxed{6}', 0), ('\\boxed{{}}<answer>6</answer>', 0), ('{}', 0), ('<answer>{}', 0),
    ('\\boxed{{}', 0),
])
def test_where_the_answer_is_looked_for(wrap, found):
  for gold in ('5', '1/2'):
    assert score(gold, gold, wrap) == found


def test_plain_integers_need_no_sympy():
  program = ('import sys; from r1jax import rewards\n'
             'item = {"response": "<answer>1,234</answer>", "answer": "1234"}\n'
             'assert rewards.REWARDS["math"]([item]) == [1.0]\n'
             'assert not {"sympy", "math_verify", "jax", "numpy"} & set(sys.modules)')
  subprocess.run([sys.executable, '-c', program], check=True)


def test_long_answers_are_never_parsed(monkeypatch):
  monkeypatch.setattr(math_answer, '_equal', lambda *_: pytest.fail('parsed'))
  for answer in ('1+' * 500_000 + '1', '\\boxed{' * 140_000, '{' * 1_000_000, '\\boxed{' + 'x' * 1_000_000 + '}'):
    assert score(answer, '1/2') == 0.0


def test_a_score_depends_on_its_item_alone():
  pairs = [('0.5', '1/2'), ('⑥', '6'), ('1/3', '1/2'), ('x', 'x'), ('7', '7')]
  items = [{'response': f'<answer>{a}</answer>', 'answer': g} for a, g in pairs]
  alone = [rewards.REWARDS['math']([item])[0] for item in items]
  assert rewards.REWARDS['math'](items) == alone == rewards.REWARDS['math'](items[::-1])[::-1]
  assert len(set(alone)) == 2
