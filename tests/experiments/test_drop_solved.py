"""RL that drops solved problems: killed and resumed, with dynamic sampling."""

import json

import pytest

from r1jax.data import sources


@pytest.mark.slow
def test_killed_and_resumed_with_the_same_history(runs, tmp_path):
  rows = sources.toy_pools('trial')[0][:12]
  (tmp_path / 'data.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  settings = {
    'data.source': 'jsonl',
    'data.path': tmp_path / 'data.jsonl',
    'data.eval_fraction': 0.4,
    'data.drop_solved': 0.25,
    'reward.accuracy': 'format',  # which the tiny base sometimes gets right
    'loss.resample_limit': 1,
    'loss.drop_zero_variance': True,
    'checkpoint.every': 1,
  }
  runs.finish(tmp_path / 'uninterrupted', settings)
  counts = [row['data/solved'] for row in runs.metrics(tmp_path / 'uninterrupted')[:6]]
  assert counts == sorted(counts) and counts[-1] > counts[0]
  saved = tmp_path / 'killed' / 'checkpoints' / 'step_000003'
  runs.kill(tmp_path / 'killed', saved.exists, settings)
  manifest = json.loads((saved / 'manifest.json').read_text())
  assert manifest['notes']['history'] and len(manifest['notes']['skipped']) == 1
  runs.finish(tmp_path / 'killed', settings)
  runs.same(tmp_path / 'killed', tmp_path / 'uninterrupted')
