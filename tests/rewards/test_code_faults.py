"""Programs and tests that were once graded wrongly."""

import json
import pathlib
import time

import pytest

from r1jax import rewards
from r1jax.rewards import grade
from r1jax.rewards.coding import code_tests
from tests.rewards import sandboxed

pytestmark = sandboxed.NEEDED

ROWS = [json.loads(line) for line in (pathlib.Path(__file__).parent / 'faults' / 'code.jsonl').open(encoding='utf-8')]


@pytest.mark.parametrize('row', ROWS, ids=lambda row: row['kind'])
def test_a_row_gets_its_right_score(row):
  """Grades the row as the command line does."""
  ((_, item),) = grade.read([json.dumps({key: row[key] for key in row if key not in ('kind', 'right')})], {})
  verdict = rewards.verdict_function('code', {})(item)
  assert verdict['score'] == row['right'], verdict


def test_output_is_compared_in_linear_time():
  start = time.process_time()
  for got, expected in (
    (b'1' * 60000 + b'x', b'3.14'),
    (b'1' * 10_000_000 + b'e', b'1e5'),
    (b'1 ' * 5_000_000, b'1.5'),
    (b'.' * 1_000_000, b'.5'),
    (b'1' * 5_000_000 + b'.5', b'1' * 5_000_000 + b'.25'),
  ):
    assert not code_tests.same_output(got, expected, 1e-6)
  assert time.process_time() - start < 2
