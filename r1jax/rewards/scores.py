"""Metrics over the verdicts of many responses, for benchmarks that are not a mean of scores.

They are pure functions from lists of numbers or words; an evaluation calls them, on all responses or on a resample.
"""

import math

import numpy as np

_SCALE = 400 / math.log(10)  # rating points per unit of log-odds
_RIDGE = 0.01  # of the length's weight, see `length_controlled`


def attempts(grades):
  """SimpleQA's metrics (Wei et al. 2024, arXiv 2411.04368).

  Args:
    grades: list of str, one per response: 'correct', 'incorrect' or 'not_attempted'. Any other word, such as
      'unreadable', counts as not attempted, as in the published grader, and its share is returned.

  Returns:
    dict of float: 'correct', 'incorrect', 'not_attempted' and 'ungraded' (a part of 'not_attempted') are shares of all
    responses, 'correct_given_attempted' is the share of those that attempt an answer, and 'f_score' is the harmonic
    mean of 'correct' and 'correct_given_attempted'. Shares of nothing are 0.
  """
  count = max(len(grades), 1)
  correct, incorrect = grades.count('correct'), grades.count('incorrect')
  ungraded = len(grades) - correct - incorrect - grades.count('not_attempted')
  return {
    'correct': correct / count,
    'incorrect': incorrect / count,
    'not_attempted': (len(grades) - correct - incorrect) / count,
    'ungraded': ungraded / count,
    'correct_given_attempted': correct / max(correct + incorrect, 1),
    'f_score': 2 * correct / max(len(grades) + correct + incorrect, 1),
  }


def shares(grades):
  """{grade: share of the responses that have it}, sorted by grade: of 'unsafe' and 'safe', for example."""
  return {grade: grades.count(grade) / len(grades) for grade in sorted(set(grades))}


def length_controlled(outcomes, differences):
  """The length-controlled win rate, after Dubois et al. 2024 (arXiv 2404.04475), of one model against a reference.

  A logistic regression explains the outcome by a constant, the model's advantage, and by the difference in length:

      P(win) = sigmoid(advantage + weight * tanh(difference / s)),   s: standard deviation of the differences

  The length-controlled rate is what it predicts for equal lengths, sigmoid(advantage).

  What is simplified against the paper:

  - One pair of models. The term for the difficulty of each instruction is left out, because it is estimated jointly
    over many models.
  - The paper's code chooses an L1 penalty by cross-validation and adds, with a small weight, comparisons of a model
    that was prompted to be brief or verbose. Here only the weight of the length has a penalty, 0.01 weight^2 / 2, which
    decides nothing unless length alone separates wins from losses.
  - An outcome is the mean over both orders of the two responses, not the judge's probability in one order.

  Rates are therefore comparable with one another, but not with the published table.

  Args:
    outcomes: f[N] in [0, 1]: 1 for a win, 0 for a loss, 0.5 for a tie.
    differences: f[N]: length of the response minus that of the reference, in any unit.

  Returns:
    dict of float: 'win_rate', the mean outcome; 'length_controlled'; and 'length_weight'. If all responses win or all
    lose, or all differences are equal, there is nothing to control and both rates are the same.

  Raises:
    ValueError: no outcomes, lists of different lengths, or numbers out of range.
  """
  outcomes, differences = np.asarray(outcomes, np.float64), np.asarray(differences, np.float64)
  if not len(outcomes) or outcomes.shape != differences.shape:
    raise ValueError(f'{len(outcomes)} outcomes and {len(differences)} differences; give one of each per response.')
  if not ((outcomes >= 0) & (outcomes <= 1)).all() or not np.isfinite(differences).all():
    raise ValueError('outcomes must lie in [0, 1], and differences must be finite.')
  rate = float(outcomes.mean())
  if not 0 < rate < 1 or not np.ptp(differences):
    return {'win_rate': rate, 'length_controlled': rate, 'length_weight': 0.0}
  from scipy import optimize, special  # slow to import, and worker processes load this package

  x = np.tanh(differences / differences.std(ddof=1))

  def loss(parameters):
    advantage, weight = parameters
    logits = advantage + weight * x
    error = special.expit(logits) - outcomes
    value = np.logaddexp(0, logits).sum() - outcomes @ logits + _RIDGE * weight**2 / 2
    return value, np.array([error.sum(), error @ x + _RIDGE * weight])

  fit = optimize.minimize(loss, np.array([special.logit(rate), 0.0]), jac=True, method='BFGS')
  return {'win_rate': rate, 'length_controlled': float(special.expit(fit.x[0])), 'length_weight': float(fit.x[1])}


def solver_rating(ratings, solved):
  """A rating from solved problems: the maximum of the likelihood under Elo's formula.

      P(solve a problem of rating d) = 1 / (1 + 10 ** ((d - rating) / 400)),   as on Codeforces

  This is not a Codeforces rating. A contest has a clock, penalties for wrong submissions, and opponents; here only the
  share of solved problems counts. These problems bias the result:

  - Problems with few tests, such as those of the statement only, are too easy to pass: the rating is too high.
  - Problems with several right outputs that a plain comparison refuses are too hard: the rating is too low.
  - Problems the model was trained on. A problem's rating also includes the haste of its contest.
  - Few problems, or problems far from the model's level, say little; see 'standard_error'.
  - A model that is good at one topic only is given one number all the same.

  No percentile follows from it: people with a rating have chosen to compete.

  Args:
    ratings: f[N]: of the problems, in the unit of Codeforces.
    solved: f[N] in [0, 1]: share of the samples that solve each problem.

  Returns:
    dict: 'rating' (float; inf or -inf if everything or nothing is solved); 'standard_error' (float), by the Fisher
    information of one sample per problem. With several samples the true error is smaller, but not by their number:
    samples of one problem share its peculiarities. inf if the rating is infinite. 'problems' (int).

  Raises:
    ValueError: no problems, lists of different lengths, a problem without a rating, or a share out of range.
  """
  missing = sum(d is None or not math.isfinite(d) for d in ratings)
  if missing or not len(ratings) or len(ratings) != len(solved):
    raise ValueError(
      f'{len(ratings)} ratings ({missing} of them missing) and {len(solved)} shares; give one of each per problem, and '
      'leave out problems without a rating.'
    )
  ratings, solved = np.asarray(ratings, np.float64), np.asarray(solved, np.float64)
  if not ((solved >= 0) & (solved <= 1)).all():
    raise ValueError('the shares of solving samples must lie in [0, 1].')
  total, count = float(solved.sum()), len(ratings)
  if not 0 < total < count:
    return {'rating': math.inf if total else -math.inf, 'standard_error': math.inf, 'problems': count}
  from scipy import optimize, special

  chance = lambda rating: special.expit((rating - ratings) / _SCALE)
  # All problems as hard as the easiest, or as the hardest, bound the rating.
  level = _SCALE * math.log(total / (count - total))
  low, high = float(ratings.min()) + level, float(ratings.max()) + level
  rating = low
  if high > low:
    rating = float(optimize.root_scalar(lambda r: chance(r).sum() - total, bracket=(low - 1, high + 1)).root)
  information = (chance(rating) * (1 - chance(rating))).sum()
  return {'rating': rating, 'standard_error': float(_SCALE / math.sqrt(information)), 'problems': count}
