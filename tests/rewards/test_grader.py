"""The worker processes: limits, deaths, order. The verifiers are in a module of their own, like those of a user."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from r1jax import config
from r1jax.rewards.coding import sandbox
from r1jax.rewards.workers import pool
from tests.rewards import sandboxed

VERIFIERS = '''
import os, pathlib, signal, sys, time
from r1jax.config import ConfigError
HERE = pathlib.Path(__file__).parent

def length(items):
  return [float(len(i['response'])) for i in items]

def options(items, *, factor=1.0):
  if factor < 0:
    raise ConfigError(f'factor is {factor}')
  return [factor * len(i['response']) for i in items]

def pid(items):
  return [float(os.getpid()) for i in items]

def heavy(items):
  return [float(bool({'sympy', 'jax', 'numpy', 'math_verify'} & set(sys.modules))) for i in items]

def act(items):
  """Does what the response says; else scores 1."""
  what = items[0]['response']
  if what == 'hang':
    HERE.joinpath('hanging').write_text(str(os.getpid()))
    while True:
      pass
  if what.startswith('sleep'):
    time.sleep(float(what.split()[1]))
  if what == 'hang in C':
    9 ** 9 ** 9
  if what == 'die once':
    once = HERE / items[0]['problem']
    if not once.exists():
      once.touch()
      os.kill(os.getpid(), signal.SIGKILL)
  if what == 'die':
    os.kill(os.getpid(), signal.SIGKILL)
  if what == 'memory':
    bytearray(1 << 40)
  if what == 'nan':
    return [float('nan')]
  if what == 'raise':
    raise KeyError('no such thing')
  return [1.0]
'''

BROKEN = """
import os, signal, sys
if sys.argv[0].endswith('worker.py'):
  {}
def score(items):
  return [1.0 for i in items]
"""


@pytest.fixture
def verifiers(tmp_path, monkeypatch):
  """Makes `verifiers:...` importable here and in the workers, for one test."""
  (tmp_path / 'verifiers.py').write_text(VERIFIERS)
  monkeypatch.syspath_prepend(tmp_path)
  yield tmp_path
  for name in ('verifiers', 'broken'):
    sys.modules.pop(name, None)


def grader(*names, workers=1, timeout=30.0):
  return pool.Grader({name: {} for name in names}, workers, timeout)


def total(scores):
  return sum(scores.parts.values())


def items(*responses):
  return [{'prompt': '', 'response': r, 'problem': f'p{i}', 'answer': '1'} for i, r in enumerate(responses)]


def has_ended(pid):
  """Whether the process ends within 30 s; a zombie, which only its parent can reap, counts as ended."""
  for _ in range(300):
    try:
      if pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] == 'Z':
        return True
    except (FileNotFoundError, ProcessLookupError):
      return True
    time.sleep(0.1)
  return False


def test_each_part_has_its_scores(verifiers):
  good = '<think>a</think><answer>+3</answer>'
  batch = [dict(i, answer='30 ?3 = 33') for i in items(good, good + '.', '<answer>-3</answer>')]
  with grader('signs', 'format', 'verifiers:length') as g:
    scores = g.submit(batch).result()
    assert g.submit([]).result().parts['signs'].shape == (0,)
  assert scores.parts['signs'].tolist() == [1, 1, 0]
  assert scores.parts['format'].tolist() == [1, 0, 0]
  assert scores.parts['verifiers:length'].tolist() == [len(i['response']) for i in batch]
  assert scores.parts['signs'].dtype == np.float32
  assert scores.timeouts == 0 and scores.seconds > 0


def test_options_reach_the_reward(verifiers):
  with pool.Grader({'verifiers:options': {'factor': 2.5}}) as g:
    assert g.submit(items('a', 'bbb')).result().parts['verifiers:options'].tolist() == [2.5, 7.5]
  for options, message in (
    ({'facto': 1.0}, "has no option 'facto'; the nearest known one is 'factor'"),
    ({'factor': -1.0}, 'factor is -1.0'),
  ):
    with pytest.raises(config.ConfigError, match=message):
      pool.Grader({'verifiers:options': options})
  with pytest.raises(config.ConfigError, match="verifiers:length.* no option 'x'"):
    pool.Grader({'verifiers:length': {'x': 1}})


def test_a_score_that_is_no_number_is_reported(verifiers):
  with grader('verifiers:act') as g, pytest.raises(pool.GradeError, match="'verifiers:act'.* nan;"):
    g.submit(items('a', 'nan')).result()


def test_several_submissions_over_several_workers_keep_their_order(verifiers):
  rng = np.random.default_rng(0)
  batches = [items(*('x' * n for n in rng.integers(0, 50, size))) for size in (1, 2, 300, 65, 64)]
  with grader('verifiers:length', workers=2) as g:
    futures = [g.submit(b) for b in batches]
    for batch, future in zip(batches, futures, strict=True):
      assert total(future.result()).tolist() == [len(i['response']) for i in batch]


def test_workers_import_only_what_their_parts_need(verifiers):
  with grader('format', 'signs', 'verifiers:heavy') as g:
    assert g.submit([dict(i, answer='3 ?3 = 6') for i in items('a')]).result().parts['verifiers:heavy'].tolist() == [0]


@pytest.mark.parametrize('what', ['hang', 'hang in C'])
def test_a_hanging_verifier_is_killed_scored_zero_and_counted(verifiers, what):
  responses = ['a', what, 'bb', 'ccc', what, 'd']
  with grader('verifiers:length', 'verifiers:act', timeout=0.7) as g:
    scores = g.submit(items(*responses)).result()
    assert scores.timeouts == 2
    assert scores.parts['verifiers:length'].tolist() == [1, 0, 2, 3, 0, 1]  # nothing of a hung item counts
    assert total(scores).tolist() == [2, 0, 3, 4, 0, 2]
    again = g.submit(items('a')).result()
    assert (total(again).tolist(), again.timeouts) == ([2.0], 0)
  assert scores.verdicts['verifiers:act'][1]['reason'] == 'given up after 0.7 s of processor time'
  if what == 'hang':
    assert has_ended(int((verifiers / 'hanging').read_text()))


def test_waiting_is_not_counted_but_for_the_guard_of_the_clock(verifiers):
  """A worker that gets no processor time also waits."""
  with grader('verifiers:act', timeout=0.05) as g:
    scores = g.submit(items('sleep 0.3', 'sleep 60', 'a')).result()
  assert (total(scores).tolist(), scores.timeouts) == ([1.0, 0.0, 1.0], 1)
  assert scores.verdicts['verifiers:act'][1]['reason'] == f'given up after {0.05 * sandbox.PATIENCE:g} s by the clock'


@sandboxed.NEEDED
def test_programs_in_sandboxes_use_an_items_time():
  slow = 'import time\nwhile time.process_time() < 0.2: pass\nprint(1)'
  short, long = ({'prompt': '', 'program': slow, 'io': [{'input': '', 'output': '1'}] * n} for n in (1, 60))
  with pool.Grader({'code': {'time_limit': 0.9}}, timeout=1.0) as g:
    scores = g.submit([short, long, short]).result()
  assert scores.parts['code'].tolist() == [1, 0, 1] and scores.timeouts == 1
  assert 'processor time' in scores.verdicts['code'][1]['reason']


def test_kill_9_in_the_middle_of_a_batch_loses_no_verdict(verifiers):
  responses = ['a', 'b', 'die once', 'c', 'die once', 'die once', 'd']
  with grader('verifiers:length', 'verifiers:act') as g:
    scores = g.submit(items(*responses)).result()
  assert total(scores).tolist() == [len(r) + 1 for r in responses]
  assert scores.timeouts == 0


def test_an_item_that_kills_two_workers_is_given_up(verifiers):
  with grader('verifiers:act') as g:
    scores = g.submit(items('a', 'die', 'b', 'die')).result()
  assert total(scores).tolist() == [1, 0, 1, 0]
  assert scores.timeouts == 2


def test_kill_9_between_submissions_goes_unnoticed(verifiers):
  with grader('verifiers:pid') as g:
    before = total(g.submit(items('a')).result())[0]
    os.kill(int(before), signal.SIGKILL)
    assert has_ended(int(before))
    after = g.submit(items('a', 'b')).result()
  assert (total(after) != before).all() and total(after)[0] == total(after)[1]
  assert after.timeouts == 0


@pytest.mark.slow
def test_nothing_depends_on_order_or_on_the_number_of_workers(verifiers):
  responses = ['a', 'bb', 'die once', 'die', '<think>a</think><answer>1</answer>'] * 3 + ['x' * n for n in range(80)]
  batch = items(*responses)
  order = np.random.default_rng(1).permutation(len(batch))
  parts = 'format', 'verifiers:length', 'verifiers:act'
  with grader(*parts) as g:
    one = g.submit(batch).result()
  for path in verifiers.glob('p*'):
    path.unlink()
  with grader(*parts, workers=2) as g:
    two = g.submit([batch[i] for i in order]).result()
  assert one.timeouts == two.timeouts == 3
  np.testing.assert_array_equal(total(one)[order], total(two))
  for name in parts:
    np.testing.assert_array_equal(one.parts[name][order], two.parts[name])


@pytest.mark.slow
def test_sympy_blow_ups_score_zero_within_the_limit_and_spare_the_others():
  answers = ['1/2', '9^{9^{9^{9}}}', '0.5', '9**9**9**9', '(10^{8})!', r'\frac{2}{4}', '7', r'\boxed{\frac12}']
  batch = [dict(i, answer='1/2') for i in items(*(f'<answer>{a}</answer>' for a in answers))]
  with grader('math', timeout=2.0) as g:
    scores = g.submit(batch).result()
  assert total(scores).tolist() == [1, 0, 1, 0, 0, 1, 0, 1]
  assert scores.timeouts >= 1


def test_a_reward_that_raises_is_reported_and_the_worker_goes_on(verifiers):
  with grader('verifiers:act') as g:
    with pytest.raises(pool.GradeError, match=r"raised KeyError: 'no such thing' \(item 1 "):
      g.submit(items('a', 'raise', 'b')).result()
    scores = g.submit(items('a', 'memory', 'b')).result()  # costs the item alone
    assert (total(scores).tolist(), scores.timeouts) == ([1.0, 0.0, 1.0], 1)
    assert total(g.submit(items('a')).result()).tolist() == [1.0]


@pytest.mark.parametrize(
  ('body', 'message'), [('sys.exit(3)', 'code 3'), ('os.kill(os.getpid(), 9)', '3 reward workers')]
)
def test_workers_that_cannot_start_stop_the_run(verifiers, body, message):
  (verifiers / 'broken.py').write_text(BROKEN.format(body))
  with grader('broken:score') as g, pytest.raises(pool.GradeError, match=message):
    g.submit(items('a')).result()


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('maths', "unknown reward 'maths'; the nearest known one is 'math'"),
    ('verifiers:none', "'verifiers:none' cannot be imported"),
    ('no_such_module:score', "'no_such_module:score' cannot be imported"),
    (':score', "':score' cannot be imported"),
  ],
)
def test_an_unknown_part_is_refused_at_once(verifiers, name, message):
  with pytest.raises(config.ConfigError, match=message):
    grader(name)


def test_closing_ends_the_workers_and_fails_what_is_pending(verifiers):
  g = grader('verifiers:act')
  future = g.submit(items('hang'))
  while not (verifiers / 'hanging').exists() or not (verifiers / 'hanging').read_text():
    time.sleep(0.05)
  g.close()
  with pytest.raises(pool.GradeError, match='closed'):
    future.result()
  assert has_ended(int((verifiers / 'hanging').read_text()))
  with pytest.raises(pool.GradeError, match='closed'):
    g.submit(items('a'))


@pytest.mark.slow
def test_workers_do_not_outlive_a_parent_that_is_killed(verifiers):
  program = (
    'from r1jax.rewards.workers import pool\n'
    "g = pool.Grader({'verifiers:act': {}, 'verifiers:pid': {}}, workers=2, timeout=3.0)\n"
    "item = {'prompt': '', 'response': 'a', 'problem': 'p', 'answer': '1'}\n"
    "idle = g.submit([item]).result().parts['verifiers:pid'][0]\n"
    "g.submit([dict(item, response='hang')])\nprint(int(idle), flush=True)\ninput()"
  )
  env = dict(os.environ, PYTHONPATH=os.pathsep.join(p or os.getcwd() for p in sys.path))
  parent = subprocess.Popen([sys.executable, '-c', program], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
  idle = int(parent.stdout.readline())
  while not (verifiers / 'hanging').exists() or not (verifiers / 'hanging').read_text():
    time.sleep(0.05)
  parent.kill()
  parent.communicate()
  assert has_ended(idle) and has_ended(int((verifiers / 'hanging').read_text()))


@pytest.mark.parametrize(
  'options',
  [
    {'timeout': float('inf')},
    {'timeout': float('nan')},
    {'timeout': -3.0},
    {'timeout': 1e-9},
    {'workers': 0},
    {'workers': 100_000},
    {'workers': 1.5},
  ],
)
def test_limits_out_of_range_are_refused(options):
  with pytest.raises(config.ConfigError, match='timeout is|workers is'):
    grader('format', **options)


def test_an_item_without_what_a_reward_reads_is_named():
  with grader('math') as g:
    bare = {'response': '<answer>5</answer>'}
    for item, message in (
      (bare, "no 'answer'.* 'math'"),
      ({'response': 5, 'answer': '5'}, "'response' is '5'"),
      ({'response': '<answer>None</answer>', 'answer': None}, "'answer' is 'None'"),
    ):
      with pytest.raises(pool.GradeError, match=message) as error:
        g.submit([{'prompt': '', 'response': '', 'answer': '1'}, item]).result()
      assert 'item 1 ' in str(error.value)
