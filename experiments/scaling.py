"""Fits ScaleRL's curve to a metric of several groups of runs, and extrapolates it to more compute (docs/scaling.md).

  python -m experiments.scaling --metric=eval/pass@1 r1jax=W1,W2 other=W3 --until=2 --output=scaling.svg

Each argument is a label and the folders of runs, such as those of several seeds. Prints a table of the parameters with
their 95% intervals.
"""

import pathlib

from absl import app, flags
import numpy as np

from experiments import curves
from r1jax import config as config_lib
from r1jax.metrics import plots, scaling, scaling_plots
from r1jax.runs import cli

COLUMNS = {'A': 'asymptote', 'B': 'exponent', 'C_mid': 'midpoint'}


def analyse(arguments, metric, compute='tokens', first=0.0, last=np.inf, replicates=500):
  """{label: Scaling} of the runs that `arguments` name (see `curves.read`).

  Args:
    metric: its full name. compute: a key of scaling.COMPUTE.
    first, last: compute of the points to fit, in its unit. replicates: of the bootstrap.

  Raises:
    ConfigError, RecordError: the arguments are wrong, or a curve cannot be read or fitted.
  """
  config_lib.require(compute in scaling.COMPUTE, f'--compute is {compute!r}; use one of {", ".join(scaling.COMPUTE)}.')
  config_lib.require(0 <= first < last, f'--fit_from {first:g} must be 0 or more, and below --fit_until {last:g}.')
  config_lib.require(replicates >= 100, f'--replicates is {replicates}; 95% intervals need 100 or more.')
  found = {}
  for label, runs in curves.read(arguments).items():
    read = [scaling.read(run, metric, compute, f'run {n} of {label}') for n, run in enumerate(runs, 1)]
    found[label] = scaling.analyse(read, first, last, replicates, label)
  return found


def table(found, until):
  """The parameters with their intervals, the extrapolation and the held-out points, as text.

  Args:
    found: {label: Scaling}. until: multiple of a label's last compute to extrapolate to.
  """
  rows = [['', 'runs', 'points', 'R0', *COLUMNS, 'R(C)', 'C']]
  for label, s in found.items():
    end = until * s.end
    reads = [lambda fit, name=name: getattr(fit, name) for name in COLUMNS.values()] + [lambda fit, c=end: fit(c)]
    intervals = [(read(s.fit), *s.interval(read)) for read in reads]
    shown = [f'{value:.3g} [{low:.3g}, {high:.3g}]' for value, low, high in intervals]
    rows.append([label, str(len(s.curves)), str(len(s.residuals())), f'{s.fit.start:.3g}', *shown, f'{end:.3g}'])
  widths = [max(map(len, column)) for column in zip(*rows)]
  lines = ['  '.join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
  lines += ['', 'Intervals: 95%, by bootstrap over']
  for label, s in found.items():
    over = 'runs and residuals' if len(s.curves) > 1 else 'residuals of one run; other seeds may differ by more'
    lines.append(f'  {label}: {over}')
  return '\n'.join(lines + [line for label, s in found.items() for line in _held_out(label, s)])


def _held_out(label, s):
  errors, fitted = s.held_out(), s.residuals()
  if not len(errors):
    return []
  rms = lambda x: np.sqrt(np.mean(x**2))
  return [
    f'{label}: R(C) is off by {errors.mean():+.3g} on average, and by {rms(errors):.3g} (root mean square), at the '
    f'{len(errors)} points beyond {s.last:.3g}, which were not fitted; at those fitted by {rms(fitted):.3g}.'
  ]


def run(arguments, metric, output, until=2.0, **settings):
  """Draws into the file `output`, .svg or .png, and returns the table. settings: of `analyse`."""
  config_lib.require(
    pathlib.Path(output).suffix in ('.svg', '.png'), f'--output is {output!r}; it must end in .svg or .png.'
  )
  config_lib.require(
    1 <= until < np.inf, f'--until is {until:g}; it is a multiple of the last compute, 1 or more, such as 2.'
  )
  found = analyse(arguments, metric, **settings)
  plots.write(scaling_plots.draw(found, metric, settings.get('compute', 'tokens'), until), output)
  return table(found, until)


def main(argv):
  f = flags.FLAGS
  with cli.errors_in_one_line():
    settings = dict(compute=f.compute, first=f.fit_from, last=f.fit_until, replicates=f.replicates)
    print(run(argv[1:], f.metric, f.output, f.until, **settings))


if __name__ == '__main__':
  flags.DEFINE_string('metric', 'eval/pass@1', 'Name of the metric.')
  flags.DEFINE_string('output', None, 'The file to write, .svg or .png.', required=True)
  flags.DEFINE_enum('compute', 'tokens', list(scaling.COMPUTE), 'What compute is counted in.')
  flags.DEFINE_float('fit_from', 0.0, 'Compute from which on points are fitted.')
  flags.DEFINE_float('fit_until', np.inf, 'Compute up to which points are fitted; the others check the extrapolation.')
  flags.DEFINE_float('until', 2.0, 'Multiple of the last compute to extrapolate to.')
  flags.DEFINE_integer('replicates', 500, 'Fits of resampled curves, for the intervals.')
  app.run(main)
