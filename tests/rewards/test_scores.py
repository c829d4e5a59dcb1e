"""Metrics over verdicts, against arithmetic by hand, brute force and planted truth."""

import math

import numpy as np
import pytest

from r1jax.rewards import scores


def test_simple_qa_by_hand():
  out = scores.attempts(['correct'] * 3 + ['incorrect'] * 2 + ['not_attempted'] * 4 + ['unreadable'])
  precision, overall = 3 / 5, 3 / 10
  assert out == {
    'correct': 0.3,
    'incorrect': 0.2,
    'not_attempted': 0.5,
    'ungraded': 0.1,
    'correct_given_attempted': 0.6,
    'f_score': pytest.approx(2 * precision * overall / (precision + overall)),
  }
  assert set(scores.attempts([]).values()) == set(scores.attempts(['not_attempted'])[k] for k in ('correct', 'f_score'))
  assert scores.attempts(['correct'])['f_score'] == 1


def test_shares():
  assert scores.shares(['unsafe', 'safe', 'safe', 'unreadable']) == {'safe': 0.5, 'unreadable': 0.25, 'unsafe': 0.25}
  assert scores.shares([]) == {}


def test_length_is_taken_out_of_a_win_rate():
  """The judge prefers the longer response; of equal length, this model would win 40 %."""
  rng = np.random.default_rng(0)
  differences = rng.normal(300, 400, 4000)
  advantage = math.log(0.4 / 0.6)
  chance = 1 / (1 + np.exp(-(advantage + 1.5 * np.tanh(differences / differences.std(ddof=1)))))
  outcomes = (rng.random(4000) < chance).astype(float)
  out = scores.length_controlled(outcomes, differences)
  assert out['win_rate'] == outcomes.mean() > 0.55
  assert out['length_controlled'] == pytest.approx(0.4, abs=0.03)
  assert out['length_weight'] == pytest.approx(1.5, abs=0.2)
  # With the reference as the model, all is mirrored.
  mirrored = scores.length_controlled(1 - outcomes, -differences)
  assert mirrored['length_controlled'] == pytest.approx(1 - out['length_controlled'], abs=1e-4)
  # The unit of length does not matter.
  again = scores.length_controlled(outcomes, differences * 7)
  assert again['length_controlled'] == pytest.approx(out['length_controlled'], abs=1e-4)


def test_the_fit_is_the_best_on_a_grid():
  outcomes, differences = np.array([1, 0.5, 0, 1, 1, 0.0, 1]), np.array([40.0, -3, -30, 12, 25, 9, -8])
  out = scores.length_controlled(outcomes, differences)
  x = np.tanh(differences / differences.std(ddof=1))
  a, w = np.meshgrid(np.linspace(-3, 3, 601), np.linspace(-4, 8, 1201), indexing='ij')
  p = 1 / (1 + np.exp(-(a[..., None] + w[..., None] * x)))
  loss = -(outcomes * np.log(p) + (1 - outcomes) * np.log(1 - p)).sum(-1) + 0.005 * w**2
  best = np.unravel_index(loss.argmin(), loss.shape)
  assert out['length_controlled'] == pytest.approx(1 / (1 + math.exp(-a[best])), abs=0.01)
  assert out['length_weight'] == pytest.approx(w[best], abs=0.02)


def test_win_rates_with_nothing_to_control():
  assert scores.length_controlled([1, 1, 1], [5, 6, 7])['length_controlled'] == 1
  assert scores.length_controlled([1, 0, 0, 0], [5, 5, 5, 5])['length_controlled'] == 0.25
  separated = scores.length_controlled([1, 1, 0, 0], [9, 8, -8, -9])  # by length alone
  assert separated['length_controlled'] == pytest.approx(0.5, abs=1e-6) and separated['length_weight'] > 5
  for outcomes, differences in (([], []), ([1], [1, 2]), ([1.5, 0], [1, 2]), ([1, 0], [1, math.inf])):
    with pytest.raises(ValueError, match='outcomes'):
      scores.length_controlled(outcomes, differences)


def test_a_planted_rating_is_found():
  rng = np.random.default_rng(0)
  ratings = rng.uniform(800, 3000, 300)
  chance = 1 / (1 + 10 ** ((ratings - 1700) / 400))
  errors, claimed = [], []
  for _ in range(200):
    out = scores.solver_rating(ratings, (rng.random(300) < chance).astype(float))
    errors.append(out['rating'] - 1700)
    claimed.append(out['standard_error'])
  assert abs(np.mean(errors)) < 8 and np.std(errors) == pytest.approx(np.mean(claimed), rel=0.15)
  exact = scores.solver_rating(ratings, chance)  # the expected shares themselves
  assert exact['rating'] == pytest.approx(1700, abs=1e-3) and exact['problems'] == 300


def test_ratings_by_hand():
  assert scores.solver_rating([1500], [0.5])['rating'] == pytest.approx(1500)
  assert scores.solver_rating([1200], [10 / 11])['rating'] == pytest.approx(1600)  # odds of 10 are 400 points
  # One problem with an even chance: the information is (ln 10 / 400)^2 / 4.
  assert scores.solver_rating([1500], [0.5])['standard_error'] == pytest.approx(2 * 400 / math.log(10))
  assert scores.solver_rating([1000, 2000], [1, 0])['rating'] == pytest.approx(1500)
  assert scores.solver_rating([1000, 1200], [1, 1])['rating'] == math.inf
  assert scores.solver_rating([1000, 1200], [0, 0]) == {'rating': -math.inf, 'standard_error': math.inf, 'problems': 2}


@pytest.mark.parametrize(
  ('ratings', 'solved', 'words'),
  [
    ([1500, None], [1, 0], '2 ratings .1 of them missing'),
    ([1500, math.nan], [1, 0], '1 of them missing'),
    ([1500], [1, 0], '1 ratings .* 2 shares'),
    ([], [], '0 ratings'),
    ([1500], [1.5], r'\[0, 1\]'),
  ],
)
def test_problems_without_ratings_are_refused(ratings, solved, words):
  with pytest.raises(ValueError, match=words):
    scores.solver_rating(ratings, solved)
