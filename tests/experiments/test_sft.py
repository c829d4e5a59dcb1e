"""Supervised fine-tuning end to end: killed and resumed, opened as a model, and on real texts."""

import gzip
import json
import shutil
import types

import numpy as np
import pytest

from configs import sft as configs
from experiments import sft
from r1jax import checkpoint, config
from r1jax.config import ConfigError

MODULE = {'module': 'sft', 'config': 'configs/sft.py:toy'}
TINY = {
  'epochs': 0.2,
  'batch': 4,
  'data.max_length': 256,
  'eval.every': 3,
  'eval.problems': 4,
  'eval.final_problems': 8,
  'eval.samples': 2,
  'eval.final_samples': 2,
  'eval.batch': 4,
  'eval.max_response': 16,
  'checkpoint.every': 2,
}
# For a small model on real texts, with the configs for a large one.
SMALL = {'batch': 2, 'microbatch': 1, 'mesh.fsdp': 1, 'mesh.tp': 1, 'checkpoint.every': 2}


def summary(workdir):
  return json.loads((workdir / 'summary.json').read_text())


@pytest.fixture(scope='module')
def trained(runs, tmp_path_factory):
  path = tmp_path_factory.mktemp('sft')
  runs.finish(path, TINY | {'model.path': runs.base}, **MODULE)
  return path


def test_a_run_writes_summary_metrics_and_report(runs, trained):
  result = summary(trained)
  assert result['final']['loss'] < result['base']['loss'] - 0.2
  assert {'pass@1', 'format', 'language_consistency'} <= result['final'].keys()
  lines = runs.metrics(trained)
  assert len(lines) == result['steps'] + 1
  assert ['eval/loss' in line for line in lines[:4]] == [True, False, False, True]
  assert all(line['train/fill'] > 0.8 for line in lines[:-1])
  assert {p.stem for p in (trained / 'plots').iterdir()} >= {'loss', 'accuracy', 'grad_norm'}
  assert (trained / 'report.html').exists() and len(list((trained / 'samples').iterdir())) >= 2


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_bits(runs, trained, tmp_path):
  file = tmp_path / 'metrics.jsonl'
  settings = TINY | {'model.path': runs.base}
  runs.kill(tmp_path, lambda: file.exists() and file.read_bytes().count(b'\n') >= 3, settings, **MODULE)
  assert not (tmp_path / 'summary.json').exists()
  runs.finish(tmp_path, settings, **MODULE)
  runs.same(tmp_path, trained)


@pytest.mark.slow
def test_the_folder_of_a_run_is_a_model_for_another_run(runs, trained, tmp_path):
  """As in recipes: SFT, then RL from its folder, then SFT from the folder of that."""
  runs.finish(tmp_path / 'rl', {'model.path': trained, 'steps': 1, 'checkpoint.every': 1, 'eval.every': 9})
  runs.finish(tmp_path / 'again', TINY | {'model.path': tmp_path / 'rl', 'eval.problems': 0, 'epochs': 0.01}, **MODULE)
  for folder in (trained, tmp_path / 'rl', tmp_path / 'again'):
    source = checkpoint.open_model(folder)
    assert source.load_tokenizer().vocab <= source.cfg.vocab and source.tokenizer == runs.base
  first, last = runs.weights(trained), runs.weights(tmp_path / 'again')
  assert first.keys() == last.keys() and any((first[k] != last[k]).any() for k in first)


@pytest.mark.slow
def test_a_mesh_gives_the_same_metrics(runs, tmp_path):
  settings = TINY | {
    'model.path': runs.base,
    'batch': 8,
    'epochs': 0.3,
    'eval.problems': 0,
    'optimizer.learning_rate': 1e-4,
  }
  eight = {'JAX_NUM_CPU_DEVICES': '8'}
  for folder, mesh, env in (('one', {}, {}), ('eight', {'mesh.data': 2, 'mesh.fsdp': 2, 'mesh.tp': 2}, eight)):
    runs.finish(tmp_path / folder, settings | mesh, env=env, **MODULE)
  one, many = (runs.metrics(tmp_path / folder) for folder in ('one', 'eight'))
  assert len(one) == len(many) > 3
  for a, b in zip(one, many):
    for name in a.keys() & {'train/loss', 'eval/loss', 'train/grad_norm'}:
      np.testing.assert_allclose(b[name], a[name], rtol=2e-3, err_msg=name)


@pytest.mark.slow
def test_worked_solutions_of_gsm8k(runs, data_dir, tmp_path):
  """With `configs/sft.py:gsm8k`, except for batch size and number of problems."""
  lines = gzip.open(data_dir / 'math' / 'gsm8k_train.jsonl.gz', 'rt').readlines()
  (tmp_path / 'train.jsonl').write_text(''.join(lines[:60]))
  held_out = (data_dir / 'math' / 'gsm8k_test.jsonl').read_text().splitlines(keepends=True)
  (tmp_path / 'test.jsonl').write_text(''.join(held_out[:6]))
  settings = SMALL | {
    'model.path': runs.base,
    'epochs': 0.2,
    'eval.problems': 2,
    'eval.final_problems': 2,
    'eval.batch': 2,
    'eval.max_response': 32,
    'optimizer.learning_rate': 1e-3,
    'optimizer.warmup': 0,
    **{
      f'{part}.{key}': tmp_path / f'{name}.jsonl'
      for part in ('data', 'problems')
      for key, name in (('path', 'train'), ('eval_path', 'test'))
    },
  }
  runs.finish(tmp_path / 'run', settings, module='sft', config='configs/sft.py:gsm8k')
  result = summary(tmp_path / 'run')
  assert result['steps'] >= 2 and result['texts'] + result['dropped']['long'] == 60
  assert result['final']['loss'] < result['base']['loss'] and result['final']['pass@1'] == 0


@pytest.mark.slow
def test_real_traces_for_cold_start(runs, data_dir, tmp_path):
  """Long chains of R1 with their summaries, with `configs/sft.py:traces`, but shorter rows for a small model."""
  settings = SMALL | {
    'model.path': runs.base,
    'data.path': data_dir / 'coldstart' / 'r1_math_samples.jsonl',
    'data.max_length': 8192,
    'context': 8192,
    'data.eval_fraction': 0.3,
    'epochs': 1.0,
    'optimizer.learning_rate': 1e-3,
  }
  # With rows this long, running takes more time than compiling.
  runs.finish(
    tmp_path, settings, module='sft', config='configs/sft.py:traces', env={'JAX_DISABLE_MOST_OPTIMIZATIONS': '0'}
  )
  result = summary(tmp_path)
  assert result['final']['loss'] < result['base']['loss'] and result['texts'] >= 3
  assert checkpoint.open_model(tmp_path).cfg.context == 8192


@pytest.mark.parametrize(
  ('settings', 'match'),
  [
    ({'model.path': ''}, 'model.path is empty'),
    ({'data.template': 'none'}, "data.template is 'none'; known: "),
    ({'data.max_length': 5000}, 'data.max_length 5000 .*4096'),
    ({'eval.max_response': 5000}, 'eval.max_prompt 32 .*exceed the model'),
    ({'problems.source': ''}, 'problems.source is empty'),
    ({'reward.accuracy': '', 'reward.parts_by_kind': {'open': {'signs': 1.0}}}, 'problems of kind None'),
    ({'batch': 6, 'microbatch': 4}, 'a batch of 6 rows does not divide'),
  ],
)
def test_invalid_configs_are_refused_with_one_line(runs, tmp_path, settings, match):
  c = configs.get_config('toy')
  for key, value in ({'model.path': str(runs.base)} | settings).items():
    *folders, last = key.split('.')
    section = c
    for folder in folders:
      section = section[folder]
    section[last] = value
  with pytest.raises(ConfigError, match=match) as error:
    sft.make_run(config.convert(c, config.SFT), str(tmp_path / 'run'))
  assert '\n' not in str(error.value)


def test_the_fingerprint_includes_a_balance_rate_if_it_is_set():
  source, train = types.SimpleNamespace(config={}, digest=''), types.SimpleNamespace(digest='')

  def fingerprint(rate):
    c = configs.get_config('toy')
    c.balance_rate = rate
    return sft.fingerprint(config.convert(c, config.SFT), source, train, 1)

  assert 'balance_rate' not in fingerprint(0.0) and fingerprint(1e-3) != fingerprint(2e-3)


def test_a_checkpoint_of_other_settings_is_refused(runs, trained, tmp_path):
  shutil.copytree(trained, tmp_path / 'run')
  assert 'seed' in runs.refuse(tmp_path / 'run', TINY | {'model.path': runs.base, 'seed': 1}, **MODULE)
