"""Advantage estimators: rewards of the responses, f32[P, G], and the RolloutBatch they belong to -> advantages.

Each returns f32[P, G, 1], one number for all tokens of a response. Those of PPO are in `losses/gae.py`.
"""

import jax.numpy as jnp

from r1jax.batch import RolloutBatch
from r1jax.typed import Array, Float, typed


def _centre(rewards):
  """Rewards minus their group's mean; exactly zero for an all-equal group."""
  r = jnp.asarray(rewards)
  # The mean of G equal numbers can round away from them (3 x 1.1 in float32 do), and a division by
  # std + eps would then make 0.1 of it. The mean of G zeros cannot.
  r = r - r[:, :1]
  return r - r.mean(axis=1, keepdims=True)


@typed
def group(rewards: Float[Array, 'p g'], batch: RolloutBatch | None = None, eps: float = 1e-6) -> Float[Array, 'p g 1']:
  """Centred and divided by the group's population standard deviation (the paper's GRPO).

  Args:
    rewards: f32[P, G], G at least 2.
    eps: keeps an all-equal group at zero rather than nan.

  Returns:
    f32[P, G, 1].
  """
  centred = _centre(rewards)
  return (centred / (centred.std(axis=1, keepdims=True) + eps))[..., None]


@typed
def group_centred(rewards: Float[Array, 'p g'], batch: RolloutBatch | None = None) -> Float[Array, 'p g 1']:
  """Centred only, so that easy and hard problems weigh the same (Dr. GRPO, arXiv 2503.20783)."""
  return _centre(rewards)[..., None]


@typed
def rloo(rewards: Float[Array, 'p g'], batch: RolloutBatch | None = None) -> Float[Array, 'p g 1']:
  """Reward minus the mean of the group's *other* rewards (RLOO, arXiv 2402.14740); G at least 2."""
  # r_i - (sum - r_i) / (G - 1) = (r_i - mean) G / (G - 1)
  size = rewards.shape[1]
  return (_centre(rewards) * (size / (size - 1)))[..., None]


@typed
def none(rewards: Float[Array, 'p g'], batch: RolloutBatch | None = None) -> Float[Array, 'p g 1']:
  """The reward itself, without a baseline."""
  return jnp.asarray(rewards)[..., None]


@typed
def zero(rewards: Float[Array, 'p g'], batch: RolloutBatch | None = None) -> Float[Array, 'p g 1']:
  """Nothing is learned from rewards: for distillation alone."""
  return jnp.zeros((*rewards.shape, 1), jnp.float32)


@typed
def over_batch(
  rewards: Float[Array, 'p g'], batch: RolloutBatch | None = None, eps: float = 1e-6
) -> Float[Array, 'p g 1']:
  """Centred by group, and divided by the standard deviation of that over the rollout.

  A group's rewards then weigh by how much they differ (REINFORCE++ with a baseline, arXiv 2501.03262; ScaleRL,
  arXiv 2510.13786).
  """
  centred = _centre(rewards)
  return (centred / (centred.std() + eps))[..., None]


@typed
def maxrl(rewards: Float[Array, 'p g'], batch: RolloutBatch | None = None) -> Float[Array, 'p g 1']:
  """Centred and divided by the group's mean reward, so that a problem weighs by 1 / its pass rate.

  For rewards of 0 and 1 this is the gradient of the log of the pass rate, up to the order G in the rate of failure
  (MaxRL, arXiv 2602.02710). A group whose mean is not positive has an advantage of zero.
  """
  r = jnp.asarray(rewards)
  mean = r.mean(axis=1, keepdims=True)
  return jnp.where(mean > 0, _centre(r) / jnp.where(mean > 0, mean, 1), 0)[..., None]


ADVANTAGES = {
  'group': group,
  'group_centred': group_centred,
  'batch': over_batch,
  'rloo': rloo,
  'maxrl': maxrl,
  'none': none,
  'zero': zero,
}
