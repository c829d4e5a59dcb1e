"""The summary of experiments.evaluate."""

import json
import types

import pytest

from configs import distill, r1_zero
from experiments import evaluate
from r1jax import config


def test_the_summary_counts_the_evaluated_problems(monkeypatch, tmp_path):
  ignore = lambda *_: None
  run = types.SimpleNamespace(
    first_model=ignore, writer=types.SimpleNamespace(resume=ignore, samples=ignore, write=ignore), close=ignore
  )
  monkeypatch.setattr(evaluate, 'make_run', lambda cfg, workdir: run)
  rows = [{'id': str(i)} for i in range(7) for _ in range(2)]
  monkeypatch.setattr(evaluate, 'evaluate', lambda *_: ({'pass@1': 0.5}, rows))
  cfg = config.convert(r1_zero.get_config('toy'), config.RL)
  evaluate.run_evaluate(cfg, str(tmp_path))
  summary = json.loads((tmp_path / 'summary.json').read_text())
  assert summary['problems'] == 7 < cfg.eval.final_problems and summary['samples'] == 16


def test_a_run_that_learns_from_teachers_or_with_a_critic_is_evaluated_without_them():
  found = evaluate.without_learning(config.convert(distill.get_config('toy_on_policy'), config.RL))
  assert not found.distill.coef and found.loss.advantage == 'none'
  cfg = r1_zero.get_config('toy')
  cfg.loss.advantage, cfg.critic.path = 'gae', 'somewhere'
  assert not evaluate.without_learning(config.convert(cfg, config.RL)).has_critic


def test_the_folder_of_a_training_run_is_refused(tmp_path):
  (tmp_path / 'checkpoints' / '7').mkdir(parents=True)
  (tmp_path / 'metrics.jsonl').write_text('{"step": 0}')
  with pytest.raises(config.ConfigError, match='holds a training run'):
    evaluate.run_evaluate(config.convert(r1_zero.get_config('toy'), config.RL), str(tmp_path))
  assert (tmp_path / 'metrics.jsonl').read_text() == '{"step": 0}'
