"""Figures of judged responses in the tables of evaluations."""

import pytest

from r1jax.evaluation import tables
from r1jax.rewards import scores


def row(i, grade, score=0.0, difference=0):
  return {
    'id': f'p{i}',
    'seed': 0,
    'sample': 0,
    'score': score,
    'correct': score >= 0.75,
    'grade': grade,
    'length_difference': difference,
    'voted': None,
    'length': 7,
    'stop': 'eos',
  }


def test_attempts_are_those_of_the_published_metric():
  grades = ['correct'] * 5 + ['incorrect'] * 2 + ['not_attempted'] * 2 + ['unreadable']
  base = [row(i, 'correct' if i == 3 else 'not_attempted', float(i == 3)) for i in range(10)]
  found = tables.cells({'a': base, 'b': [row(i, g, float(g == 'correct')) for i, g in enumerate(grades)]})
  figures, expected = found['b']['figures'], scores.attempts(grades)
  for name in ('f_score', 'correct_given_attempted'):
    value, low, high = figures[name]
    assert value == pytest.approx(expected[name]) and low <= value <= high
  assert figures['grade/unreadable'][0] == pytest.approx(0.1) and figures['pass@1'][0] == pytest.approx(0.5)
  assert found['b']['difference']['f_score'][0] == pytest.approx(expected['f_score'] - 2 / 11)
  shown = tables.markdown(
    tables.sections({'models': ['a', 'b'], 'rows': [{'task': 't', 'split': '', 'models': found}]})
  )
  assert '| t | f_score | 1 | 10 | 18.2 [' in shown


def test_comparisons_have_a_rate_at_equal_lengths():
  grades = [('win', 1.0, 50)] * 4 + [('loss', 0.0, -40)] * 3 + [('win', 1.0, -10), ('tie', 0.5, 0), ('loss', 0.0, 60)]
  rows = [row(i, *of) for i, of in enumerate(grades)] + [row(10, 'unreadable')]
  found = tables.cells({'a': rows})['a']
  _, values, differences = zip(*grades)
  expected = scores.length_controlled(values, differences)
  value, low, high = found['length_controlled']
  assert value == pytest.approx(expected['length_controlled']) and 0 < low < value < high < 1
  assert found['figures']['score'][0] == pytest.approx(sum(values) / 11)
  assert 'win rate at equal lengths | 1 | 11' in tables.markdown(
    tables.sections({'models': ['a'], 'rows': [{'task': 't', 'split': '', 'models': {'a': found}}]})
  )


def test_problems_with_ratings_give_a_rating():
  rows = [row(i, '', score) | {'rating': rating} for i, (rating, score) in enumerate([(1000, 1.0), (2000, 0.0)] * 40)]
  found = tables.cells({'a': rows, 'none': [r | {'correct': False} for r in rows]})
  value, low, high = found['a']['rating']
  assert value == pytest.approx(1500) and 1400 < low < 1500 < high < 1600
  assert 'rating' not in found['none']  # nothing solved: it is without bounds
  shown = tables.markdown(
    tables.sections({'models': ['a', 'none'], 'rows': [{'task': 't', 'split': '', 'models': found}]})
  )
  assert '| t | rating | 1 | 80 | 1500 [' in shown
