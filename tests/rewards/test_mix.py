"""Several rewards combined to one, compared with arithmetic by hand."""

import numpy as np
import pytest

from r1jax import config
from r1jax.rewards import mix

SCORES = {'math': np.float32([1, 1, 0]), 'format': np.float32([1, 0, 0.5]), 'length': np.float32([0.2, 0.4, 1])}


@pytest.mark.parametrize(
  ('weights', 'gates', 'expected'),
  [
    ({'math': 1.0}, (), [1, 1, 0]),
    ({'math': 1.0, 'format': 0.5, 'length': -2.0}, (), [1.1, 0.2, -1.75]),
    ({'math': 1.0, 'format': 0.0}, ('format',), [1, 0, 0]),
    ({'math': 1.0, 'format': 2.0}, ('format',), [3, 0, 0.5]),
    ({'math': 0.0, 'format': 0.0, 'length': 1.0}, ('format', 'math'), [0.2, 0, 0]),
  ],
)
def test_the_weighted_sum_times_the_gates(weights, gates, expected):
  cfg = config.Reward(parts=weights, accuracy='math', gates=gates)
  total = mix.total(SCORES, cfg)
  assert total.dtype == np.float32
  np.testing.assert_allclose(total, expected, rtol=1e-6)


def test_a_row_is_mixed_alike_in_any_batch():
  rng = np.random.default_rng(0)
  scores = {name: rng.normal(size=1000).astype(np.float32) for name in 'abc'}
  cfg = config.Reward(parts={'a': 0.1, 'b': 0.7, 'c': -0.3}, accuracy='a', gates=('b',))
  totals = mix.total(scores, cfg)
  assert all(mix.total({n: x[i : i + 1] for n, x in scores.items()}, cfg) == totals[i : i + 1] for i in range(1000))


def test_gates_and_options_name_parts():
  for key in ({'gates': ('format',)}, {'options': {'format': {}}}):
    with pytest.raises(config.ConfigError, match="names 'format', which is not in reward.parts"):
      config.Reward(parts={'math': 1.0}, accuracy='math', **key)


def test_options_come_from_a_config_file():
  reward = config.convert(
    {'parts': {'math': 1}, 'accuracy': 'math', 'options': {'math': {'where': 'tags', 'n': 3}}}, config.Reward
  )
  assert reward.options['math'] == {'where': 'tags', 'n': 3}
  assert config.to_dict(reward)['options'] == {'math': {'where': 'tags', 'n': 3}}
  with pytest.raises(config.ConfigError, match="'options.math' is 3"):
    config.convert({'parts': {'math': 1}, 'accuracy': 'math', 'options': {'math': 3}}, config.Reward)
