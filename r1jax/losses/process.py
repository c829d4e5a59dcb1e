"""The loss of a process reward model: one number a step of a solution."""

import jax.numpy as jnp
import optax

from r1jax.losses import reductions
from r1jax.typed import Array, Float, Scalar, typed


@typed
def step_loss(
  scores: Float[Array, 'b s'], labels: Float[Array, 'b s'], count: Scalar
) -> tuple[Float[Array, ''], dict[str, Float[Array, '']]]:
  """Binary cross-entropy at each labelled step: sigmoid of the score is the probability that the step is right.

  A mean over the labelled steps of the batch, so that a longer solution counts more (Wang et al., arXiv 2312.08935,
  section 3).

  Args:
    scores: f32[B, S].
    labels: f32[B, S]: 1 right, 0 wrong, between them a share of roll-outs that came out right; negative: none.
    count: f32[], labelled steps in the whole batch.

  Returns:
    f32[], and metrics; both are this part's share of the batch's.
  """
  mask = labels >= 0
  # Scores without a label may be anything: they are dropped before the loss, and with them their gradient.
  scores, labels = reductions.keep(scores, mask), reductions.keep(labels, mask)
  loss = reductions.token_sum(optax.sigmoid_binary_cross_entropy(scores, labels), mask) / count
  right = ((scores > 0) == (labels >= 0.5)) & mask
  return loss, {'loss': loss, 'accuracy': jnp.sum(right) / count}
