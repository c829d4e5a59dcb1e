"""How a metric grows with compute: ScaleRL's curve, fitted and extrapolated (arXiv 2510.13786, equation 1).

  R(C) = R0 + (A - R0) / (1 + (C_mid / C)^B)

R0 is the value at the start, which is measured; A, the asymptote; C_mid, the compute at which half of the gain is made;
and B, the exponent: the larger, the steeper around C_mid. They are fitted by least squares.
"""

import dataclasses
import itertools

import numpy as np
from scipy import optimize, stats

from r1jax.metrics.writer import RecordError

# What compute can be counted in -> its name on an axis.
COMPUTE = {'tokens': 'sampled tokens', 'seconds': 'seconds of training', 'step': 'step'}
LEAST_POINTS = 5  # of a run: one for each of R0, A, B and C_mid, and one to see how well they fit
# Bounds of the fit. A fit that ends there has found no optimum.
EXPONENT = 0.1, 20.0
GAIN = 10.0  # A - R0, in multiples of the largest gain among the points
MIDPOINT = 10.0  # C_mid, in multiples of the last compute, and fractions of the first
SIGNIFICANCE = 0.05  # of the test whether a curve rises


@dataclasses.dataclass(frozen=True)
class Curve:
  """A metric of one run. compute: f64[N], ascending from 0. values: f64[N]."""

  compute: np.ndarray
  values: np.ndarray

  def between(self, first, last):
    """The start, and the points whose compute is from `first` to `last`."""
    rows = (self.compute >= first) & (self.compute <= last) | (self.compute == 0)
    return Curve(self.compute[rows], self.values[rows])


@dataclasses.dataclass(frozen=True)
class Fit:
  """The curve above; calling it gives R(C), f64 like C."""

  start: float
  asymptote: float
  exponent: float
  midpoint: float

  def __call__(self, compute):
    with np.errstate(divide='ignore', over='ignore'):  # R(0) = R0
      ratio = (self.midpoint / np.asarray(compute, np.float64)) ** self.exponent
    return self.start + (self.asymptote - self.start) / (1 + ratio)


@dataclasses.dataclass(frozen=True)
class Scaling:
  """Curves of several runs with one fit.

  Attributes:
    curves: list of Curve, with all points. fit: Fit, of the points whose compute is from `first` to `last`.
    replicates: Fits of the bootstrap.
  """

  curves: list[Curve]
  fit: Fit
  replicates: list[Fit]
  first: float
  last: float

  @property
  def end(self):
    """The largest compute of all points."""
    return max(curve.compute[-1] for curve in self.curves)

  def interval(self, read):
    """95% interval, f64[2, ...], of what the function `read` takes from a Fit."""
    return np.percentile([read(fit) for fit in self.replicates], [2.5, 97.5], axis=0)

  def held_out(self):
    """Errors f64[N], R(C) - value, of the points beyond `last`."""
    errors = [self.fit(curve.compute) - curve.values for curve in self.curves]
    return np.concatenate([e[c.compute > self.last] for e, c in zip(errors, self.curves)])

  def residuals(self):
    """The same of the points that were fitted, without the start."""
    fitted = [curve.between(self.first, self.last) for curve in self.curves]
    return np.concatenate([(self.fit(c.compute) - c.values)[c.compute > 0] for c in fitted])


def read(records, metric, compute, name):
  """The Curve of a run.

  A metric of step s belongs to the policy after s steps, whose compute is that of the steps before.

  Args:
    records: see writer.read_metrics. metric: its full name. compute: a key of COMPUTE. name: of the run, for errors.

  Raises:
    RecordError: the metric, or what the compute is counted from, is missing.
  """
  spent, points, previous = 0.0, [], None
  for record in records:
    spent += 0.0 if previous is None else _cost(previous, record['step'], compute, name)
    if record.get(metric) is not None:
      points.append((spent, record[metric]))
    previous = record
  if not points:
    raise RecordError(f'{name} has no {metric!r} in any of its {len(records)} steps; choose another --metric.')
  if points[0][0]:
    raise RecordError(
      f'{name} has no {metric!r} at step 0, so that R0 is unknown; choose a --metric that is recorded there, such as '
      'eval/pass@1 or reward/mean.'
    )
  return Curve(*np.array(points, np.float64).T)


def _cost(record, next_step, compute, name):
  """Compute of the steps from that of a record to `next_step`."""
  steps = next_step - record['step']
  if compute == 'step':
    return steps
  keys = {'tokens': ('time/sample', 'throughput/sample_tokens_per_second'), 'seconds': ('time/step',)}[compute]
  missing = [f'{key!r} at step {record["step"]}' for key in keys if record.get(key) is None]
  missing += [f'step {record["step"] + 1}'] * (steps > 1)
  if missing:
    raise RecordError(f'{name} lacks {missing[0]}, so that its {compute} cannot be counted; use --compute=step.')
  # Draws that dynamic sampling has replaced are taken to be as long as what it kept.
  draws = 1 + (record.get('rollout/extra_draws') or 0) if compute == 'tokens' else 1
  return draws * np.prod([record[key] for key in keys])


def analyse(curves, first=0.0, last=np.inf, replicates=500, label='the runs'):
  """Fits the points whose compute is from `first` to `last`, and the start. Returns a Scaling.

  Args:
    curves: list of Curve. replicates: of the bootstrap. label: of the runs, for errors.

  Raises:
    RecordError: there are too few points, they do not rise, or the fit ends at one of its bounds.
  """
  chosen = [curve.between(first, last) for curve in curves]
  for number, curve in enumerate(chosen, 1):
    if len(curve.values) < LEAST_POINTS:
      raise RecordError(
        f'run {number} of {label} has {len(curve.values)} points to fit, but {LEAST_POINTS} are needed; evaluate more '
        'often (eval.every), or widen --fit_from and --fit_until.'
      )
  x, y = (np.concatenate([getattr(c, name) for c in chosen]) for name in ('compute', 'values'))
  correlation, p = np.asarray(stats.kendalltau(x, y, alternative='greater'))
  if not p < SIGNIFICANCE:  # nan for equal values
    raise RecordError(
      f'{label}: the {len(x)} points, from {y[x == 0].mean():.3g} at the start to {y[np.argmax(x)]:.3g} at the end, do '
      f'not rise with compute (Kendall rank correlation {correlation:.2f}, p = {p:.2g}); there is nothing to '
      'extrapolate: train longer, or choose another --metric.'
    )
  found = fit(chosen)
  if problem := _at_bound(found, chosen):
    raise RecordError(f'{label}: {problem}')
  return Scaling(curves, found, bootstrap(chosen, found, replicates), first, last)


def fit(curves, guess=None):
  """The Fit of all points of some Curves; R0 is their mean value at compute 0. guess: a Fit to begin with."""
  x, y = (np.concatenate([getattr(c, name) for c in curves]) for name in ('compute', 'values'))
  start, later = y[x == 0].mean(), x > 0
  low, high = bounds = _bounds(x, y)
  residuals = lambda p: Fit(start, start + p[0], *np.exp(p[1:]))(x[later]) - y[later]
  guesses = list(
    itertools.product([high[0] / GAIN], np.log([0.3, 0.7, 1.5, 4]), np.log(x.max()) + np.log([0.1, 0.3, 1]))
  )
  if guess is not None:
    guesses = [(guess.asymptote - guess.start, np.log(guess.exponent), np.log(guess.midpoint))]
  inside = lambda p: np.clip(p, low + 1e-9 * (high - low), high - 1e-9 * (high - low))
  found = [optimize.least_squares(residuals, inside(p), bounds=bounds, x_scale=(high[0], 1, 1)) for p in guesses]
  gain, exponent, midpoint = min(found, key=lambda result: result.cost).x
  return Fit(*map(float, (start, start + gain, np.exp(exponent), np.exp(midpoint))))


def _bounds(x, y):
  """Lowest and highest (A - R0, log B, log C_mid) of a fit to points f64[N]: two f64[3]."""
  largest = max((y - y[x == 0].mean()).max(), 1e-6)
  low = 0.0, np.log(EXPONENT[0]), np.log(x[x > 0].min() / MIDPOINT)
  high = GAIN * largest, np.log(EXPONENT[1]), np.log(x.max() * MIDPOINT)
  return np.array(low), np.array(high)


def _at_bound(found, curves):
  """What is wrong with a Fit that has ended at a bound; '' if it has not."""
  x, y = (np.concatenate([getattr(c, name) for c in curves]) for name in ('compute', 'values'))
  low, high = _bounds(x, y)
  place = (found.asymptote - found.start, np.log(found.exponent), np.log(found.midpoint))
  below, above = ([bool(near) for near in np.abs(place - end) < 0.01 * (high - low)] for end in (low, high))
  shown = f'A = {found.asymptote:.3g}, B = {found.exponent:.3g}, C_mid = {found.midpoint:.3g}'
  if above[0] or above[2]:
    return (
      f'the points to compute {x.max():.3g} do not level off, and the fit ends at a bound ({shown}); train longer, or '
      'raise --fit_until.'
    )
  if above[1]:
    return f'the curve jumps, and the fit ends at a bound ({shown}); evaluate more often (eval.every).'
  if below[1]:
    return f'the curve hardly bends, and the fit ends at a bound ({shown}); train longer, or raise --fit_from.'
  if below[0] or below[2]:
    return (
      f'the curve is level from compute {x[x > 0].min():.3g} on, and the fit ends at a bound ({shown}); evaluate more '
      'often (eval.every), or lower --fit_from.'
    )
  return ''


def bootstrap(curves, found, count, seed=0):
  """Fits of resampled Curves: runs are drawn with replacement, and for each the residuals of its own fit.

  With one run only residuals are drawn, and the fits do not show how runs of other seeds would differ.

  Args:
    found: Fit of all curves. count: number of replicates.
  """
  rng, parameters = np.random.default_rng(seed), 3
  own = [fit([curve], found) for curve in curves]
  resampled = []
  for of, curve in zip(own, curves):
    residuals = (curve.values - of(curve.compute))[curve.compute > 0]
    resampled.append(residuals * np.sqrt(len(residuals) / max(len(residuals) - parameters, 1)))
  out = []
  for _ in range(count):
    drawn = rng.integers(len(curves), size=len(curves))
    noisy = [own[i](curves[i].compute) + rng.choice(resampled[i], len(curves[i].values)) for i in drawn]
    out.append(fit([Curve(curves[i].compute, y) for i, y in zip(drawn, noisy)], found))
  return out
