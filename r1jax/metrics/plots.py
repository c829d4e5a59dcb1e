"""Curves of a run, drawn from metrics.jsonl alone: PNG files, and the same figures as SVG for the report.

`accuracy` follows Figure 2 of the paper (accuracy on held-out problems during training), `length` its Figure 3
(response length during training). `compare` draws one metric of several groups of runs.
"""

import dataclasses
import io
import pathlib
import re
from typing import Any

import matplotlib
from matplotlib import ticker
from matplotlib.figure import Figure
import numpy as np

from r1jax.metrics import writer

COLOURS = ('#2456a6', '#d1495b', '#2e8b6f', '#e09f3e', '#7a5195', '#5b6b7b')
STYLE: dict[Any, Any] = {  # matplotlib's stubs list all its keys
  'font.size': 10,
  'axes.titlesize': 11.5,
  'axes.titleweight': 'bold',
  'axes.titlelocation': 'left',
  'axes.edgecolor': '#b6bec8',
  'axes.labelcolor': '#4a5563',
  'xtick.color': '#4a5563',
  'ytick.color': '#4a5563',
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.grid': True,
  'grid.color': '#e6e9ee',
  'legend.frameon': False,
  'svg.fonttype': 'none',
  'svg.hashsalt': 'r1jax',
  'text.parse_math': False,  # names of kinds come from the data and may contain a dollar sign
}
_SVG_METADATA: dict[str, Any] = dict.fromkeys(('Date', 'Creator', 'Format', 'Type'))  # None leaves them out
FEW = 40  # up to this many points each is marked; more are drawn with a running average


@dataclasses.dataclass(frozen=True)
class Panel:
  """One figure: every metric whose full name matches `pattern`, labelled with the pattern's group 1."""

  name: str  # of the PNG file
  title: str
  unit: str
  pattern: str
  share: bool = False  # values are fractions, drawn as per cent on an axis from 0 to 100
  log: bool = False  # logarithmic axis, as the first step (compilation) would flatten the rest


PANELS = (
  Panel('accuracy', 'Accuracy on held-out problems', '% correct', r'eval/(pass@1|cons@\d+)', share=True),
  Panel('kinds', 'Accuracy on held-out problems by kind', '% correct', r'eval/kind/(.+)/pass@1', share=True),
  Panel(
    'language',
    'Language consistency of held-out responses',
    '% of words',
    r'eval/(?:kind/(.+)/)?language_consistency',
    share=True,
  ),
  Panel('loss', 'Loss of responses', 'nats a token', r'(train|eval)/loss'),
  Panel('length', 'Response length', 'tokens', r'response/(length_mean)'),
  Panel('rewards', 'Reward', 'mean of a rollout', r'reward/(?:(.+)/)?mean'),
  Panel('kind_rewards', 'Reward by kind of problem', 'mean of a rollout', r'kind/(.+)/reward'),
  Panel(
    'behaviour',
    'Reflection and truncation',
    '% of responses',
    r'response/(reflection_rate|truncated_fraction)',
    share=True,
  ),
  Panel('entropy', 'Entropy of the policy', 'nats a token', r'(?:policy|train)/(entropy)'),
  Panel('kl', 'KL divergence from the reference', 'nats a token', r'policy/(kl)'),
  Panel('grad_norm', 'Gradient norm', 'global norm', r'(?:policy|train)/(grad_norm)'),
  Panel('time', 'Time by phase', 'seconds per step', r'time/(.+)', log=True),
  Panel('throughput', 'Throughput', 'a second', r'throughput/(.+)', log=True),
)


def plot(workdir):
  """Draws every panel that has data into workdir/plots/NAME.png; returns the list of paths."""
  return save(workdir, figures(writer.read_metrics(workdir)))


def save(workdir, drawn):
  """Writes {name: Figure} as workdir/plots/NAME.png; returns the list of paths."""
  folder = pathlib.Path(workdir) / 'plots'
  folder.mkdir(exist_ok=True)
  paths = []
  for name, figure in drawn.items():
    path = folder / f'{name}.png'
    write(figure, path)
    paths.append(path)
  return paths


def write(figure, path):
  """Writes a figure to a .png or .svg file; the same figure gives the same bytes."""
  is_svg = pathlib.Path(path).suffix == '.svg'
  with matplotlib.rc_context(STYLE):
    figure.savefig(path, dpi=150, metadata=_SVG_METADATA if is_svg else {'Software': None})


def figures(records, panels=PANELS):
  """Returns {panel name: matplotlib Figure} for the panels with data in `records` (see writer.read_metrics)."""
  drawn = {panel.name: _draw(panel, series(records, panel.pattern)) for panel in panels}
  return {name: figure for name, figure in drawn.items() if figure is not None}


def series(records, pattern):
  """Collects the metrics whose full name matches `pattern`.

  Returns:
    {label: (steps i64[N], values f64[N])}, sorted by label; null becomes nan. The label is the pattern's group 1, or
    'total' if that did not match.
  """
  names = {name: match[1] or 'total' for record in records for name in record if (match := re.fullmatch(pattern, name))}
  out = {}
  for name, label in sorted(names.items(), key=lambda item: _natural(item[1])):
    points = [(r['step'], r[name]) for r in records if name in r]
    out[label] = (
      np.array([step for step, _ in points], np.int64),
      np.array([np.nan if value is None else value for _, value in points], np.float64),
    )
  return out


def svg(figure, prefix):
  """Returns the figure as an inline SVG element, always the same text; its ids begin with `prefix`."""
  buffer = io.StringIO()
  with matplotlib.rc_context(STYLE):
    figure.savefig(buffer, format='svg', metadata=_SVG_METADATA)
  text = buffer.getvalue()
  text = text[text.index('<svg') :]
  # A page has several figures: their ids must not clash, and the page sets their size.
  text = re.sub(r'(\bid="|url\(#|href="#)', lambda m: m[1] + prefix + '-', text)
  head, body = text.split('>', 1)
  return re.sub(r' (width|height)="[^"]*"', '', head) + '>' + body


def smooth(values, average=np.nanmean):
  """Centred running `average` over about a twentieth of the points; nan stays nan. f64[N] -> f64[N]."""
  half = max(1, len(values) // 40)
  return np.array(
    [
      average(values[max(i - half, 0) : i + half + 1]) if np.isfinite(value) else np.nan
      for i, value in enumerate(values)
    ]
  )


def _draw(panel, lines):
  lines = {label: points for label, points in lines.items() if np.isfinite(points[1]).any()}
  if not lines:
    return None
  with matplotlib.rc_context(STYLE):
    figure = Figure(figsize=(6.4, 3.6), layout='constrained')
    axes = figure.add_subplot()
    for index, (label, (steps, values)) in enumerate(lines.items()):
      colour = COLOURS[index % len(COLOURS)]
      values = values * 100 if panel.share else values
      values = np.where(values > 0, values, np.nan) if panel.log else values
      label = plain(label.replace('_', ' '))
      if len(values) <= FEW:
        axes.plot(steps, values, marker='o', markersize=4, linewidth=1.8, color=colour, label=label)
      else:
        axes.plot(steps, values, linewidth=0.8, color=colour, alpha=0.3)
        # A median, because the first step compiles and would raise a mean over its neighbours.
        smoothed = smooth(values, np.nanmedian if panel.log else np.nanmean)
        axes.plot(steps, smoothed, linewidth=1.8, color=colour, label=label)
    finish(axes, panel, min(float(np.nanmin(values)) for _, values in lines.values()), len(lines))
  return figure


def finish(axes, panel, lowest, count):
  """Texts, scales and legend of axes with `count` lines. lowest: of all values, before they are made per cent."""
  axes.set(title=panel.title, xlabel='step', ylabel=panel.unit)
  axes.set_axisbelow(True)
  if panel.log:
    axes.set_yscale('log')
    axes.yaxis.set_major_formatter('{x:g}')
  elif panel.share:
    axes.set_ylim(-2, 102)
  else:
    axes.set_ylim(bottom=min(0, lowest))
  if count > 1:
    axes.legend(loc='upper left', bbox_to_anchor=(1, 1)) if count > 3 else axes.legend(loc='best')


def compare(groups, metric):
  """Draws one metric of several groups of runs: each group's mean, and the range from its lowest to its highest run.

  Args:
    groups: {label: list with the records of each run (see writer.read_metrics)}.
    metric: its full name. What all runs of a group have at the same steps is drawn.

  Returns:
    matplotlib Figure.

  Raises:
    RecordError: a group has no step at which all of its runs have the metric.
  """
  panel = panel_of(metric)
  scale = 100 if panel.share else 1
  found = {label: _together(runs, metric, label) for label, runs in groups.items()}
  with matplotlib.rc_context(STYLE):
    figure = Figure(figsize=(6.4, 3.6), layout='constrained')
    axes = figure.add_subplot()
    for index, (label, (steps, values)) in enumerate(found.items()):
      curves = values.mean(axis=0), values.min(axis=0), values.max(axis=0)
      mean, low, high = (scale * (x if len(steps) <= FEW else smooth(x)) for x in curves)
      colour, size = COLOURS[index % len(COLOURS)], 4 if len(steps) <= FEW else 0
      axes.plot(steps, mean, marker='o', markersize=size, linewidth=1.8, color=colour, label=plain(label))
      if len(values) > 1:
        axes.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0)
    finish(axes, panel, min(float(values.min()) for _, values in found.values()), len(found))
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
  return figure


def panel_of(metric):
  """The Panel of a metric, with the metric's full name before its unit."""
  known = next((panel for panel in PANELS if re.fullmatch(panel.pattern, metric)), Panel('', metric, '', ''))
  return dataclasses.replace(known, unit=f'{metric}, {known.unit}' if known.unit else metric)


def _together(runs, metric, label):
  """The steps at which all runs have a finite value of the metric, i64[N], and the values f64[runs, N]."""
  finite = [{r['step']: r[metric] for r in records if r.get(metric) is not None} for records in runs]
  steps = sorted(set.intersection(*map(set, finite))) if finite else []
  if not steps:
    raise writer.RecordError(f'{label}: there is no step at which all {len(runs)} runs have {metric!r}.')
  return np.array(steps, np.int64), np.array([[values[step] for step in steps] for values in finite], np.float64)


def plain(text):
  """`text` as a label; matplotlib leaves labels that begin with _ out of a legend."""
  return text.lstrip('_') or ' '


def _natural(text):
  """Sort key that puts pass@1 and total first and cons@4 before cons@16."""
  return (text not in ('pass@1', 'total'), [int(part) if part.isdigit() else part for part in re.split(r'(\d+)', text)])
