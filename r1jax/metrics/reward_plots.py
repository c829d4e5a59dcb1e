"""Figures of a reward model, from its results in `summary.json`."""

import matplotlib
from matplotlib.figure import Figure
import numpy as np

from r1jax.metrics import plots, writer

CURVES = (
  plots.Panel('loss', 'Loss', 'nats', r'(train|eval)/loss'),
  plots.Panel('accuracy', 'Accuracy', '% right', r'(train|eval)/accuracy', share=True),
  plots.Panel('grad_norm', 'Gradient norm', 'global norm', r'train/(grad_norm)'),
  plots.Panel('throughput', 'Throughput', 'a second', r'throughput/(.+)', log=True),
)


def plot(workdir, final, lengths=None):
  """Draws training curves, calibration and, for pairs, length bias into workdir/plots; returns the paths.

  Args:
    final: results of `evaluation.scored`.
    lengths: for a model of pairs (margins, differences in tokens), f[N] each; None for other models.
  """
  figures = plots.figures(writer.read_metrics(workdir), CURVES)
  figures['reliability'] = reliability(final['calibration'])
  if lengths is not None:
    figures['length_bias'] = length_bias(*lengths)
  return plots.save(workdir, figures)


def reliability(calibration):
  """Reliability diagram: observed share against predicted probability, and the number of examples in each bin."""
  bins = calibration['bins']
  with matplotlib.rc_context(plots.STYLE):
    figure = Figure(figsize=(5.2, 4.6), layout='constrained')
    axes, below = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    axes.plot([0, 1], [0, 1], color=plots.COLOURS[5], linewidth=1, linestyle='--', label='perfect')
    axes.plot(
      [b['predicted'] for b in bins],
      [b['observed'] for b in bins],
      color=plots.COLOURS[0],
      marker='o',
      markersize=4,
      label=f'model (error {calibration["ece"]:.3f})',
    )
    axes.set(title='Calibration on held-out examples', ylabel='share observed', xlim=(0, 1), ylim=(0, 1))
    axes.legend(loc='upper left')
    below.bar([(b['from'] + b['to']) / 2 for b in bins], [b['count'] for b in bins], width=0.09, color=plots.COLOURS[0])
    below.set_axisbelow(True)
    below.set(xlabel='predicted probability', ylabel='number')
  return figure


def length_bias(margins, longer):
  """How often the longer response is preferred by the labels and by the model, and accuracy, by difference in length.

  Args:
    margins: f[N], score of the chosen response minus that of the rejected one.
    longer: f[N], length in tokens of the chosen response minus that of the rejected one.
  """
  margins, longer = np.asarray(margins), np.asarray(longer)
  size = np.abs(longer)
  wins = (margins > 0) + 0.5 * (margins == 0)
  # Quintiles of the pairs of unequal length.
  edges = np.unique(np.quantile(size[size > 0], np.linspace(0.2, 1, 5), method='higher')) if (size > 0).any() else []
  ranges = [(int(low) + 1, int(high)) for low, high in zip([0, *edges], edges)]
  x, names = np.arange(len(ranges)), [f'{low}-{high}' if low < high else f'{low}' for low, high in ranges]
  bins = [(size > low) & (size <= high) for low, high in zip([0, *edges], edges)]
  share = lambda value: [100 * value[b].mean() if b.any() else np.nan for b in bins]
  with matplotlib.rc_context(plots.STYLE):
    figure = Figure(figsize=(9.0, 3.6), layout='constrained')
    left, right = figure.subplots(1, 2)
    left.bar(x - 0.2, share((longer > 0).astype(float)), 0.38, color=plots.COLOURS[5], label='labels')
    left.bar(x + 0.2, share(np.where(longer > 0, wins, 1 - wins)), 0.38, color=plots.COLOURS[0], label='model')
    left.set(title='The longer response is preferred', ylabel='% of pairs')
    for sign, colour, label in ((1, plots.COLOURS[2], 'longer is better'), (-1, plots.COLOURS[1], 'longer is worse')):
      signed = [b & (longer * sign > 0) for b in bins]
      accuracy = [100 * wins[b].mean() if b.any() else np.nan for b in signed]
      right.plot(x, accuracy, marker='o', markersize=4, color=colour, label=label)
    right.set(title='Accuracy', ylabel='% right')
    for axes in (left, right):
      axes.set_axisbelow(True)
      axes.set(
        xlabel='difference in length, tokens', xticks=x, xticklabels=names, ylim=(0, 105), xlim=(-0.6, len(bins) - 0.4)
      )
      axes.legend(loc='upper center', bbox_to_anchor=(0.5, -0.2), ncols=2)
  return figure
