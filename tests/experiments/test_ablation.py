"""Ablations, whose stages are fake experiments that take no time; what runs them is real."""

import json
import pathlib
import types

import pytest

from configs import ablations
from experiments import ablation, recipe, reflection, search, table
from r1jax import config as config_lib
from r1jax.config import ConfigError
from r1jax.data import shards
from r1jax.evaluation import samples, tables
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


def config_of(arms=('grpo', 'ppo_1'), seeds=(0, 2), seed=0, studies=()):
  config = ablations.get_config('objectives')
  config.seed = seed
  config.ablation.update(arms=arms, seeds=seeds, studies=studies)
  for name in [name for name in config.stages if name not in ('base', 'grpo', 'ppo_1')]:
    del config.stages[name]
  return config_lib.convert(config, settings.Recipe)


def test_each_stage_of_each_seed_runs_once_and_arms_are_compared(ran, tmp_path):
  lines = ablation.run_ablation(config_of(), str(tmp_path), ARGUMENTS)
  assert ran.stages == [(seed, name) for seed in (0, 2) for name in ('base', 'grpo', 'ppo_1')]
  assert lines[2:4] == [
    '| grpo | 0.875 (0.75 to 1) | 96, 1 of 2 runs | 2 (2 to 2) | 1.00 |',
    '| ppo_1 | 0.625 (0.5 to 0.75) | never | 2 (2 to 2) | 1.00 |',
  ]
  spent = {seed: json.loads((tmp_path / f'seed_{seed}/grpo/stage.json').read_text()) for seed in (0, 2)}
  seconds = table.spread([spent[seed]['processor_seconds'] for seed in (0, 2)])
  assert lines[5].startswith('| stage | processor seconds') and lines[8] == f'| grpo | {seconds} |'
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
  with pytest.raises(ConfigError, match='ablation.arms and studies are empty'):
    ablation.run_ablation(config_of(arms=()), str(tmp_path), ARGUMENTS)
  with pytest.raises(ConfigError, match="ablation.studies has 'grpo', .* studies are of tasks or search or reflection"):
    config_of(studies=('grpo',))
  for arms, seeds, message in (
    (('nope',), (0,), "ablation.arms has 'nope'; the stages are base"),
    (('base',), (0,), "'base', whose experiment is 'pretrain'"),
    (('grpo',), (), 'ablation.seeds is empty'),
    (('grpo',), (1, 1), 'a seed twice'),
  ):
    with pytest.raises(ConfigError, match=message):
      config_of(arms, seeds)
  assert not ran.stages


@pytest.mark.parametrize('quick', ['', '/quick'])
@pytest.mark.parametrize('variant', ablations.VARIANTS)
def test_configs_are_recipes_that_can_run(variant, quick, tmp_path):
  cfg = config_lib.convert(ablations.get_config(variant + quick), settings.Recipe)
  compared = {*cfg.ablation.arms, *cfg.ablation.studies}
  stages = ablation.expand(cfg, cfg.ablation.seeds[0], str(tmp_path))
  used = {name for stage in stages.values() for name, _ in stage.inputs.values()}
  assert compared and set(stages) == compared | used  # nothing runs that is not needed
  assert all(status.state == stage_lib.TO_DO for status in stage_lib.statuses(stages, str(tmp_path)).values())


def sample(seed, problem, number, correct):
  numbers = {'seed': seed, 'sample': number, 'length': 7, 'score': float(correct), 'length_difference': 0}
  texts = {'id': problem, 'split': '', 'response': 'x', 'stop': 'eos', 'reason': '', 'grade': ''}
  return numbers | texts | {'correct': correct, 'answer': 'x', 'voted': 0}


def test_evaluations_of_seeds_are_runs_of_one_model(tmp_path):
  right = {0: [[1, 1], [0, 0]], 1: [[1, 0], [1, 0]]}  # of each seed, problem and sample
  for seed, problems in right.items():
    for label in ('base', 'rl'):
      (tmp_path / f'{seed}' / label).mkdir(parents=True)
      rows = [
        sample(seed, f'p{p}', n, bool(x) or label == 'rl') for p, xs in enumerate(problems) for n, x in enumerate(xs)
      ]
      samples.append(tmp_path / f'{seed}' / label / 'sums.jsonl', rows)
    tables.write(str(tmp_path / f'{seed}'), ['base', 'rl'], ['sums'])
  pooled = tables.combine([str(tmp_path / '0'), str(tmp_path / '1')], str(tmp_path / 'pooled'))
  cell = pooled['rows'][0]['models']['base']
  assert (cell['runs'], cell['problems'], cell['k']) == (2, 2, 2)
  assert cell['figures']['pass@1'][0] == 0.5 and cell['figures']['pass@2'][0] == 0.75
  assert pooled['rows'][0]['models']['rl']['difference']['pass@1'][0] == 0.5
  assert '| sums | pass@1 | 2 | 2 |' in (tmp_path / 'pooled' / 'table.md').read_text()


def test_searches_of_seeds_are_pooled_over_their_problems(tmp_path):
  for seed, rights in enumerate(([1.0, 0.0], [1.0, 1.0])):
    budgets = lambda x, seed=seed: [{'budget': 4, 'tokens': 10 + 10 * seed, 'correct': x}]
    problems = [{'id': f'p{i}', 'budgets': budgets(x)} for i, x in enumerate(rights)]
    occupancy = 0.5 + seed / 4
    (tmp_path / f'{seed}').mkdir()
    found = json.dumps({'occupancy': occupancy, 'problems': problems})
    (tmp_path / f'{seed}' / 'beam.json').write_text(found)
    search.write_tables({'beam': {'occupancy': occupancy, 'runs': [problems]}}, str(tmp_path / f'{seed}'))
  (tmp_path / 'pooled').mkdir()
  (line,) = search.combine([str(tmp_path / '0'), str(tmp_path / '1')], str(tmp_path / 'pooled'))
  assert (line['accuracy'][0], line['tokens'], line['occupancy']) == (0.75, 15.0, 0.625)
  assert '| beam | 4 | 15 | 75.0 [' in (tmp_path / 'pooled' / 'table.md').read_text()


def test_reflections_of_seeds_are_pooled_and_their_problems_kept_apart(tmp_path):
  for seed in (0, 1):
    rows = [{'id': 'p0', 'correct': bool(seed), 'tokens': 5, 'stop': 'eos', 'steps': 1, 'at': []} for _ in range(2)]
    shards.Shards(tmp_path / f'{seed}' / 'base' / 't1', 1).write(0, rows)
    reflection.write_tables({'base': {'1': rows}}, str(tmp_path / f'{seed}'))
  (tmp_path / 'pooled').mkdir()
  figures = reflection.combine([str(tmp_path / '0'), str(tmp_path / '1')], str(tmp_path / 'pooled'))
  rates = figures['base']['1']['rates']
  assert (rates['responses'], rates['problems'], rates['accuracy'][0]) == (4, 1, 0.5)


def test_a_study_is_a_stage_and_its_seeds_are_pooled(ran, tmp_path, monkeypatch):
  """The whole way: expansion, a stage whose result is a table, and the pooled table in W/table.md."""

  def run(cfg, workdir):
    ran.stages.append((cfg.seed, 'shots'))
    (pathlib.Path(workdir) / 'base').mkdir()
    samples.append(pathlib.Path(workdir) / 'base' / 'sums.jsonl', [sample(cfg.seed, 'p0', 0, bool(cfg.seed))])
    tables.write(workdir, ['base'], ['sums'])
    (pathlib.Path(workdir) / 'summary.json').write_text('{}')

  few_shot = ablations.get_config('few_shot')
  few_shot.ablation.seeds = (0, 1)
  for name in [name for name in few_shot.stages if name not in ('base', 'shots')]:
    del few_shot.stages[name]
  few_shot.stages.shots.config.models = {'base': 'stage:base'}

  def of_seed(argv):
    few_shot.seed = int(next(x for x in argv if x.startswith('--config.seed=')).partition('=')[2])
    flags = dict(zip(argv[-4::2], argv[-3::2]))
    recipe.run_recipe(config_lib.convert(few_shot, settings.Recipe), flags['--workdir'], only=(flags['--only'],))
    return types.SimpleNamespace(returncode=0)

  monkeypatch.setattr(ablation.subprocess, 'run', of_seed)
  monkeypatch.setitem(recipe.EXPERIMENTS, 'tasks', recipe.Experiment(run, config_lib.Evaluate))
  cfg = config_lib.convert(few_shot, settings.Recipe)
  lines = ablation.run_ablation(cfg, str(tmp_path), ['--config=x'])
  assert ran.stages == [(0, 'base'), (0, 'shots'), (1, 'base'), (1, 'shots')]
  assert any(line.startswith('| sums | pass@1 | 1 | 1 | 50.0 [') for line in lines)
  assert '--only shots' in (tmp_path / 'table.md').read_text() and (tmp_path / 'shots' / 'table.html').exists()
