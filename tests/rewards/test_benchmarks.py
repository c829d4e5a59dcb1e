"""Public evaluation sets: every row can be graded, its reference is right, and another problem's reference is wrong."""

import re

import pytest

from r1jax.rewards.coding import code_tests
from r1jax.rewards.workers import pool
from tests.rewards import sandboxed
from tests.rewards.benchmarks import RESPONSES, load, task

# Rows, and how many of them no reward can grade: one of APPS has an argument of several lines.
ROWS = {
  'gsm8k': (1319, 0),
  'math500': (500, 0),
  'aime_2024': (30, 0),
  'aime_2025': (30, 0),
  'amc_2023': (40, 0),
  'olympiadbench': (675, 0),
  'cmath': (600, 0),
  'cn_middle_school': (101, 0),
  'gaokao_2024': (89, 0),
  'gaokao_cloze': (118, 0),
  'gaokao_choice': (351, 0),
  'mgsm': (2750, 0),
  'mmlu': (14042, 0),
  'mmlu_pro': (12032, 0),
  'knights': (500, 0),
  'ifeval': (541, 0),
  'humaneval': (164, 0),
  'mbpp': (500, 0),
  'code_contests': (165, 0),
  'codeforces': (408, 0),
  'apps': (127, 1),
  'harm_refused': (1000, 0),
}
SLOW = ('mmlu', 'mmlu_pro', 'gsm8k', 'math500', 'olympiadbench', 'mgsm', 'cmath', 'apps', 'code_contests', 'codeforces')
RULES = [name for name, response in RESPONSES.items() if response and task(name).grader != 'code']


def marked(names):
  return [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in names]


@pytest.fixture(scope='module')
def grader():
  parts = {name: task(name).options | ({'where': 'boxed'} if name == 'math500' else {}) for name in RULES}
  with pool.Grader(parts, 2, functions={name: task(name).grader for name in RULES}) as grader:
    yield grader


def verdicts(grader, name, problems, responses):
  items = [p | {'prompt': '', 'response': response} for p, response in zip(problems, responses, strict=True)]
  return grader.submit(items, [[name]] * len(items)).result().verdicts[name]


@pytest.mark.parametrize('name', marked(RESPONSES))
def test_every_row_can_be_graded(data_dir, name):
  problems, malformed = load(name, data_dir)
  assert (len(problems), malformed) == ROWS[name]
  assert len({p['id'] for p in problems}) == len(problems) and all(p['problem'].strip() for p in problems)


@pytest.mark.parametrize('name', marked(RULES))
def test_references_are_right_and_those_of_other_problems_wrong(data_dir, grader, name):
  problems, _ = load(name, data_dir)
  problems = problems[:2000]
  responses = list(map(RESPONSES[name], problems))
  wrong = {
    p['id']: v['reason'] for p, v in zip(problems, verdicts(grader, name, problems, responses)) if v['score'] != 1
  }
  assert wrong == {}
  others = problems[1:] + problems[:1]
  results = verdicts(grader, name, problems, responses[1:] + responses[:1])
  equal = [p['answer'] == other['answer'] for p, other in zip(problems, others)]
  found = [v['score'] for v, same in zip(results, equal) if not same]
  assert sum(found) / len(found) < 0.01, [
    (p['answer'], o['answer']) for p, o, v, e in zip(problems, others, results, equal) if v['score'] == 1 and not e
  ]


def entries(text):
  """The parts of a text between commas and semicolons outside all brackets."""
  depth, out = 0, ['']
  for character in text:
    depth += (character in '([{') - (character in ')]}')
    if character in ',;' and depth == 0:
      out.append('')
    else:
      out[-1] += character
  return [entry.strip() for entry in out]


def forms(problem):
  """The reference answer as a model may write it."""
  answer = problem['answer'].replace('$', '')
  yield f'$\\boxed{{{answer}}}$'
  yield '$\\boxed{' + answer.replace('\\frac', '\\dfrac') + '}$'
  yield f'$\\boxed{{{re.sub(r"(?<![A-Za-z]) +| +(?![A-Za-z])", "", answer)}}}$'
  if problem.get('unit'):
    yield f'$\\boxed{{{answer}{problem["unit"]}}}$'
  listed = entries(answer)
  if len(listed) > 1:
    yield ' and '.join(f'$\\boxed{{{entry}}}$' for entry in listed)
    yield '$\\boxed{' + ', '.join(listed) + '}$'
    if not re.search('[\u4e00-\u9fff]', answer):
      yield '$\\boxed{' + ' \\text{ and } '.join(listed) + '}$'
    if problem.get('multiple'):
      yield f'$\\boxed{{{", ".join(listed[::-1])}}}$'
  elif re.match(r'[A-Za-z]_?\{?[^=]{0,12}\}? ?= ?', answer):
    yield f'$\\boxed{{{answer.split("=", 1)[1]}}}$'


@pytest.mark.slow
@pytest.mark.parametrize('name', ['olympiadbench', 'gaokao_cloze', 'gaokao_2024', 'cn_middle_school'])
def test_answers_in_other_forms_are_right(data_dir, grader, name):
  problems, _ = load(name, data_dir)
  rows = [(p, form) for p in problems for form in forms(p)]
  found = verdicts(grader, name, *zip(*rows))
  wrong = [(p['id'], form, v['reason']) for (p, form), v in zip(rows, found) if v['score'] != 1]
  # The first answer is a sentence with formulas in it, which makes no sense backwards.
  assert [row for row in wrong if row[0] != 'olympiadbench/1965'] == [] and len(wrong) <= 1


@pytest.mark.slow
@sandboxed.NEEDED
@pytest.mark.parametrize('name', ['humaneval', 'mbpp'])
def test_canonical_programs_in_responses(data_dir, name):
  """A sample; test_code_data has all programs."""
  problems = load(name, data_dir)[0][:16]
  responses = list(map(RESPONSES[name], problems))
  score = lambda p, response: code_tests.verdict(p | {'prompt': '', 'response': response}, time_limit=20)['score']
  assert [p['id'] for p, response in zip(problems, responses) if score(p, response) != 1] == []
  assert sum(map(score, problems, responses[1:] + responses[:1])) == 0


# Solutions of ours to two of APPS' calls and one contest, and a way to spoil each.
PROGRAMS = {
  ('apps', 'apps/4724'): (
    "def drop_cap(s):\n  return ' '.join(w.capitalize() if len(w) > 2 else w for w in s.split(' '))",
    '> 2',
    '> 3',
  ),
  ('apps', 'apps/4561'): (
    'def solve(st):\n  return all(ord(x) - ord(y) in (-2, 0, 2) for x, y in zip(st, st[::-1]))',
    'return all',
    'return not all',
  ),
  ('codeforces', 'codeforces/0'): (
    'for _ in range(int(input())):\n  print(*sorted(map(int, input().split())))',
    'sorted',
    'list',
  ),
}


@pytest.mark.slow
@sandboxed.NEEDED
@pytest.mark.parametrize(('name', 'row'), list(PROGRAMS))
def test_programs_for_calls_and_contests(data_dir, name, row):
  (problem,) = [p for p in load(name, data_dir)[0] if p['id'] == row]
  program, old, new = PROGRAMS[name, row]
  for text, score in ((program, 1), (program.replace(old, new), 0)):
    item = problem | {'prompt': '', 'response': f'<think>Hm.</think>\n```python\n{text}\n```'}
    assert code_tests.verdict(item)['score'] == score
