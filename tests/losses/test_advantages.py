"""Advantages and the overlong punishment against plain arithmetic."""

import statistics

import numpy as np
import pytest

from r1jax.losses import ADVANTAGES, soft_overlong, step_credit

REWARD = np.array([[1, 0, 0, 1.5], [0.2, -1, 3, 0.5]], np.float32)

# Of the centred rewards of the whole rollout.
SPREAD = statistics.pstdev(r - statistics.fmean(g) for g in REWARD.astype(np.float64).tolist() for r in g)


def by_group(function):
  return [[[function(r, g)] for r in g] for g in REWARD.astype(np.float64).tolist()]


@pytest.mark.parametrize(
  ('name', 'expected'),
  [
    ('group', lambda r, g: (r - statistics.fmean(g)) / statistics.pstdev(g)),
    ('group_centred', lambda r, g: r - statistics.fmean(g)),
    ('batch', lambda r, g: (r - statistics.fmean(g)) / SPREAD),
    ('maxrl', lambda r, g: (r - statistics.fmean(g)) / statistics.fmean(g)),
    ('rloo', lambda r, g: r - (sum(g) - r) / (len(g) - 1)),
    ('none', lambda r, g: r),
  ],
)
def test_advantages_match_plain_arithmetic(name, expected):
  got = ADVANTAGES[name](REWARD)
  assert got.shape == (2, 4, 1) and got.dtype == np.float32
  np.testing.assert_allclose(got, by_group(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('name', ['group', 'group_centred', 'batch', 'rloo', 'maxrl'])
def test_an_all_equal_group_is_exactly_zero(name):
  # The plain mean of some of these rounds: the residue over (std + eps) would be a visible advantage.
  rounds = False
  for size in (2, 3, 5, 7, 16):
    for value in (0.0, 1.0, 1.1, 0.3, -0.7, 1234.567):
      reward = np.full((1, size), value, np.float32)
      rounds |= bool((reward - reward.mean() != 0).any())
      assert (np.asarray(ADVANTAGES[name](reward)) == 0).all(), (size, value)
  assert rounds, 'no value here shows the rounding'


@pytest.mark.parametrize('name', ['group', 'group_centred', 'rloo', 'maxrl'])
def test_one_group_does_not_see_another(name):
  other = REWARD.copy()
  other[1] = 7 * REWARD[1] + 1
  np.testing.assert_array_equal(ADVANTAGES[name](REWARD)[0], ADVANTAGES[name](other)[0])


def test_maxrl_teaches_nothing_where_no_reward_is_positive_on_average():
  reward = np.array([[0, 0, 0], [-1, 0.5, 0], [0, 1, 0]], np.float32)
  np.testing.assert_allclose(ADVANTAGES['maxrl'](reward)[..., 0], [[0, 0, 0], [0, 0, 0], [-1, 2, -1]], rtol=1e-6)


def test_maxrl_is_the_mean_over_the_right_responses():
  """Its sum over a group weighs a right response by 1 / their number, less what a baseline takes from all."""
  reward = np.array([[1, 0, 0, 1, 0]], np.float32)
  advantage = ADVANTAGES['maxrl'](reward)[0, :, 0] / 5
  np.testing.assert_allclose(advantage, reward[0] / 2 - 1 / 5, rtol=1e-6)


def test_soft_overlong_in_tokens():
  # 100 tokens at most, punished over the last 20: DAPO eq. 13's three pieces and both corners.
  length = np.array([1, 79, 80, 81, 85, 90, 99, 100, 101, 500], np.int32)
  expected = [0, 0, 0, -0.05, -0.25, -0.5, -0.95, -1, -1, -1]
  np.testing.assert_allclose(soft_overlong(length, 100, 20), expected, rtol=1e-6)


@pytest.mark.parametrize('buffer', [0, -3, 101])
def test_soft_overlong_refuses_a_buffer_out_of_range(buffer):
  with pytest.raises(ValueError, match=f'buffer of {buffer} tokens'):
    soft_overlong(np.array([5]), 100, buffer)


def test_a_token_has_the_credit_of_the_steps_that_end_at_it_or_later():
  scores = [[0.9, 0.1], [0.5], [0.3, 0.3], []]
  ends = [[1, 3], [2], [0, 4], []]
  got = step_credit(scores, ends, 2, 6)
  for group in (0, 2):
    every = [s for row in scores[group : group + 2] for s in row]
    if len(set(every)) == 1:
      assert (got[group : group + 2] == 0).all()
      continue
    mean, std = statistics.fmean(every), statistics.pstdev(every)
    for row in (group, group + 1):
      want = [sum((s - mean) / std for s, end in zip(scores[row], ends[row]) if end >= t) for t in range(6)]
      np.testing.assert_allclose(got[row], want, rtol=1e-4, atol=1e-6)
  assert got.dtype == np.float32
