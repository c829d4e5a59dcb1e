"""Multiple choice and exact match."""

import gzip
import json

import pytest

from r1jax import rewards
from r1jax.config import ConfigError

OPTIONS = ['0', r'$\frac{1}{2}$', 'True, False', 'the  Nile', 'the Nile']


def choice(answer, gold='C', wrap='<think>A</think><answer>{}</answer>', **options):
  return rewards.REWARDS['choice']([{'response': wrap.replace('{}', answer), 'answer': gold}], **options)[0]


@pytest.mark.parametrize(
  'answer',
  [
    'C',
    'c',
    ' C ',
    'C.',
    '(C)',
    '(C).',
    'C)',
    '[C]',
    '$C$',
    '**C**',
    r'\text{C}',
    r'\text{(C)}',
    r'\textbf{(C)}',
    r'(\text{C})',
    r'\boxed{C}',
    r'\boxed{\text{(C)}}',
    'Option C',
    'option (C)',
    'The answer is C.',
    'the answer is (C)',
    'Answer: C',
    'The final answer is $C$.',
    '答案是C',
    '答案：C',
    '答案为Ｃ',
    '选C',
    '故选：C',
    '选项C',
    '（C）',
  ],
)
def test_one_letter_however_it_is_written(answer):
  assert choice(answer) == 1.0
  assert choice(answer, 'D') == choice(answer, 'A') == 0.0


@pytest.mark.parametrize(
  'answer',
  [
    '',
    'B',
    'ABCD',
    'B or C',
    'C or D',
    'A, B, C',
    'C, D',
    'A B C',
    '(B)(C)',
    'not C',
    'C?D',
    'CC',
    'C is wrong, so D',
    'the answer is C or D',
    'A-J',
    'any',
    'K',
    '3',
    'C. or D.',
    r'\boxed{C} or D',
    r'\boxed{B}, \boxed{C}',
    '选B或C',
    '©',
    'С',
  ],
)
def test_anything_but_one_letter_is_wrong(answer):
  assert choice(answer) == 0.0


@pytest.mark.parametrize(
  ('wrap', 'score'),
  [
    (r'<think>t</think>So \boxed{{}}.', 1),
    (r'<think>\boxed{{}}</think>', 0),
    ('<think>t</think>{}', 0),
    (r'<answer>A</answer><answer>{}</answer>', 1),
    (r'<answer>{}</answer> No, the answer is (A).', 0),
    (r'<answer>{}</answer>\boxed{A}', 0),
    (r'\boxed{{}}. The answer is C.', 1),
  ],
)
def test_where_it_is_looked_for(wrap, score):
  assert choice('C', wrap=wrap) == score


def test_the_summary_by_option():
  assert choice('The answer is C.', wrap='<think>A</think>{}', where='summary') == 1.0
  assert choice('It is A. The answer is C.', wrap='<think>A</think>{}', where='summary') == 0.0


@pytest.mark.parametrize(
  ('answer', 'gold', 'score'),
  [
    ('0', 'A', 1),
    (r'\frac{1}{2}', 'B', 1),
    (r'\dfrac{1}{2}', 'B', 1),
    ('true,  false', 'C', 1),
    ('True', 'C', 0),
    ('B. \\frac{1}{2}', 'B', 1),
    ('(B) $\\frac{1}{2}$', 'B', 1),
    ('B. 0', 'B', 0),
    ('B. 0', 'A', 0),
    ('B) C', 'B', 0),
    ('the Nile', 'D', 0),
    ('the Nile', 'E', 0),  # two options have this text
    ('D', 'D', 1),
    ('0, \\frac{1}{2}', 'A', 0),
  ],
)
def test_the_text_of_an_option_counts_too(answer, gold, score):
  for options in (OPTIONS, dict(zip('ABCDE', OPTIONS, strict=True))):
    item = {'response': f'<answer>{answer}</answer>', 'answer': gold, 'options': options}
    assert rewards.REWARDS['choice']([item]) == [score]


def test_mmlu_in_every_way(data_dir):
  with gzip.open(data_dir / 'knowledge' / 'mmlu_test.jsonl.gz', 'rt') as file:
    table = [json.loads(line) for line in file][:2000]
  for row in table:
    gold, options = row['answer'], row['options']
    text = options['ABCD'.index(gold)]
    ways = [gold, f'({gold})', f'{gold}. {text}'] if '<' not in text and '\\boxed' not in text else [gold]
    for way in ways:
      for letter in 'ABCD':
        item = {'response': f'<answer>{way}</answer>', 'answer': letter, 'options': options}
        assert rewards.REWARDS['choice']([item]) == [float(letter == gold)], (row['id'], way, letter)


@pytest.mark.parametrize('wrap', ['<answer>{}</answer>', '\\boxed{{}}'])
def test_several_letters(wrap):
  for gold in ('AD', 'DA', 'A D', 'A, D'):
    for answer in ('AD', 'DA', 'A, D', 'A and D', '(A)(D)', 'A、D', '(D), (A).', '\\text{AD}', 'A;D', '选AD'):
      assert choice(answer, gold, wrap) == 1, answer
    for answer in ('A', 'D', 'ABD', 'AC', 'AAD', 'A not D', 'B', ''):
      assert choice(answer, gold, wrap) == 0, answer
  assert choice('A}, \\boxed{D', 'AD', '\\boxed{{}}') == 1 and choice('AD', 'A', wrap) == 0
  item = {'response': wrap.replace('{}', 'D, A'), 'answer': 'AD', 'options': ['p', 'q', 'r', 's']}
  assert rewards.VERDICTS['choice'](item)['score'] == 1 and rewards.VOTES['choice'](item) == 'AD'
  assert rewards.VOTES['choice'](item | {'answer': 'A'}) is None


@pytest.mark.parametrize(
  ('item', 'message'),
  [
    ({'answer': '42'}, "'answer' is '42'"),
    ({'answer': 'AK'}, "'answer' is 'AK'"),
    ({'answer': 'AA'}, "'answer' is 'AA'"),
    ({'answer': ''}, "'answer' is ''"),
    ({'answer': 'D', 'options': ['a', 'b']}, "'answer' is 'D'.* options A, B"),
  ],
)
def test_a_reference_that_is_no_letter_is_named(item, message):
  with pytest.raises(ValueError, match=message):
    rewards.REWARDS['choice']([dict(item, response='<answer>A</answer>')])


@pytest.mark.parametrize(
  ('answer', 'gold', 'options', 'score'),
  [
    ('New York', 'new  york', {}, 1),
    ('New York', 'new york', {'case': True}, 0),
    (' New York\n', 'New York', {'case': True}, 1),
    ('New  York', 'New York', {'space': True}, 0),
    ('New York.', 'New York', {}, 0),
    ('42', 42, {}, 1),
    ('42.0', '42', {}, 0),
    ('straße', 'STRASSE', {}, 1),
    ('', 'x', {}, 0),
    ('x or y', 'x', {}, 0),
  ],
)
def test_exact(answer, gold, options, score):
  item = {'response': f'<think>x</think><answer>{answer}</answer>', 'answer': gold}
  assert rewards.REWARDS['exact']([item], **options) == [score]
  assert rewards.REWARDS['exact']([dict(item, response=answer)], where='summary', **options) == [score]


def test_options_are_checked():
  for name, options, message in (
    ('choice', {'where': 'x'}, 'where'),
    ('exact', {'case': 1}, 'case is 1'),
    ('exact', {'space': None}, 'space is None'),
    ('exact', {'where': 'x'}, 'summary'),
  ):
    with pytest.raises(ConfigError, match=message):
      rewards.REWARDS[name]([], **options)
