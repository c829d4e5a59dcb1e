"""Generalized advantage estimation against the sums that define it."""

import numpy as np
import pytest

from r1jax import losses

P, G, T = 2, 3, 7
# The second response has tokens in its middle that the policy did not choose, the third has none at all.
MASK = np.arange(T) < np.array([[7, 6, 0], [1, 4, 5]])[..., None]
MASK[0, 1, 2:4] = False


def draws(seed=0):
  rng = np.random.default_rng(seed)
  rewards, values = rng.normal(size=(2, P, G, T)).astype(np.float32)
  return np.where(MASK, rewards, np.nan), np.where(MASK, values, np.inf)  # what lies outside may be anything


@pytest.mark.parametrize(('gamma', 'gae_lambda'), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.8, 0.0)])
def test_advantages_are_discounted_sums_of_temporal_differences(gamma, gae_lambda):
  rewards, values = draws()
  advantages, returns = losses.gae(rewards, values, MASK, gamma, gae_lambda)
  for p in range(P):
    for g in range(G):
      at = np.flatnonzero(MASK[p, g])
      r, v = rewards[p, g, at].astype(np.float64), np.append(values[p, g, at].astype(np.float64), 0)
      delta = r + gamma * v[1:] - v[:-1]
      for i in range(len(at)):
        want = sum((gamma * gae_lambda) ** (j - i) * delta[j] for j in range(i, len(at)))
        assert advantages[p, g, at[i]] == pytest.approx(want, abs=1e-5)
        assert returns[p, g, at[i]] == pytest.approx(want + v[i], abs=1e-5)
  assert (advantages[~MASK] == 0).all() and (returns[~MASK] == 0).all()


def test_with_lambda_1_returns_are_those_of_the_rewards_whatever_the_values():
  rewards, values = draws()
  _, returns = losses.gae(rewards, values, MASK, 1.0, 1.0)
  later = np.cumsum(np.where(MASK, rewards, 0)[..., ::-1], axis=-1)[..., ::-1]
  np.testing.assert_allclose(returns, np.where(MASK, later, 0), atol=1e-5)


def test_the_reward_of_a_response_lies_at_its_last_token():
  reward = np.arange(1, 7, dtype=np.float32).reshape(P, G)
  got = losses.at_last_token(reward, MASK)
  want = np.zeros((P, G, T))
  for p, g, t in ((0, 0, 6), (0, 1, 5), (1, 0, 0), (1, 1, 3), (1, 2, 4)):  # no token of [0, 2] counts
    want[p, g, t] = reward[p, g]
  np.testing.assert_array_equal(got, want)


def test_whitened_advantages_have_mean_0_and_deviation_1_over_the_tokens_that_count():
  advantages = np.where(MASK, draws(1)[0], 5).astype(np.float32)
  got = losses.whiten(advantages, MASK)
  assert got[MASK].mean() == pytest.approx(0, abs=1e-6) and got[MASK].std() == pytest.approx(1, abs=1e-5)
  assert (got[~MASK] == 0).all()
  order = np.argsort(advantages[MASK])
  assert (np.diff(got[MASK][order]) > 0).all()
  assert (losses.whiten(np.ones((P, G, T), np.float32), MASK) == 0).all()
  assert (losses.whiten(advantages, np.zeros_like(MASK)) == 0).all()


def test_explained_variance():
  rewards, values = draws()
  assert losses.explained_variance(rewards, rewards, MASK) == 1
  assert losses.explained_variance(rewards + 3, rewards, MASK) == pytest.approx(
    1, abs=1e-6
  )  # a constant is no variance
  assert losses.explained_variance(np.zeros((P, G, T)), rewards, MASK) == 0
  want = 1 - np.var(rewards[MASK] - values[MASK]) / np.var(rewards[MASK])
  assert losses.explained_variance(values, rewards, MASK) == pytest.approx(want, rel=1e-5)
  assert np.isnan(losses.explained_variance(values, np.ones((P, G, T)), MASK))
