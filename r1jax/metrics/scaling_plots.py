"""Draws fitted scaling curves (see `scaling`)."""

import matplotlib
from matplotlib import ticker
from matplotlib.figure import Figure
import numpy as np

from r1jax.metrics import plots
from r1jax.metrics.scaling import COMPUTE


def draw(found, metric, compute, until):
  """Draws points, fits, their 95% bands and extrapolations over the logarithm of compute.

  Points that were not fitted are hollow; a fit is dashed beyond the last point that was. The start, whose compute is 0,
  lies outside of the axis.

  Args:
    found: {label: Scaling}. metric: its full name. compute: a key of scaling.COMPUTE.
    until: multiple of each label's last compute to extrapolate to.

  Returns:
    matplotlib Figure.
  """
  panel = plots.panel_of(metric)
  scale = 100 if panel.share else 1
  with matplotlib.rc_context(plots.STYLE):
    figure = Figure(figsize=(6.4, 3.6), layout='constrained')
    axes = figure.add_subplot()
    for index, (label, scaling) in enumerate(found.items()):
      colour, lowest = (
        plots.COLOURS[index % len(plots.COLOURS)],
        min(c.compute[c.compute > 0][0] for c in scaling.curves),
      )
      for curve in scaling.curves:
        used = (curve.compute >= scaling.first) & (curve.compute <= scaling.last)
        for rows, face in ((used, colour), (~used, 'none')):
          rows = rows & (curve.compute > 0)
          axes.scatter(curve.compute[rows], scale * curve.values[rows], s=12, edgecolors=colour, facecolors=face)
      x = np.geomspace(lowest, until * scaling.end, 200)
      low, high = scaling.interval(lambda fit, x=x: fit(x))
      axes.fill_between(x, scale * low, scale * high, color=colour, alpha=0.18, linewidth=0)
      fitted = x <= min(scaling.last, scaling.end)
      axes.plot(x[fitted], scale * scaling.fit(x[fitted]), linewidth=1.8, color=colour, label=plots.plain(label))
      axes.plot(x[~fitted], scale * scaling.fit(x[~fitted]), linewidth=1.8, linestyle='--', color=colour)
    values = np.concatenate([curve.values for scaling in found.values() for curve in scaling.curves])
    plots.finish(axes, panel, float(values.min()), len(found))
    axes.set(xscale='log', xlabel=COMPUTE[compute])
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter('{x:g}')
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())
  return figure
