"""Grading of lm_eval's samples by our reward, on rows made by hand."""

import json

import pytest

from experiments import regrade
from r1jax.config import ConfigError


def row(number, response, read, right, **more):
  return {
    'doc_id': number,
    'target': 'Two and two.\n#### 1,004',
    'resps': [[response]],
    'filtered_resps': [read],
    'filter': 'flexible-extract',
    'exact_match': float(right),
    **more,
  }


ROWS = [
  row(0, 'It is so.\n#### 1004', '1004', True),
  row(1, 'The answer is 1,004.', '1004.', True),
  row(2, 'There are 1004', '1004', True),  # the last number, but no stated answer
  row(3, '#### 1004.00', '1004.00', False),  # another text, the same value
  row(4, '#### 3', '3', False),
]


def test_both_verdicts_are_counted_and_disagreements_listed(tmp_path):
  path = tmp_path / 'gsm8k.jsonl'
  others = [dict(r, filter='strict-match', exact_match=0.0) for r in ROWS]
  path.write_text(''.join(json.dumps(r) + '\n' for r in others + ROWS))
  rows = regrade.read(str(path))
  assert rows == ROWS
  counts, cases = regrade.compare(rows, 'stated')
  assert counts == (3, 3)
  assert [(c['doc_id'], c['right']) for c in cases] == [
    (2, {'lm_eval': True, 'math': False}),
    (3, {'lm_eval': False, 'math': True}),
  ]
  lines = regrade.describe(path, rows, counts, cases)
  assert '5 responses' in lines[0] and '2 disagreements' in lines[0] and len(lines) == 3
  assert "'1,004'" in lines[1]


def test_samples_of_other_tasks_are_refused(tmp_path):
  path = tmp_path / 'mmlu.jsonl'
  path.write_text(json.dumps({'doc_id': 0, 'filter': 'none', 'acc': 1.0}) + '\n')
  with pytest.raises(ConfigError, match='exact_match'):
    regrade.read(path)
