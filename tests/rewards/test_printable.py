"""Text of a program or response never reaches the terminal as a command, whichever way it gets into a verdict."""

import io
import json
import unicodedata

import pytest

from r1jax import rewards
from r1jax.rewards import grade
from r1jax.rewards.coding import code_tests
from r1jax.rewards.printable import printable
from r1jax.rewards.workers import pool
from tests.rewards import sandboxed

# CSI of C1, an escape sequence, direction marks and overrides, a line separator, DEL, a tag, a lone surrogate.
NASTY = '\x9b31m\x1b[2J\u202e\u2066\u200f\u061c\u2028\x7f\U000e0041\ud800'
PLAIN = 'Größe: 3 ≥ 2, 中文 日本語\tмир 🙂 e\u0301\n'


def clean(text):
  return all(unicodedata.category(c) not in ('Cc', 'Cf', 'Cs', 'Zl', 'Zp') for c in text.replace('\n', ''))


def test_every_control_is_escaped_and_all_else_stays():
  assert clean(printable(NASTY)) and printable(PLAIN) == PLAIN
  assert printable('a\x9bb\u202ec') == r'a\u009bb\u202ec'
  text = json.dumps({NASTY + PLAIN: NASTY}, ensure_ascii=False)
  assert clean(printable(text)) and json.loads(printable(text)) == json.loads(text)
  assert printable(printable(NASTY)) == printable(NASTY)


@sandboxed.NEEDED
@pytest.mark.parametrize(
  'item',
  [
    {'program': f'raise ValueError({NASTY[:-1]!r})', 'io': [{'input': '', 'output': '1'}]},
    {
      'program': f'import sys\nsys.stderr.buffer.write({NASTY.encode(errors="replace")!r})\nsys.exit(1)',
      'io': [{'input': '', 'output': '1'}],
    },
    {'program': f'def f(): raise ValueError({NASTY[:-1]!r})', 'asserts': ['assert f() == 1']},
  ],
)
def test_reasons_of_programs_are_escaped(item):
  reason = code_tests.verdict(item)['reason']
  assert clean(reason) and r'\u009b31m' in reason


def test_reasons_of_other_rewards_and_errors_are_escaped(monkeypatch):
  verdict = {'score': 0.0, 'reason': f'not {NASTY}', 'extracted': NASTY}
  monkeypatch.setitem(rewards.VERDICTS, 'exact', lambda item: verdict)
  assert clean(rewards.verdict_function('exact', {})({'response': ''})['reason'])
  with pool.Grader({'exact': {}}) as grader, pytest.raises(pool.GradeError) as error:
    grader.submit([{'prompt': '', 'response': '', 'answer': {NASTY: NASTY}}]).result()
  assert clean(str(error.value))


def test_nothing_reaches_the_terminal():
  row = {'response': f'<answer>{NASTY}</answer>', 'answer': '5'}
  out = io.StringIO()
  grade.grade('exact', [json.dumps(row)], out, {}, 1, 30.0)
  assert clean(out.getvalue()) and json.loads(out.getvalue())['score'] == 0
