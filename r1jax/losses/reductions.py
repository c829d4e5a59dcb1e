"""Sums, means and maxima over the response tokens of a padded [B, T] array.

Values under `~mask` are garbage (nan and infinity included). `jnp.where` drops them from the value, and
its transpose drops them from the gradient; a product with the mask would do neither (0 * nan is nan).
"""

import jax.numpy as jnp


def keep(x, mask):
  """x with zeros under ~mask; f32[B, T] in and out."""
  return jnp.where(mask, x, 0.0)


def token_sum(x, mask):
  """Sum over all tokens; f32[B, T], bool[B, T] -> f32[]."""
  return keep(x, mask).sum()


def token_max(x, mask):
  """Maximum over all tokens of a non-negative x, 0 where there are none; f32[B, T], bool[B, T] -> f32[]."""
  return keep(x, mask).max()


def sequence_sum(x, mask):
  """Sum over the tokens of each row; f32[B, T], bool[B, T] -> f32[B]."""
  return keep(x, mask).sum(axis=1)


def sequence_mean(x, mask):
  """Mean over the tokens of each row, 0 for a row without any; f32[B, T], bool[B, T] -> f32[B]."""
  return sequence_sum(x, mask) / jnp.maximum(mask.sum(axis=1), 1)
