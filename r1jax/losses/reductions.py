"""Sums, means and maxima over the response tokens of a padded [B, T] array.

Values under `~mask` are garbage (nan and infinity included). `jnp.where` drops them from the value, and
its transpose drops them from the gradient; a product with the mask would do neither (0 * nan is nan).
"""

import jax.numpy as jnp

from r1jax.typed import Array, Bool, Float, typed


@typed
def keep(x: Float[Array, '*b'], mask: Bool[Array, '*#b']) -> Float[Array, '*b']:
  """x with zeros under ~mask; f32[B, T] in and out."""
  return jnp.where(mask, x, 0.0)


@typed
def token_sum(x: Float[Array, '*b'], mask: Bool[Array, '*#b']) -> Float[Array, '']:
  """Sum over all tokens; f32[B, T], bool[B, T] -> f32[]."""
  return keep(x, mask).sum()


@typed
def token_max(x: Float[Array, '*b'], mask: Bool[Array, '*#b']) -> Float[Array, '']:
  """Maximum over all tokens of a non-negative x, 0 where there are none; f32[B, T], bool[B, T] -> f32[]."""
  return keep(x, mask).max()


@typed
def sequence_sum(x: Float[Array, 'b t'], mask: Bool[Array, 'b t']) -> Float[Array, ' b']:
  """Sum over the tokens of each row; f32[B, T], bool[B, T] -> f32[B]."""
  return keep(x, mask).sum(axis=1)


@typed
def sequence_mean(x: Float[Array, 'b t'], mask: Bool[Array, 'b t']) -> Float[Array, ' b']:
  """Mean over the tokens of each row, 0 for a row without any; f32[B, T], bool[B, T] -> f32[B]."""
  return sequence_sum(x, mask) / jnp.maximum(mask.sum(axis=1), 1)
