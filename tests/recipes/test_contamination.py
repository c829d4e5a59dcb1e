"""Evaluation problems are found despite changed spaces, case and punctuation, and other problems are not."""

import random

import numpy as np
import pytest

from r1jax.recipes import contamination, planted

ENGLISH = (
  'Natalia sold 48 clips to her friends in April, and then she sold half as many clips in May. '
  'How many clips did Natalia sell altogether in April and May?'
)
CHINESE = '一个班有48名学生，其中男生比女生多6人，老师又调来了3名女生。现在这个班的男生和女生各有多少人？'
SHORT = 'What is 12 + 5 - 3?'


@pytest.fixture(scope='module')
def index():
  return contamination.Index([('english', ENGLISH), ('chinese', CHINESE), ('short', SHORT)], 50, 0.5)


@pytest.mark.parametrize(
  ('text', 'folded'),
  [
    ('A  b\tC\n d', 'abcd'),
    ('It’s “odd”, isn’t it?!', 'itsoddisntit'),
    ('ＡＢＣ　１２', 'abc12'),
    ('芳芳 有 99 页，', '芳芳有99页'),
    ('12 + 5 − 3', '12+5-3'),
    ('12+5-3', '12+5-3'),
    ('3 × 4 ÷ 2', '3*4/2'),
    ('well-known and/or 5*', 'wellknownandor5'),
    ('soft\u00adhy\u200bphen', 'softhyphen'),
    ('a_b', 'ab'),
    ('', ''),
  ],
)
def test_fold_keeps_letters_digits_and_operators_between_numbers(text, folded):
  assert contamination.fold(text) == folded


@pytest.mark.parametrize(('alphabet', 'weight'), [('abc', 1), ('天地人', 4), ('a天b地', None)])
def test_windows_are_the_substrings_with_a_number_of_letters(alphabet, weight):
  """Compared with explicit sets of substrings: the same count, and the same overlap with another text."""
  dice = random.Random(0)

  def substrings(text, size):
    result = set()
    for start in range(len(text)):
      for end in range(start + 1, len(text) + 1):
        if sum(4 if c in '天地人' else 1 for c in text[start:end]) >= size:
          result.add(text[start:end])
          break
    return result

  for size in (1, 5, 12):
    first, second = (''.join(dice.choices(alphabet, k=60)) for _ in range(2))
    second += first[20:45]
    hashes = [contamination.windows(text, size) for text in (first, second)]
    expected = [substrings(text, size) for text in (first, second)]
    assert [len(h) for h in hashes] == [len(e) for e in expected]
    assert len(np.intersect1d(*hashes)) == len(expected[0] & expected[1]) > 0
    assert (np.diff(hashes[0].astype(object)) > 0).all()
  if weight:
    assert len(contamination.windows(alphabet[0] * 3, 3 * weight)) == 1
    assert len(contamination.windows(alphabet[0] * 3, 3 * weight + 1)) == 0


@pytest.mark.parametrize('number', range(len(planted._DISGUISES)))
@pytest.mark.parametrize(('name', 'text'), [('english', ENGLISH), ('chinese', CHINESE)])
def test_a_disguised_problem_is_found(index, name, text, number):
  disguised = planted._DISGUISES[number](text)
  assert index.find(disguised) == name
  assert index.find('The task of today is the following. ' + disguised + ' 谢谢你的回答。') == name


@pytest.mark.parametrize(
  ('text', 'name'),
  [
    (SHORT, 'short'),
    ('what is 12+5-3', 'short'),
    ('WHAT IS (12 + 5 – 3) ?', 'short'),
    ('What is 12 - 5 + 3?', None),
    ('What is 12 + 53?', None),
    ('First tell me: what is 12 + 5 - 3?', None),
    ('', None),
    ('?!', None),
  ],
)
def test_a_very_short_problem_is_only_found_as_a_whole_text(index, text, name):
  assert index.find(text) == name


DIVISORS = 'How many positive whole-number divisors does 196 have?'
SUM = 'Compute: $1-2+3-4+5- \\dots +99-100$.'
SQUARES = 'What is the value of $513^2 - 487^2$?'
ROOT = 'Simplify $\\sqrt{242}$.'
CHINESE_SHORT = '一个数的3倍比12大6，求这个数。'


@pytest.fixture(scope='module')
def short_index():
  return contamination.Index([(text, text) for text in (DIVISORS, SUM, SQUARES, ROOT, CHINESE_SHORT)], 50, 0.5)


@pytest.mark.parametrize('problem', [DIVISORS, SUM, SQUARES, ROOT, CHINESE_SHORT])
@pytest.mark.parametrize(
  'around',
  [
    'Solve this. {}',
    '{} Reason step by step.',
    '{}\nReason step by step.',
    'User: {}. Assistant:',
    '"{}"',
    '- {}',
    '<problem>{}</problem>',
    'Please answer the following question: {}\n\nPut it in a box.',
    'Tell me, {}',
    '题目：{}',
  ],
)
def test_a_short_problem_is_found_as_a_sentence(short_index, problem, around):
  assert short_index.find(around.format(problem)) == problem
  assert short_index.find(around.format(problem.upper().replace(' ', '  ').replace('$', ''))) == problem


@pytest.mark.parametrize(
  'text',
  [
    'How many positive whole-number divisors does 1962 have?',
    'Say how many positive whole-number divisors does 19 have.',
    'How many positive whole-number divisors does 196 have in common with 84?',
    'Of all: how many positive whole-number divisors does 196 have that are even?',
    'So compute: $1-2+3-4+5- \\dots +99-100+101$.',
    'Now compute: $1-2+3-4+5- \\dots +99-100.5$.',
    'What is the value of $513^2 - 487^2 + 1$?',
    'Well, what is the value of $513^2 - 4872$ here?',
    'Let me ask: what is the value of $513^2 - 487^2$ divided by 4?',
    'Simplify $\\sqrt{242} + 1$. Then stop.',
    'Simplify $\\sqrt{2420}$. Then stop.',
    '3 + simplify',
    '小明说：一个数的3倍比12大6，求这个数的2倍。',
  ],
)
def test_a_short_problem_that_continues_is_another_problem(short_index, text):
  assert short_index.find(text) is None


@pytest.mark.parametrize('problem', ['What is the area of the shaded region?', 'How many are left?', 'What is 2 + 2?'])
def test_an_unspecific_question_is_only_found_as_a_whole_text(problem):
  index = contamination.Index([('one', problem)], 50, 0.5)
  assert index.find(problem.lower()) == 'one' and index.find(f'It has sides 3 and 4. {problem}') is None


def test_every_problem_of_math500_is_found_inside_a_prompt_and_in_few_training_problems(data_dir):
  import gzip
  import json

  read = lambda name: [
    json.loads(line)['problem'] for line in (gzip.open if name.endswith('gz') else open)(data_dir / 'math' / name, 'rt')
  ]
  problems = read('math500.jsonl')
  index = contamination.Index(enumerate(problems), 50, 0.5)
  assert None not in [index.find(f'Solve this. {problem} Reason step by step.') for problem in problems]
  assert sum(index.find(problem) is not None for problem in read('math_train.jsonl.gz')) == 20


def test_part_of_a_problem_is_found_from_its_share_on(index):
  assert index.find(ENGLISH[:110]) == 'english' and index.find(CHINESE[:36]) == 'chinese'
  assert index.find(ENGLISH[:75]) is None and index.find(CHINESE[:18]) is None
  strict = contamination.Index([('english', ENGLISH)], 50, 1.0)
  assert strict.find(ENGLISH) == 'english' and strict.find(ENGLISH[:110]) is None


def test_other_problems_of_the_same_template_are_not_found():
  dice = random.Random(3)
  problems = [planted.problem(dice, ('en', 'zh')[n % 2])[0] for n in range(300)]
  index = contamination.Index(enumerate(problems[:100]), 50, 0.5)
  assert [index.find(text) for text in problems[100:]] == [None] * 200
  assert [index.find(text) for text in problems[:100]] == list(range(100))


def test_problems_that_fold_to_the_same_text_are_one():
  index = contamination.Index([('first', ENGLISH), ('second', ENGLISH.upper()), ('empty', '...')], 50, 0.5)
  assert index.find(ENGLISH) == 'first' and index.names == ['first']
  assert contamination.Index([], 50, 0.5).find(ENGLISH) is None


def test_knights_and_knaves_share_a_beginning_and_are_not_contaminated(data_dir):
  """All 4,500 begin with the same two sentences as the held-out ones: a rule of one common window would drop all."""
  import gzip
  import json

  read = lambda name, start: [json.loads(line)['problem'] for line in start(data_dir / 'logic' / name, 'rt')]
  index = contamination.Index(enumerate(read('knights_knaves_test.jsonl', open)), 50, 0.5)
  assert not any(map(index.find, read('knights_knaves_train.jsonl.gz', gzip.open)[::10]))
