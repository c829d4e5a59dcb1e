"""One rollout's worth of learning: minibatches of whole groups, each an optimizer step over microbatches."""

import dataclasses
import functools
import operator

import jax
import numpy as np

from r1jax import losses, parallel
from r1jax.config import require
from r1jax.training import policy


class NonFiniteError(FloatingPointError):
  """A loss or gradient that is not a number; nothing was saved since."""


@dataclasses.dataclass(frozen=True)
class Graded:
  """A rollout on the host, as NumPy arrays: fields as in `policy.PolicyBatch`, T up to max_response."""

  prompts: np.ndarray
  prompt_lengths: np.ndarray
  responses: np.ndarray
  lengths: np.ndarray
  advantage: np.ndarray | None
  sampler_logp: np.ndarray
  old_logp: np.ndarray | None = None
  ref_logp: np.ndarray | None = None


def bucket(length, limit):
  """The padded length for `length` tokens: one of four, so that a run compiles a handful of programs."""
  step = max(8, -(-limit // 4))
  return min(-(-length // step) * step, limit)


class Updater:
  """Log-prob passes and updates of one model under one config.

  Args:
    cfg: config.RL.
    model: ModelConfig.
    optimizer: optax transformation.
    mesh: the mesh; batches are split over their prompts.

  Raises:
    ConfigError: an unknown loss or advantage, or microbatches that do not divide over the mesh.
  """

  def __init__(self, cfg, model, optimizer, mesh):
    for key, known in (('name', losses.LOSSES), ('advantage', losses.ADVANTAGES)):
      value = getattr(cfg.loss, key)
      require(value in known, f'loss.{key} is {value!r}; known: {", ".join(known)}.')
    self.cfg, self.model, self.optimizer = cfg, model, optimizer
    self._check_tiles(parallel.batch_shards(mesh))
    self.options = policy.Options(
      cfg.rollout.temperature, cfg.train.logit_chunk, cfg.model.dtype, cfg.model.remat, mesh, cfg.model.attention
    )
    self.sharding = parallel.batch_sharding(mesh)
    self.everywhere = parallel.replicated(mesh)

  def _check_tiles(self, shards):
    """Refuses microbatches, the last and smaller one of a minibatch too, that do not divide over the devices."""
    train, rollout, axes = self.cfg.train, self.cfg.rollout, "devices on axes 'data', 'fsdp' and 'expert'"
    passes = {'a minibatch': rollout.prompts // train.minibatches}
    if self.cfg.loss.kl_coef or self.scores_itself():
      passes['a rollout'] = rollout.prompts
    for name, prompts in passes.items():
      rows, groups = _tile(train, prompts, rollout.samples)
      require(
        groups % shards == 0,
        f'{groups} prompts a microbatch do not divide over {shards} {axes}; '
        f'set train.microbatch to a multiple of {rows * shards} or use a smaller mesh.',
      )
      require(
        prompts % groups % shards == 0,
        f'the {prompts} prompts of {name} in microbatches of {groups} ({train.microbatch} responses, {rows} of a '
        f'prompt) leave {prompts % groups} over, which do not divide over {shards} {axes}; set train.microbatch '
        f'so that {prompts} is a multiple of its prompts, or rollout.prompts, or use a smaller mesh.',
      )

  def single(self):
    """Whether a rollout gives one optimizer step: then its old log-probs are the policy's own."""
    return self.cfg.train.minibatches * self.cfg.train.epochs == 1

  def scores_itself(self):
    """Whether the policy's own log-probs are needed at rollout time."""
    return not self.single() or self.cfg.loss.kl_place == 'reward'

  def logprobs(self, params, rollout):
    """Starts the log-prob pass of a rollout. Returns a function that waits for f32[P, G, T], zeros after the end."""
    bare = dataclasses.replace(rollout, advantage=None, old_logp=None, ref_logp=None)
    begun = [
      (at, policy.logprobs(params, batch, cfg=self.model, options=self.options))
      for at, batch in self._microbatches(bare)
    ]

    def wait():
      out = np.zeros(rollout.responses.shape, np.float32)
      for (groups, rows), logp in begun:
        logp = parallel.get(logp)
        out[groups, rows, : logp.shape[2]] = logp
      return out

    return wait

  def update(self, state, rollout, step):
    """All optimizer steps of one rollout.

    Args:
      state: TrainState; donated.
      rollout: Graded.
      step: fixes, with the seed, the random split into minibatches; they hold whole groups, as the paper's
        512 questions x 16 samples make 16 minibatches of 32 questions.

    Returns:
      TrainState, metrics {name: float} averaged over the optimizer steps.
    """
    metrics = []
    size = self.cfg.rollout.prompts // self.cfg.train.minibatches
    for epoch in range(self.cfg.train.epochs):
      order = np.random.default_rng([self.cfg.seed, step, epoch]).permutation(len(rollout.prompts))
      for mini in range(self.cfg.train.minibatches):
        state, found = self._step(state, _take(rollout, order[mini * size : (mini + 1) * size]))
        bad = [name for name in ('policy/loss', 'policy/grad_norm') if not np.isfinite(found[name])]
        if bad:
          raise NonFiniteError(
            f'{" and ".join(bad)} not finite at step {step}, epoch {epoch}, minibatch {mini} '
            f'({found[bad[0]]}); the last checkpoint is intact. Lower optimizer.learning_rate '
            'or look at the samples.'
          )
        metrics.append(found)
    return state, {name: (max if name.endswith('_max') else np.mean)([m[name] for m in metrics]) for name in metrics[0]}

  def _step(self, state, rollout):
    totals = policy.Totals(np.float32(rollout.lengths.size), np.float32(rollout.lengths.sum()))
    totals = parallel.put(totals, self.everywhere)
    accumulate = functools.partial(
      policy.accumulate,
      cfg=self.model,
      options=self.options,
      loss=self.cfg.loss,
      max_response=self.cfg.rollout.max_response,
    )
    return accumulated_step(
      state,
      (batch for _, batch in self._microbatches(rollout)),
      lambda params, grads, batch: accumulate(params, grads, batch, totals),
      self.cfg.train.grad_dtype,
      self.optimizer,
      self.cfg.train.balance_rate,
      'policy/grad_norm',
    )

  def _microbatches(self, rollout):
    """Yields ((groups, rows) to index the rollout with, PolicyBatch on the device).

    Each group's rows are ordered by length and cut into slices, and a microbatch holds the same slice of
    several groups, padded to the longest response among them only.
    """
    train, (p, g) = self.cfg.train, rollout.lengths.shape
    rows_each, groups_each = _tile(train, p, g)
    order = np.broadcast_to(np.arange(g), (p, g))
    if train.length_slices > 1:
      order = np.argsort(rollout.lengths, axis=1, kind='stable')
    for row in range(0, g, rows_each):
      for group in range(0, p, groups_each):
        groups = np.arange(group, min(group + groups_each, p))[:, None]
        rows = order[groups[:, 0], row : row + rows_each]
        length = bucket(int(rollout.lengths[groups, rows].max()), self.cfg.rollout.max_response)
        yield (groups, rows), parallel.put(_cut(rollout, groups, rows, length), self.sharding)


def accumulated_step(state, batches, accumulate, grad_dtype, optimizer, balance_rate, norm):
  """One optimizer step over microbatches.

  Args:
    state: TrainState; donated. batches: of microbatches on the device.
    accumulate: (params, grads, batch) -> grads with the batch's added, metrics; as `policy.accumulate`.
    norm: name of the gradient's global norm among the metrics.

  Returns:
    TrainState, metrics {name: float} of the whole batch.
  """
  grads, found = policy.zeros_like(state.params, grad_dtype), []
  for batch in batches:
    grads, metrics = accumulate(state.params, grads, batch)
    found.append(metrics)
  loads = [metrics.pop('moe/load') for metrics in found if 'moe/load' in metrics]
  load = functools.reduce(operator.add, loads) if loads else None
  state, size = policy.apply(state, grads, load, optimizer=optimizer, balance_rate=balance_rate)
  found, size, load = parallel.get((found, size, load))
  metrics = policy.combine(found) | {norm: size} | expert_metrics(load)
  return state, {name: float(x) for name, x in metrics.items()}


def trained(metrics, step):
  """{'train/NAME' (of an expert's metric: NAME): x}; raises NonFiniteError where loss or gradient is not finite."""
  metrics = {name if '/' in name else f'train/{name}': x for name, x in metrics.items()}
  bad = [name for name in ('train/loss', 'train/grad_norm') if not np.isfinite(metrics[name])]
  if bad:
    raise NonFiniteError(
      f'{" and ".join(bad)} not finite at step {step} ({metrics[bad[0]]}); the last checkpoint is '
      'intact. Lower optimizer.learning_rate or look at the data.'
    )
  return metrics


def expert_metrics(load):
  """moe/*: each expert's load, averaged over layers, and the worst layer's extremes; 1 is an even share.

  load: f32[layers, experts] visits, or None.
  """
  if load is None:
    return {}
  share = load / np.maximum(load.mean(axis=1, keepdims=True), 1e-9)
  return {f'moe/load/{i:03d}': x for i, x in enumerate(share.mean(axis=0))} | {
    'moe/load_max': share.max(),
    'moe/load_min': share.min(),
  }


def _tile(train, prompts, samples):
  """Rows of a group, and groups, in one microbatch of `prompts` groups of `samples`."""
  size = train.microbatch or prompts * samples
  rows = min(samples // train.length_slices, size)
  return rows, min(size // rows, prompts)


def _cut(rollout, groups, rows, length):
  """PolicyBatch of some rows (i32[n, G']) of some groups (i32[n, 1]), the first `length` tokens of each response."""
  cut = lambda x: None if x is None else np.ascontiguousarray(x[groups, rows][..., :length])
  by_token = rollout.advantage is not None and rollout.advantage.ndim == 3
  return policy.PolicyBatch(
    rollout.prompts[groups[:, 0]],
    rollout.prompt_lengths[groups[:, 0]],
    cut(rollout.responses),
    rollout.lengths[groups, rows],
    cut(rollout.advantage) if by_token or rollout.advantage is None else rollout.advantage[groups, rows],
    cut(rollout.sampler_logp),
    cut(rollout.old_logp),
    cut(rollout.ref_logp),
  )


def _take(rollout, groups):
  return jax.tree.map(lambda x: x[groups], rollout)


jax.tree_util.register_dataclass(Graded, [f.name for f in dataclasses.fields(Graded)], [])
