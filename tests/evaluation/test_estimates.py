"""pass@k and cons@k against all subsets, and the bootstrap against an independent computation."""

import itertools

import numpy as np
import pytest

from r1jax.evaluation import estimates, majority


@pytest.mark.parametrize('n', [1, 2, 5, 8])
def test_pass_at_k_is_the_mean_over_all_subsets(n):
  for c in range(n + 1):
    correct = [True] * c + [False] * (n - c)
    for k in range(1, n + 1):
      want = np.mean([any(subset) for subset in itertools.combinations(correct, k)])
      assert estimates.pass_at_k(n, c, k) == pytest.approx(want, abs=1e-14)


def test_pass_at_k_of_many_samples_is_a_number():
  assert estimates.pass_at_k(10_000, 1, 5000) == pytest.approx(0.5)
  assert estimates.pass_at_k(10_000, 0, 10_000) == 0 and estimates.pass_at_k(10_000, 5001, 5000) == 1


CASES = [
  ([0, 0, 1, 1, 2, None], {0}),
  ([0, 1, 2, 3, 4, 5], {3}),
  ([0, 0, 0, 1, 1, 2], {1, 2}),
  ([None, None, None, 0, 1, 1], {1}),
  ([None] * 4, set()),
  ([0, 0, 0, 0, 0], {0}),
  ([0, 0, 1, 1, 2, 2], {0, 1}),
]


@pytest.mark.parametrize(('voted', 'right'), CASES)
def test_cons_at_k_is_the_mean_over_all_subsets_in_any_order(voted, right):
  """`majority` gives a tie to the answer that comes first; over all orders this is an equal share."""
  for k in range(1, len(voted) + 1):
    orders = list(itertools.permutations([(a, a in right) for a in voted], k))
    want = np.mean([majority(*zip(*order)) for order in orders])
    assert estimates.cons_at_k(voted, [a in right for a in voted], k) == pytest.approx(want, abs=1e-12)


def test_an_answer_is_right_if_most_responses_that_gave_it_are():
  assert estimates.cons_at_k([0, 0, 0, 1], [True, True, False, False], 4) == 1
  assert estimates.cons_at_k([0, 0, 1], [True, False, False], 3) == 0  # half is not most


def test_cons_at_k_of_64_samples_agrees_with_random_draws():
  rng = np.random.default_rng(0)
  voted = [None if a == 9 else int(a) for a in rng.integers(10, size=64)]
  voted[:14] = [3] * 14
  found = estimates.cons_at_k(voted, [a == 3 for a in voted], 16)
  draws = (rng.choice(np.array(voted, object), 16, replace=False) for _ in range(4000))
  drawn = np.mean([majority(list(draw), [a == 3 for a in draw]) for draw in draws])
  assert 0.2 < found < 0.95 and found == pytest.approx(drawn, abs=0.03)


def test_resamples_of_three_problems_have_the_binomial_distribution():
  means = estimates.resampled(np.array([0.0, 0.0, 1.0]).reshape(1, 3, 1))[:, 0]
  values, counts = np.unique(np.round(3 * means).astype(int), return_counts=True)
  want = np.array([8, 12, 6, 1]) / 27  # of 0 to 3 ones in three draws with probability 1/3
  assert values.tolist() == [0, 1, 2, 3] and counts.sum() == estimates.REPLICATES
  np.testing.assert_allclose(counts / counts.sum(), want, atol=4 * np.sqrt(0.25 / estimates.REPLICATES))


def test_the_interval_is_that_of_problems_not_of_samples():
  """For a mean the bootstrap's deviation is sqrt(variance / P), of the problems' means; each has 8 samples here."""
  solved = np.random.default_rng(1).random(400) < 0.5
  samples = np.repeat(solved, 8).reshape(1, 400, 8)  # those of a problem are equal
  ((value, low, high),) = estimates.mean(samples.mean(axis=2, keepdims=True))
  half = 1.96 * solved.std() / np.sqrt(400)
  assert value == solved.mean() and (low, high) == pytest.approx((value - half, value + half), abs=0.1 * half)


def test_runs_are_drawn_as_well_as_problems():
  """Two-way bootstrap of run r, problem p -> a[r] + b[p]: the variances of both means add up."""
  rng = np.random.default_rng(2)
  a, b = rng.normal(size=5), rng.normal(size=60)
  ((_, low, high),) = estimates.mean((a[:, None] + b)[:, :, None])
  half = 1.96 * np.sqrt(a.var() / 5 + b.var() / 60)
  assert high - low == pytest.approx(2 * half, rel=0.1)


def test_a_difference_is_paired_by_problem_and_figures_are_independent_of_their_company(monkeypatch):
  rng = np.random.default_rng(3)
  first = rng.random((1, 200, 2))
  second = first + 0.1 + 0.01 * rng.normal(size=first.shape)  # the spread of problems cancels
  found = estimates.difference(first, second)
  assert found[:, 0] == pytest.approx((second - first).mean(axis=(0, 1)))
  half = 1.96 * (second - first).std(axis=(0, 1)) / np.sqrt(200)
  assert found[:, 2] - found[:, 1] == pytest.approx(2 * half, rel=0.1)
  np.testing.assert_allclose(estimates.difference(first[..., 1:], second[..., 1:]), found[1:], atol=1e-12)
  np.testing.assert_array_equal(estimates.difference(first, second), found)  # deterministic


def test_a_large_bootstrap_in_pieces_covers_all_replicates(monkeypatch):
  monkeypatch.setattr(estimates, '_AT_ONCE', 100)  # 33 replicates of 3 problems at a time
  means = estimates.resampled(np.array([0.0, 0.0, 1.0]).reshape(1, 3, 1))
  assert means.shape == (estimates.REPLICATES, 1) and means.mean() == pytest.approx(1 / 3, abs=0.03)
