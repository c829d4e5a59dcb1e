"""Running a recipe: with fake experiments that count their runs, and (slow) with real ones killed at any moment."""

import json
import pathlib
import re
import shlex

import pytest

from configs import r1_zero
from experiments import recipe
from r1jax import config as config_lib
from r1jax.config import ConfigError
from r1jax.metrics import recipe_report, writer
from r1jax.recipes import settings
from r1jax.recipes import stage as stage_lib
from r1jax.recipes import summary as summary_lib
from tests.experiments import tiny_r1

PROBLEMS = [('p0', 'math'), ('p1', 'math'), ('p2', 'open')]


class Fakes:
  """Experiments that take no time: each appends its name to `ran` and writes its seed, rate and input's digest."""

  def __init__(self):
    self.ran, self.failing = [], ()

  def make(self, cfg, workdir):
    name = pathlib.Path(workdir).name
    self.ran.append(name)
    (pathlib.Path(workdir) / 'unfinished').write_text('')
    if name in self.failing:
      raise ConfigError('the fake experiment failed')
    (pathlib.Path(workdir) / 'made.txt').write_text(
      json.dumps([cfg.seed, cfg.optimizer.learning_rate, stage_lib.digest(cfg.model.path)])
    )
    return self.finish(workdir, {'final': {'pass@1': 0.5}, 'dropped': {'long': 3}, 'config': {'large': 1}})

  def evaluate(self, cfg, workdir):
    self.ran.append(f'{pathlib.Path(cfg.model.path).name}*')
    all_right = pathlib.Path(cfg.model.path).name == 'late'
    row = {
      'answer': '1',
      'response': '<script>wait',
      'stop': 'eos',
      'reward': 1.0,
      'parts': {'math': 1.0},
      'format': 1.0,
      'language': 0.5,
      'length': 7,
    }
    rows = [
      row | {'id': name, 'kind': kind, 'problem': f'<b>{name}</b>', 'correct': bool(i % 2) or all_right}
      for name, kind in PROBLEMS
      for i in range(4)
    ]
    with writer.Writer(workdir) as out:
      out.samples(0, rows)
    return self.finish(
      workdir,
      {'final': {'pass@1': 1.0 if all_right else 0.5, 'format': 1.0}, 'problems': 3, 'samples': 4, 'seconds': 0.1},
    )

  def finish(self, workdir, summary):
    (pathlib.Path(workdir) / 'summary.json').write_text(json.dumps(summary))
    return summary


@pytest.fixture
def fakes(monkeypatch):
  fakes = Fakes()
  fakes.table = {
    'rl': recipe.Experiment(fakes.make, config_lib.RL, '', 'rl'),
    'evaluate': recipe.Experiment(fakes.evaluate, config_lib.RL, '', 'evaluate'),
    'external': recipe.EXPERIMENTS['external'],
  }
  monkeypatch.setattr(recipe, 'EXPERIMENTS', fakes.table)
  monkeypatch.setattr(recipe_report, 'make', lambda workdir: None)  # takes a second; has its own test
  return fakes


def configs(path, rate=0.5):
  """A recipe outside -> first -> second -> late, in which first and late are evaluated and compared."""

  def rl(model):
    c = r1_zero.get_config('toy').to_dict()
    c['model']['path'] = model
    return c

  c = {
    'seed': 3,
    'evaluations': {'all': rl('')},
    'stages': {
      'outside': {'experiment': 'external', 'config': {'path': str(path)}},
      'first': {'experiment': 'rl', 'config': rl('stage:outside'), 'evaluation': 'all', 'about': 'the <first> one'},
      'second': {'experiment': 'rl', 'config': rl('stage:first')},
      'late': {'experiment': 'rl', 'config': rl('stage:second/made.txt'), 'evaluation': 'all'},
    },
    'comparisons': {'gain': {'first': 'first', 'second': 'late'}},
  }
  c['stages']['second']['config']['optimizer']['learning_rate'] = rate
  return c


@pytest.fixture
def outside(tmp_path):
  (tmp_path / 'model.txt').write_text('weights')
  return tmp_path / 'model.txt'


def run(outside, **kwargs):
  flags = {name: kwargs.pop(name) for name in ('only', 'first', 'last') if name in kwargs}
  return recipe.run_recipe(
    config_lib.convert(configs(outside, **kwargs), settings.Recipe), str(outside.parent / 'w'), **flags
  )


def test_each_stage_runs_once_with_its_evaluation_and_the_seed(fakes, outside):
  summary = run(outside)
  assert fakes.ran == ['first', 'first*', 'second', 'late', 'late*']
  run(outside)
  assert len(fakes.ran) == 5
  assert json.loads((outside.parent / 'w' / 'second' / 'made.txt').read_text())[:2] == [3, 0.5]
  stages = summary['stages']
  assert [s['status'] for s in stages.values()] == ['done'] * 4
  assert stages['second']['inputs'] == {'model.path': 'first'} and stages['second']['evaluation'] is None
  assert stages['first']['figures'] == {'final': {'pass@1': 0.5}, 'dropped': {'long': 3}}
  assert stages['late']['evaluation']['kinds']['math'] == {
    'count': 2,
    'correct': 1.0,
    'format': 1.0,
    'language': 0.5,
    'length': 7.0,
  }
  assert summary['comparisons']['gain']['difference'] == 0.5 and summary['comparisons']['gain']['problems'] == 3


def test_a_change_reruns_what_depends_on_it_and_keeps_the_old_results(fakes, outside):
  run(outside)
  fakes.ran.clear()
  run(outside, rate=0.25)
  assert fakes.ran == ['second', 'late', 'late*']
  old = outside.parent / 'w' / 'old'
  assert json.loads((old / 'second-1' / 'made.txt').read_text())[:2] == [3, 0.5]
  assert (old / 'late-1' / 'evaluation' / 'summary.json').exists()
  fakes.ran.clear()
  outside.write_text('other weights')
  run(outside, rate=0.25)
  assert fakes.ran == ['first', 'first*', 'second', 'late', 'late*']


def test_a_failed_stage_is_resumed_in_its_folder(fakes, outside):
  fakes.failing = ('second',)
  with pytest.raises(ConfigError, match='the fake experiment failed'):
    run(outside)
  stages = json.loads((outside.parent / 'w' / 'summary.json').read_text())['stages']
  assert stages['first']['status'] == 'done' != stages['second']['status']
  fakes.failing, fakes.ran = (), []
  summary = run(outside)
  assert fakes.ran == ['second', 'late', 'late*'] and not (outside.parent / 'w' / 'old').exists()
  assert summary['stages']['second']['status'] == 'done'


def test_a_changed_evaluation_runs_again_without_training(fakes, outside):
  run(outside)
  fakes.ran.clear()
  c = configs(outside)
  c['evaluations']['all']['rollout']['temperature'] = 0.5
  recipe.run_recipe(config_lib.convert(c, settings.Recipe), str(outside.parent / 'w'))
  assert fakes.ran == ['first*', 'late*']


@pytest.mark.parametrize(
  ('flags', 'ran'),
  [
    ({'only': ['first']}, []),
    ({'last': 'first'}, ['first', 'first*']),
    ({'last': 'second'}, ['first', 'first*', 'second']),
  ],
)
def test_selected_stages(fakes, outside, flags, ran):
  if flags.get('only'):
    with pytest.raises(ConfigError, match=r'first needs outside \(model.path\)'):
      run(outside, **flags)
  else:
    run(outside, **flags)
  assert fakes.ran == ran
  if ran:
    fakes.ran.clear()
    run(outside, first='second')
    assert fakes.ran == (['late', 'late*'] if 'second' in ran else ['second', 'late', 'late*'])


def test_unknown_names_and_keys_are_refused_before_anything_runs(fakes, outside):
  for flags in ({'only': ['nope']}, {'first': 'nope'}, {'last': 'nope'}):
    with pytest.raises(ConfigError, match='nope: .*outside, first, second, late'):
      run(outside, **flags)
  c = configs(outside)
  c['stages']['late']['config']['rollout']['sample'] = 1
  with pytest.raises(ConfigError, match="stage late: .*'rollout.sample'"):
    recipe.run_recipe(config_lib.convert(c, settings.Recipe), str(outside.parent / 'w'))
  c = configs(outside)
  c['stages']['late']['experiment'] = 'rll'
  with pytest.raises(ConfigError, match="stages.late.experiment is 'rll'; known: rl, evaluate, external"):
    recipe.expand(config_lib.convert(c, settings.Recipe))
  assert fakes.ran == []


def test_the_table_shows_the_status_of_each_stage(fakes, outside):
  run(outside, last='second')
  cfg = config_lib.convert(configs(outside, rate=0.1), settings.Recipe)
  stages = recipe.expand(cfg)
  text = recipe.table(stages, stage_lib.statuses(stages, outside.parent / 'w'), outside.parent / 'w')
  rows = {line.split()[0]: line for line in text.splitlines()}
  assert ' done ' in rows['first'] and ' stale ' in rows['second'] and ' to do ' in rows['late']
  assert rows['second'].endswith('optimizer.learning_rate was 0.5, is 0.1')
  assert rows['late'].endswith('second')  # its input; no reason is shown


def test_an_external_path_is_required_only_if_it_is_used(fakes, outside):
  c = configs(outside)
  unused = {'experiment': 'external', 'config': {'path': ''}}
  c['stages'] = (
    {'unused': unused}
    | c['stages']
    | {'more': {'experiment': 'rl', 'config': c['stages']['late']['config'] | {'model': {'path': 'stage:unused'}}}}
  )
  cfg = config_lib.convert(c, settings.Recipe)
  recipe.run_recipe(cfg, str(outside.parent / 'w'), last='first')
  assert fakes.ran == ['first', 'first*']
  with pytest.raises(ConfigError, match='stage unused: path is empty'):
    recipe.run_recipe(cfg, str(outside.parent / 'w'))


def test_one_seed_and_one_process(fakes, outside, monkeypatch):
  c = configs(outside)
  c['stages']['late']['config']['seed'] = 4
  with pytest.raises(ConfigError, match='stages.late.config.seed is 4.*--config.seed'):
    recipe.run_recipe(config_lib.convert(c, settings.Recipe), str(outside.parent / 'w'))
  monkeypatch.setattr(recipe.jax, 'process_count', lambda: 2)
  with pytest.raises(ConfigError, match='one process.*--command'):
    # Without the lock, which would wait for the other processes.
    recipe.run_recipe.__wrapped__(config_lib.convert(configs(outside), settings.Recipe), str(outside.parent / 'w'))
  assert fakes.ran == []


def test_a_comparison_without_common_problems_says_so(fakes, outside):
  c = configs(outside)
  c['comparisons']['gain'] |= {'figure': 'correct', 'kind': 'maths'}
  summary = recipe.run_recipe(config_lib.convert(c, settings.Recipe), str(outside.parent / 'w'))
  assert re.search('gain: no problem .*first.*late.*correct of maths', summary_lib.text(summary))


def test_a_stage_can_be_run_by_its_separate_command(fakes, outside):
  run(outside, last='first')
  workdir = str(outside.parent / 'another place')
  (outside.parent / 'w').rename(workdir)
  cfg = config_lib.convert(configs(outside), settings.Recipe)
  command = shlex.split(recipe.stage_command(cfg, workdir, 'second'))
  assert command[:3] == ['python', '-m', 'experiments.rl']
  namespace = {}
  exec(pathlib.Path(command[command.index('--config') + 1]).read_text(), namespace)
  stage_cfg = config_lib.convert(namespace['get_config'](), config_lib.RL)
  assert stage_cfg.model.path == f'{workdir}/first'
  assert stage_cfg.seed == 3 and stage_cfg.optimizer.learning_rate == 0.5
  fakes.ran.clear()
  fakes.make(stage_cfg, command[command.index('--workdir') + 1])  # as a separate job would
  recipe.run_recipe(cfg, workdir)
  assert fakes.ran == ['second', 'late', 'late*']  # late uses its result; second did not run again
  with pytest.raises(ConfigError, match='stage second is done'):
    recipe.stage_command(cfg, workdir, 'second')


def test_the_report_shows_every_stage_and_escapes_markup_of_a_model(fakes, outside, monkeypatch):
  monkeypatch.undo()
  monkeypatch.setattr(recipe, 'EXPERIMENTS', fakes.table)
  run(outside)
  text = (outside.parent / 'w' / 'report.html').read_text('utf-8')
  for part in ('the &lt;first&gt; one', 'id="stage-late"', 'to late', '50.0%', '+50.0 points', 'at a stage'):
    assert part in text, part
  assert '<script>wait' not in text and '<b>p0' not in text and text.count('<script') == 3


def test_lineage_as_text(fakes, outside):
  run(outside)
  lines = recipe.lineage_text(stage_lib.lineage(*stage_lib.find(outside.parent / 'w' / 'late'))).splitlines()
  assert [line.strip() for line in lines if '(' in line] == [
    'late (rl, seed 3)',
    'second (rl, seed 3)',
    'first (rl, seed 3)',
    'outside (external)',
  ]
  assert any(str(outside) in line for line in lines) and 'CHANGED' not in '\n'.join(lines)


def test_comparisons_and_evaluations_must_exist():
  stage = {'experiment': 'rl', 'config': {}}
  with pytest.raises(ConfigError, match="stages.a.evaluation is 'e'; known: none"):
    config_lib.convert({'seed': 0, 'stages': {'a': stage | {'evaluation': 'e'}}}, settings.Recipe)
  with pytest.raises(ConfigError, match="comparisons.c names 'a'"):
    config_lib.convert(
      {'seed': 0, 'stages': {'a': stage}, 'comparisons': {'c': {'first': 'a', 'second': 'a'}}}, settings.Recipe
    )
  with pytest.raises(ConfigError, match="stages .*'a/b'"):
    config_lib.convert({'seed': 0, 'stages': {'a/b': stage}}, settings.Recipe)


def figures(workdir):
  """W/summary.json without values that depend on the clock, paths or memory use."""

  def strip(value):
    if isinstance(value, dict):
      drop = ('seconds', 'path', 'made_by', 'policy', 'sources', 'memory', 'peak_memory_gb')
      return {k: strip(v) for k, v in value.items() if k not in drop}
    return [strip(v) for v in value] if isinstance(value, list) else value

  return strip(json.loads((workdir / 'summary.json').read_text()))


@pytest.mark.slow
def test_a_recipe_killed_across_its_stages_ends_with_the_same_figures(runs, tmp_path):
  """Base, RL, samples, curated dataset, SFT, reward model and RL with it, on a base that has learned nothing."""
  tiny = {'module': 'recipe', 'config': 'tests/experiments/tiny_r1.py'}
  uninterrupted, killed = tmp_path / 'uninterrupted', tmp_path / 'killed'
  runs.finish(uninterrupted, **tiny)
  runs.kill(killed, (killed / 'zero' / 'eval_base.json').exists, **tiny)  # during the first RL stage
  runs.kill(killed, (killed / 'curated' / stage_lib.RECORD).exists, **tiny)  # between two stages
  runs.kill(killed, lambda: any((killed / 'final' / 'checkpoints').glob('step_*')), **tiny)
  assert not (killed / 'final' / 'summary.json').exists()
  runs.finish(killed, **tiny)
  assert figures(killed) == figures(uninterrupted)
  assert set(figures(killed)['stages']) == set(tiny_r1.KEPT) and not (killed / 'old').exists()
  stderr = runs.finish(killed, **tiny)
  assert '[' not in stderr  # no stage was run
