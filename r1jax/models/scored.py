"""Scores at marked tokens of plain rows: what reward models of outcomes and of steps are trained on and used for."""

from typing import NamedTuple

import jax.numpy as jnp

from r1jax.models.config import ModelConfig
from r1jax.models.heads import score_at, scores
from r1jax.models.options import DEFAULTS, ForwardOptions
from r1jax.models.transformer import forward
from r1jax.typed import Array, Float, Int, typed


class Scored(NamedTuple):
  """scores f32[B, S]; the experts' load and the parameters as in `transformer.Output`."""

  scores: Float[Array, 'b s']
  expert_load: Float[Array, 'layers experts'] | None
  params: dict


@typed
def marked_scores(
  params: dict,
  cfg: ModelConfig,
  tokens: Int[Array, 'b t'],
  lengths: Int[Array, ' b'],
  marks: Int[Array, 'b s'],
  options: ForwardOptions = DEFAULTS,
) -> Scored:
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
