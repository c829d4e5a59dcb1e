"""Metrics of reward models against counts by hand."""

import itertools

import numpy as np
import pytest

from r1jax.evaluation import scored


def test_wilsons_interval():
  low, high = scored.interval(0.9, 100)
  np.testing.assert_allclose([low, high], [0.8256343, 0.9447709], atol=1e-6)
  assert scored.interval(1.0, 10)[1] <= 1 and scored.interval(0.5, 0) == [0, 1]
  # About 95% of the intervals contain the true share.
  rng = np.random.default_rng(0)
  covered = [low <= 0.6 <= high for low, high in (scored.interval(x / 400, 400) for x in rng.binomial(400, 0.6, 2000))]
  assert 0.93 < np.mean(covered) < 0.97


def test_calibration():
  p = np.array([0.05, 0.05, 0.95, 0.95, 1.0])
  result = scored.reliability(p, np.array([0, 1, 1, 1, 0.0]))
  assert [b['count'] for b in result['bins']] == [2, 3]
  np.testing.assert_allclose(result['ece'], (2 * 0.45 + 3 * abs(2.9 / 3 - 2 / 3)) / 5)
  rng = np.random.default_rng(0)
  p = rng.random(20_000)
  assert scored.reliability(p, (rng.random(20_000) < p).astype(float))['ece'] < 0.01


def test_area_and_ranks():
  scores, labels = np.array([3.0, 1.0, 2.0, 2.0, 5.0]), np.array([1, 0, 1, 0, 0])
  pairs = [(s > t) + 0.5 * (s == t) for s, t in itertools.product(scores[labels == 1], scores[labels == 0])]
  np.testing.assert_allclose(scored.auc(scores, labels), np.mean(pairs))
  assert scored.ranks([5, 1, 5, 7]).tolist() == [1.5, 0, 1.5, 3] and scored.auc([1, 2], [1, 1]) == 0.5
  assert scored.correlation([1, 2, 3], [10, 20, 15]) == pytest.approx(0.5)
  assert scored.correlation([1, 1, 1], [1, 2, 3]) == 0


def test_pairs_and_their_length_bias():
  margin = np.array([2.0, -1.0, 0.0, 1.0, 3.0, -2.0])
  longer = np.array([5, -3, 0, 2, -1, 4])
  result = scored.pairs(margin, np.zeros(6), longer)
  assert result['accuracy'] == pytest.approx(3.5 / 6) and result['count'] == 6
  assert result['length']['longer_is_better'] | {'interval': 0} == {
    'accuracy': pytest.approx(2 / 3),
    'count': 3,
    'interval': 0,
  }
  assert result['length']['longer_is_worse']['accuracy'] == 0.5
  # The model prefers the longer response in pairs 0, 1 and 3, the labels in 0, 3 and 5; in pair 2 neither is longer.
  assert result['length']['longer_preferred'] == {'model': pytest.approx(3 / 5), 'labels': pytest.approx(3 / 5)}
  assert result['length']['always_longer_accuracy'] == pytest.approx(3.5 / 6)
  np.testing.assert_allclose(result['loss'], np.log1p(np.exp(-margin)).mean())


def test_a_model_of_length_alone_is_exposed():
  rng = np.random.default_rng(0)
  longer = rng.integers(1, 9, 1000) * rng.choice([-1, 1], 1000, p=[0.3, 0.7])
  result = scored.pairs(longer * 0.3, np.zeros(1000), longer)
  assert result['length']['longer_preferred']['model'] == 1 and result['length']['longer_is_worse']['accuracy'] == 0
  assert (
    result['accuracy'] == result['length']['longer_preferred']['labels'] == result['length']['always_longer_accuracy']
  )


def test_calibration_of_pairs_depends_on_which_was_chosen():
  sure = scored.pairs(np.full(100, 5.0), np.zeros(100), np.zeros(100))
  assert sure['calibration']['ece'] < 0.01
  wrong = scored.pairs(np.full(100, -5.0), np.zeros(100), np.zeros(100))
  assert wrong['calibration']['ece'] > 0.98


def test_points():
  result = scored.points([2.0, -1.0, 0.5, -0.5, 1.0], [1, 0, 0, 1, 1], [10, 4, 6, 8, 12])
  assert result['accuracy'] == 0.6 and result['balanced_accuracy'] == pytest.approx((2 / 3 + 1 / 2) / 2)
  assert result['majority_accuracy'] == 0.6 and result['auc'] == pytest.approx(5 / 6)
  assert result['length']['label_correlation'] > 0.5


LABELS = [np.array([1, 0, -1]), np.array([1, 1]), np.array([0.75, 0.25, 1]), np.array([-1, 1])]
SCORES = [np.array([1, -1, -2.0]), np.array([0.5, -0.1]), np.array([-1, -2, 3.0]), np.array([-9, 1.0])]


def test_first_errors_are_scored_as_in_processbench():
  result = scored.steps(SCORES, LABELS)
  # Labelled 1, -1, 1, -1; predicted 1, 1, 0, 0.
  first = result['first_error']
  assert first['error_accuracy'] == 0.5 and first['correct_accuracy'] == 0 and first['f1'] == 0
  assert first['accuracy'] == 0.25 and first['count'] == 4
  lower = scored.localisation([scored.first_error(s, -1.5) for s in SCORES], [1, -1, 1, -1])
  assert lower['error_accuracy'] == 0.5 and lower['correct_accuracy'] == 0.5 and lower['f1'] == 0.5
  assert result['count'] == 8 and result['accuracy'] == 6 / 8
  base = result['baselines']
  assert base['first_error_never'] == 0.5 and base['first_error_commonest_place'] == 0.5
  assert base['first_error_chance'] == pytest.approx((1 / 4 + 1 / 3 + 1 / 4 + 1 / 3) / 4)


def test_the_baseline_of_step_indices():
  prior = scored.by_place(LABELS)
  np.testing.assert_allclose(prior, [(1 + 1 + 0.75) / 3, (0 + 1 + 0.25 + 1) / 4, 1])
  assert scored.by_place([np.array([-1, 1.0]), np.array([-1, 0.0])]).tolist() == [0.5, 0.5]
  result = scored.steps(SCORES, LABELS, prior=prior)
  assert 0 <= result['baselines']['auc_by_place'] <= 1


def test_the_best_threshold_separates_separable_scores():
  scores = [np.array([3.0, 1.0, 3.0]), np.array([3.0, 3.0]), np.array([0.5, 2.5])]
  at = scored.best_threshold(scores, [1, -1, 0])
  assert 1.0 < at <= 3.0
  labels = [np.array([1, 0, -1]), np.array([1, 1]), np.array([0, -1])]
  result = scored.steps([s for s in scores for _ in (0, 1)], [y for y in labels for _ in (0, 1)])
  assert result['first_error_tuned']['f1'] > 0.999 > result['first_error']['f1']
