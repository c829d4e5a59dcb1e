"""The loss of a value network, as PPO has one; GRPO has none."""

import jax.numpy as jnp

from r1jax.batch import RolloutBatch
from r1jax.losses import reductions
from r1jax.losses.policy import Totals
from r1jax.typed import Array, Float, typed


@typed
def value_loss(
  values: Float[Array, 'p g t'], batch: RolloutBatch, totals: Totals, clip: float
) -> tuple[Float[Array, ''], dict[str, Float[Array, '']]]:
  """Half the squared error, with values that moved by more than `clip` held there if that is worse.

  A mean over all tokens of the minibatch (Ouyang et al., arXiv 2203.02155, appendix C; OpenAI's PPO2).
  'value/clip_fraction' is the share of tokens held.

  Args:
    values: f32[P, G, T], the critic's.
    batch: RolloutBatch with `values`, those before the rollout's first update, and `returns`.
    totals: losses.Totals. clip: 0 for off.

  Returns:
    f32[], and metrics; both are this microbatch's share of the minibatch's.
  """
  assert batch.values is not None and batch.returns is not None  # a rollout with a critic
  values, old_values, returns = (reductions.keep(x, batch.loss_mask) for x in (values, batch.values, batch.returns))
  error = (values - returns) ** 2
  near = old_values + jnp.clip(values - old_values, -clip, clip) if clip else values
  held = (near - returns) ** 2
  loss = 0.5 * reductions.token_sum(jnp.maximum(error, held), batch.loss_mask) / totals.tokens
  return loss, {'value/loss': loss, 'value/clip_fraction': ((held > error) & batch.loss_mask).sum() / totals.tokens}
