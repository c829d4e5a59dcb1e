"""The main job's own text; what it runs is tested piece by piece."""

from configs import r1_zero, toy_base
from experiments import quickstart
from r1jax import config


def test_the_table_shows_each_figure_before_and_after():
  base = {name: 0.125 for name in quickstart.ROWS} | {'length_mean': 15.0}
  final = {name: 0.875 for name in quickstart.ROWS} | {'length_mean': 45.5}
  lines = quickstart.table({'base': base, 'final': final, 'length_ratio': 45.5 / 15}).splitlines()
  assert len(lines) == 2 + len(quickstart.ROWS)
  row = {line.split()[0]: line.split()[1:] for line in lines[1:]}
  assert row['pass@1'] == ['12.5%', '87.5%']
  assert row['length_mean'] == ['15.0', '45.5'] and row['length_ratio'] == ['3.03']


def test_each_world_has_a_base_and_a_recipe_that_fit_each_other():
  for world, variant in quickstart.VARIANTS.items():
    base = config.convert(toy_base.get_config(world), config.Pretrain)
    recipe = config.convert(r1_zero.get_config(variant), config.RL)
    assert base.world == recipe.data.source == world
    # A base that never saw so long a text loses its thread there.
    assert recipe.rollout.max_response <= base.length
    assert recipe.eval.final_samples == 16
