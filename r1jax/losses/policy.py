"""Policy losses: log-probs of sampled responses in, one scalar to minimise and its metrics out.

             importance ratio         clipped per   averaged over
  grpo       exp(logp - old)          token         tokens of each response, then responses (paper)
  dr_grpo    exp(logp - old)          token         responses x max_length, a constant
  dapo       exp(logp - old)          token         all tokens of the minibatch
  gspo       exp(mean_t(logp - old))  response      responses
  reinforce  none                     -             responses (tokens summed)

Each takes (logp f32[B, T], PolicyTerms, config.Loss) and returns (loss f32[], {name: f32[]}). The mean over
responses is the mean over groups of the group mean, as groups are equally large.

The sums run over the rows at hand, the divisors are totals of the whole minibatch. So losses, gradients and
metrics of microbatches simply add up; metrics whose name ends in `_max` combine by the maximum.
"""

from flax import struct
import jax
import jax.numpy as jnp

from r1jax.losses import reductions
from r1jax.losses.kl import MAX_LOG_RATIO, token_kl


@struct.dataclass
class PolicyTerms:
  """What a policy loss needs beside the policy's log-probs; log-probs under ~mask may be anything."""

  mask: jax.Array  # bool[B, T], t < length
  advantage: jax.Array  # f32[B], or f32[B, T] where each token has its own (not for gspo)
  old_logp: jax.Array  # f32[B, T], the behaviour policy's, as the trainer computes it
  ref_logp: jax.Array  # f32[B, T], the reference policy's
  sampler_logp: jax.Array  # f32[B, T], the behaviour policy's, as the sampler computed it
  rows: jax.Array  # f32[], responses in the whole minibatch
  tokens: jax.Array  # f32[], response tokens in the whole minibatch
  max_length: int = struct.field(pytree_node=False)  # tokens a response may have


def grpo(logp, batch, cfg):
  """The paper's: mean over each response's tokens, then over responses (arXiv 2402.03300 eq. 3)."""
  cost, metrics = _token_cost(logp, batch, cfg)
  return reductions.sequence_mean(cost, batch.mask).sum() / batch.rows, metrics


def dr_grpo(logp, batch, cfg):
  """Constant divisor: a token weighs the same in a long response as in a short one (arXiv 2503.20783)."""
  cost, metrics = _token_cost(logp, batch, cfg)
  return reductions.token_sum(cost, batch.mask) / (batch.rows * batch.max_length), metrics


def dapo(logp, batch, cfg):
  """Mean over all tokens of the minibatch; clip-higher is clip_high > clip_low (arXiv 2503.14476 eq. 8)."""
  cost, metrics = _token_cost(logp, batch, cfg)
  return reductions.token_sum(cost, batch.mask) / batch.tokens, metrics


def gspo(logp, batch, cfg):
  """One ratio for each response, clipped as a whole (arXiv 2507.18071 eq. 5); KL as in grpo."""
  ratio = _sequence_ratio(logp, batch.old_logp, batch.mask)  # [B, 1]
  weight = _truncated(_sequence_ratio(batch.old_logp, batch.sampler_logp, batch.mask), cfg)
  kl = token_kl(logp, batch.ref_logp, batch.mask, cfg.kl_estimator)  # [B, T]
  cost = -weight * _surrogate(ratio, _advantage(batch), cfg)  # [B, 1]
  cost = reductions.token_sum(cost, batch.mask[:, :1]) + _kl_coef(cfg) * reductions.sequence_mean(kl, batch.mask).sum()
  metrics = _metrics(ratio, kl, batch) | _clip_fractions(ratio, batch.mask[:, :1], batch, cfg, batch.rows)
  return cost / batch.rows, metrics


def reinforce(logp, batch, cfg):
  """-advantage * log pi(response); steps after a rollout's first are off-policy, uncorrected (Williams 1992)."""
  weight = _truncated(_token_ratio(batch.old_logp, batch.sampler_logp, batch.mask), cfg)
  kl = token_kl(logp, batch.ref_logp, batch.mask, cfg.kl_estimator)
  cost = -weight * _advantage(batch) * reductions.keep(logp, batch.mask) + _kl_coef(cfg) * kl
  unclipped = {'policy/clip_fraction_low': jnp.float32(0), 'policy/clip_fraction_high': jnp.float32(0)}
  metrics = _metrics(_token_ratio(logp, batch.old_logp, batch.mask), kl, batch) | unclipped
  return reductions.token_sum(cost, batch.mask) / batch.rows, metrics


LOSSES = {'grpo': grpo, 'dr_grpo': dr_grpo, 'dapo': dapo, 'gspo': gspo, 'reinforce': reinforce}


def _token_cost(logp, batch, cfg):
  """Clipped cost of every token, KL included: f32[B, T], and the metrics."""
  ratio = _token_ratio(logp, batch.old_logp, batch.mask)
  weight = _truncated(_token_ratio(batch.old_logp, batch.sampler_logp, batch.mask), cfg)
  kl = token_kl(logp, batch.ref_logp, batch.mask, cfg.kl_estimator)
  cost = -weight * _surrogate(ratio, _advantage(batch), cfg) + _kl_coef(cfg) * kl
  return cost, _metrics(ratio, kl, batch) | _clip_fractions(ratio, batch.mask, batch, cfg, batch.tokens)


def _surrogate(ratio, advantage, cfg):
  """PPO's clipped objective, to be maximised; shapes broadcast.

  Dual clip (arXiv 1912.09729): where advantage < 0 the objective is at least dual_clip * advantage, so that
  one token whose ratio exploded cannot dominate the step.
  """
  clipped = jnp.clip(ratio, 1 - cfg.clip_low, 1 + cfg.clip_high)
  objective = jnp.minimum(ratio * advantage, clipped * advantage)
  if cfg.dual_clip:
    objective = jnp.where(advantage < 0, jnp.maximum(objective, cfg.dual_clip * advantage), objective)
  return objective


def _advantage(batch):
  """f32[B, 1] or f32[B, T]."""
  return batch.advantage if batch.advantage.ndim == 2 else batch.advantage[:, None]


def _token_ratio(logp, old_logp, mask):
  """exp(logp - old_logp), 1 under ~mask: f32[B, T]."""
  difference = reductions.keep(logp, mask) - reductions.keep(old_logp, mask)
  return jnp.exp(jnp.minimum(difference, MAX_LOG_RATIO))


def _sequence_ratio(logp, old_logp, mask):
  """exp of the token mean of logp - old_logp: f32[B, 1]."""
  difference = reductions.keep(logp, mask) - reductions.keep(old_logp, mask)
  return jnp.exp(jnp.minimum(reductions.sequence_mean(difference, mask), MAX_LOG_RATIO))[:, None]


def _truncated(ratio, cfg):
  """Truncated importance sampling: a constant weight min(trainer / sampler, tis_cap), 1 where it is off.

  It corrects the policy gradient for a sampler whose log-probs differ from the trainer's; KL is not weighted.
  """
  return jax.lax.stop_gradient(jnp.minimum(ratio, cfg.tis_cap)) if cfg.tis_cap else 1.0


def _kl_coef(cfg):
  """Zero where the KL is in the reward already."""
  return cfg.kl_coef if cfg.kl_place == 'loss' else 0.0


def _metrics(ratio, kl, batch):
  """Metrics that every loss has. ratio: f32[B, T] or f32[B, 1]; kl: f32[B, T]."""
  off = jnp.abs(reductions.keep(batch.old_logp, batch.mask) - reductions.keep(batch.sampler_logp, batch.mask))
  return {
    'policy/kl': reductions.token_sum(kl, batch.mask) / batch.tokens,
    'policy/ratio_max': reductions.token_max(ratio, batch.mask[:, : ratio.shape[1]]),
    'sampling/logp_difference_mean': reductions.token_sum(off, batch.mask) / batch.tokens,
    'sampling/logp_difference_max': reductions.token_max(off, batch.mask),
  }


def _clip_fractions(ratio, mask, batch, cfg, total):
  """Shares of `total` whose gradient the ratio clip removes; ratio and mask f32/bool[B, T] or [B, 1]."""
  advantage = _advantage(batch)
  low = (advantage < 0) & (ratio < 1 - cfg.clip_low) & mask
  high = (advantage > 0) & (ratio > 1 + cfg.clip_high) & mask
  return {'policy/clip_fraction_low': low.sum() / total, 'policy/clip_fraction_high': high.sum() / total}
