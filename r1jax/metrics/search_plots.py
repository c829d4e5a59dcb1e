"""Draws what searches reach with how many tokens."""

import matplotlib
from matplotlib import ticker
from matplotlib.figure import Figure
import numpy as np

from r1jax.metrics import plots


def draw(lines):
  """Accuracy against sampled tokens, one curve for each method, with its 95% intervals.

  Args:
    lines: dicts with 'method', 'tokens' and 'accuracy' [mean, low, high]; those of a method adjacent.

  Returns:
    matplotlib Figure.
  """
  panel = plots.Panel('', 'Accuracy on held-out problems', '% correct', '', share=True)
  methods = dict.fromkeys(line['method'] for line in lines)
  with matplotlib.rc_context(plots.STYLE):
    figure = Figure(figsize=(6.4, 3.6), layout='constrained')
    axes = figure.add_subplot()
    for index, name in enumerate(methods):
      own = sorted((x for x in lines if x['method'] == name), key=lambda x: x['tokens'])
      tokens, (mean, low, high) = [x['tokens'] for x in own], 100 * np.array([x['accuracy'] for x in own]).T
      bars = np.maximum([mean - low, high - mean], 0)
      axes.errorbar(
        tokens,
        mean,
        bars,
        marker='o',
        markersize=4,
        linewidth=1.6,
        elinewidth=0.8,
        capsize=2,
        color=plots.COLOURS[index % len(plots.COLOURS)],
        label=plots.plain(name),
      )
    plots.finish(axes, panel, 0.0, len(methods))
    axes.set(xscale='log', xlabel='tokens sampled for a problem')
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter('{x:g}')
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())
  return figure
