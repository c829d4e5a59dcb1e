"""Metrics of a reward model's scores on held-out examples, in pure NumPy.

Accuracies come with 95% intervals by Wilson's formula, and calibration with the expected calibration error: the mean
distance between predicted probability and observed share over ten equal bins of probability, weighted by their counts.
"""

import numpy as np

BINS = 10


def interval(share, count):
  """Wilson's 95% interval [low, high] of a share of `count` independent trials; [0, 1] if there are none."""
  if not count:
    return [0.0, 1.0]
  z = 1.959964
  centre, spread = share + z * z / (2 * count), z * np.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
  return [float((centre - spread) / (1 + z * z / count)), float((centre + spread) / (1 + z * z / count))]


def sigmoid(x):
  return 1 / (1 + np.exp(-np.clip(np.asarray(x, np.float64), -60, 60)))


def reliability(probability, outcome):
  """Calibration: predicted probabilities against outcomes.

  Args:
    probability: f[N] in [0, 1].
    outcome: f[N] in [0, 1].

  Returns:
    {'ece': float, 'bins': [{'from', 'to', 'count', 'predicted', 'observed'}]} without empty bins.
  """
  bin_of = np.minimum((np.asarray(probability) * BINS).astype(int), BINS - 1)
  bins = [
    {
      'from': b / BINS,
      'to': (b + 1) / BINS,
      'count': int((bin_of == b).sum()),
      'predicted': float(probability[bin_of == b].mean()),
      'observed': float(outcome[bin_of == b].mean()),
    }
    for b in range(BINS)
    if (bin_of == b).any()
  ]
  ece = sum(b['count'] * abs(b['predicted'] - b['observed']) for b in bins) / max(len(bin_of), 1)
  return {'ece': float(ece), 'bins': bins}


def ranks(x):
  """Ranks from 0, where equal values share their mean rank. f[N] -> f64[N]."""
  _, index, counts = np.unique(x, return_inverse=True, return_counts=True)
  return (np.cumsum(counts) - (counts + 1) / 2)[index]


def correlation(x, y):
  """Spearman's rank correlation; 0 if either side is constant."""
  x, y = ranks(x), ranks(y)
  return float(np.corrcoef(x, y)[0, 1]) if np.ptp(x) and np.ptp(y) else 0.0


def auc(scores, labels):
  """Area under the ROC curve: share of (positive, negative) pairs ranked correctly, ties half; 0.5 without pairs."""
  labels = np.asarray(labels, bool)
  yes, no = int(labels.sum()), int((~labels).sum())
  if not yes or not no:
    return 0.5
  return float((ranks(np.asarray(scores))[labels].sum() - yes * (yes - 1) / 2) / (yes * no))


def pairs(chosen, rejected, longer):
  """Metrics of preference pairs.

  Args:
    chosen, rejected: f[N] scores.
    longer: f[N], tokens of the chosen response minus those of the rejected one.

  Returns:
    dict; see the README. 'longer_preferred' are shares of the pairs of unequal length, according to the model and to
    the labels. A model that ignores length is as accurate where the longer response is worse as elsewhere.
  """
  margin, longer = np.asarray(chosen, np.float64) - rejected, np.asarray(longer)
  wins = (margin > 0) + 0.5 * (margin == 0)
  unequal, share = longer != 0, float(wins.mean())
  by_model = np.where(longer > 0, wins, 1 - wins)[unequal]
  mean = lambda x: float(x.mean()) if len(x) else 0.5
  subset = lambda mask: {
    'accuracy': mean(wins[mask]),
    'interval': interval(mean(wins[mask]), int(mask.sum())),
    'count': int(mask.sum()),
  }
  # Each pair counts in both orders: p is the predicted probability that the first response is the chosen one.
  p, first = sigmoid(np.concatenate([margin, -margin])), np.repeat([1.0, 0.0], len(margin))
  return {
    'accuracy': share,
    'interval': interval(share, len(wins)),
    'count': len(wins),
    'loss': float(np.logaddexp(0, -margin).mean()),
    'calibration': reliability(p, first),
    'length': {
      'longer_preferred': {'model': mean(by_model), 'labels': mean((longer > 0)[unequal].astype(float))},
      'longer_is_better': subset(longer > 0),
      'longer_is_worse': subset(longer < 0),
      'margin_correlation': correlation(margin, longer),
      'always_longer_accuracy': float(((longer > 0) + 0.5 * (longer == 0)).mean()),
    },
  }


def binary(scores, labels):
  """Metrics of scores whose sigmoid is the probability of label 1; labels f[N] in [0, 1] count as 1 from 0.5 on."""
  scores, soft = np.asarray(scores, np.float64), np.asarray(labels, np.float64)
  labels = soft >= 0.5
  right = (scores > 0) == labels
  mean = lambda x: float(x.mean()) if len(x) else 0.5
  share = mean(right)
  return {
    'accuracy': share,
    'interval': interval(share, len(right)),
    'count': len(right),
    'balanced_accuracy': (mean(right[labels]) + mean(right[~labels])) / 2,
    'auc': auc(scores, labels),
    'majority_accuracy': max(mean(labels), 1 - mean(labels)),
    'loss': float((np.logaddexp(0, scores) - soft * scores).mean()),
    'calibration': reliability(sigmoid(scores), soft),
  }


def points(scores, labels, sizes):
  """`binary`, and the correlation of scores and labels with the responses' lengths in tokens (`sizes`)."""
  labels = np.asarray(labels)
  return binary(scores, labels) | {
    'length': {'score_correlation': correlation(scores, sizes), 'label_correlation': correlation(labels, sizes)}
  }


def first_error(scores, threshold):
  """Index of the first step whose score is below `threshold`; -1 if there is none."""
  below = np.flatnonzero(np.asarray(scores) < threshold)
  return int(below[0]) if len(below) else -1


def localisation(predicted, labelled):
  """Predicted against labelled first errors, as in ProcessBench (arXiv 2412.06559).

  Args:
    predicted, labelled: i[N] index of the first wrong step, -1 for none.

  Returns:
    dict with the accuracy on solutions with an error, where the exact step must be predicted, and on those without one,
    and their harmonic mean F1.
  """
  predicted, labelled = np.asarray(predicted), np.asarray(labelled)
  share = lambda mask: float((predicted == labelled)[mask].mean()) if mask.any() else 0.0
  wrong, right = share(labelled >= 0), share(labelled < 0)
  out = {
    'error_accuracy': wrong,
    'correct_accuracy': right,
    'f1': 2 * wrong * right / max(wrong + right, 1e-9),
    'accuracy': float((predicted == labelled).mean()),
  }
  return out | {'interval': interval(out['accuracy'], len(predicted)), 'count': len(predicted)}


def steps(scores, labels, prior=None):
  """Metrics of solutions in steps.

  To find the first error, a step counts as wrong if its score is below 0 ('first_error') or below a threshold with the
  best F1 ('first_error_tuned'); the threshold for each half of the solutions is tuned on the other half.

  Args:
    scores, labels: for each solution an array with one number for each step; a negative label means no label.
    prior: f[S], share of right labels of each step index in training (see `by_place`).

  Returns:
    dict: `binary` over all labelled steps; the first errors; and baselines that do not read the solutions: 'auc' from
    the step index alone, and the accuracy of first errors if none is ever predicted, if each possible answer is equally
    likely, and if the most common step index is always predicted.
  """
  labelled = [np.asarray(y) >= 0 for y in labels]
  flat = lambda xs: np.concatenate([np.asarray(x)[mask] for x, mask in zip(xs, labelled)])
  errors = np.array([first_error(np.where(mask, y, 1.0), 0.5) for y, mask in zip(labels, labelled)])
  out = binary(flat(scores), flat(labels))
  out['first_error'] = localisation([first_error(s, 0.0) for s in scores], errors)
  tuned = np.array([best_threshold(scores[half::2], errors[half::2]) for half in (0, 1)]) if len(scores) > 1 else [0.0]
  predicted = [first_error(s, tuned[(n + 1) % len(tuned)]) for n, s in enumerate(scores)]
  out['first_error_tuned'] = localisation(predicted, errors) | {'thresholds': [float(t) for t in tuned]}
  chance = np.array([1 / (len(y) + 1) for y in labels])
  places, counts = np.unique([e for e in errors if e >= 0], return_counts=True)
  common = int(places[counts.argmax()]) if len(places) else -1
  out['baselines'] = {
    'first_error_never': localisation([-1] * len(errors), errors)['accuracy'],
    'first_error_chance': float(chance.mean()),
    'first_error_commonest_place': localisation([common] * len(errors), errors)['accuracy'],
  }
  if prior is not None:
    guess = [np.asarray(prior)[np.minimum(np.arange(len(y)), len(prior) - 1)] for y in labels]
    out['baselines']['auc_by_place'] = auc(flat(guess), flat(labels) >= 0.5)
  return out


def by_place(labels):
  """Share of right labels of each step index, f64[longest solution]; an index without labels gets the overall share."""
  longest = max(len(y) for y in labels)
  table = np.stack([np.pad(np.asarray(y, np.float64), (0, longest - len(y)), constant_values=-1) for y in labels])
  known = table >= 0
  total = table[known].mean()
  return np.where(known.any(axis=0), np.where(known, table, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1), total)


def best_threshold(scores, errors):
  """The threshold, of 0 and 199 quantiles of the scores, with the best F1 on the labelled first errors i[N]."""
  candidates = [0.0, *np.quantile(np.concatenate(scores), np.linspace(0.005, 0.995, 199))]
  return float(max(candidates, key=lambda t: localisation([first_error(s, t) for s in scores], errors)['f1']))
