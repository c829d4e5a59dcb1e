"""Divergences of the policy from a teacher at each position, over the whole vocabulary.

Each takes (log p of the policy, log q of the teacher), f32[..., V], and gives f32[...] in nats. A token that both leave
out, by the same large negative number, counts for nothing.
"""

import math

import jax.numpy as jnp

from r1jax.typed import Array, Float, typed


@typed
def reverse_kl(logp: Float[Array, '*b v'], logq: Float[Array, '*b v']) -> Float[Array, '*b']:
  """KL(policy || teacher), which seeks modes: the policy gives up what the teacher would not say (MiniLLM)."""
  return (jnp.exp(logp) * (logp - logq)).sum(axis=-1)


@typed
def forward_kl(logp: Float[Array, '*b v'], logq: Float[Array, '*b v']) -> Float[Array, '*b']:
  """KL(teacher || policy), which covers all that the teacher might say."""
  return reverse_kl(logq, logp)


@typed
def jsd(logp: Float[Array, '*b v'], logq: Float[Array, '*b v']) -> Float[Array, '*b']:
  """The Jensen-Shannon divergence, at most log 2 (GKD, arXiv 2306.13649 eq. 1 with beta = 1/2)."""
  mean = jnp.logaddexp(logp, logq) - math.log(2)
  return (reverse_kl(logp, mean) + reverse_kl(logq, mean)) / 2


# distill.objective -> function
DIVERGENCES = {'reverse_kl': reverse_kl, 'forward_kl': forward_kl, 'jsd': jsd}
