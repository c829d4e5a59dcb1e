"""Error messages and remaining files of runs with bad settings, data, rewards or weights; and rarer objectives."""

import json
import shutil

import jax
import numpy as np
import pytest
from safetensors import numpy as safetensors

from r1jax.runs import cli

CONSTANT = {'optimizer.schedule': 'constant'}  # a run may then be made longer and stay the same run
REWARDS = '''
import time

def hangs(items):
  """0 to 7 of the training responses hang, by their length; the rest score 1."""
  if '/train/' in items[0]['id'] and len(items[0]['response']) % 2:
    time.sleep(3600)
  return [1.0]
'''
CONFIG = """
from ml_collections import ConfigDict
from configs import r1_zero

def get_config():
  c = r1_zero.get_config('toy')
  c.reward.parts = ConfigDict({'format': 1.0, 'hanging:hangs': 1.0})
  c.reward.update(accuracy='format', timeout=0.5)
  return c
"""


def test_a_missing_model_path_is_refused(runs, tmp_path):
  message = runs.refuse(tmp_path, {'model.path': None})
  assert 'model.path is empty' in message and '--config.model.path=DIR' in message
  assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
  ('key', 'value', 'was'),
  [('loss.clip_high', 0.3, '0.2'), ('rollout.temperature', 0.9, '1.0'), ('reward.parts.format', 0.25, '0.5')],
)
def test_a_checkpoint_of_another_objective_is_refused(runs, straight, tmp_path, key, value, was):
  run = tmp_path / 'run'
  shutil.copytree(straight, run)
  assert f' {key} was {was}, is {value};' in runs.refuse(run, {key: value})
  for name in ('config.json', 'metrics.jsonl', 'eval_base.json'):
    assert (run / name).read_bytes() == (straight / name).read_bytes()


@pytest.mark.slow
def test_fewer_steps_than_done_are_refused(runs, straight, tmp_path):
  run = tmp_path / 'run'
  shutil.copytree(straight, run)
  assert 'steps' in runs.refuse(run, {'steps': 5})


@pytest.mark.slow
def test_equal_rewards_are_a_step_without_gradient(runs, tmp_path):
  """Two tokens hold no answer: every reward is 0."""
  runs.finish(tmp_path, {'steps': 2, 'rollout.max_response': 2, 'loss.kl_coef': 0.0})
  rows = runs.metrics(tmp_path)[:2]
  for row in rows:
    assert row['reward/frac_zero_std_groups'] == 1 and row['reward/mean'] == 0
    assert row['policy/grad_norm'] == 0 and row['policy/loss'] == 0
  assert None not in [x for row in rows for x in row.values()]  # the writer writes NaN as null
  step, arrays = runs.last_checkpoint(tmp_path)
  assert step == 2 and all(np.array_equal(arrays[k], v) for k, v in runs.weights(runs.base).items())


@pytest.mark.slow
def test_a_hanging_reward_scores_zero_and_is_counted(runs, tmp_path):
  (tmp_path / 'hanging.py').write_text(REWARDS)
  (tmp_path / 'config.py').write_text(CONFIG)
  small = {'steps': 1, 'rollout.prompts': 2, 'rollout.chunk': 1, 'eval.problems': 2, 'eval.final_problems': 2}
  runs.finish(tmp_path / 'run', small, config=str(tmp_path / 'config.py'), python_path=tmp_path)
  row, final = runs.metrics(tmp_path / 'run')
  assert 0 < row['reward/timeouts'] < 8
  assert row['reward/hanging:hangs/mean'] == 1 - row['reward/timeouts'] / 8
  assert final['step'] == 1


@pytest.mark.slow
def test_nan_in_the_weights_names_the_step(runs, tmp_path):
  shutil.copytree(runs.base, tmp_path / 'model')
  weights = safetensors.load_file(runs.base / 'model.safetensors')
  name = max(weights, key=lambda k: weights[k].size)
  weights[name] = weights[name].copy()
  weights[name].flat[::2] = np.nan
  safetensors.save_file(weights, tmp_path / 'model' / 'model.safetensors')
  assert 'step 0' in runs.refuse(tmp_path / 'run', {'model.path': tmp_path / 'model'})
  assert list((tmp_path / 'run' / 'checkpoints').iterdir()) == []


@pytest.mark.slow
def test_divergence_leaves_the_checkpoint_before(runs, tmp_path):
  """A step of 1e30 leaves finite weights whose squares are not: the next step must stop, twice the same way."""
  settings = {'optimizer.learning_rate': 1e30, 'optimizer.warmup': 0, 'checkpoint.every': 1}
  for _ in range(2):
    assert 'step 1' in runs.refuse(tmp_path, settings)
    step, arrays = runs.last_checkpoint(tmp_path)
    assert step == 1 and all(np.isfinite(v).all() for v in arrays.values())
    assert [row['step'] for row in runs.metrics(tmp_path)] == [0]


@pytest.mark.slow
@pytest.mark.parametrize(
  'loss',
  [
    {
      'loss.name': 'dapo',
      'loss.resample_limit': 2,
      'reward.overlong_buffer': 16,
      'loss.clip_high': 0.28,
      'loss.kl_coef': 0.0,
      'rollout.samples': 2,
      'train.length_slices': 1,
    },  # with two samples, many groups have equal rewards
    {'loss.name': 'gspo', 'loss.kl_coef': 0.05, 'train.minibatches': 2, 'train.reference_refresh': 1},
    {'loss.kl_place': 'reward', 'loss.kl_estimator': 'k1', 'loss.kl_coef': 0.05},
  ],
  ids=['dapo', 'gspo', 'kl_in_reward'],
)
def test_objectives_run_and_resume(runs, tmp_path, loss):
  settings = CONSTANT | loss | {'checkpoint.every': 1}
  runs.finish(tmp_path / 'uninterrupted', settings | {'steps': 2})
  for steps in (1, 2):
    runs.finish(tmp_path / 'run', settings | {'steps': steps})
  runs.same(tmp_path / 'run', tmp_path / 'uninterrupted')
  rows = runs.metrics(tmp_path / 'run')
  assert [row['step'] for row in rows] == [0, 1, 2]
  assert all(np.isfinite(row['policy/grad_norm']) and row['policy/grad_norm'] > 0 for row in rows[:2])
  step, arrays = runs.last_checkpoint(tmp_path / 'run')
  base = runs.weights(runs.base)
  assert step == 2 and any((arrays[k] != v).any() for k, v in base.items())
  if 'loss.resample_limit' in loss:
    assert all(0 <= row['rollout/extra_draws'] <= 2 for row in rows[:2])
    assert any(row['rollout/extra_draws'] for row in rows[:2])
    for row in rows[:2]:
      assert row['filter/before/groups'] == 4 * (1 + row['rollout/extra_draws']) and row['filter/after/groups'] == 4
  if 'train.reference_refresh' in loss:
    assert all(np.array_equal(arrays[k.replace('params', 'reference', 1)], arrays[k]) for k in base)


GSM8K = {'train.microbatch': 8, 'rollout.prompts': 2, 'rollout.chunk': 1, 'eval.problems': 2, 'eval.final_problems': 2}


def resume_gsm8k(runs, path, workdir, limit):
  """Runs 3 steps, then continues to 5, with the settings of :gsm8k but smaller sizes. Returns the summary."""
  settings = GSM8K | {'data.path': path, 'rollout.max_prompt': limit, 'checkpoint.every': 2}
  for steps in (3, 5):
    runs.finish(workdir, settings | {'steps': steps}, config='configs/r1_zero.py:gsm8k')
    assert runs.last_checkpoint(workdir)[0] == steps
  rows = runs.metrics(workdir)
  assert [row['step'] for row in rows] == [0, 1, 2, 3, 4, 5]
  assert all(np.isfinite(row['policy/loss']) for row in rows[:-1])
  return json.loads((workdir / 'summary.json').read_text())


@pytest.mark.slow
def test_gsm8k_from_a_file(runs, tmp_path):
  problems = [
    {'question': f'Ann has {i} apples and buys {i % 7} more. How many has she?', 'answer': f'Add.\n#### {i + i % 7}'}
    for i in range(200)
  ]
  problems[7]['question'] *= 20
  problems[8]['question'] *= 20
  (tmp_path / 'data.jsonl').write_text(''.join(json.dumps(p) + '\n' for p in problems) + 'not JSON\n')
  summary = resume_gsm8k(runs, tmp_path / 'data.jsonl', tmp_path / 'run', 1024)
  dropped = summary['dropped']
  assert dropped['long'] + dropped['long_held_out'] == 2 and dropped['malformed'] == 1


@pytest.mark.slow
def test_gsm8k_itself(runs, data_dir, tmp_path):
  """The toy tokenizer spells English letter by letter, so that many prompts exceed 1024 tokens."""
  path = data_dir / 'math' / 'gsm8k_train.jsonl.gz'
  runs.finish(
    tmp_path, GSM8K | {'data.path': path, 'rollout.max_prompt': 1024, 'steps': 1}, config='configs/r1_zero.py:gsm8k'
  )
  summary = json.loads((tmp_path / 'summary.json').read_text())
  assert summary['dropped']['malformed'] == 0 and 0 < summary['dropped']['long'] < 7473


def test_out_of_device_memory_names_the_settings_to_change():
  with pytest.raises(SystemExit, match='error: .*memory.* 3.2G .*train.microbatch') as error:
    with cli.errors_in_one_line():
      raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 3.2G bytes.\nmore')
  assert '\n' not in str(error.value)
  with pytest.raises(jax.errors.JaxRuntimeError), cli.errors_in_one_line():
    raise jax.errors.JaxRuntimeError('INTERNAL: a bug')
