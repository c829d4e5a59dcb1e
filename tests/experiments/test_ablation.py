"""Ablations, whose stages are fake experiments that take no time; what runs them is real."""

import json
import pathlib
import types

import pytest

from configs import ablations
from experiments import ablation, recipe
from r1jax import config as config_lib
from r1jax.config import ConfigError
from r1jax.metrics import recipe_report
from r1jax.recipes import settings
from r1jax.recipes import stage as stage_lib

ARGUMENTS = ['--config=configs/ablations.py:objectives']


@pytest.fixture
def ran(monkeypatch):
  """The (seed, stage) that have run, in order. A stage of `ran.failing` fails."""
  ran = types.SimpleNamespace(stages=[], failing=())

  def experiment(cfg, workdir):
    name = pathlib.Path(workdir).name
    ran.stages.append((cfg.seed, name))
    if name in ran.failing:
      raise ConfigError('it failed')
    accuracy = {'grpo': 0.75, 'ppo_1': 0.5}.get(name, 0.25) + cfg.seed / 8
    lines = [{'step': 0, 'time/processor': 2.0}, {'step': cfg.steps, 'eval/pass@1': accuracy}]
    (pathlib.Path(workdir) / 'metrics.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
    (pathlib.Path(workdir) / 'summary.json').write_text(json.dumps({'peak_memory_gb': 1.0}))

  def run(argv):
    """In the place of a process: experiments.recipe with these flags."""
    argv = argv[argv.index('experiments.recipe') + 1 :]
    assert argv[:1] == ARGUMENTS
    flags = dict(zip(argv[2::2], argv[3::2]))
    cfg = config_of(seed=int(argv[1].removeprefix('--config.seed=')))
    try:
      recipe.run_recipe(cfg, flags['--workdir'], only=(flags['--only'],))
    except ConfigError:
      return types.SimpleNamespace(returncode=1)
    return types.SimpleNamespace(returncode=0)

  fake = {
    name: recipe.Experiment(experiment, x.config, '', name)
    for name, x in recipe.EXPERIMENTS.items()
    if name in ('pretrain', 'rl')
  }
  monkeypatch.setattr(recipe, 'EXPERIMENTS', fake)
  monkeypatch.setattr(recipe_report, 'make', lambda workdir: None)
  monkeypatch.setattr(ablation.subprocess, 'run', run)
  return ran


def config_of(arms=('grpo', 'ppo_1'), seeds=(0, 2), seed=0):
  config = ablations.get_config('objectives')
  config.seed = seed
  config.ablation.update(arms=arms, seeds=seeds)
  for name in [name for name in config.stages if name not in ('base', 'grpo', 'ppo_1')]:
    del config.stages[name]
  return config_lib.convert(config, settings.Recipe)


def test_each_stage_of_each_seed_runs_once_and_arms_are_compared(ran, tmp_path):
  lines = ablation.run_ablation(config_of(), str(tmp_path), ARGUMENTS)
  assert ran.stages == [(seed, name) for seed in (0, 2) for name in ('base', 'grpo', 'ppo_1')]
  assert lines[2:] == [
    '| grpo | 0.875 (0.75 to 1) | 160, 1 of 2 runs | 2 (2 to 2) | 1.00 |',
    '| ppo_1 | 0.625 (0.5 to 0.75) | never | 2 (2 to 2) | 1.00 |',
  ]
  text = (tmp_path / 'table.md').read_text()
  assert text.startswith('\n'.join(lines)) and f'--workdir {tmp_path}/seed_0 --only ppo_1' in text
  assert (tmp_path / 'eval_pass@1.svg').read_text().startswith('<?xml')
  assert ablation.run_ablation(config_of(), str(tmp_path), ARGUMENTS) == lines and len(ran.stages) == 6


def test_a_failed_stage_is_named_and_run_again(ran, tmp_path):
  ran.failing = ('ppo_1',)
  with pytest.raises(ConfigError, match='stage ppo_1 of seed 0 ended with exit status 1'):
    ablation.run_ablation(config_of(), str(tmp_path), ARGUMENTS)
  assert not (tmp_path / 'table.md').exists()
  ran.failing = ()
  ablation.run_ablation(config_of(), str(tmp_path), ARGUMENTS)
  assert ran.stages.count((0, 'grpo')) == 1 and ran.stages.count((0, 'ppo_1')) == 2


def test_nothing_runs_with_settings_that_cannot_work(ran, tmp_path):
  with pytest.raises(ConfigError, match='ablation.arms is empty'):
    ablation.run_ablation(config_of(arms=()), str(tmp_path), ARGUMENTS)
  for arms, seeds, message in (
    (('nope',), (0,), "ablation.arms has 'nope'; the stages are base"),
    (('base',), (0,), "'base', whose experiment is 'pretrain'"),
    (('grpo',), (), 'ablation.seeds is empty'),
    (('grpo',), (1, 1), 'a seed twice'),
  ):
    with pytest.raises(ConfigError, match=message):
      config_of(arms, seeds)
  assert not ran.stages


@pytest.mark.parametrize('variant', ablations.VARIANTS)
def test_configs_are_recipes_whose_arms_work(variant, tmp_path):
  cfg = config_lib.convert(ablations.get_config(variant), settings.Recipe)
  rl = {name for name, stage in cfg.stages.items() if stage.experiment == 'rl'}
  assert set(cfg.ablation.arms) <= rl <= {*cfg.ablation.arms, 'half', 'zero'}
  stages = ablation.expand(cfg, 0, str(tmp_path))
  assert all(status.state == stage_lib.TO_DO for status in stage_lib.statuses(stages, str(tmp_path)).values())
