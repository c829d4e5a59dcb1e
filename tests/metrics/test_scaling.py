"""Scaling curves: known parameters are found again, intervals hold them, and extrapolations hold."""

import dataclasses

import numpy as np
import pytest

from r1jax.metrics import scaling
from r1jax.metrics.writer import RecordError

TRUE = scaling.Fit(start=0.1, asymptote=0.6, exponent=1.6, midpoint=4e5)
PARAMETERS = ('asymptote', 'exponent', 'midpoint')


def curve(true=TRUE, noise=0.0, seed=0, last=2e6, points=33):
  compute = np.linspace(0, last, points)
  return scaling.Curve(compute, true(compute) + noise * np.random.default_rng(seed).normal(size=points))


def intervals(found):
  return np.array([found.interval(lambda fit, name=name: getattr(fit, name)) for name in PARAMETERS])


def test_the_curve_is_the_papers():
  assert TRUE(0) == 0.1 and TRUE(4e5) == pytest.approx(0.35) and TRUE(1e30) == pytest.approx(0.6)
  assert TRUE(1e6) == pytest.approx(0.1 + (0.6 - 0.1) / (1 + (4e5 / 1e6) ** 1.6))
  np.testing.assert_allclose(TRUE(np.array([0, 4e5])), [0.1, 0.35])


@pytest.mark.parametrize('exponent', [0.6, 1.6, 5.0])
def test_parameters_are_found_again(exponent):
  true = dataclasses.replace(TRUE, exponent=exponent)
  assert dataclasses.astuple(scaling.fit([curve(true)])) == pytest.approx(dataclasses.astuple(true), rel=1e-4)


@pytest.mark.parametrize('runs', [1, 3])
def test_intervals_hold_the_parameters_and_shrink_with_noise(runs):
  want, inside, widths = [getattr(TRUE, name) for name in PARAMETERS], [], {}
  for noise in (0.002, 0.01):
    for seed in range(6):
      curves = [curve(noise=noise, seed=10 * seed + i) for i in range(runs)]
      low, high = intervals(scaling.analyse(curves, replicates=100)).T
      inside.append((low <= want) & (want <= high))
      widths.setdefault(noise, []).append(high - low)
  # Of 36 intervals of 95%, of which three each depend on each other, 34 are expected to hold the parameter.
  assert np.sum(inside) >= 28
  ratio = np.mean(widths[0.01], axis=0) / np.mean(widths[0.002], axis=0)
  assert ((3 < ratio) & (ratio < 8)).all()


def test_runs_that_differ_widen_the_intervals_beyond_their_noise():
  faster = dataclasses.replace(TRUE, midpoint=2.5e5, asymptote=0.7)
  alike = scaling.analyse([curve(noise=0.003, seed=s) for s in range(2)], replicates=100)
  differ = scaling.analyse([curve(noise=0.003), curve(faster, noise=0.003, seed=1)], replicates=100)
  low, high = intervals(differ)[0]
  assert low < 0.62 and high > 0.68
  assert (np.diff(intervals(differ)[[0, 2]]) > 3 * np.diff(intervals(alike)[[0, 2]])).all()


def test_the_extrapolation_holds_on_points_that_were_not_fitted():
  whole = [curve(noise=0.005, seed=seed, last=4e6, points=65) for seed in range(2)]
  found = scaling.analyse(whole, last=2e6, replicates=100)
  errors = found.held_out()
  assert len(errors) == 2 * 32 and len(found.residuals()) == 2 * 32
  assert np.sqrt((errors**2).mean()) < 0.01 and abs(errors.mean()) < 0.007
  low, high = found.interval(lambda fit: fit(4e6))
  assert low <= TRUE(4e6) <= high and found.end == 4e6
  changed = [scaling.Curve(c.compute, np.where(c.compute > 2e6, 0, c.values)) for c in whole]
  assert scaling.analyse(changed, last=2e6, replicates=1).fit == found.fit


def test_the_first_points_can_be_left_out():
  bent = curve()
  bent.values[1:6] += 0.2  # a rapid start
  found = scaling.analyse([bent], first=4e5, replicates=1)
  assert dataclasses.astuple(found.fit) == pytest.approx(dataclasses.astuple(TRUE), rel=1e-4)
  assert abs(scaling.fit([bent]).exponent - 1.6) > 0.3


@pytest.mark.parametrize(
  ('curves', 'settings', 'shown'),
  [
    ([curve(), curve(points=4)], {}, 'run 2 of ours has 4 points to fit, but 5 are needed'),
    ([curve()], {'last': 2e5}, 'run 1 of ours has 4 points to fit'),
    ([curve(TRUE, noise=0.1, points=9, last=1e5)], {}, 'not rise .* correlation .*, p = '),
    ([scaling.Curve(np.arange(9.0), np.full(9, 0.5))], {}, 'from 0.5 at the start to 0.5 at the end, do not rise'),
    ([scaling.Curve(np.arange(9.0), -np.arange(9.0))], {}, r'do not rise .* correlation -1.00'),
    ([scaling.Curve(np.arange(9.0), np.arange(9.0) ** 2)], {}, r'do not level off, .*\(A = .*\); train longer'),
    ([scaling.Curve(np.arange(20.0), np.arange(20) // 10 + np.arange(20) / 1e6)], {}, r'jumps, .*eval\.every'),
    ([curve(dataclasses.replace(TRUE, exponent=0.7, midpoint=10))], {}, 'level from compute 6.25e.04 on'),
    ([curve(dataclasses.replace(TRUE, exponent=0.05, midpoint=1e9))], {}, 'hardly bends'),
  ],
)
def test_what_cannot_be_fitted_is_refused(curves, settings, shown):
  with pytest.raises(RecordError, match=shown) as caught:
    scaling.analyse(curves, label='ours', **settings)
  assert '\n' not in str(caught.value)


def record(step, value=None, draws=None, tokens=100.0):
  out = {'step': step, 'time/sample': 2.0, 'throughput/sample_tokens_per_second': tokens / 2, 'time/step': 3.0}
  return out | ({} if value is None else {'m': value}) | ({} if draws is None else {'rollout/extra_draws': draws})


def test_compute_is_what_the_steps_before_have_cost():
  records = [record(0, 0.1), record(1, tokens=150.0, draws=1), record(2, 0.2), {'step': 3, 'm': 0.5}]
  of = lambda compute: scaling.read(records, 'm', compute, 'W').compute.tolist()
  assert of('step') == [0, 2, 3] and of('seconds') == [0, 6, 9] and of('tokens') == [0, 400, 500]
  assert scaling.read(records, 'm', 'step', 'W').values.tolist() == [0.1, 0.2, 0.5]


@pytest.mark.parametrize(
  ('records', 'shown'),
  [
    ([record(0), record(1)], "W has no 'm' in any of its 2 steps"),
    ([], "W has no 'm' in any of its 0 steps"),
    ([record(0), record(1, 0.2)], "W has no 'm' at step 0, so that R0 is unknown"),
    ([{'step': 0, 'm': 0.1}, record(1, 0.2)], "W lacks 'time/sample' at step 0, .* use --compute=step"),
    ([record(0, 0.1), record(3, 0.2)], 'W lacks step 1'),
  ],
)
def test_records_without_metric_or_compute_are_refused(records, shown):
  with pytest.raises(RecordError, match=shown):
    scaling.read(records, 'm', 'tokens', 'W')
