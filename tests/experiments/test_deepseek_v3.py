"""All stages and evaluations of configs/r1.py:deepseek_v3, with only the sizes changed."""

import json

import pytest

from experiments import recipe
from r1jax import config
from r1jax.metrics import recipe_report, reward_plots
from r1jax.recipes import settings
from r1jax.recipes import stage as stage_lib
from r1jax.runs import loop
from tests.experiments import tiny_deepseek_v3


def read(path):
  return [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]


@pytest.fixture
def no_plots(monkeypatch):
  """Makes no plots and reports, which would take half of the time and have their own tests."""
  for module, names in ((loop, ('plot', 'report')), (reward_plots, ('plot',)), (recipe_report, ('make',))):
    for name in names:
      monkeypatch.setattr(module, name, lambda *_: None)


@pytest.mark.slow
def test_all_stages_of_the_deepseek_v3_recipe_run(tmp_path, monkeypatch, no_plots):
  """Each stage uses the results of earlier ones; no training data contains AIME problems, and only right samples are
  trained on."""
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', str(tmp_path / 'programs'))
  cfg = config.convert(tiny_deepseek_v3.get_config(tmp_path), settings.Recipe)
  work = tmp_path / 'w'
  recipe.run_recipe(cfg, str(work))
  statuses = stage_lib.statuses(recipe.expand(cfg), work)
  assert {status.state for status in statuses.values()} == {stage_lib.DONE}
  evaluated = {row['problem'] for row in read(tmp_path / 'aime.jsonl')}
  for stage in ('cold_data', 'curated'):
    rows = read(work / stage / 'train.jsonl')
    assert rows and not evaluated & {row['problem'] for row in rows}
    assert all('\\boxed{7}' in row['response'] for row in rows if row.get('kind', 'math') == 'math')
  for stage in ('cold', 'sft', f'student_{tiny_deepseek_v3.STUDENT}'):
    summary = json.loads((work / stage / 'summary.json').read_text())
    assert summary['texts'] and summary['held_out'] and summary['steps']
