"""Figures of k graded samples a problem."""

import collections

import numpy as np


def majority(answers, correct):
  """cons@k of one problem: 1.0 where the commonest answer is right.

  Args:
    answers: k values, equal where responses give the same answer (see `rewards.votes`), or None where a response gave
      none; those do not vote.
    correct: k bools.

  Of answers with equally many votes the one given first wins. The vote is right where most of its voters were graded
  right: a verifier may accept one spelling of an answer and not another.
  """
  votes = collections.Counter(a for a in answers if a is not None)
  if not votes:
    return 0.0
  winner = votes.most_common(1)[0][0]
  verdicts = [c for a, c in zip(answers, correct) if a == winner]
  return float(np.mean(verdicts) > 0.5)


def summarise(rows, k):
  """Means over problems of k samples each, the samples of a problem adjacent.

  Args:
    rows: dicts with 'correct' (bool), 'voted' (number of the answer or None), 'format' (0..1), 'length' (tokens),
      'reflections' (count), 'language' (0..1), 'stop'.
    k: samples a problem.

  Returns:
    {'pass@1', 'any@k', 'cons@k', 'format', 'length_mean', 'reflection_rate', 'language_consistency',
     'truncated_fraction'}; k in the names is the number.
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
