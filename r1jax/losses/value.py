"""The loss of a value network, as PPO has one; GRPO has none."""

import jax.numpy as jnp

from r1jax.losses import reductions


def value_loss(values, old_values, returns, mask, clip, tokens):
  """Half the squared error, with values that moved by more than `clip` held there if that is worse.

  A mean over all tokens of the minibatch (Ouyang et al., arXiv 2203.02155, appendix C; OpenAI's PPO2).

  Args:
    values, old_values, returns: f32[B, T]; old_values are those before the first update of the rollout.
    mask: bool[B, T]. clip: 0 for off. tokens: f32[], response tokens in the whole minibatch.

  Returns:
    f32[].
  """
  values, old_values, returns = (reductions.keep(x, mask) for x in (values, old_values, returns))
  error = (values - returns) ** 2
  if clip:
    near = old_values + jnp.clip(values - old_values, -clip, clip)
    error = jnp.maximum(error, (near - returns) ** 2)
  return 0.5 * reductions.token_sum(error, mask) / tokens
