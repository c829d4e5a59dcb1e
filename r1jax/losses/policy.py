"""Policy losses: log-probs of sampled responses in, one scalar to minimise and its metrics out.

             importance ratio         clipped           averaged over, unless loss.average says otherwise
  grpo       exp(logp - old)          by token          tokens of each response, then responses (paper)
  dr_grpo    exp(logp - old)          by token          responses x max_response, a constant
  dapo       exp(logp - old)          by token          all tokens of the minibatch
  cispo      exp(logp - old)          as a weight       all tokens of the minibatch
  gspo       exp(mean_t(logp - old))  by response       tokens of each response, then responses
  reinforce  none                     -                 responses (tokens summed)

A loss is an objective for each token, a way to average (AVERAGES), and numbers of its own (config.LOSS_DEFAULTS). Each
objective takes (logp f32[B, T], RolloutBatch with its arrays flattened likewise, config.Loss) and returns an Objective;
`policy_loss` adds what they have in common. The mean over responses is the mean over groups of the group mean, as
groups are equally large.

The sums run over the rows at hand, the divisors are totals of the whole minibatch. So losses, gradients and
metrics of microbatches simply add up; metrics whose name ends in `_max` combine by the maximum.
"""

from typing import NamedTuple

from flax import struct
import jax
import jax.numpy as jnp

from r1jax.batch import RolloutBatch
from r1jax.config import Loss
from r1jax.losses import correction, reductions
from r1jax.losses.kl import token_kl
from r1jax.typed import Array, Bool, Float, Scalar, typed


class Totals(struct.PyTreeNode):
  """The whole minibatch in numbers, which microbatches divide by.

  Attributes:
    rows: f32[], responses, without those of dropped groups. tokens: f32[], tokens under the loss mask.
    max_response: tokens a response may have.
  """

  rows: Scalar
  tokens: Scalar
  max_response: int = struct.field(pytree_node=False)


class Objective(NamedTuple):
  """What is maximised, by token or, where S is 1, by response.

  Attributes:
    gain: f32[B, S]. ratio: f32[B, S], policy / old policy.
    low, high: bool[B, S], where a bound of the ratio holds it.
  """

  gain: Float[Array, 'b s']
  ratio: Float[Array, 'b s']
  low: Bool[Array, 'b s']
  high: Bool[Array, 'b s']


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
  logp = flat(logp)
  objective = LOSSES[cfg.name](logp, rows, cfg)
  weight = correction.mismatch_weight(rows, objective.gain.shape[1] == 1, cfg)
  kept = correction.off_policy_mask(logp, rows, cfg) & correction.divergence_mask(logp, rows, cfg)  # [B, T]
  assert rows.ref_logp is not None
  kl = token_kl(logp, rows.ref_logp, rows.loss_mask, cfg.kl_estimator, rows.old_logp)
  kl_coef = cfg.kl_coef if cfg.kl_place == 'loss' else 0.0  # it may be in the reward already
  cost = kl_coef * kl - jnp.where(kept, weight * objective.gain, 0)
  return AVERAGES[cfg.averaged_over](cost, rows, totals), _metrics(objective, kl, weight, kept, rows, totals)


def clipped_tokens(logp, batch, cfg):
  """PPO's objective with a ratio for each token (arXiv 2402.03300 eq. 3, 2503.14476 eq. 8)."""
  return _clipped(correction.token_ratio(logp, batch.old_logp, batch.loss_mask), batch, cfg)


def clipped_responses(logp, batch, cfg):
  """The same with one ratio for each response, the geometric mean of its tokens' (GSPO, arXiv 2507.18071 eq. 5)."""
  return _clipped(correction.sequence_ratio(logp, batch.old_logp, batch.loss_mask), batch, cfg)


def capped_weights(logp, batch, cfg):
  """Advantage * log-prob, weighted by the ratio, constant and at most ratio_cap (CISPO, arXiv 2506.13585 eq. 4, 5).

  Unlike a clipped token, a capped one keeps its gradient.
  """
  ratio = jax.lax.stop_gradient(correction.token_ratio(logp, batch.old_logp, batch.loss_mask))
  capped = jnp.minimum(ratio, cfg.ratio_cap or jnp.inf)
  gain = capped * batch.advantage * reductions.keep(logp, batch.loss_mask)
  return Objective(gain, ratio, jnp.zeros_like(batch.loss_mask), ratio > capped)


def log_likelihood(logp, batch, cfg):
  """Advantage * log-prob; steps after a rollout's first are off-policy, uncorrected (Williams 1992)."""
  ratio = correction.token_ratio(logp, batch.old_logp, batch.loss_mask)
  none = jnp.zeros_like(batch.loss_mask)
  return Objective(batch.advantage * reductions.keep(logp, batch.loss_mask), ratio, none, none)


LOSSES = {
  'grpo': clipped_tokens,
  'dr_grpo': clipped_tokens,
  'dapo': clipped_tokens,
  'cispo': capped_weights,
  'gspo': clipped_responses,
  'reinforce': log_likelihood,
}


def _clipped(ratio, batch, cfg):
  """PPO's clipped objective for a ratio f32[B, T] or f32[B, 1].

  Dual clip (arXiv 1912.09729): where advantage < 0 the objective is at least dual_clip * advantage, so that
  one token whose ratio exploded cannot dominate the step.
  """
  advantage = batch.advantage
  clipped = jnp.clip(ratio, 1 - cfg.clip_low, 1 + cfg.clip_high)
  gain = jnp.minimum(ratio * advantage, clipped * advantage)
  if cfg.dual_clip:
    gain = jnp.where(advantage < 0, jnp.maximum(gain, cfg.dual_clip * advantage), gain)
  low, high = (advantage < 0) & (ratio < 1 - cfg.clip_low), (advantage > 0) & (ratio > 1 + cfg.clip_high)
  return Objective(gain, ratio, low, high)


def by_response(cost, batch, totals):
  """Mean over each response's tokens, then over responses (arXiv 2402.03300 eq. 3)."""
  return reductions.sequence_mean(cost, batch.loss_mask).sum() / totals.rows


def by_prompt(cost, batch, totals):
  """Mean over all tokens of a prompt's group, then over prompts (ScaleRL, arXiv 2510.13786)."""
  of_prompts = reductions.keep(cost, batch.loss_mask).reshape(len(batch.mean_length), -1).sum(axis=1)
  return (of_prompts / jnp.maximum(batch.mean_length, 1e-9)).sum() / totals.rows


def by_token(cost, batch, totals):
  """Mean over all tokens of the minibatch (DAPO, arXiv 2503.14476 eq. 8)."""
  return reductions.token_sum(cost, batch.loss_mask) / totals.tokens


def by_constant(cost, batch, totals):
  """A token weighs the same in a long response as in a short one, and in every minibatch (arXiv 2503.20783)."""
  return reductions.token_sum(cost, batch.loss_mask) / (totals.rows * totals.max_response)


def by_sequence(cost, batch, totals):
  """Sum over each response's tokens, mean over responses."""
  return reductions.token_sum(cost, batch.loss_mask) / totals.rows


# loss.average -> (cost f32[B, T], RolloutBatch, Totals) -> f32[]
AVERAGES = {
  'response': by_response,
  'prompt': by_prompt,
  'token': by_token,
  'constant': by_constant,
  'sequence': by_sequence,
}


def _metrics(objective, kl, weight, kept, batch, totals):
  """weight: `correction.mismatch_weight`. kept: bool[B, T], by the other masks."""
  mask, count = batch.loss_mask, totals.tokens
  if objective.ratio.shape[1] == 1:
    mask, count = mask.any(axis=1, keepdims=True), totals.rows  # [B, 1]: all but rows that only fill up
  off = jnp.abs(reductions.keep(batch.old_logp, batch.loss_mask) - reductions.keep(batch.sampler_logp, batch.loss_mask))
  return {
    'policy/kl': reductions.token_sum(kl, batch.loss_mask) / totals.tokens,
    'policy/ratio_max': reductions.token_max(objective.ratio, mask),
    'policy/clip_fraction_low': (objective.low & mask).sum() / count,
    'policy/clip_fraction_high': (objective.high & mask).sum() / count,
    'policy/masked_fraction': (~kept & batch.loss_mask).sum() / totals.tokens,
    'sampling/logp_difference_mean': reductions.token_sum(off, batch.loss_mask) / totals.tokens,
    'sampling/logp_difference_max': reductions.token_max(off, batch.loss_mask),
    'sampling/masked_fraction': ((weight == 0) & batch.loss_mask).sum() / totals.tokens,
  }
