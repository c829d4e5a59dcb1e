"""Scores at marked tokens of plain rows: what reward models of outcomes and of steps are trained on and used for."""

import jax.numpy as jnp

from r1jax.models.heads import score_at, scores
from r1jax.models.transformer import threaded_forward


def marked_scores(params, *args, **options):
  """f32[B, S]: `threaded_scores` alone."""
  return threaded_scores(params, *args, **options)[1]


def threaded_scores(params, cfg, tokens, lengths, marks, **options):
  """Runs whole texts once and reads a score at each mark.

  Args:
    params: of a model with head 'score'.
    tokens: i32[B, T], right-padded; lengths: i32[B].
    marks: i32[B, S], positions in the row; negative ones fill up and give 0.
    options: dtype, remat, attention and mesh, as of `transformer.threaded_forward`.

  Returns:
    params, as `threaded_forward`; scores f32[B, S]; and the load of experts.
  """
  positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
  real = positions < lengths[:, None]
  params, hidden, _, load = threaded_forward(
    params, cfg, tokens[:, None], positions[:, None], real=real[:, None], **options
  )
  return params, score_at(scores(params, hidden[:, 0]), marks), load
