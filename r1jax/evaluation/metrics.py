"""Metrics of k graded samples for each problem."""

import collections

import numpy as np


def majority(answers, correct):
  """cons@k of one problem: 1.0 if the most common answer is correct, else 0.0.

  Of answers with the same number of votes, the first one wins. It is correct if most of the responses that gave it were
  graded correct, because a verifier may accept one spelling of an answer and not another.

  Args:
    answers: k values, equal for responses with the same answer (see `rewards.votes`); None for a response without an
      answer, which does not vote.
    correct: k bools.
  """
  votes = collections.Counter(a for a in answers if a is not None)
  if not votes:
    return 0.0
  winner = votes.most_common(1)[0][0]
  verdicts = [c for a, c in zip(answers, correct) if a == winner]
  return float(np.mean(verdicts) > 0.5)


def summarise(rows, k):
  """Means over problems with k samples each.

  Args:
    rows: dicts with 'correct' (bool), 'voted' (number of the answer or None), 'format' (0..1), 'length' (tokens),
      'reflections' (count), 'language' (0..1) and 'stop'; the samples of a problem are adjacent.
    k: samples of each problem.

  Returns:
    {'pass@1', 'any@k', 'cons@k', 'format', 'length_mean', 'reflection_rate', 'language_consistency',
     'truncated_fraction'}, where k in the names is the number.
  """
  correct = np.array([r['correct'] for r in rows]).reshape(-1, k)
  groups = [rows[i : i + k] for i in range(0, len(rows), k)]
  mean = lambda value: float(np.mean([value(r) for r in rows]))
  return {
    'pass@1': float(correct.mean()),
    f'any@{k}': float(correct.any(axis=1).mean()),
    f'cons@{k}': float(np.mean([majority([r['voted'] for r in g], [r['correct'] for r in g]) for g in groups])),
    'format': mean(lambda r: r['format']),
    'length_mean': mean(lambda r: r['length']),
    'reflection_rate': mean(lambda r: r['reflections'] > 0),
    'language_consistency': mean(lambda r: r['language']),
    'truncated_fraction': mean(lambda r: r['stop'] == 'length'),
  }
