"""The command that grades rows: order, fields, invalid input."""

import io
import json
import subprocess
import sys

import pytest

from r1jax.config import ConfigError
from r1jax.rewards import grade


def run(name, *lines, options=None, workers=2):
  out = io.StringIO()
  grade.grade(name, lines, out, options or {}, workers, timeout=30.0)
  return [json.loads(line) for line in out.getvalue().splitlines()]


def test_rows_come_back_in_their_order():
  rows = [{'gold': '3', 'pred': str(i % 5)} for i in range(500)]
  verdicts = run('math', *(json.dumps(row) for row in rows))
  assert [v['score'] for v in verdicts] == [float(i % 5 == 3) for i in range(500)]
  assert verdicts[3]['extracted'] == '3' and all(isinstance(v['reason'], str) for v in verdicts)


def test_an_answer_is_bare_or_in_a_response():
  preds = ['1/2', '<think>1/3</think><answer>0.5</answer>', 'so it is \\boxed{\\frac12}.', '<think>1/2</think>', '1/3']
  assert [v['score'] for v in run('math', *(json.dumps({'gold': '0.5', 'pred': p}) for p in preds))] == [1, 1, 1, 0, 0]


def test_options_and_other_rewards():
  row = json.dumps({'response': '<think>a</think><answer>b</answer>'})
  assert run('format', row, '', row)[1]['score'] == 1.0
  with pytest.raises(ConfigError, match="has no option 'wher'; the nearest known one is 'where'"):
    run('math', options={'wher': 1})


@pytest.mark.parametrize(
  ('line', 'message'),
  [
    ('{"gold": 1', 'line 2 .*JSON'),
    ('[1]', 'line 2 must be an object with gold, pred'),
    ('{"gold": "1"}', 'line 2 .* no pred'),
    ('[' * 100_000, 'line 2 .*JSON'),
  ],
)
def test_a_bad_line_is_named(line, message):
  with pytest.raises(ConfigError, match=message):
    run('math', '{"gold": "1", "pred": "1"}', line)


def test_the_command():
  def command(*args, text):
    return subprocess.run(
      [sys.executable, '-m', 'r1jax.rewards.grade', *args], input=text, capture_output=True, text=True
    )

  done = command('format', text='{"response": "<think>a</think><answer>b</answer>"}\n')
  assert (done.returncode, json.loads(done.stdout)['score']) == (0, 1.0), done.stderr
  done = command('formt', text='')
  assert done.returncode == 1 and done.stderr.startswith("error: unknown reward 'formt'"), done.stderr
  done = command('format', text='{"response"\n')
  assert done.returncode == 1 and done.stderr.startswith('error: line 1 ') and done.stderr.count('\n') == 1


def test_gold_and_pred_take_precedence_over_answer_and_response():
  rows = [{'gold': '5', 'pred': '6', 'answer': '6'}, {'gold': '5', 'pred': '5', 'response': '\\boxed{7}'}]
  assert [v['score'] for v in run('math', *map(json.dumps, rows))] == [0.0, 1.0]


def test_a_bad_row_loses_no_verdict_before_it():
  out = io.StringIO()
  lines = ['{"gold": "5", "pred": "5"}', '{"gold": "5", "pred": "6"}', '{"gold": "5"}']
  with pytest.raises(ConfigError, match='line 3 must be an object'):
    grade.grade('math', lines, out, {}, 2, timeout=30.0)
  assert [json.loads(line)['score'] for line in out.getvalue().splitlines()] == [1.0, 0.0]


@pytest.mark.parametrize(
  ('name', 'row', 'bad'),
  [
    (
      'math',
      {'gold': 5, 'pred': '5'},
      [
        ({'gold': ['5', '6'], 'pred': '5'}, "the item's 'answer' is \"['5', '6']\""),
        ({'gold': '5', 'pred': 5}, "the item's 'response' is '5'"),
        ({'gold': '5', 'pred': None}, "the item's 'response' is 'None'"),
        ({'gold': True, 'pred': '5'}, "the item's 'answer' is 'True'"),
      ],
    ),
    (
      'choice',
      {'answer': 'A', 'response': '\\boxed{A}'},
      [({'answer': '42', 'response': '\\boxed{A}'}, "'answer' is '42'")],
    ),
    ('exact', {'answer': 'A', 'response': '\\boxed{A}'}, [({'response': '\\boxed{A}'}, "no 'answer'")]),
    ('format', {'response': '<think>a</think><answer>b</answer>'}, [({'response': ['a']}, "the item's 'response'")]),
    (
      'signs',
      {'answer': '1 ?1 = 2', 'response': '<think></think><answer>+1</answer>'},
      [({'answer': [7], 'response': '<think></think><answer>+1</answer>'}, "the item's 'answer' is '[7]'")],
    ),
  ],
)
def test_a_row_that_cannot_be_graded_fails_alone_and_says_its_line(name, row, bad):
  out, rows, messages = io.StringIO(), [row], []
  for other, message in bad:
    rows += [other, row]
    messages.append(message)
  failed = grade.grade(name, ['', *map(json.dumps, rows)], out, {}, 1, timeout=30.0)
  verdicts = [json.loads(line) for line in out.getvalue().splitlines()]
  assert [v['score'] for v in verdicts] == [1.0] + [0.0, 1.0] * len(bad)
  assert [v['reason'] for v in verdicts[1::2]] == failed
  for number, (reason, message) in enumerate(zip(failed, messages, strict=True)):
    assert reason.startswith(f'line {3 + 2 * number} ') and message in reason


def test_the_command_says_that_rows_were_not_graded():
  done = subprocess.run(
    [sys.executable, '-m', 'r1jax.rewards.grade', 'exact'],
    capture_output=True,
    text=True,
    input='{"answer": [], "response": "a"}\n{"answer": "a", "response": "\\\\boxed{a}"}\n',
  )
  assert done.returncode == 1 and [json.loads(line)['score'] for line in done.stdout.splitlines()] == [0.0, 1.0]
  assert done.stderr.startswith('error: 1 rows') and 'line 1 ' in done.stderr and done.stderr.count('\n') == 1
