"""Scaling curves of groups of runs: the command, its table and its figure."""

import json
import re
import subprocess
import sys

from matplotlib.collections import PolyCollection
import numpy as np
import pytest

from experiments import scaling as experiment
from r1jax.config import ConfigError
from r1jax.metrics import scaling, scaling_plots
from r1jax.metrics.writer import RecordError

TRUE = scaling.Fit(0.1, 0.6, 1.6, 1200.0)


@pytest.fixture
def folders(tmp_path):
  """A function that writes a run of 40 steps of 100 tokens, evaluated at every second one; returns its folder."""

  def write(name, true=TRUE, noise=0.004, steps=40):
    path = tmp_path / name
    path.mkdir()
    rng, lines = np.random.default_rng(len(name) + steps), []
    for step in range(steps + 1):
      lines.append({'step': step, 'time/sample': 0.5, 'throughput/sample_tokens_per_second': 200.0, 'time/step': 0.7})
      if step % 2 == 0:
        lines.append({'step': step, 'eval/pass@1': float(true(100 * step) + noise * rng.normal())})
    (path / 'metrics.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
    return str(path)

  return write


def test_the_command_prints_the_parameters_and_draws(folders, tmp_path):
  ours = ','.join(folders(name) for name in ('a', 'bb'))
  other = folders('ccc', scaling.Fit(0.1, 0.4, 1.6, 1200.0))
  output = tmp_path / 'x.svg'
  command = [sys.executable, '-m', 'experiments.scaling', '--metric=eval/pass@1', f'ours={ours}', f'other={other}']
  flags = ['--fit_until=3000', '--until=3', '--replicates=100', f'--output={output}']
  done = subprocess.run([*command, *flags], capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  header, first, second = (re.split(r'\s{2,}', line) for line in done.stdout.splitlines()[:3])
  assert header == ['', 'runs', 'points', 'R0', 'A', 'B', 'C_mid', 'R(C)', 'C']
  assert first[:3] == ['ours', '2', '30'] and second[:3] == ['other', '1', '15']
  for row, asymptote in ((first, 0.6), (second, 0.4)):
    value, low, high = (float(x) for x in re.findall(r'[\d.]+', row[4]))
    assert low <= value <= high and value == pytest.approx(asymptote, abs=0.05)
    assert row[-1] == '1.2e+04'  # three times 4,000 tokens
  assert 'ours: runs and residuals' in done.stdout and 'other: residuals of one run' in done.stdout
  assert re.search(r'ours: .* at the 10 points beyond 3e\+03', done.stdout)
  text = output.read_text()
  assert all(f'>{label}<' in text for label in ('ours', 'other', 'sampled tokens', '200', '10000'))


def test_fit_band_points_and_extrapolation_are_drawn_in_per_cent(folders):
  found = experiment.analyse([f'ours={folders("a")}'], 'eval/pass@1', 'step', last=30, replicates=100)
  (axes,) = scaling_plots.draw(found, 'eval/pass@1', 'step', 2.0).axes
  fitted, beyond = axes.get_lines()
  assert fitted.get_linestyle() == '-' and beyond.get_linestyle() == '--'
  assert fitted.get_xdata()[0] == 2 and fitted.get_xdata()[-1] <= 30 < beyond.get_xdata()[0]
  assert beyond.get_xdata()[-1] == pytest.approx(80)
  np.testing.assert_allclose(beyond.get_ydata(), 100 * found['ours'].fit(beyond.get_xdata()))
  used, held_out = (c for c in axes.collections if not isinstance(c, PolyCollection))
  assert len(used.get_offsets()) == 15 and len(held_out.get_offsets()) == 5 and not len(held_out.get_facecolors())
  (band,) = (c.get_paths()[0].vertices for c in axes.collections if isinstance(c, PolyCollection))
  end = band[np.isclose(band[:, 0], 80), 1]
  np.testing.assert_allclose([end.min(), end.max()], 100 * found['ours'].interval(lambda fit: fit(80.0)))
  assert axes.get_xscale() == 'log' and axes.get_xlabel() == 'step'


@pytest.mark.parametrize(
  ('changes', 'error', 'shown'),
  [
    ({'output': 'x.pdf'}, ConfigError, 'x.pdf'),
    ({'until': 0.5}, ConfigError, '--until is 0.5'),
    ({'compute': 'flops'}, ConfigError, "'flops'; use one of tokens, seconds, step"),
    ({'first': 9.0, 'last': 3.0}, ConfigError, '--fit_from 9 .* --fit_until 3'),
    ({'replicates': 10}, ConfigError, '--replicates is 10'),
    ({'arguments': ['ours']}, ConfigError, "'ours' is no group"),
    ({'metric': 'eval/none'}, RecordError, "run 1 of ours has no 'eval/none'"),
    ({'last': 500.0}, RecordError, 'run 1 of ours has 3 points'),
  ],
)
def test_what_cannot_be_done_is_refused(folders, tmp_path, monkeypatch, changes, error, shown):
  monkeypatch.chdir(tmp_path)
  settings = {'arguments': [f'ours={folders("a")}'], 'metric': 'eval/pass@1', 'output': 'x.svg'} | changes
  with pytest.raises(error, match=shown):
    experiment.run(**settings)
  assert not list(tmp_path.glob('x.*'))
