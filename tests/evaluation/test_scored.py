"""Figures of reward models against counting by hand."""

import itertools

import numpy as np
import pytest

from r1jax.evaluation import scored


def test_wilsons_interval():
  low, high = scored.interval(0.9, 100)
  np.testing.assert_allclose([low, high], [0.8256343, 0.9447709], atol=1e-6)
  assert scored.interval(1.0, 10)[1] <= 1 and scored.interval(0.5, 0) == [0, 1]
  # 95% of intervals hold the truth.
  rng = np.random.default_rng(0)
  held = [low <= 0.6 <= high for low, high in (scored.interval(x / 400, 400) for x in rng.binomial(400, 0.6, 2000))]
  assert 0.93 < np.mean(held) < 0.97


def test_calibration():
  p = np.array([0.05, 0.05, 0.95, 0.95, 1.0])
  found = scored.reliability(p, np.array([0, 1, 1, 1, 0.0]))
  assert [b['count'] for b in found['bins']] == [2, 3]
  np.testing.assert_allclose(found['ece'], (2 * 0.45 + 3 * abs(2.9 / 3 - 2 / 3)) / 5)
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
  found = scored.pairs(margin, np.zeros(6), longer)
  assert found['accuracy'] == pytest.approx(3.5 / 6) and found['count'] == 6
  assert found['length']['longer_is_better'] | {'interval': 0} == {
    'accuracy': pytest.approx(2 / 3),
    'count': 3,
    'interval': 0,
  }
  assert found['length']['longer_is_worse']['accuracy'] == 0.5
  # The model prefers the longer one in pairs 0, 1 and 3, the labels in 0, 3 and 5; pair 2 has none.
  assert found['length']['longer_preferred'] == {'model': pytest.approx(3 / 5), 'labels': pytest.approx(3 / 5)}
  assert found['length']['always_longer_accuracy'] == pytest.approx(3.5 / 6)
  np.testing.assert_allclose(found['loss'], np.log1p(np.exp(-margin)).mean())


def test_a_model_of_length_alone_is_seen_through():
  rng = np.random.default_rng(0)
  longer = rng.integers(1, 9, 1000) * rng.choice([-1, 1], 1000, p=[0.3, 0.7])
  found = scored.pairs(longer * 0.3, np.zeros(1000), longer)
  assert found['length']['longer_preferred']['model'] == 1 and found['length']['longer_is_worse']['accuracy'] == 0
  assert found['accuracy'] == found['length']['longer_preferred']['labels'] == found['length']['always_longer_accuracy']


def test_calibration_of_pairs_knows_who_was_chosen():
  sure = scored.pairs(np.full(100, 5.0), np.zeros(100), np.zeros(100))
  assert sure['calibration']['ece'] < 0.01
  wrong = scored.pairs(np.full(100, -5.0), np.zeros(100), np.zeros(100))
  assert wrong['calibration']['ece'] > 0.98


def test_points():
  found = scored.points([2.0, -1.0, 0.5, -0.5, 1.0], [1, 0, 0, 1, 1], [10, 4, 6, 8, 12])
  assert found['accuracy'] == 0.6 and found['balanced_accuracy'] == pytest.approx((2 / 3 + 1 / 2) / 2)
  assert found['majority_accuracy'] == 0.6 and found['auc'] == pytest.approx(5 / 6)
  assert found['length']['label_correlation'] > 0.5


LABELS = [np.array([1, 0, -1]), np.array([1, 1]), np.array([0.75, 0.25, 1]), np.array([-1, 1])]
SCORES = [np.array([1, -1, -2.0]), np.array([0.5, -0.1]), np.array([-1, -2, 3.0]), np.array([-9, 1.0])]


def test_first_errors_are_looked_for_as_processbench_does():
  found = scored.steps(SCORES, LABELS)
  # Wanted 1, -1, 1, -1; found 1, 1, 0, 0.
  first = found['first_error']
  assert first['error_accuracy'] == 0.5 and first['correct_accuracy'] == 0 and first['f1'] == 0
  assert first['accuracy'] == 0.25 and first['count'] == 4
  lower = scored.located([scored.first_error(s, -1.5) for s in SCORES], [1, -1, 1, -1])
  assert lower['error_accuracy'] == 0.5 and lower['correct_accuracy'] == 0.5 and lower['f1'] == 0.5
  assert found['count'] == 8 and found['accuracy'] == 6 / 8
  base = found['baselines']
  assert base['first_error_never'] == 0.5 and base['first_error_commonest_place'] == 0.5
  assert base['first_error_chance'] == pytest.approx((1 / 4 + 1 / 3 + 1 / 4 + 1 / 3) / 4)


def test_what_the_place_alone_tells():
  prior = scored.by_place(LABELS)
  np.testing.assert_allclose(prior, [(1 + 1 + 0.75) / 3, (0 + 1 + 0.25 + 1) / 4, 1])
  assert scored.by_place([np.array([-1, 1.0]), np.array([-1, 0.0])]).tolist() == [0.5, 0.5]
  found = scored.steps(SCORES, LABELS, prior=prior)
  assert 0 <= found['baselines']['auc_by_place'] <= 1


def test_the_best_threshold_finds_what_can_be_found():
  scores = [np.array([3.0, 1.0, 3.0]), np.array([3.0, 3.0]), np.array([0.5, 2.5])]
  at = scored.best_threshold(scores, [1, -1, 0])
  assert 1.0 < at <= 3.0
  labels = [np.array([1, 0, -1]), np.array([1, 1]), np.array([0, -1])]
  found = scored.steps([s for s in scores for _ in (0, 1)], [y for y in labels for _ in (0, 1)])
  assert found['first_error_tuned']['f1'] > 0.999 > found['first_error']['f1']
