"""Equality of answers, row by row: correct ones in unusual notation, and wrong ones that look like them."""

import json
import pathlib

import pytest

from r1jax.rewards.mathematics import compare, math_answer

ROWS = [json.loads(line) for line in (pathlib.Path(__file__).parent / 'faults' / 'values.jsonl').open(encoding='utf-8')]


@pytest.fixture(scope='module', autouse=True)
def prepared():
  math_answer.prepare()


@pytest.mark.parametrize('kind', sorted({row['kind'] for row in ROWS}))
def test_equal_where_it_is_right(kind):
  rows = [row for row in ROWS if row['kind'] == kind]
  assert {row['right'] for row in rows} == {0, 1}  # near misses of each kind
  differences = [compare.difference(row['gold'], row['pred'], row.get('problem', '')) for row in rows]
  assert [
    (row['gold'], row['pred'], difference)
    for row, difference in zip(rows, differences, strict=True)
    if (difference is None) != row['right']
  ] == []
