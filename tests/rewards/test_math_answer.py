"""Answer accuracy. The functions are called in this process: no item here takes long."""

import subprocess
import sys

import pytest

from r1jax import rewards
from r1jax.config import ConfigError
from r1jax.rewards import answers
from r1jax.rewards.mathematics import symbolic


def score(answer, gold, wrap='<think>t</think><answer>{}</answer>'):
  return rewards.REWARDS['math']([{'response': wrap.replace('{}', answer), 'answer': gold}])[0]


@pytest.mark.parametrize(
  ('answer', 'gold'),
  [
    ('42', '42'),
    (' 042\n', '42'),
    ('+42', '42'),
    ('-0', '0'),
    ('1,234', '1234'),
    ('1234', '1,234'),
    ('42', 42),
    ('9' * 900, '9' * 900),  # more digits than int() takes by default
    (r'\frac{1}{2}', '1/2'),
    ('0.5', r'\frac12'),
    ('1/2', '0.5'),
    ('2/4', '1/2'),
    ('-3.0', '-3'),
    (r'50\%', '50%'),
    ('0.5', '50%'),
    ('5.', '5'),
    ('$5$', '5'),
    ('$18.00', '18'),
    ('1234.5', '1,234.50'),
    ('(x+1)^2', 'x^2+2x+1'),
    (r'2\sqrt{2}', r'\sqrt{8}'),
    ('1-1', '0'),
    (r'\{2,1\}', r'\{1,2\}'),
    ('x=5', '5'),
    (r'\boxed{5}', '5'),
    (r'so \boxed{\frac{1}{2}}.', '0.5'),
    (r'\boxed{4} no \boxed{5}', '5'),
    (r'\boxed{\{1,2\}}', r'\{1,2\}'),
  ],
)
def test_right(answer, gold):
  assert score(answer, gold) == 1.0


@pytest.mark.parametrize(
  ('answer', 'gold'),
  [
    ('41', '42'),
    ('-42', '42'),
    ('12,34', '1234'),
    ('1,2', '12'),
    ('⑥', '6'),
    ('٦', '6'),
    ('0.333', '1/3'),
    ('(x-1)^2', 'x^2+2x+1'),
    (r'\sqrt{2}', '1.41'),
    ('', '0'),
    (' ', '0'),
    ('none', '0'),
    ('nan', '5'),
    ('x+5', '5'),
    ('4, 5', '5'),
    ('5 or 6', '5'),
    ('5 or 6', '6'),
    (r'5} and \boxed{6', '6'),
    (r'5} and \boxed{6', '5'),
    ('}', '5'),
    ('{{{', '5'),
    ('5\\', '5'),
    (r'\boxed{5', '5'),
    (r'\boxed{}', '5'),
    ('(' * 90, '5'),
    ('1' * 900, '5'),
    ('9**9**9**9', '9'),
    ("__import__('os').getpid()", '5'),
    (r'\frac{1}{0}', '5'),
  ],
)
def test_wrong(answer, gold):
  assert score(answer, gold) == 0.0


@pytest.mark.parametrize(
  ('wrap', 'found'),
  [
    ('<think>t</think><answer>{}</answer>', 1),
    ('<answer>{}</answer>', 1),
    ('<answer>6</answer><answer>{}</answer>', 1),
    ('<answer>{}</answer><answer>6</answer>', 0),
    ('so \\boxed{{}}.', 1),
    ('\\boxed{6} \\boxed{{}} end', 1),
    ('\\boxed{{}} \\boxed{6}', 0),
    ('\\boxed{{}}<answer>6</answer>', 0),
    ('{}', 0),
    ('<answer>{}', 0),
    ('\\boxed{{}', 0),
  ],
)
def test_where_the_answer_is_looked_for(wrap, found):
  for gold in ('5', '1/2'):
    assert score(gold, gold, wrap) == found


THINK = '<think>t \\boxed{{}} <answer>{}</answer></think>'


@pytest.mark.parametrize(
  ('wrap', 'both', 'tags', 'boxed'),
  [
    ('<answer>{}</answer>', 1, 1, 0),
    ('\\boxed{{}}', 1, 0, 1),
    ('\\boxed{6}<answer>{}</answer>', 1, 1, 0),
    ('<answer>6</answer>\\boxed{{}}', 0, 0, 1),
    ('<answer>{}</answer>\\boxed{{}}', 1, 1, 1),
    # The thinking contains no answer, whether it is closed or not.
    (THINK, 0, 0, 0),
    (THINK + 'So {}.', 0, 0, 0),
    (THINK.removesuffix('</think>'), 0, 0, 0),
    ('t \\boxed{{}}</think>', 0, 0, 0),
    (THINK + '<answer>6</answer>', 0, 0, 0),
    (THINK + '\\boxed{6}', 0, 0, 0),
    ('<answer>{}</answer><think>', 0, 0, 0),
    ('\\boxed{{}}<think>hm</think>', 0, 0, 0),
    ('<think>6</think><answer>{}</answer>', 1, 1, 0),
    ('<think>\\boxed{6}</think>\\boxed{{}}', 1, 0, 1),
    ('\\boxed{6}</think> \\boxed{{}}', 1, 0, 1),
    # Of several boxes the last counts; several with only a comma or a word between them are a list.
    ('\\boxed{6}. No: \\boxed{{}}', 1, 0, 1),
    ('\\boxed{{}}. No: \\boxed{6}', 0, 0, 0),
    ('\\boxed{6}, \\boxed{{}}', 0, 0, 0),
    ('$\\boxed{6}$ or $\\boxed{{}}$', 0, 0, 0),
    ('\\boxed{6} \\text{ and } \\boxed{{}}', 0, 0, 0),
    ('\\boxed{{}}或\\boxed{6}', 0, 0, 0),
    ('$\\boxed{{}}$, or $\\boxed{{}}$', 1, 0, 1),
    ('\\boxed{6}, or maybe \\boxed{{}}', 0, 0, 0),
    ('\\boxed{{}}, or equally $\\boxed{{}}$.', 1, 0, 1),
    ('\\boxed{{}} or 6', 0, 0, 0),
    ('\\boxed{{}} or so', 1, 0, 1),
    ('\\boxed{6}, that is, the root, \\boxed{{}}', 1, 0, 1),
    ('<answer>\\boxed{{}} or 6</answer>', 0, 0, 0),
    # The text after the answer must not contradict it.
    ('<answer>{}</answer> No, the answer is 6.', 0, 0, 0),
    ('<answer>{}</answer> The answer is right.', 1, 1, 0),
    ('\\boxed{{}}. Wait. **Answer:** 6', 0, 0, 0),
    ('\\boxed{{}}. The answer is $6$.', 0, 0, 0),
    ('\\boxed{{}}. The answer is {}.', 1, 0, 1),
    ('\\boxed{{}}。所以答案是6', 0, 0, 0),
    ('\\boxed{{}} in 6 steps.', 1, 0, 1),
    ('<answer>{}</answer>\\boxed{6}', 0, 0, 0),
    ('<answer>{}</answer>\\boxed{6', 0, 0, 0),
    ('The answer is 6. \\boxed{{}}', 1, 0, 1),
    ('The answer is {}.', 0, 0, 0),
  ],
)
def test_the_rules_for_finding_the_answer(wrap, both, tags, boxed):
  for gold in ('5', '1/2'):
    item = {'response': wrap.replace('{}', gold), 'answer': gold}
    for where, right in (('both', both), ('tags', tags), ('boxed', boxed)):
      verdict = rewards.VERDICTS['math'](item, where=where)
      assert verdict['score'] == rewards.REWARDS['math']([item], where=where)[0] == right, (where, verdict)


@pytest.mark.parametrize(
  ('wrap', 'found'),
  [
    ('The answer is {}.', 1),
    ('So she has {} apples.\n#### {}', 1),
    ('**Answer:** {}', 1),
    ('Therefore, the final answer is: $\\boxed{{}}$.', 1),
    ('所以答案是{}。', 1),
    ('The answer is {}', 1),
    # Tags and boxes come first, and the last of them counts.
    ('The answer is 6. \\boxed{{}}', 1),
    ('The answer is 6. <answer>{}</answer>', 1),
    ('\\boxed{{}} The answer is 6.', 0),
    ('<answer>6</answer> The answer is {}.', 0),
    # The last statement counts.
    ('The answer is 6. Wait, the answer is {}.', 1),
    ('The answer is {}. Wait, the answer is 6.', 0),
    ('#### {}\n#### 6', 0),
    ('The answer is not {}.', 0),
    ('The answer is {} or 6.', 0),
    # A number that is not said to be the answer is none, and neither is one in the thinking.
    ('{}', 0),
    ('she has {}', 0),
    ('The answer is the number {} times', 0),
    ('<think>The answer is {}.</think>', 0),
    ('<think>The answer is {}.', 0),
    ('<think>6</think>The answer is {}.', 1),
    ('The answer is \\boxed{{}', 0),
    ('', 0),
  ],
)
def test_an_answer_in_words_by_option_only(wrap, found):
  for gold in ('5', '1/2'):
    item = {'response': wrap.replace('{}', gold), 'answer': gold}
    assert rewards.REWARDS['math']([item], where='stated') == [found]
    if found and 'boxed' not in wrap and 'answer>' not in wrap:
      assert rewards.REWARDS['math']([item]) == [0.0]
      assert rewards.VOTES['math'](item, where='stated') == gold


def test_a_prompt_may_have_opened_the_thinking():
  opened, closed = ({'prompt': p, 'response': r'\boxed{5}', 'answer': '5'} for p in ('Q <think>', 'Q'))
  assert rewards.REWARDS['math']([opened, closed]) == [0.0, 1.0]
  assert rewards.REWARDS['math']([dict(opened, response=r'so</think>\boxed{5}')]) == [1.0]


@pytest.mark.parametrize(
  ('response', 'score'),
  [
    ('5', 1),
    (' 5.0\n', 1),
    ('the answer is 5', 1),
    ('<answer>5', 0),
    ('<think>5', 0),
    ('5</think>', 0),
    ('\\boxed{5', 0),
    ('5 or 6', 0),
    ('', 0),
    ('I think that 5', 0),
  ],
)
def test_a_bare_answer_by_option_only(response, score):
  item = {'response': response, 'answer': '5'}
  assert rewards.REWARDS['math']([item], bare=True) == [score] and rewards.REWARDS['math']([item]) == [0.0]


@pytest.mark.parametrize(
  ('response', 'reason', 'extracted'),
  [
    ('<answer>10/2</answer>', 'equal', '10/2'),
    ('<answer>6</answer>', 'a different number', '6'),
    ('5', 'no answer tags and no \\boxed{} after the thinking', None),
    ('<answer> </answer>', 'the answer is empty', None),
    ('<think>5', 'the thinking is not closed', None),
    ('<answer>5,6</answer>', 'several values where one is asked', '5,6'),
    ('<answer>' + '5' * 2000 + '</answer>', 'the answer has 2000 characters; more than 1000 are not read', None),
    ('\\boxed{5} the answer is 6', 'followed by another answer: 6', '5'),
  ],
)
def test_a_verdict_says_why_and_what_was_found(response, reason, extracted):
  verdict = rewards.VERDICTS['math']({'response': response, 'answer': '5'})
  assert verdict == {'score': float(reason == 'equal'), 'reason': reason, 'extracted': extracted}


@pytest.mark.parametrize(
  ('options', 'message'),
  [({'where': 'summary'}, "where is 'summary'.* both, tags, boxed, stated"), ({'bare': 1}, 'bare is 1')],
)
def test_options_are_checked(options, message):
  with pytest.raises(ConfigError, match=message):
    rewards.REWARDS['math']([], **options)


def test_a_megabyte_takes_no_more_scans_than_a_kilobyte():
  def find(size, unit):
    text = unit * (size // len(unit))
    return [
      answers.find({'response': f'\\boxed{{5}}{text}\\boxed{{6}}'}, 'both'),
      answers.find({'response': f'{text} the answer is 7'}, 'stated').text,
    ]

  for unit in ('\\boxed{7} ', '<answer>', 'x', '$', ' or ', 'answer: 7. '):
    assert find(1 << 20, unit) == find(1 << 10, unit)


def test_plain_integers_need_no_sympy():
  program = (
    'import sys; from r1jax import rewards\n'
    'item = {"response": "<answer>1,234</answer>", "answer": "1234"}\n'
    'assert rewards.REWARDS["math"]([item]) == [1.0]\n'
    'assert not {"sympy", "math_verify", "jax", "numpy"} & set(sys.modules)'
  )
  subprocess.run([sys.executable, '-c', program], check=True)


def test_long_answers_are_never_parsed(monkeypatch):
  monkeypatch.setattr(symbolic, 'equal', lambda *_: pytest.fail('parsed'))
  for answer in ('1+' * 500_000 + '1', '\\boxed{' * 140_000, '{' * 1_000_000, '\\boxed{' + 'x' * 1_000_000 + '}'):
    assert score(answer, '1/2') == 0.0


def test_a_score_depends_on_its_item_alone():
  pairs = [('0.5', '1/2'), ('⑥', '6'), ('1/3', '1/2'), ('x', 'x'), ('7', '7')]
  items = [{'response': f'<answer>{a}</answer>', 'answer': g} for a, g in pairs]
  alone = [rewards.REWARDS['math']([item])[0] for item in items]
  assert rewards.REWARDS['math'](items) == alone == rewards.REWARDS['math'](items[::-1])[::-1]
  assert len(set(alone)) == 2


@pytest.mark.parametrize(
  'after',
  [
    ' The answer is 5 or 6',
    ' the answer is either 5 or 6',
    ' so the answer is not 5',
    ' the answer is x=6',
    ' The answer is \\text{6}',
    ' The answer should be 6',
    '\nAnswer = 6',
    ' the answer equals 6',
    '\n#### 6',
    ' 答案应该是6',
    ' \\boxed {6}',
    ' \\fbox{6}',
    ' Or 6',
    ' **or** 6',
    '\nor 6',
    ' or \\text{6}',
    ' or x=6',
    ' or rather 6',
  ],
)
def test_what_follows_an_answer_may_not_contradict_it(after):
  assert score('5', '5', '\\boxed{{}}') == 1.0
  assert score('5', '5', '\\boxed{{}}' + after) == 0.0


@pytest.mark.parametrize('answer', ['6x=5', 'x<6=5', r'n=6\Rightarrow n=5'])
def test_a_chain_that_says_something_else_is_wrong(answer):
  assert score(answer, '5', '\\boxed{{}}') == 0.0
