"""Estimates from k samples of each problem, and their 95% intervals, in float64."""

import collections
import functools
import math

import numpy as np

REPLICATES = 2000  # resamples of a bootstrap
_AT_ONCE = 1 << 22  # drawn problems in memory


def pass_at_k(samples, correct, k):
  """Probability that one of k <= samples is right, unbiased, from `samples` of which `correct` are right.

  1 - C(n - c, k) / C(n, k), as a product without large numbers (Chen et al. 2021, arXiv 2107.03374, section 2.1).
  """
  if samples - correct < k:
    return 1.0
  return float(1 - np.prod(1 - k / np.arange(samples - correct + 1, samples + 1, dtype=np.float64)))


def cons_at_k(voted, correct, k):
  """Probability that the most common answer of k of the samples, drawn without replacement, is right.

  An answer is right if most of the responses that gave it are. Answers with equally many votes share the win, which is
  what breaking ties by order comes to on average; without any vote there is none.

  Args:
    voted: n values, equal for responses with the same answer (see `rewards.votes`); None does not vote.
    correct: n bools.
    k: at most n.
  """
  verdicts = collections.defaultdict(list)
  for answer, is_right in zip(voted, correct, strict=True):
    if answer is not None:
      verdicts[answer].append(is_right)
  answers = sorted((len(v), 2 * sum(v) > len(v)) for v in verdicts.values())
  return _share_won(tuple(answers), len(voted), k)


@functools.cache  # many problems have the same counts
def _share_won(answers, samples, k):
  """`cons_at_k` of answers ((votes, whether right), ...), by the number of draws with each outcome."""
  abstain, won = samples - sum(votes for votes, _ in answers), 0.0
  choose = lambda votes, most: np.array([math.comb(votes, n) for n in range(min(votes, most) + 1)], np.float64)
  for top in range(1, min(k, max((votes for votes, _ in answers), default=0)) + 1):
    if abstain + sum(min(votes, top) for votes, _ in answers) < k:
      continue  # some answer has more votes in every draw
    # (answers with `top` votes, right ones among them) -> draws[n]: ways to draw n votes, none with more than `top`
    draws = {(0, 0): choose(abstain, k)}
    for votes, is_right in answers:
      extended = collections.defaultdict(lambda: np.zeros(k + 1))
      for (tied, right), ways in draws.items():
        fewer = np.convolve(ways, choose(votes, top - 1))[: k + 1]
        extended[tied, right][: len(fewer)] += fewer
        moved = math.comb(votes, top) * ways[: k + 1 - top]
        if moved.any():
          extended[tied + 1, right + is_right][top : top + len(moved)] += moved
      draws = extended
    won += sum(right / tied * ways[k] for (tied, right), ways in draws.items() if right)
  return float(won / math.comb(samples, k))


def resampled(runs, side=0, seed=0):
  """Means of bootstrap resamples: problems are drawn with replacement, and runs too.

  The draw of problems depends on their number and `seed` alone, so that two models are resampled on equal problems.

  Args:
    runs: f64[R, P, F], F figures of each of P problems in each of R runs of a model with different seeds.
    side: which of the models that are compared, for independent draws of runs.

  Returns:
    f64[REPLICATES, F].
  """
  (r, p, _), means = runs.shape, []
  problem_draws, run_draws = np.random.default_rng((seed, 0)), np.random.default_rng((seed, 1, side))
  step = max(1, _AT_ONCE // p)
  for first in range(0, REPLICATES, step):
    n = min(step, REPLICATES - first)
    drawn = problem_draws.integers(p, size=(n, p)) + p * np.arange(n)[:, None]
    weights = np.bincount(drawn.ravel(), minlength=n * p).reshape(n, p) / p
    by_run = np.tensordot(weights, runs, axes=(1, 1))  # [n, R, F]
    means.append(np.take_along_axis(by_run, run_draws.integers(r, size=(n, r, 1)), axis=1).mean(axis=1))
  return np.concatenate(means)


def with_interval(value, replicates):
  """f64[F, 3]: each figure's value, and the low and high end of its 95% interval by percentiles of the resamples."""
  return np.stack([value, *np.percentile(replicates, (2.5, 97.5), axis=0)], axis=1)


def mean(runs, derive=lambda means: means):
  """Means over runs and problems with intervals, f64[F, 3].

  Args:
    runs: as for `resampled`.
    derive: function that turns the means f64[..., F] into the figures of interest, such as ratios of them.
  """
  return with_interval(derive(runs.mean(axis=(0, 1))), derive(resampled(runs)))


def resampled_statistic(problems, statistic, replicates=500):
  """A number that is no mean over problems, with its interval: [value, low, high].

  Args:
    problems: P items. statistic: function from a list of such items to a number; infinite ones are ends like others.
  """
  draws = np.random.default_rng((0, 0)).integers(len(problems), size=(replicates, len(problems)))
  found = [statistic([problems[i] for i in draw]) for draw in draws]
  low, high = np.percentile(found, (2.5, 97.5), method='nearest')
  return [float(statistic(problems)), float(low), float(high)]


def difference(first, second, derive=lambda means: means, paired=False):
  """Second minus first with intervals, f64[F, 3], paired by problem.

  Args:
    first, second: f64[R, P, F] and f64[S, P, F] of two models, on the same problems in the same order.
    derive: as for `mean`.
    paired: whether run n of both belongs together, such as a model and what it was trained from.
  """
  value = derive(second.mean(axis=(0, 1))) - derive(first.mean(axis=(0, 1)))
  return with_interval(value, derive(resampled(second, 0 if paired else 1)) - derive(resampled(first, 0)))
