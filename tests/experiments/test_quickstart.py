"""The table and configs of the quickstart; what it runs has its own tests."""

from configs import r1_zero, toy_base
from experiments import quickstart
from r1jax import config


def test_the_table_shows_each_metric_before_and_after():
  base = {name: 0.125 for name in quickstart.ROWS} | {'length_mean': 15.0}
  final = {name: 0.875 for name in quickstart.ROWS} | {'length_mean': 45.5}
  lines = quickstart.table({'base': base, 'final': final, 'length_ratio': 45.5 / 15}).splitlines()
  assert len(lines) == 2 + len(quickstart.ROWS)
  row = {line.split()[0]: line.split()[1:] for line in lines[1:]}
  assert row['pass@1'] == ['12.5%', '87.5%']
  assert row['length_mean'] == ['15.0', '45.5'] and row['length_ratio'] == ['3.03']


def test_the_base_and_rl_configs_of_each_world_fit_each_other():
  for world, variant in quickstart.VARIANTS.items():
    base = config.convert(toy_base.get_config(world), config.Pretrain)
    rl = config.convert(r1_zero.get_config(variant), config.RL)
    assert base.world == rl.data.source == world
    # A base trained on shorter texts would fail on longer responses.
    assert rl.rollout.max_response <= base.length
    assert rl.eval.final_samples == 16
