"""Plots are drawn from metrics.jsonl alone."""

import math

from matplotlib import image as matplotlib_image
import numpy as np
import pytest

from r1jax.metrics import plots, writer


def records(steps=60):
  return [
    {
      'step': s,
      'reward/mean': s / steps,
      'reward/signs/mean': 0.5,
      'reward/frac_zero_std_groups': 0.1,
      'response/length_mean': 10 + s,
      'policy/kl': None if s == 3 else 0.1,
      **({'eval/pass@1': 0.2, 'eval/cons@4': 0.3, 'eval/cons@16': 0.4} if s % 20 == 0 else {}),
    }
    for s in range(steps)
  ]


def test_series_match_full_names_only():
  series = plots.series(records(), r'reward/(?:(.+)/)?mean')
  assert list(series) == ['total', 'signs']
  series = plots.series(records(), r'eval/(pass@1|cons@\d+)')
  assert list(series) == ['pass@1', 'cons@4', 'cons@16']
  assert series['cons@16'][0].tolist() == [0, 20, 40]
  assert math.isnan(plots.series(records(), r'policy/(kl)')['kl'][1][3])


def test_smooth_is_a_running_mean_with_gaps():
  values = np.arange(200.0)
  values[50] = np.nan
  got = plots.smooth(values)
  assert np.isnan(got[50]) and np.isfinite(np.delete(got, 50)).all()
  assert got[100] == np.mean(values[95:106])
  assert got[52] == np.mean([47, 48, 49, 51, 52, 53, 54, 55, 56, 57])
  assert got[0] == np.mean(values[:6])


def test_panels_without_data_are_left_out():
  assert list(plots.figures(records())) == ['accuracy', 'length', 'rewards', 'kl']
  assert plots.figures([{'step': 0, 'policy/kl': None}]) == {}


def test_pngs_contain_curves(tmp_path):
  with writer.Writer(tmp_path) as run:
    for record in records():
      run.write(record['step'], {k: math.nan if v is None else v for k, v in record.items() if k != 'step'})
  paths = plots.plot(tmp_path)
  assert [path.name for path in paths] == ['accuracy.png', 'length.png', 'rewards.png', 'kl.png']
  for path in paths:
    image = matplotlib_image.imread(path)
    assert image.shape[0] > 400 and image.shape[1] > 800
    coloured = np.ptp(image[..., :3], axis=-1) > 0.3  # neither background nor grey text
    assert coloured.sum() > 300


def test_svg_is_reproducible_and_prefixes_its_ids():
  first, second = (plots.svg(plots.figures(records())['length'], 'length') for _ in range(2))
  assert first == second
  assert first.startswith('<svg') and 'viewBox' in first
  assert ' width="' not in first[: first.index('>')]
  assert 'id="' in first and first.count('id="') == first.count('id="length-')
  assert first.count('url(#') == first.count('url(#length-')


@pytest.mark.parametrize('kind', ['$', 'cost in $', '$x^{$', '\\frac $ and $', '50%', '_hidden', '\\', '<b>'])
def test_kinds_with_any_name_are_drawn(tmp_path, kind):
  drawn = plots.figures([{'step': s, f'eval/kind/{kind}/pass@1': 0.5, 'eval/kind/b/pass@1': 0.1} for s in range(3)])
  assert plots.save(tmp_path, drawn) and plots.svg(drawn['kinds'], 'kinds').startswith('<svg')
