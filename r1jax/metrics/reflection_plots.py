"""Plots of what reflection is worth, from the figures of `evaluation.reflection`."""

from typing import Any

import matplotlib
from matplotlib.figure import Figure
import numpy as np

from r1jax.metrics import plots

CHANGES = {
  'right to right': '#2e8b6f',
  'wrong to right': '#2456a6',
  'right to wrong': '#d1495b',
  'wrong to wrong': '#b6bec8',
}


def figures(found):
  """{name: matplotlib Figure}. found: {model: {temperature: what `evaluation.reflection.summarise` gives}}."""
  runs = {f'{label}, T {t}': x for label, by_t in found.items() for t, x in by_t.items()}
  out = {'rate': _rate(found), 'places': _places(runs), 'changes': _changes(runs), 'steps': _steps(runs)}
  out |= {f'length_{label}_t{t}': _length(label, t, x) for label, by_t in found.items() for t, x in by_t.items()}
  return {name: figure for name, figure in out.items() if figure is not None}


def _draw(lines, title, xlabel, unit, bottom=0.0, top=None, ticks=None):
  """A line for each label: [(x, [value, low, high])], values in per cent; None without points."""
  lines = {label: points for label, points in lines.items() if points}
  if not lines:
    return None
  with matplotlib.rc_context(plots.STYLE):
    figure = Figure(figsize=(6.4, 3.6), layout='constrained')
    axes = figure.add_subplot()
    for number, (label, points) in enumerate(lines.items()):
      x, y = [at for at, _ in points], np.array([value for _, value in points])
      bars = np.maximum([y[:, 0] - y[:, 1], y[:, 2] - y[:, 0]], 0)
      colour = plots.COLOURS[number % len(plots.COLOURS)]
      look: dict[str, Any] = dict(marker='o', markersize=4, linewidth=1.6, elinewidth=0.8, capsize=2, color=colour)
      axes.errorbar(x, y[:, 0], bars, label=plots.plain(label), **look)
    plots.finish(axes, plots.Panel('', title, unit, ''), 0.0, len(lines))
    axes.set(xlabel=xlabel)
    axes.set_ylim(bottom, top)
    if ticks:
      axes.set_xticks(*ticks)
  return figure


def _percent(figure):
  return [100 * x for x in figure]


def _rate(found):
  lines = {
    label: [(float(t), _percent(x['rates']['reflecting'])) for t, x in by_t.items()] for label, by_t in found.items()
  }
  return _draw(lines, 'Responses that reflect', 'temperature', '% of responses')


def _places(runs):
  middle = lambda shares: [(100 * (n + 0.5) / len(shares), [100 * x] * 3) for n, x in enumerate(shares)]
  lines = {label: middle(x['places']) for label, x in runs.items() if x['places']}
  return _draw(lines, 'Where reflections stand', '% of the response', '% of reflections')


def _steps(runs):
  names, lines = [], {}
  for label, x in runs.items():
    groups = x['by steps']
    names = [f'over {g["above"]}' if g['up to'] is None else f'{g["above"] + 1}-{g["up to"]}' for g in groups]
    lines[label] = [(n, _percent(g['accuracy'])) for n, g in enumerate(groups) if g['accuracy']]
  return _draw(
    lines, 'Accuracy against number of steps', 'steps', '% correct', -2, 102, ticks=(range(len(names)), names)
  )


def _length(label, t, found):
  lines = {}
  for level in found['by length']['levels']:
    name = f'pass rate {100 * level["above"]:.0f} to {100 * level["up to"]:.0f} %'
    lines[name] = [(point['tokens'], _percent(point['accuracy'])) for point in level['points']]
  title = f'Accuracy against length: {label}, T {t}'
  return _draw(lines, title, 'tokens of the response', '% correct', -2, 102)


def _changes(runs):
  """Stacked bars of what became of the answer before the first reflection."""
  runs = {label: x['changes'] for label, x in runs.items() if x['changes']['responses']}
  if not runs:
    return None
  with matplotlib.rc_context(plots.STYLE):
    figure = Figure(figsize=(6.4, 1.4 + 0.4 * len(runs)), layout='constrained')
    axes = figure.add_subplot()
    left, labels = np.zeros(len(runs)), [plots.plain(label) for label in runs]
    for name, colour in CHANGES.items():
      widths = np.array([100 * x[name][0] for x in runs.values()])
      axes.barh(labels, widths, left=left, color=colour, label=name, height=0.6)
      left += widths
    axes.set(title='The answer before and after reflection', xlabel='% of responses that reflect', xlim=(0, 100))
    axes.set_axisbelow(True)
    axes.invert_yaxis()
    axes.legend(loc='upper left', bbox_to_anchor=(1, 1))
  return figure
