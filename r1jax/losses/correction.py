"""Ratios of two policies, and what makes up for a sampler that is not the policy being trained.

All of it acts on the policy gradient alone, not on KL, and has no gradient itself.
"""

import jax
import jax.numpy as jnp

from r1jax.losses import reductions
from r1jax.losses.kl import MAX_LOG_RATIO


def token_ratio(logp, old_logp, mask):
  """exp(logp - old_logp), 1 under ~mask: f32[B, T]."""
  difference = reductions.keep(logp, mask) - reductions.keep(old_logp, mask)
  return jnp.exp(jnp.minimum(difference, MAX_LOG_RATIO))


def sequence_ratio(logp, old_logp, mask):
  """exp of the token mean of logp - old_logp, the geometric mean of a response's ratios: f32[B, 1]."""
  difference = reductions.keep(logp, mask) - reductions.keep(old_logp, mask)
  return jnp.exp(jnp.minimum(reductions.sequence_mean(difference, mask), MAX_LOG_RATIO))[:, None]


def mismatch_weight(batch, by_response, cfg):
  """A constant weight that corrects for a sampler whose log-probs differ from the trainer's.

  Truncated importance sampling weighs by min(trainer / sampler, tis_cap). Masked importance sampling (IcePop,
  arXiv 2510.18855) drops what lies outside mis_low to mis_high, and weighs the rest by the ratio. With mis_level
  'sequence' the geometric mean of a response's ratios decides for all of it, as in gspo.

  Args:
    batch: RolloutBatch, flattened to [B, T].
    by_response: one ratio for each response, their geometric mean, instead of one for each token.
    cfg: config.Loss.

  Returns:
    f32[B, T], or f32[B, 1] with by_response; ones where both are off.
  """
  of_response = sequence_ratio(batch.old_logp, batch.sampler_logp, batch.loss_mask)
  ratio = of_response if by_response else token_ratio(batch.old_logp, batch.sampler_logp, batch.loss_mask)
  if not cfg.tis_cap and not cfg.mis_high:
    return jnp.ones_like(ratio)
  weight = jnp.minimum(ratio, cfg.tis_cap or jnp.inf)
  if cfg.mis_high:
    judged = of_response if cfg.mis_level == 'sequence' else ratio
    weight = jnp.where((judged >= cfg.mis_low) & (judged <= cfg.mis_high), weight, 0)
  return jax.lax.stop_gradient(weight)


def off_policy_mask(logp, batch, cfg):
  """False for responses that are bad and that the policy has moved away from (DeepSeek-V3.2, arXiv 2512.02556 eq. 9).

  They have a negative advantage, and the mean over their tokens of log(sampler / policy) exceeds sequence_mask. Where
  each token has its own advantage, the tokens of such a response whose advantage is negative are left out.

  Args:
    logp: f32[B, T], the policy's. batch: RolloutBatch, flattened likewise. cfg: config.Loss.

  Returns:
    bool, like the advantage: [B, 1] or [B, T]. True where it is off.
  """
  if not cfg.sequence_mask:
    return jnp.ones_like(batch.advantage, bool)
  difference = reductions.keep(batch.sampler_logp, batch.loss_mask) - reductions.keep(logp, batch.loss_mask)
  far = reductions.sequence_mean(difference, batch.loss_mask)[:, None] > cfg.sequence_mask
  return ~(far & (batch.advantage < 0))


def divergence_mask(logp, batch, cfg):
  """False for tokens whose probability is farther than tv_mask from the sampler's, and would move farther away.

  |policy - sampler| is the total variation between both distributions of "this token or another one" (DPPO's binary
  form, arXiv 2602.04879).

  Returns:
    bool[B, T]. True where it is off.
  """
  if not cfg.tv_mask:
    return jnp.ones_like(batch.loss_mask)
  probability = lambda x: jnp.exp(reductions.keep(x, batch.loss_mask))
  moved = probability(logp) - probability(batch.sampler_logp)
  return ~((jnp.abs(moved) > cfg.tv_mask) & (moved * batch.advantage > 0))
