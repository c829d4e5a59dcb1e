"""What a reward model's scores on held-out examples are worth: pure NumPy, from scores and labels to figures.

Shares come with 95% intervals by Wilson's formula, calibration with the expected calibration error: the mean distance
between how sure the model is and how often it is right, over ten equal bins of certainty weighted by their numbers.
"""

import numpy as np

BINS = 10


def interval(share, count):
  """Wilson's 95% interval of a share of `count` independent trials; (0, 1) without any."""
  if not count:
    return [0.0, 1.0]
  z = 1.959964
  middle, spread = share + z * z / (2 * count), z * np.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
  return [float((middle - spread) / (1 + z * z / count)), float((middle + spread) / (1 + z * z / count))]


def sigmoid(x):
  return 1 / (1 + np.exp(-np.clip(np.asarray(x, np.float64), -60, 60)))


def reliability(probability, outcome):
  """Bins of what was predicted against what happened.

  Args:
    probability: f[N] in [0, 1]. outcome: f[N] in [0, 1].

  Returns:
    {'ece': float, 'bins': [{'from', 'to', 'count', 'predicted', 'observed'}, only those with any]}.
  """
  at = np.minimum((np.asarray(probability) * BINS).astype(int), BINS - 1)
  bins = [
    {
      'from': b / BINS,
      'to': (b + 1) / BINS,
      'count': int((at == b).sum()),
      'predicted': float(probability[at == b].mean()),
      'observed': float(outcome[at == b].mean()),
    }
    for b in range(BINS)
    if (at == b).any()
  ]
  ece = sum(b['count'] * abs(b['predicted'] - b['observed']) for b in bins) / max(len(at), 1)
  return {'ece': float(ece), 'bins': bins}


def ranks(x):
  """Ranks from 0, equal values sharing their mean rank. f[N] -> f64[N]."""
  _, where, counts = np.unique(x, return_inverse=True, return_counts=True)
  return (np.cumsum(counts) - (counts + 1) / 2)[where]


def correlation(x, y):
  """Spearman's; 0 where either is constant."""
  x, y = ranks(x), ranks(y)
  return float(np.corrcoef(x, y)[0, 1]) if np.ptp(x) and np.ptp(y) else 0.0


def auc(scores, labels):
  """Share of pairs of a positive and a negative in which the positive scores higher, ties half; 0.5 without pairs."""
  labels = np.asarray(labels, bool)
  yes, no = int(labels.sum()), int((~labels).sum())
  if not yes or not no:
    return 0.5
  return float((ranks(np.asarray(scores))[labels].sum() - yes * (yes - 1) / 2) / (yes * no))


def pairs(chosen, rejected, longer):
  """Figures of preference pairs.

  Args:
    chosen, rejected: f[N] scores.
    longer: f[N], tokens of the chosen response less those of the rejected one.

  Returns:
    dict; see the README. 'longer_preferred' are shares of the pairs of unequal length, as the model has it and as the
    labels do; a model without regard to length is as accurate where the longer response is the worse one as elsewhere.
  """
  margin, longer = np.asarray(chosen, np.float64) - rejected, np.asarray(longer)
  wins = (margin > 0) + 0.5 * (margin == 0)
  unequal, share = longer != 0, float(wins.mean())
  by_model = np.where(longer > 0, wins, 1 - wins)[unequal]
  mean = lambda x: float(x.mean()) if len(x) else 0.5
  part = lambda where: {
    'accuracy': mean(wins[where]),
    'interval': interval(mean(wins[where]), int(where.sum())),
    'count': int(where.sum()),
  }
  # Each pair is seen in both orders: how often is the first one chosen that is said to be with probability p?
  p, first = sigmoid(np.concatenate([margin, -margin])), np.repeat([1.0, 0.0], len(margin))
  return {
    'accuracy': share,
    'interval': interval(share, len(wins)),
    'count': len(wins),
    'loss': float(np.logaddexp(0, -margin).mean()),
    'calibration': reliability(p, first),
    'length': {
      'longer_preferred': {'model': mean(by_model), 'labels': mean((longer > 0)[unequal].astype(float))},
      'longer_is_better': part(longer > 0),
      'longer_is_worse': part(longer < 0),
      'margin_correlation': correlation(margin, longer),
      'always_longer_accuracy': float(((longer > 0) + 0.5 * (longer == 0)).mean()),
    },
  }


def binary(scores, labels):
  """Figures of scores whose sigmoid is the probability of label 1; labels f[N] in [0, 1], 1 from a half on."""
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
  """`binary`, and how scores go with the responses' lengths in tokens."""
  labels = np.asarray(labels)
  return binary(scores, labels) | {
    'length': {'score_correlation': correlation(scores, sizes), 'label_correlation': correlation(labels, sizes)}
  }


def first_error(scores, threshold):
  """Index of the first step whose score is below `threshold`, -1 for none."""
  below = np.flatnonzero(np.asarray(scores) < threshold)
  return int(below[0]) if len(below) else -1


def located(found, wanted):
  """First errors found against those labelled, as ProcessBench has it (arXiv 2412.06559).

  Args:
    found, wanted: i[N], -1 for none.

  Returns:
    accuracy on solutions with an error (the very step must be named) and on those without, and their harmonic mean F1.
  """
  found, wanted = np.asarray(found), np.asarray(wanted)
  share = lambda where: float((found == wanted)[where].mean()) if where.any() else 0.0
  wrong, right = share(wanted >= 0), share(wanted < 0)
  out = {
    'error_accuracy': wrong,
    'correct_accuracy': right,
    'f1': 2 * wrong * right / max(wrong + right, 1e-9),
    'accuracy': float((found == wanted).mean()),
  }
  return out | {'interval': interval(out['accuracy'], len(found)), 'count': len(found)}


def steps(scores, labels, prior=None):
  """Figures of solutions in steps.

  A step counts as wrong, when the first error is looked for, where its score is below 0 ('first_error'), or below a
  threshold with the best F1 ('first_error_tuned'): the one of each half of the solutions is chosen on the other half.

  Args:
    scores, labels: for each solution an array, one number a step; negative labels are none.
    prior: f[S], share of right labels at each place in training (see `by_place`): what is known without reading.

  Returns:
    dict: `binary` over all labelled steps; first errors; and baselines that read nothing: 'auc' by place, and first
    errors of one that never finds any, of one that names each possible answer as often, and of one that always names
    the commonest place.
  """
  kept = [np.asarray(y) >= 0 for y in labels]
  flat = lambda xs: np.concatenate([np.asarray(x)[k] for x, k in zip(xs, kept)])
  wanted = np.array([first_error(np.where(k, y, 1.0), 0.5) for y, k in zip(labels, kept)])
  out = binary(flat(scores), flat(labels))
  out['first_error'] = located([first_error(s, 0.0) for s in scores], wanted)
  tuned = np.array([best_threshold(scores[half::2], wanted[half::2]) for half in (0, 1)]) if len(scores) > 1 else [0.0]
  found = [first_error(s, tuned[(n + 1) % len(tuned)]) for n, s in enumerate(scores)]
  out['first_error_tuned'] = located(found, wanted) | {'thresholds': [float(t) for t in tuned]}
  chance = np.array([1 / (len(y) + 1) for y in labels])
  places, counts = np.unique([w for w in wanted if w >= 0], return_counts=True)
  common = int(places[counts.argmax()]) if len(places) else -1
  out['baselines'] = {
    'first_error_never': located([-1] * len(wanted), wanted)['accuracy'],
    'first_error_chance': float(chance.mean()),
    'first_error_commonest_place': located([common] * len(wanted), wanted)['accuracy'],
  }
  if prior is not None:
    guess = [np.asarray(prior)[np.minimum(np.arange(len(y)), len(prior) - 1)] for y in labels]
    out['baselines']['auc_by_place'] = auc(flat(guess), flat(labels) >= 0.5)
  return out


def by_place(labels):
  """Share of right labels at each place of a solution, f64[longest]; at a place without labels that of all places."""
  longest = max(len(y) for y in labels)
  table = np.stack([np.pad(np.asarray(y, np.float64), (0, longest - len(y)), constant_values=-1) for y in labels])
  known = table >= 0
  total = table[known].mean()
  return np.where(known.any(axis=0), np.where(known, table, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1), total)


def best_threshold(scores, wanted):
  """The threshold with the best F1 of first errors i[N] on these solutions; of 0 and 199 quantiles of the scores."""
  tried = [0.0, *np.quantile(np.concatenate(scores), np.linspace(0.005, 0.995, 199))]
  return float(max(tried, key=lambda t: located([first_error(s, t) for s in scores], wanted)['f1']))
