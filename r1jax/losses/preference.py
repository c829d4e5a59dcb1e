"""Losses of outcome reward models: one number per response, from pairs of responses or from labels."""

import jax
import jax.numpy as jnp
import optax

from r1jax.typed import Array, Float, Scalar, typed


@typed
def pair_loss(
  scores: Float[Array, 'b s'], labels: Float[Array, 'b s'] | None, count: Scalar
) -> tuple[Float[Array, ''], dict[str, Float[Array, '']]]:
  """Bradley-Terry: minus the log-probability that the chosen response wins, the sigmoid of the scores' difference.

  A mean over all pairs of the batch (Ouyang et al., arXiv 2203.02155, eq. 1, with one pair a prompt).

  Args:
    scores: f32[2N, 1], the chosen and the rejected response of each pair in turn.
    labels: not used: the order is the label.
    count: f32[], pairs in the whole batch.

  Returns:
    f32[], and metrics; both are this part's share of the batch's.
  """
  chosen, rejected = scores.reshape(-1, 2).T
  margin = chosen - rejected
  loss = -jax.nn.log_sigmoid(margin).sum() / count
  wins = (margin > 0) + 0.5 * (margin == 0)
  return loss, {'loss': loss, 'accuracy': wins.sum() / count, 'margin': margin.sum() / count}


@typed
def point_loss(
  scores: Float[Array, 'b s'], labels: Float[Array, 'b s'], count: Scalar
) -> tuple[Float[Array, ''], dict[str, Float[Array, '']]]:
  """Binary cross-entropy of single responses: sigmoid of the score is the probability of label 1, such as 'safe'.

  Args:
    scores: f32[B, 1].
    labels: f32[B, 1] in [0, 1].
    count: f32[], responses in the whole batch.

  Returns:
    as `pair_loss`.
  """
  loss = optax.sigmoid_binary_cross_entropy(scores, labels).sum() / count
  right = (scores > 0) == (labels >= 0.5)
  return loss, {'loss': loss, 'accuracy': jnp.sum(right) / count}
