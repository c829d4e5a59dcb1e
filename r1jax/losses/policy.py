"""Policy losses: log-probs of sampled responses in, one scalar to minimise and its metrics out.

             importance ratio         clipped per   averaged over
  grpo       exp(logp - old)          token         tokens of each response, then responses (paper)
  dr_grpo    exp(logp - old)          token         responses x max_length, a constant
  dapo       exp(logp - old)          token         all tokens of the minibatch
  gspo       exp(mean_t(logp - old))  response      responses
  reinforce  none                     -             responses (tokens summed)

Each takes (logp f32[B, T], RolloutBatch with its arrays flattened likewise, Totals, config.Loss) and returns
(loss f32[], {name: f32[]}); `policy_loss` flattens and calls them. The mean over responses is the mean over groups of
the group mean, as groups are equally large.

The sums run over the rows at hand, the divisors are totals of the whole minibatch. So losses, gradients and
metrics of microbatches simply add up; metrics whose name ends in `_max` combine by the maximum.
"""

from flax import struct
import jax
import jax.numpy as jnp

from r1jax.batch import RolloutBatch
from r1jax.config import Loss
from r1jax.losses import reductions
from r1jax.losses.kl import MAX_LOG_RATIO, token_kl
from r1jax.typed import Array, Float, Scalar, typed


class Totals(struct.PyTreeNode):
  """The whole minibatch in numbers, which microbatches divide by.

  Attributes:
    rows: f32[], responses, without those of dropped groups. tokens: f32[], tokens under the loss mask.
    max_response: tokens a response may have.
  """

  rows: Scalar
  tokens: Scalar
  max_response: int = struct.field(pytree_node=False)


@typed
def policy_loss(
  logp: Float[Array, 'p g t'], batch: RolloutBatch, totals: Totals, cfg: Loss
) -> tuple[Float[Array, ''], dict[str, Float[Array, '']]]:
  """The loss that the config names.

  Args:
    logp: f32[P, G, T], the policy's log-probs. They, and those of the batch, may be anything outside the loss mask.
    batch: RolloutBatch with `advantage`; if `old_logp` or `ref_logp` is missing, `logp` (detached) is used.
    totals: Totals. cfg: config.Loss.

  Returns:
    f32[] and {metric: f32[]}, this microbatch's share of the minibatch's.
  """
  own = jax.lax.stop_gradient(logp)
  batch = batch.replace(
    old_logp=own if batch.old_logp is None else batch.old_logp,
    ref_logp=own if batch.ref_logp is None else batch.ref_logp,
  )
  # From here on [B, T], B = P * G.
  flat = lambda x: x.reshape(-1, x.shape[-1])
  of_tokens = ('loss_mask', 'advantage', 'old_logp', 'ref_logp', 'sampler_logp')
  rows = batch.replace(**{name: flat(getattr(batch, name)) for name in of_tokens})
  return LOSSES[cfg.name](flat(logp), rows, totals, cfg)


def grpo(logp, batch, totals, cfg):
  """The paper's: mean over each response's tokens, then over responses (arXiv 2402.03300 eq. 3)."""
  cost, metrics = _token_cost(logp, batch, totals, cfg)
  return reductions.sequence_mean(cost, batch.loss_mask).sum() / totals.rows, metrics


def dr_grpo(logp, batch, totals, cfg):
  """Constant divisor: a token weighs the same in a long response as in a short one (arXiv 2503.20783)."""
  cost, metrics = _token_cost(logp, batch, totals, cfg)
  return reductions.token_sum(cost, batch.loss_mask) / (totals.rows * totals.max_response), metrics


def dapo(logp, batch, totals, cfg):
  """Mean over all tokens of the minibatch; clip-higher is clip_high > clip_low (arXiv 2503.14476 eq. 8)."""
  cost, metrics = _token_cost(logp, batch, totals, cfg)
  return reductions.token_sum(cost, batch.loss_mask) / totals.tokens, metrics


def gspo(logp, batch, totals, cfg):
  """One ratio for each response, clipped as a whole (arXiv 2507.18071 eq. 5); KL as in grpo."""
  response = batch.loss_mask.any(axis=1, keepdims=True)  # [B, 1]: all but rows that only fill up
  ratio = _sequence_ratio(logp, batch.old_logp, batch.loss_mask)  # [B, 1]
  weight = _mismatch_weight(_sequence_ratio(batch.old_logp, batch.sampler_logp, batch.loss_mask), cfg)  # [B, 1]
  kl = token_kl(logp, batch.ref_logp, batch.loss_mask, cfg.kl_estimator)  # [B, T]
  cost = -weight * _surrogate(ratio, batch.advantage, cfg)  # [B, 1]
  cost = reductions.token_sum(cost, response) + _kl_coef(cfg) * reductions.sequence_mean(kl, batch.loss_mask).sum()
  metrics = _metrics(ratio, kl, weight, batch, totals) | _clip_fractions(ratio, response, batch, cfg, totals.rows)
  return cost / totals.rows, metrics


def reinforce(logp, batch, totals, cfg):
  """-advantage * log pi(response); steps after a rollout's first are off-policy, uncorrected (Williams 1992)."""
  weight = _mismatch_weight(_token_ratio(batch.old_logp, batch.sampler_logp, batch.loss_mask), cfg)
  kl = token_kl(logp, batch.ref_logp, batch.loss_mask, cfg.kl_estimator)
  cost = -weight * batch.advantage * reductions.keep(logp, batch.loss_mask) + _kl_coef(cfg) * kl
  unclipped = {'policy/clip_fraction_low': jnp.float32(0), 'policy/clip_fraction_high': jnp.float32(0)}
  metrics = _metrics(_token_ratio(logp, batch.old_logp, batch.loss_mask), kl, weight, batch, totals) | unclipped
  return reductions.token_sum(cost, batch.loss_mask) / totals.rows, metrics


LOSSES = {'grpo': grpo, 'dr_grpo': dr_grpo, 'dapo': dapo, 'gspo': gspo, 'reinforce': reinforce}


def _token_cost(logp, batch, totals, cfg):
  """Clipped cost of every token, KL included: f32[B, T], and the metrics."""
  ratio = _token_ratio(logp, batch.old_logp, batch.loss_mask)
  weight = _mismatch_weight(_token_ratio(batch.old_logp, batch.sampler_logp, batch.loss_mask), cfg)
  kl = token_kl(logp, batch.ref_logp, batch.loss_mask, cfg.kl_estimator)
  cost = -weight * _surrogate(ratio, batch.advantage, cfg) + _kl_coef(cfg) * kl
  clipped = _clip_fractions(ratio, batch.loss_mask, batch, cfg, totals.tokens)
  return cost, _metrics(ratio, kl, weight, batch, totals) | clipped


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


def _token_ratio(logp, old_logp, mask):
  """exp(logp - old_logp), 1 under ~mask: f32[B, T]."""
  difference = reductions.keep(logp, mask) - reductions.keep(old_logp, mask)
  return jnp.exp(jnp.minimum(difference, MAX_LOG_RATIO))


def _sequence_ratio(logp, old_logp, mask):
  """exp of the token mean of logp - old_logp: f32[B, 1]."""
  difference = reductions.keep(logp, mask) - reductions.keep(old_logp, mask)
  return jnp.exp(jnp.minimum(reductions.sequence_mean(difference, mask), MAX_LOG_RATIO))[:, None]


def _mismatch_weight(ratio, cfg):
  """A constant weight that corrects for a sampler whose log-probs differ from the trainer's; KL is not weighted.

  Truncated importance sampling weighs by min(trainer / sampler, tis_cap). Masked importance sampling (IcePop,
  arXiv 2510.18855) drops what lies outside mis_low to mis_high, and weighs the rest by the ratio.

  Args:
    ratio: f32[B, T] or f32[B, 1], trainer / sampler.

  Returns:
    Like ratio; ones where both are off.
  """
  if not cfg.tis_cap and not cfg.mis_high:
    return jnp.ones_like(ratio)
  weight = jnp.minimum(ratio, cfg.tis_cap or jnp.inf)
  if cfg.mis_high:
    weight = jnp.where((ratio >= cfg.mis_low) & (ratio <= cfg.mis_high), weight, 0)
  return jax.lax.stop_gradient(weight)


def _kl_coef(cfg):
  """Zero where the KL is in the reward already."""
  return cfg.kl_coef if cfg.kl_place == 'loss' else 0.0


def _metrics(ratio, kl, weight, batch, totals):
  """Metrics that every loss has. ratio, weight (`_mismatch_weight`): f32[B, T] or f32[B, 1]; kl: f32[B, T]."""
  ratio_mask = batch.loss_mask if ratio.shape[1] > 1 else batch.loss_mask.any(axis=1, keepdims=True)
  off = jnp.abs(reductions.keep(batch.old_logp, batch.loss_mask) - reductions.keep(batch.sampler_logp, batch.loss_mask))
  return {
    'policy/kl': reductions.token_sum(kl, batch.loss_mask) / totals.tokens,
    'policy/ratio_max': reductions.token_max(ratio, ratio_mask),
    'sampling/logp_difference_mean': reductions.token_sum(off, batch.loss_mask) / totals.tokens,
    'sampling/logp_difference_max': reductions.token_max(off, batch.loss_mask),
    'sampling/masked_fraction': ((weight == 0) & batch.loss_mask).sum() / totals.tokens,
  }


def _clip_fractions(ratio, mask, batch, cfg, total):
  """Shares of `total` whose gradient the ratio clip removes; ratio and mask f32/bool[B, T] or [B, 1]."""
  low = (batch.advantage < 0) & (ratio < 1 - cfg.clip_low) & mask
  high = (batch.advantage > 0) & (ratio > 1 + cfg.clip_high) & mask
  return {'policy/clip_fraction_low': low.sum() / total, 'policy/clip_fraction_high': high.sum() / total}
