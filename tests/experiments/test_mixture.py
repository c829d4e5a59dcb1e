"""A model with latent attention and mixture of experts: pretraining, resumed RL, export and import."""

import json

import numpy as np
import pytest

from experiments import convert


@pytest.mark.slow
def test_a_small_deepseek_model_trains_resumes_and_exports(runs, tmp_path):
  base = {
    'preset': 'toy_deepseek',
    'documents': 500,
    'steps': 4,
    'max_response': 8,
    'optimizer.name': 'adam',
    'gate.problems': 4,
    'gate.samples': 1,
    'gate.rounds': 0,
    'balance_rate': 0.01,
  }
  runs.finish(tmp_path / 'base', base, module='pretrain', config='configs/toy_base.py:trial')
  before = runs.weights(tmp_path / 'base' / 'model')['params.layers.moe.router_bias']
  assert 0 < np.abs(before).max() <= 0.0401  # at most 4 steps of 0.01 in either direction
  settings = {
    'model.path': tmp_path / 'base' / 'model',
    'optimizer.schedule': 'constant',
    'checkpoint.every': 1,
    'train.balance_rate': 0.5,
    'train.routing_replay': True,
    'model.dtype': 'bfloat16',
  }
  runs.finish(tmp_path / 'uninterrupted', settings | {'steps': 2})
  for steps in (1, 2):
    runs.finish(tmp_path / 'run', settings | {'steps': steps})
  runs.same(tmp_path / 'run', tmp_path / 'uninterrupted')
  rows = [json.loads(line) for line in (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()][:2]
  for row in rows:
    loads = [row[f'moe/load/{i:03d}'] for i in range(8)]
    assert np.mean(loads) == pytest.approx(1)
    assert row['moe/load_min'] <= min(loads) and max(loads) <= row['moe/load_max']
  moved = runs.last_checkpoint(tmp_path / 'run')[1]['params.layers.moe.router_bias'] - before
  assert set(np.round(np.abs(moved), 4).ravel()) <= {0, 0.5, 1.0} and moved.any()
  assert convert.main(['export', '--input', str(tmp_path / 'run'), '--output', str(tmp_path / 'hf')]) == 0
  arrays = runs.last_checkpoint(tmp_path / 'run')[1]
  assert all(np.array_equal(x, arrays[name]) for name, x in runs.weights(tmp_path / 'hf').items())
