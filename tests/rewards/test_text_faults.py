"""Responses that were once scored wrongly: opened thinking, summaries, languages, control tokens."""

import json
import pathlib

import pytest

from r1jax import rewards
from r1jax.rewards import grade

ROWS = [json.loads(line) for line in (pathlib.Path(__file__).parent / 'faults' / 'text.jsonl').open(encoding='utf-8')]


def verdict(row):
  """Grades the row as the command line does."""
  names = grade.FIELDS.get(row['reward'], {})
  ((_, item),) = grade.read([json.dumps({key: row[key] for key in row if key not in ('reward', 'options')})], names)
  return rewards.verdict_function(row['reward'], grade.OPTIONS.get(row['reward'], {}) | row.get('options', {}))(item)


@pytest.mark.parametrize('row', ROWS, ids=lambda row: f'{row["reward"]}: {row["kind"]}')
def test_a_row_gets_its_right_score(row):
  assert verdict(row)['score'] == row['right'], verdict(row)
