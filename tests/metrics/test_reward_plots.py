"""Figures of a reward model are drawn whatever its numbers are."""

from matplotlib import image as matplotlib_image
import numpy as np
import pytest

from r1jax.metrics import reward_plots, writer


@pytest.mark.parametrize(
  ('margins', 'longer'),
  [(np.linspace(-2, 2, 50), np.arange(-25, 25)), ([0.5], [0]), ([1.0, -1.0], [3, 3]), ([0.0] * 4, [1, -1, 2, -2])],
)
def test_figures_are_written(tmp_path, margins, longer):
  with writer.Writer(tmp_path) as out:
    out.write(0, {'train/loss': 0.7, 'train/accuracy': 0.5, 'eval/loss': 0.7, 'eval/accuracy': 0.4})
  final = {
    'calibration': {'ece': 0.1, 'bins': [{'from': 0.4, 'to': 0.5, 'count': 3, 'predicted': 0.45, 'observed': 0.6}]}
  }
  paths = reward_plots.plot(tmp_path, final, (margins, longer))
  assert [p.stem for p in paths] == ['loss', 'accuracy', 'reliability', 'length_bias']
  for path in paths:
    assert matplotlib_image.imread(path).std() > 0.01
  assert len(reward_plots.plot(tmp_path, final)) == 3
