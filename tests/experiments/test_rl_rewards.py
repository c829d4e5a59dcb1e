"""RL with neural rewards: response scores, credit per step, gates; and resuming."""

import json

import pytest

pytestmark = pytest.mark.slow
# Enough to get a model directory; its quality is tested elsewhere.
SHORT = {'epochs': 0.02, 'eval.every': 1000, 'eval.examples': 64}


def options(**by_part):
  return {f'reward.options.{part}': str(value) for part, value in by_part.items()}


@pytest.fixture(scope='session')
def scorers(runs, tmp_path_factory):
  """{variant: folder} of a preference reward model and a process reward model."""
  out = {}
  for name in ('toy_preference', 'toy_process'):
    out[name] = tmp_path_factory.mktemp(name)
    runs.finish(out[name], SHORT, module='reward_model', config=f'configs/reward_model.py:{name}')
  return out


def test_neural_and_rule_rewards_are_mixed_and_a_resumed_run_is_the_same(runs, scorers, tmp_path):
  settings = {
    'reward.parts.preference': 0.5,
    'reward.parts.process': 0.0,
    'reward.gates': "('format',)",
    'reward.step_credit': 0.3,
    'steps': 4,
  } | options(preference={'path': str(scorers['toy_preference'])}, process={'path': str(scorers['toy_process'])})
  runs.finish(tmp_path / 'mixed', settings)
  rows = runs.metrics(tmp_path / 'mixed')[:4]
  for part in ('preference', 'process'):
    assert all(0 <= row[f'reward/{part}/mean'] <= 1 for row in rows)
    assert len({row[f'reward/{part}/mean'] for row in rows}) > 1
  for line in (tmp_path / 'mixed' / 'samples').glob('*'):
    for row in map(json.loads, line.read_text().splitlines()):
      parts = row['parts']
      want = parts['format'] * (parts['signs'] + 0.5 * parts['format'] + 0.5 * parts['preference'])
      assert row['reward'] == pytest.approx(want, abs=1e-5)
  runs.finish(tmp_path / 'half', settings | {'steps': 2, 'optimizer.schedule': 'constant'})
  runs.finish(tmp_path / 'half', settings | {'optimizer.schedule': 'constant'})
  runs.finish(tmp_path / 'uninterrupted', settings | {'optimizer.schedule': 'constant'})
  step, arrays = runs.last_checkpoint(tmp_path / 'half')
  other_step, others = runs.last_checkpoint(tmp_path / 'uninterrupted')
  assert step == other_step and all(arrays[name].tobytes() == others[name].tobytes() for name in others)


def test_reward_models_start_at_their_step_and_only_for_their_kinds(runs, scorers, tmp_path):
  config = tmp_path / 'config.py'
  config.write_text(f"""
from configs import r1_zero
from ml_collections import ConfigDict
def get_config():
  c = r1_zero.get_config('toy')
  c.data.update(source='mixture', parts=ConfigDict(dict(
      signs=dict(source='trial', kind='signs'), requests=dict(source='trial', kind='open', weight=1.0, start_step=2))))
  c.reward.parts, c.reward.accuracy = ConfigDict(dict(format=0.5)), ''
  c.reward.parts_by_kind = ConfigDict(dict(signs=dict(signs=1.0), open=dict(helpful=1.0, harmless=2.0)))
  c.reward.accuracy_by_kind = ConfigDict(dict(open='helpful'))
  c.reward.functions = ConfigDict(dict(helpful='preference', harmless='preference'))
  c.reward.start_step = ConfigDict(dict(harmless=3))
  path = {str(scorers['toy_preference'])!r}
  c.reward.options = ConfigDict(dict(helpful=dict(path=path, view='summary'), harmless=dict(path=path, view='whole')))
  return c
""")
  runs.finish(tmp_path / 'run', {'steps': 4, 'checkpoint.every': 1}, config=str(config))
  rows = runs.metrics(tmp_path / 'run')
  assert [row.get('kind/open/prompts') for row in rows[:4]] == [None, None, 2, 2]  # two parts of equal weight
  assert [row['kind/signs/prompts'] for row in rows[:4]] == [4, 4, 2, 2]
  assert ['reward/helpful/mean' in row for row in rows[:4]] == [False, False, True, True]
  assert ['reward/harmless/mean' in row for row in rows[:4]] == [False, False, False, True]
  weights = {'format': 0.5, 'signs': 1.0, 'helpful': 1.0, 'harmless': 2.0}
  for row, last in ((rows[2], {}), (rows[3], {'harmless'})):
    parts = {'format', 'helpful', *last}
    assert row['kind/open/reward'] == pytest.approx(sum(weights[n] * row[f'kind/open/{n}'] for n in parts), abs=1e-5)
  for line in (tmp_path / 'run' / 'samples').glob('*'):
    for row in map(json.loads, line.read_text().splitlines()):  # an evaluation uses all rewards of the kind
      assert set(row['parts']) == {'format', 'signs'} if row['kind'] == 'signs' else {'format', 'helpful', 'harmless'}
      assert row['reward'] == pytest.approx(sum(weights[n] * x for n, x in row['parts'].items()), abs=1e-5)
  runs.kill(
    tmp_path / 'killed',
    (tmp_path / 'killed' / 'checkpoints' / 'step_000002').exists,
    {'steps': 4, 'checkpoint.every': 1},
    config=str(config),
  )
  runs.finish(tmp_path / 'killed', {'steps': 4, 'checkpoint.every': 1}, config=str(config))
  runs.same(tmp_path / 'killed', tmp_path / 'run')


def test_options_are_checked_before_anything_compiles(runs, scorers, tmp_path):
  refuse = lambda **settings: runs.refuse(tmp_path, {'reward.parts.process': 1.0} | settings)
  assert "reward 'process' needs the option 'path'" in refuse()
  assert "has no option 'pth'; the nearest known one is 'path'" in refuse(**options(process={'pth': 'x'}))
  wrong = options(process={'path': str(scorers['toy_preference'])})
  assert "scores whole responses; use the reward 'preference' with it" in refuse(**wrong)
  assert "reward.step_credit is 1.0, but 'process'" in runs.refuse(tmp_path, {'reward.step_credit': 1.0})
