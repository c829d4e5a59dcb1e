"""Curves of several groups of runs: what is drawn are the mean and the range of each group."""

import json
import subprocess
import sys

from matplotlib import image as matplotlib_image
from matplotlib.collections import PolyCollection
import numpy as np
import pytest

from experiments import curves
from r1jax.config import ConfigError
from r1jax.metrics import plots
from r1jax.metrics.writer import RecordError


@pytest.fixture
def folders(tmp_path):
  """A function that writes the values of a metric by step as a run; returns its folder."""

  def write(name, values, metric='reward/math/mean'):
    path = tmp_path / name
    path.mkdir()
    lines = [{'step': step, metric: value, 'other': 1.0} for step, value in values.items()]
    (path / 'metrics.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
    return str(path)

  return write


def band(collection):
  """{step: (lowest, highest)} of a filled area."""
  points = collection.get_paths()[0].vertices
  return {x: (points[points[:, 0] == x, 1].min(), points[points[:, 0] == x, 1].max()) for x in set(points[:, 0])}


def test_mean_and_range_of_each_group_are_drawn_at_the_steps_that_its_runs_share(folders):
  first = folders('a', {0: 0.1, 1: 0.3, 2: 0.5, 3: 0.9})
  second = folders('b', {0: 0.3, 1: None, 2: 0.1, 3: 0.6})
  third = folders('c', {0: 0.8, 2: 0.4, 3: 0.3, 7: 1.0})
  single = folders('d', {0: 0.2, 5: 0.7})
  figure = plots.compare(curves.read([f'ours={first},{second},{third}', f'_trl={single}']), 'reward/math/mean')
  (axes,) = figure.axes
  ours, trl = axes.get_lines()
  assert ours.get_xdata().tolist() == [0, 2, 3] and trl.get_xdata().tolist() == [0, 5]
  np.testing.assert_allclose(ours.get_ydata(), [0.4, 1 / 3, 0.6])
  np.testing.assert_allclose(trl.get_ydata(), [0.2, 0.7])
  (filled,) = [c for c in axes.collections if isinstance(c, PolyCollection)]  # one run has no range
  assert band(filled) == {0: (0.1, 0.8), 2: (0.1, 0.5), 3: (0.3, 0.9)}
  assert ours.get_color() != trl.get_color()
  assert [text.get_text() for text in axes.get_legend().get_texts()] == ['ours', 'trl']
  assert axes.get_xlabel() == 'step' and axes.get_ylabel().startswith('reward/math/mean')
  assert axes.get_title(loc='left') == 'Reward'


def test_fractions_are_drawn_in_per_cent_and_many_steps_smoothed(folders):
  values = np.random.default_rng(0).uniform(size=(2, 100))
  runs = [folders(str(i), dict(enumerate(x)), 'eval/pass@1') for i, x in enumerate(values)]
  (axes,) = plots.compare(curves.read([f'x={",".join(runs)}']), 'eval/pass@1').axes
  assert axes.get_ylim() == (-2, 102) and axes.get_legend() is None
  np.testing.assert_allclose(axes.get_lines()[0].get_ydata(), 100 * plots.smooth(values.mean(axis=0)))


def test_the_command_writes_svg_with_labels_as_text_and_png(folders, tmp_path):
  runs = [folders(name, {0: 0.1, 1: 0.3, 2: x}) for name, x in (('a', 0.5), ('b', 0.7))]
  command = [sys.executable, '-m', 'experiments.curves', '--metric=reward/math/mean']
  for name in ('x.svg', 'y.svg'):
    output = f'--output={tmp_path / name}'
    done = subprocess.run([*command, f'r1jax={runs[0]}', f'TRL={runs[1]}', output], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
  text = (tmp_path / 'x.svg').read_text()
  assert '>r1jax<' in text and '>TRL<' in text and text == (tmp_path / 'y.svg').read_text()
  curves.draw([f'r1jax={runs[0]}'], 'reward/math/mean', str(tmp_path / 'z.png'))
  image = matplotlib_image.imread(tmp_path / 'z.png')
  assert (np.ptp(image[..., :3], axis=-1) > 0.3).sum() > 300


@pytest.mark.parametrize(
  ('arguments', 'output', 'error', 'shown'),
  [
    ([], 'x.svg', ConfigError, 'no runs'),
    (['trl'], 'x.svg', ConfigError, "'trl'"),
    (['trl=A,'], 'x.svg', ConfigError, "'trl=A,'"),
    (['=A'], 'x.svg', ConfigError, "'=A'"),
    (['trl=A', 'trl=B'], 'x.svg', ConfigError, 'twice'),
    (['trl=A'], 'x.pdf', ConfigError, 'x.pdf'),
    (['trl=missing'], 'x.svg', RecordError, 'missing'),
    (['trl=A,C'], 'x.svg', RecordError, 'all 2 runs'),
  ],
)
def test_what_cannot_be_drawn_is_refused(folders, tmp_path, monkeypatch, arguments, output, error, shown):
  for name, steps in {'A': {0: 0.5}, 'B': {0: 0.5}, 'C': {1: 0.5}}.items():
    folders(name, steps)
  monkeypatch.chdir(tmp_path)
  with pytest.raises(error) as caught:
    curves.draw(arguments, 'reward/math/mean', output)
  assert shown in str(caught.value) and not (tmp_path / output).exists()
