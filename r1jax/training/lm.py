"""Next-token training on packed rows of text."""

import functools

import jax
import jax.numpy as jnp
import optax

from r1jax import models

LOGIT_CHUNK = 2048


def loss(params, cfg, tokens):
  """Mean negative log-likelihood (nats) of each token after a row's first, and the load of experts.

  Args:
    tokens: i32[B, T].
  """
  b, t = tokens.shape
  positions = jnp.broadcast_to(jnp.arange(t - 1), (b, 1, t - 1))
  out = models.forward(params, cfg, tokens[:, None, :-1], positions)
  logp, _ = models.logprobs(out.hidden[:, 0], models.unembedding(params), tokens[:, 1:], LOGIT_CHUNK)
  return -logp.mean(), out.expert_load


@functools.partial(
  jax.jit, static_argnames=('cfg', 'optimizer', 'balance_rate'), donate_argnames=('params', 'opt_state')
)
def step(params, opt_state, tokens, *, cfg, optimizer, balance_rate=0.0):
  """One optimizer step; returns params, opt_state, loss. balance_rate: see `models.balance`."""
  (value, load), grads = jax.value_and_grad(loss, has_aux=True)(params, cfg, tokens)
  updates, opt_state = optimizer.update(grads, opt_state, params)
  new = optax.apply_updates(params, updates)
  return new if load is None else models.balance(new, params, load, balance_rate), opt_state, value
