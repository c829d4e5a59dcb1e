"""Advantages of tokens by a critic (PPO), on the host."""

import numpy as np


def gae(rewards, values, mask, gamma, gae_lambda):
  """Generalized advantage estimation (arXiv 1506.02438 eq. 16; PPO, arXiv 1707.06347 eq. 11).

  delta_t = r_t + gamma V_{t+1} - V_t and A_t = delta_t + gamma lambda A_{t+1}, where t + 1 is the response's next token
  under the mask. Both are zero after its last: a response that was cut off counts as ended.

  Args:
    rewards, values: f32[P, G, T], of each token, and before it; anything outside the mask.
    mask: bool[P, G, T], tokens that the policy chose.
    gamma, gae_lambda: in [0, 1].

  Returns:
    advantages and returns (advantages + values, what the critic learns), f32[P, G, T], zero outside the mask.
  """
  rewards, values = (np.where(mask, x, 0).astype(np.float64) for x in (rewards, values))
  advantages = np.zeros(mask.shape)
  advantage, value = np.zeros((2, *mask.shape[:-1]))  # of the next token
  for t in reversed(range(mask.shape[-1])):
    at, delta = mask[..., t], rewards[..., t] + gamma * value - values[..., t]
    advantage = np.where(at, delta + gamma * gae_lambda * advantage, advantage)
    value = np.where(at, values[..., t], value)
    advantages[..., t] = np.where(at, advantage, 0)
  return advantages.astype(np.float32), (advantages + values).astype(np.float32)


def at_last_token(rewards, mask):
  """f32[P, G, T], the rewards of responses, f32[P, G], at their last tokens under the mask and zeros elsewhere."""
  last = mask & (np.cumsum(mask[..., ::-1], axis=-1)[..., ::-1] == 1)
  return np.where(last, rewards[..., None], 0).astype(np.float32)


def whiten(advantages, mask, eps=1e-8):
  """Less the mean and divided by the standard deviation of all tokens under the mask, as most PPOs do; zero elsewhere.

  Args:
    advantages: f32[P, G, T]. mask: bool[P, G, T].
  """
  inside = advantages[mask].astype(np.float64)
  if not inside.size:
    return np.zeros_like(advantages)
  return np.where(mask, (advantages - inside.mean()) / (inside.std() + eps), 0).astype(np.float32)


def explained_variance(values, returns, mask):
  """1 - Var(returns - values) / Var(returns) over tokens under the mask; nan where all returns are equal.

  Args:
    values, returns: f32[P, G, T]. mask: bool[P, G, T].
  """
  variance = np.var(returns[mask], dtype=np.float64) if mask.any() else 0
  return float(1 - np.var((returns - values)[mask], dtype=np.float64) / variance) if variance else float('nan')
