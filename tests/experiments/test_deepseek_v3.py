"""Every stage of configs/r1.py:deepseek_v3 and every evaluation, chained as it is, with nothing changed but sizes."""

import json

import pytest

from experiments import recipe, rl, sft
from r1jax import config
from r1jax.metrics import recipe_report, reward_plots
from r1jax.recipes import settings
from r1jax.recipes import stage as stage_lib
from tests.experiments import tiny_deepseek_v3


def read(path):
  return [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]


@pytest.fixture
def undrawn(monkeypatch):
  """No plots and pages: they take half of the time, and have tests of their own."""
  for module, names in (
    (rl, ('plot', 'report')),
    (sft, ('plot', 'report')),
    (reward_plots, ('plot',)),
    (recipe_report, ('make',)),
  ):
    for name in names:
      monkeypatch.setattr(module, name, lambda *_: None)


@pytest.mark.slow
def test_all_stages_of_the_real_recipe_run_one_after_the_other(tmp_path, monkeypatch, undrawn):
  """Each takes what those before have made: prompts are parted for RL and their answers anew for SFT, nothing near
  AIME is learned, and of what a policy has sampled what is right is learned."""
  monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', str(tmp_path / 'programs'))
  cfg = config.convert(tiny_deepseek_v3.get_config(tmp_path), settings.Recipe)
  work = tmp_path / 'w'
  recipe.run_recipe(cfg, str(work))
  found = stage_lib.statuses(recipe.expand(cfg), work)
  assert {status.state for status in found.values()} == {stage_lib.DONE}
  evaluated = {row['problem'] for row in read(tmp_path / 'aime.jsonl')}
  for learned in ('cold_data', 'curated'):
    rows = read(work / learned / 'train.jsonl')
    assert rows and not evaluated & {row['problem'] for row in rows}
    assert all('\\boxed{7}' in row['response'] for row in rows if row.get('kind', 'math') == 'math')
  for imitating in ('cold', 'sft', f'student_{tiny_deepseek_v3.STUDENT}'):
    summary = json.loads((work / imitating / 'summary.json').read_text())
    assert summary['texts'] and summary['held_out'] and summary['steps']
