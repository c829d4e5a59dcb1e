"""Learning from a rollout: the policy's log-probs and loss, and optimizer steps over minibatches of whole groups."""

from collections.abc import Iterator
import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from r1jax import config as config_lib
from r1jax import losses, models, parallel
from r1jax.batch import RolloutBatch
from r1jax.config import require
from r1jax.training import accumulate, finite, lora
from r1jax.typed import Array, Float, typed


class LogProbs(NamedTuple):
  """f32[P, G, T] log-probs and entropies of response tokens, and what the forward gave (`models.Output`) beside."""

  logp: Float[Array, 'p g t']
  entropy: Float[Array, 'p g t']
  hidden: Float[Array, 'p g t embed']
  expert_load: Float[Array, 'layers experts'] | None
  params: dict


@dataclasses.dataclass(frozen=True)
class LogProbFn:
  """(params, RolloutBatch) -> LogProbs, whose values behind a response's end mean nothing.

  Attributes:
    model: ModelConfig. options: models.ForwardOptions.
    logit_chunk: positions whose logits exist at a time. temperature: the sampler's, by which logits are divided.
  """

  model: models.ModelConfig
  options: models.ForwardOptions
  logit_chunk: int
  temperature: float = 1.0

  def __call__(self, params, batch):
    of_responses = batch.prompts, batch.prompt_lengths, batch.tokens, batch.lengths
    out = models.response_hidden(params, self.model, *of_responses, self.options, batch.replayed)
    flat = lambda x: x.reshape(len(x), -1, *x.shape[3:])  # [P, G * T, ...]
    logp, entropy = models.logprobs(
      flat(out.hidden),
      models.unembedding(out.params),
      flat(batch.tokens),
      self.logit_chunk,
      self.options.mesh,
      self.temperature,
      None if batch.threshold is None else flat(batch.threshold),
    )
    shape = batch.tokens.shape
    return LogProbs(logp.reshape(shape), entropy.reshape(shape), out.hidden, out.expert_load, out.params)


@dataclasses.dataclass(frozen=True)
class PolicyLoss:
  """The loss of a config as `accumulate` takes it: (params, RolloutBatch, losses.Totals) -> loss, metrics, params."""

  logprobs: LogProbFn
  loss: config_lib.Loss

  @property
  def options(self):
    return self.logprobs.options

  def __call__(self, params, batch, totals):
    return self.of_logprobs(self.logprobs(params, batch), batch, totals)

  def of_logprobs(self, found, batch, totals):
    """What it returns for LogProbs."""
    logp, entropy, _, load, params = found
    if not self.loss.reads_logprobs:  # they need no backward pass
      logp, entropy = jax.lax.stop_gradient((logp, entropy))
    value, metrics = losses.policy_loss(logp, batch, totals, self.loss)
    entropy = jnp.where(batch.loss_mask, entropy, 0).sum() / totals.tokens
    metrics |= {'policy/entropy': entropy, 'policy/loss': value}
    if batch.ref_logp is None:
      del metrics['policy/kl']
    if load is not None:
      metrics['moe/load'] = load
    return value - self.loss.entropy_coef * entropy, metrics, params


def make_trainer(cfg, model, optimizer, mesh):
  """The Trainer of a config.RL's policy.

  Raises:
    ConfigError: an unknown advantage, routing replay without experts to choose from, or microbatches that do not divide
      over the mesh.
  """
  known = [*losses.ADVANTAGES, 'gae']
  require(cfg.loss.advantage in known, f'loss.advantage is {cfg.loss.advantage!r}; known: {", ".join(known)}.')
  if cfg.train.routing_replay:
    require(model.moe, 'train.routing_replay is set, but the model has no experts; set it to False.')
    require(
      model.moe.top_k < model.moe.experts,
      f'train.routing_replay is set, but each token is sent to all {model.moe.experts} experts; set it to False.',
    )
  _require_divisible(cfg, parallel.batch_shards(mesh))
  options = models.ForwardOptions(cfg.model.dtype, cfg.model.remat, cfg.model.attention, mesh)
  logprobs = LogProbFn(model, options, cfg.train.logit_chunk, cfg.rollout.temperature)
  loss_fn = lora.wrap(cfg.lora, PolicyLoss(logprobs, cfg.loss))
  return accumulate.Trainer(loss_fn, optimizer, cfg.train.grad_dtype, cfg.train.balance_rate, 'policy/')


def _require_divisible(cfg, shards):
  """Refuses microbatches, the last and smaller one of a minibatch too, that do not divide over the devices."""
  train, rollout, axes = cfg.train, cfg.rollout, "devices on axes 'data', 'fsdp' and 'expert'"
  passes = {'a minibatch': rollout.prompts // train.minibatches}
  if logprob_passes(cfg):
    passes['a rollout'] = rollout.prompts
  for name, prompts in passes.items():
    rows, groups = microbatch_shape(cfg, prompts)
    require(
      groups % shards == 0,
      f'{groups} prompts per microbatch do not divide over {shards} {axes}; '
      f'set train.microbatch to a multiple of {rows * shards} or use a smaller mesh.',
    )
    require(
      prompts % groups % shards == 0,
      f'the {prompts} prompts of {name} in microbatches of {groups} ({train.microbatch} responses, {rows} of a '
      f'prompt) leave {prompts % groups} over, which do not divide over {shards} {axes}; set train.microbatch '
      f'so that {prompts} is a multiple of its prompts, or rollout.prompts, or use a smaller mesh.',
    )


def logprob_passes(cfg):
  """The log-prob passes of a config.RL before the update: of 'ref' for a KL term, of 'old' for the sampling policy.

  Without 'old' the loss uses the current log-probs: with one optimizer step per rollout both are equal. That is right
  for k3_weighted too, which needs only the gradient of its ratio.
  """
  kl, several_steps = cfg.loss.kl_coef > 0, cfg.train.minibatches * cfg.train.epochs > 1
  return ['ref'] * kl + ['old'] * (several_steps or (kl and cfg.loss.kl_place == 'reward'))


@functools.partial(jax.jit, static_argnames='fn')
@typed
def logprobs_program(params: dict, batch: RolloutBatch, *, fn: LogProbFn) -> Float[Array, 'p g t']:
  return fn(params, batch).logp


def logprobs(params, batch, cfg, fn):
  """The log-probs of a rollout. batch: RolloutBatch on the host. fn: LogProbFn. Returns as `per_token`."""
  return per_token(logprobs_program, params, batch, cfg, fn)


def per_token(program, params, batch, cfg, fn):
  """A number for each token of a rollout, computed in microbatches.

  Args:
    program: compiled (params, RolloutBatch, fn=fn) -> f32[P, G, T], as `logprobs_program` or `critic.values_program`.
    batch: RolloutBatch on the host. cfg: config.RL. fn: what is computed; its `options` have the mesh.

  Returns:
    f32[P, G, T] on the host; what lies after a response's end may be anything.
  """
  bare = batch.replace(advantage=None, old_logp=None, ref_logp=None)
  sharding = parallel.batch_sharding(fn.options.mesh)
  begun = [(at, program(params, parallel.to_global(part, sharding), fn=fn)) for at, part in microbatches(bare, cfg)]
  out = np.zeros(batch.tokens.shape, np.float32)
  for (groups, rows), part in begun:
    part = parallel.to_host(part)
    out[groups, rows, : part.shape[2]] = part
  return out


def update(trainer, state, batch, cfg, step):
  """All optimizer steps of one rollout; a minibatch without a token under the loss mask is none.

  Args:
    trainer: as `make_trainer` gives it. state: TrainState; donated.
    batch: RolloutBatch on the host, with advantages. cfg: config.RL.
    step: fixes, with the seed, the random split into minibatches; they hold whole groups, as the paper's
      512 questions x 16 samples make 16 minibatches of 32 questions.

  Returns:
    TrainState, metrics {name: float} averaged over the optimizer steps; {} if there were none.
  """
  found, size = [], cfg.rollout.prompts // cfg.train.minibatches
  batch = batch.replace(mean_length=batch.loss_mask.sum(axis=2).mean(axis=1, dtype=np.float32))
  for epoch in range(cfg.train.epochs):
    order = np.random.default_rng([cfg.seed, step, epoch]).permutation(len(batch.prompts))
    for number in range(cfg.train.minibatches):
      groups = order[number * size : (number + 1) * size]
      if batch.teacher is not None:  # a microbatch then runs few teachers
        groups = groups[np.argsort(batch.teacher[groups], kind='stable')]
      minibatch = jax.tree.map(lambda x, groups=groups: x[groups], batch)
      totals = _totals(minibatch, cfg)
      if not totals.tokens:
        continue
      state, metrics = trainer.step(state, (part for _, part in microbatches(minibatch, cfg)), totals)
      where = f'step {step}, epoch {epoch}, minibatch {number}'
      finite.require_finite(metrics, [trainer.prefix + name for name in ('loss', 'grad_norm')], where, 'the samples')
      found.append(metrics)
  over_steps = lambda name: max if name.endswith('_max') else min if name.endswith('_min') else np.mean
  return state, {name: over_steps(name)([m[name] for m in found]) for name in found[0]} if found else {}


def _totals(minibatch, cfg):
  """The losses.Totals of a RolloutBatch; groups without a token under the loss mask do not count."""
  groups = minibatch.loss_mask.any(axis=(1, 2)).sum()
  rows, tokens = groups * minibatch.lengths.shape[1], minibatch.loss_mask.sum()
  return losses.Totals(np.float32(rows), np.float32(tokens), cfg.rollout.max_response)


def microbatches(batch: RolloutBatch, cfg: config_lib.RL) -> Iterator[tuple[tuple, RolloutBatch]]:
  """Yields ((groups, rows) to index the rollout with, RolloutBatch of these on the host).

  Each group's rows are ordered by length and cut into slices, and a microbatch holds the same slice of
  several groups, padded to the longest response among them only.
  """
  train, (p, g) = cfg.train, batch.lengths.shape
  rows_each, groups_each = microbatch_shape(cfg, p)
  order = np.broadcast_to(np.arange(g), (p, g))
  if train.length_slices > 1:
    order = np.argsort(batch.lengths, axis=1, kind='stable')
  for row in range(0, g, rows_each):
    for group in range(0, p, groups_each):
      groups = np.arange(group, min(group + groups_each, p))[:, None]
      rows = order[groups[:, 0], row : row + rows_each]
      length = padded_length(int(batch.lengths[groups, rows].max()), cfg.rollout.max_response)
      yield (groups, rows), _cut(batch, groups, rows, length)


def microbatch_shape(cfg, prompts=None):
  """Rows of a group, and groups, in one microbatch of a pass over `prompts` groups; None: those of a minibatch."""
  train, samples, minibatch = cfg.train, cfg.rollout.samples, cfg.rollout.prompts // cfg.train.minibatches
  size = train.microbatch or minibatch * samples
  rows = min(samples // train.length_slices, size)
  return rows, min(size // rows, prompts or minibatch)


def padded_length(length, limit):
  """The padded length for `length` tokens: one of four, so that a run compiles a handful of programs."""
  step = max(8, -(-limit // 4))
  return min(-(-length // step) * step, limit)


def _cut(batch, groups, rows, length):
  """Some rows (i32[n, G']) of some groups (i32[n, 1]), the first `length` tokens of each response."""
  of_tokens = lambda x: None if x is None else np.ascontiguousarray(x[groups, rows][..., :length])
  of_prompts = lambda x: None if x is None else x[groups[:, 0]]
  by_prompt = ('prompts', 'prompt_lengths', 'prompt_experts', 'teacher', 'mean_length')
  by_token = (
    'tokens',
    'loss_mask',
    'sampler_logp',
    'threshold',
    'old_logp',
    'ref_logp',
    'values',
    'advantage',
    'returns',
    'experts',
  )
  return batch.replace(
    lengths=batch.lengths[groups, rows],
    stop=None,
    policy_version=None,
    **{name: of_prompts(getattr(batch, name)) for name in by_prompt},
    **{name: of_tokens(getattr(batch, name)) for name in by_token},
  )
