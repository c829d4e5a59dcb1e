"""Scores at marked tokens of plain rows: what reward models of outcomes and of steps are trained on and used for."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from r1jax.models.heads import score_at, scores
from r1jax.models.options import DEFAULTS
from r1jax.models.transformer import forward


class Scored(NamedTuple):
  """scores f32[B, S]; the experts' load and the parameters as in `transformer.Output`."""

  scores: jax.Array
  expert_load: jax.Array | None
  params: dict


def marked_scores(params, cfg, tokens, lengths, marks, options=DEFAULTS):
  """Runs whole texts once and reads a score at each mark.

  Args:
    params: of a model with head 'score'.
    tokens: i32[B, T], right-padded; lengths: i32[B].
    marks: i32[B, S], positions in the row; negative ones fill up and give 0.
    options: ForwardOptions.

  Returns:
    Scored.
  """
  positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
  real = positions < lengths[:, None]
  out = forward(params, cfg, tokens[:, None], positions[:, None], real=real[:, None], options=options)
  return Scored(score_at(scores(out.params, out.hidden[:, 0]), marks), out.expert_load, out.params)
