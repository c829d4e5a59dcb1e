"""The loss of supervised fine-tuning."""

from r1jax.losses import reductions
from r1jax.typed import Array, Bool, Float, Scalar, typed


@typed
def sft_loss(
  logp: Float[Array, 'b t'], entropy: Float[Array, 'b t'], mask: Bool[Array, 'b t'], count: Scalar
) -> tuple[Float[Array, ''], dict[str, Float[Array, '']]]:
  """Negative log-likelihood of the responses' tokens, a mean over all of them in the batch.

  A token weighs the same in whichever row, microbatch or text it lies, so the parts of a batch add up.

  Args:
    logp: f32[B, T], of each token. entropy: f32[B, T], of the distribution it stands for (nats).
    mask: bool[B, T], tokens of responses; the others' values may be anything.
    count: f32[], such tokens in the whole batch.

  Returns:
    f32[], and metrics; both are this part's share of the batch's.
  """
  loss = -reductions.token_sum(logp, mask) / count
  return loss, {'loss': loss, 'entropy': reductions.token_sum(entropy, mask) / count}
