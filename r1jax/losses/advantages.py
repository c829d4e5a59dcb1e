"""Advantage estimators: rewards of the responses, f32[P, G], and the RolloutBatch they belong to -> advantages.

Each returns f32[P, G, 1], one number for all tokens of a response. Those of PPO are in `losses/gae.py`.
"""

import jax.numpy as jnp
import numpy as np

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


def step_credit(scores, ends, group_size, length, eps=1e-6):
  """Credit of each token for the steps to come, by a process reward (DeepSeekMath, arXiv 2402.03300 section 4.1.3).

  Scores are centred and divided by the standard deviation over all steps of the group; a token has the sum of
  those of the steps that end at it or after it.

  Args:
    scores: B lists of floats, of each response's steps, the G samples of one prompt adjacent.
    ends: B lists of the positions of their last tokens.
    group_size: G.
    length: T.

  Returns:
    f32[B, T] on the host; zeros behind a response's last step, and for a group whose steps all score alike.
  """
  out = np.zeros((len(scores), length), np.float32)
  for first in range(0, len(scores), group_size):
    rows = range(first, min(first + group_size, len(scores)))
    every = np.array([s for row in rows for s in scores[row]], np.float64)
    if not every.size or every.min() == every.max():
      continue
    for row in rows:
      for score, end in zip(scores[row], ends[row], strict=True):
        out[row, : end + 1] += (score - every.mean()) / (every.std() + eps)
  return out


def soft_overlong(length, max_length, buffer):
  """Punishment to add to the reward of a long response (DAPO eq. 13, arXiv 2503.14476).

  0 up to max_length - buffer tokens, then falling linearly to -1 at max_length, and -1 beyond.

  Args:
    length: i32 of any shape, tokens, EOS counted.
    max_length: tokens.
    buffer: tokens, in (0, max_length].

  Returns:
    f32 like length, in [-1, 0].

  Raises:
    ValueError: buffer out of range.
  """
  if not 0 < buffer <= max_length:
    raise ValueError(f'overlong buffer of {buffer} tokens is not in (0, {max_length}]; set it within max_length.')
  return jnp.clip((max_length - buffer - jnp.asarray(length)) / buffer, -1.0, 0.0)
