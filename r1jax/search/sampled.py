"""Choices among whole samples: the best of n by a score, and votes weighted by scores. (Plain votes: cons@k.)"""

import math

import numpy as np

DRAWS = 64  # subsets over which `weighted_vote` is averaged


def best_of(scores, correct, n):
  """Probability that of n of the samples, drawn without replacement, the one with the highest score is right.

  Exact: the sample with r better ones is chosen in C(N - 1 - r, n - 1) of the C(N, n) draws. Samples with equal scores
  share their chances.

  Args:
    scores: N numbers. correct: N bools. n: at most N.
  """
  scores, correct = np.asarray(scores, np.float64), np.asarray(correct, np.float64)
  order = np.argsort(-scores, kind='stable')
  chances = np.array([math.comb(len(order) - 1 - r, n - 1) for r in range(len(order))], np.float64)
  chances /= math.comb(len(order), n)
  shared = [correct[scores == scores[i]].mean() for i in order]
  return float(chances @ shared)


def weighted_vote(scores, voted, correct, n, seed=0):
  """Probability that of n of the samples, drawn without replacement, the answer with the most votes is right.

  A vote weighs as much as its score. An answer is right if most of the samples that gave it are. A mean over DRAWS
  drawn subsets; with n = N there is only one.

  Args:
    scores: N numbers from 0. voted: N values, equal for samples with the same answer; None does not vote.
    correct: N bools. n: at most N.
  """
  scores, total, rng = np.asarray(scores, np.float64), len(voted), np.random.default_rng([seed, n])
  right = {a: np.mean([c for c, v in zip(correct, voted, strict=True) if v == a]) > 0.5 for a in set(voted) - {None}}
  wins = []
  for _ in range(1 if n == total else DRAWS):
    drawn, weights = np.sort(rng.permutation(total)[:n]), {}
    for i in drawn:
      if voted[i] is not None:
        weights[voted[i]] = weights.get(voted[i], 0.0) + scores[i]
    wins.append(bool(weights) and right[max(weights, key=lambda a: weights[a])])
  return float(np.mean(wins))
