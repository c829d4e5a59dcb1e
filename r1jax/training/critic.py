"""A value network, shaped like the policy with one number a token for an output: its values, and its gradient."""

import functools

import flax.struct
import jax
import jax.numpy as jnp

from r1jax import losses, models
from r1jax.training import policy


@flax.struct.dataclass
class ValueBatch:
  """G responses to each of P prompts, and what they were worth.

  Attributes:
    prompts, prompt_lengths, responses, lengths: as in policy.PolicyBatch.
    returns: f32[P, G, T], what was gained from each token on.
    old_values: f32[P, G, T], of the network before the rollout's first update.
  """

  prompts: jax.Array
  prompt_lengths: jax.Array
  responses: jax.Array
  lengths: jax.Array
  returns: jax.Array
  old_values: jax.Array


def _values(params, batch, cfg, options):
  out = models.response_hidden(
    params,
    cfg,
    batch.prompts,
    batch.prompt_lengths,
    batch.responses,
    batch.lengths,
    dtype=jnp.dtype(options.dtype),
    remat=options.remat,
    attention=options.attention,
    mesh=options.mesh,
  )
  return models.scores(out.params, out.hidden), out.params


@functools.partial(jax.jit, static_argnames=('cfg', 'options'))
def values(params, batch, *, cfg, options):
  """f32[P, G, T]: what is expected before each token of a response; behind a row's end they mean nothing.

  Args:
    batch: ValueBatch or policy.PolicyBatch. cfg: ModelConfig with head 'score'. options: policy.Options.
  """
  return _values(params, batch, cfg, options)[0]


def accumulate(params, grads, batch, totals, *, cfg, options, clip):
  """Adds a microbatch's gradient of `losses.value_loss` to `grads`, donated. Returns grads and its part of the loss."""
  return _accumulate(params, grads, batch, totals, cfg=cfg, options=options, clip=clip, places=policy.places_of(grads))


@functools.partial(jax.jit, static_argnames=('cfg', 'options', 'clip', 'places'), donate_argnames=('grads',))
def _accumulate(params, grads, batch, totals, *, cfg, options, clip, places):
  def loss(params):
    found, params = _values(params, batch, cfg, options)
    flat = lambda x: x.reshape(-1, x.shape[-1])
    mask = jnp.arange(found.shape[-1]) < batch.lengths.reshape(-1, 1)
    value = losses.value_loss(flat(found), flat(batch.old_values), flat(batch.returns), mask, clip, totals.tokens)
    return value, (value, params)

  return policy.add_gradient(loss, params, grads, options.remat, places)
