"""Objectives: arrays over the tokens of a rollout in, a scalar and metrics out."""

from r1jax.losses.advantages import ADVANTAGES
from r1jax.losses.divergence import DIVERGENCES
from r1jax.losses.gae import at_last_token, explained_variance, gae, whiten
from r1jax.losses.kl import ESTIMATORS, kl_penalty, token_kl
from r1jax.losses.policy import AVERAGES, LOSSES, Totals, policy_loss
from r1jax.losses.preference import pair_loss, point_loss
from r1jax.losses.process import step_loss
from r1jax.losses.sft import sft_loss
from r1jax.losses.shaping import soft_overlong, step_credit
from r1jax.losses.value import value_loss

__all__ = [
  'ADVANTAGES',
  'AVERAGES',
  'DIVERGENCES',
  'ESTIMATORS',
  'LOSSES',
  'SCORE_LOSSES',
  'Totals',
  'at_last_token',
  'explained_variance',
  'gae',
  'kl_penalty',
  'pair_loss',
  'point_loss',
  'policy_loss',
  'sft_loss',
  'soft_overlong',
  'step_credit',
  'step_loss',
  'token_kl',
  'value_loss',
  'whiten',
]

# Of models with a score for an output, by config.OBJECTIVES: (scores f32[B, S], labels f32[B, S], count) -> loss,
# metrics.
SCORE_LOSSES = {'pairs': pair_loss, 'points': point_loss, 'steps': step_loss}
