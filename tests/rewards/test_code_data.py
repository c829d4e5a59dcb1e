"""The code reward on HumanEval, MBPP and contest problems."""

import ast
import concurrent.futures
import gzip
import json
import random
import shutil
import subprocess

import pytest

from r1jax.rewards.coding import bubblewrap, code_tests, programs
from tests.rewards import sandboxed

pytestmark = sandboxed.NEEDED


def rows(data_dir, name):
  opened = gzip.open if name.endswith('.gz') else open
  with opened(data_dir / 'code' / name, 'rt') as file:
    return {row['id']: row for row in map(json.loads, file)}


def functions(data_dir):
  """The items of HumanEval and MBPP with their canonical solutions: id -> item."""
  items = {
    name: {
      'program': r['prompt'] + r['canonical_solution'],
      'prompt': r['prompt'],
      'test': r['test'],
      'entry_point': r['entry_point'],
    }
    for name, r in rows(data_dir, 'humaneval.jsonl').items()
  }
  for name, r in rows(data_dir, 'mbpp.jsonl').items():
    if name not in ('mbpp/367', 'mbpp/927'):  # known to fail their own tests if the setup comes first
      items[name] = {'program': r['code'], 'asserts': r['tests'], 'setup': r['setup']}
  return items


def beside(function, items, at_once=2):
  with concurrent.futures.ThreadPoolExecutor(at_once) as threads:
    return list(threads.map(function, items))


@pytest.mark.slow
def test_canonical_solutions_pass(data_dir):
  items = functions(data_dir)
  verdicts = beside(lambda item: code_tests.verdict(item, time_limit=20), items.values())
  assert len(verdicts) == 164 + 972
  assert {i: v['reason'] for i, v in zip(items, verdicts) if v['score'] != 1} == {}


FLIPS = {ast.Lt: ast.GtE, ast.Gt: ast.LtE, ast.LtE: ast.Gt, ast.GtE: ast.Lt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}


def mutants(source):
  """Copies with one constant increased by one, one comparison reversed, or one result replaced by None."""
  for i in range(len(list(ast.walk(ast.parse(source))))):
    tree = ast.parse(source)
    node = list(ast.walk(tree))[i]
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
      node.value += 1
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in FLIPS:
      node.ops[0] = FLIPS[type(node.ops[0])]()
    elif isinstance(node, ast.Return) and node.value is not None:
      node.value = ast.Constant(None)
    else:
      continue
    yield ast.unparse(tree)


def plain(item):
  """Whether the program passes if it and its tests are a single script, as the authors of the data run them."""
  tests = [item['test'], f'check({item["entry_point"]})'] if 'test' in item else [item['setup'], *item['asserts']]
  script = '\n'.join([item['program'], *tests, 'print("passed")'])
  command = [bubblewrap.python(), *programs.PYTHON_FLAGS, '-c', script]
  try:
    done = subprocess.run(
      command, capture_output=True, stdin=subprocess.DEVNULL, timeout=10, env={'PYTHONHASHSEED': '0'}
    )
  except subprocess.TimeoutExpired:
    return False
  return done.stdout.endswith(b'passed\n')


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')  # of the compiler, on the programs' text
def test_mutants_fail_wherever_a_test_can_tell(data_dir):
  items = {}
  for name, item in functions(data_dir).items():
    copies = list(mutants(item['program']))
    items[name] = dict(item, program=copies[random.Random(name).randrange(len(copies))])
  verdicts = beside(lambda item: (plain(item), bool(code_tests.verdict(item)['score'])), items.values())
  results = [(name, *verdict) for name, verdict in zip(items, verdicts)]
  # In this one the mutation is in a helper of the prompt, of which the test has its own copy.
  assert [name for name, expected, got in results if expected != got] == ['HumanEval/50']
  assert sum(not expected for _, expected, _ in results) > 900


CONTESTS = sandboxed.read('contests')


@pytest.mark.slow
@pytest.mark.parametrize('heading', list(CONTESTS))
def test_items_of_contests_by_stdin_and_stdout(data_dir, heading):
  name, language = sandboxed.language(heading)
  if not all(shutil.which(tool) for tool in programs.LANGUAGES[language].tools):
    pytest.skip(f'no compiler of {language} here')
  file = 'codeforces.jsonl' if name.startswith('codeforces') else 'code_contests_test.jsonl.gz'
  tests = rows(data_dir, file)[name]['tests']
  right, wrong = [
    code_tests.verdict({'io': tests, 'language': language, 'program': program})
    for program in (CONTESTS[heading].replace('STEP', step) for step in '12')
  ]
  assert (right['passed'], right['total'], right['reason']) == (len(tests), len(tests), '')
  assert wrong['score'] == 0
