"""A value network, shaped like the policy with one number per token as output: its values, and its loss."""

import dataclasses
import functools

import jax

from r1jax import losses, models


@dataclasses.dataclass(frozen=True)
class ValueLoss:
  """`losses.value_loss` as `accumulate` takes it: (params, RolloutBatch, losses.Totals) -> loss, metrics, params.

  Attributes:
    model: ModelConfig with head 'score'. options: models.ForwardOptions. clip: see `losses.value_loss`.
  """

  model: models.ModelConfig
  options: models.ForwardOptions
  clip: float = 0.2

  def values(self, params, batch):
    """f32[P, G, T], what is expected before each token of a response, meaningless behind its end; and params."""
    out = models.response_hidden(
      params, self.model, batch.prompts, batch.prompt_lengths, batch.tokens, batch.lengths, self.options
    )
    return models.scores(out.params, out.hidden), out.params

  def __call__(self, params, batch, totals):
    values, params = self.values(params, batch)
    loss = losses.value_loss(values, batch, totals, self.clip)
    return loss, {'value/loss': loss}, params


@functools.partial(jax.jit, static_argnames='fn')
def values_program(params, batch, *, fn):
  """f32[P, G, T] of a RolloutBatch, by a ValueLoss."""
  return fn.values(params, batch)[0]
