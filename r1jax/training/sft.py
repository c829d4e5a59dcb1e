"""Learning to imitate: the gradient of one microbatch of packed rows, and an optimizer step over several."""

import functools

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from r1jax import losses, models, parallel
from r1jax.config import require
from r1jax.training import policy
from r1jax.training.update import accumulated_step, trained


@flax.struct.dataclass
class PackedBatch:
  """Rows of texts side by side, as `data.packing.pack` gives them.

  Attributes:
    tokens, segments, positions: i32[B, T]; response: bool[B, T].
  """

  tokens: jax.Array
  segments: jax.Array
  positions: jax.Array
  response: jax.Array


def packed_loss(params, batch, count, *, cfg, options):
  """This microbatch's share of the batch's loss; and that of its metrics, and params as `policy.policy_loss` does.

  Position t tells the token at t + 1; of a text's first token nothing is asked.
  """
  middle = lambda x: x[:, None]  # [B, 1, T]: a group of one to each row
  out = models.forward(
    params,
    cfg,
    middle(batch.tokens),
    middle(batch.positions),
    real=middle(batch.segments > 0),
    segments=middle(batch.segments),
    dtype=jnp.dtype(options.dtype),
    remat=options.remat,
    attention=options.attention,
    mesh=options.mesh,
  )
  ahead = lambda x: jnp.pad(x[:, 1:], ((0, 0), (0, 1)))
  targets, mask = ahead(batch.tokens), ahead(batch.response)
  logp, entropy = policy.logprobs_of(out.hidden[:, 0], models.unembedding(out.params), targets, options)
  value, metrics = losses.sft_loss(logp, entropy, mask, count)
  load = out.expert_load
  return value, (metrics if load is None else metrics | {'moe/load': load}, out.params)


def accumulate(params, grads, batch, count, *, cfg, options):
  """Adds a microbatch's gradient to `grads`, which is donated.

  Args:
    count: f32[], response tokens of the whole batch. cfg: ModelConfig. options: policy.Options.

  Returns:
    grads; and metrics, this microbatch's share of the batch's.
  """
  return _accumulate(params, grads, batch, count, cfg=cfg, options=options, places=policy.places_of(grads))


@functools.partial(jax.jit, static_argnames=('cfg', 'options', 'places'), donate_argnames=('grads',))
def _accumulate(params, grads, batch, count, *, cfg, options, places):
  loss = functools.partial(packed_loss, batch=batch, count=count, cfg=cfg, options=options)
  return policy.add_gradient(loss, params, grads, options.remat, places)


@functools.partial(jax.jit, static_argnames=('cfg', 'options'))
def _metrics(params, batch, count, *, cfg, options):
  _, (metrics, _) = packed_loss(params, batch, count, cfg=cfg, options=options)
  return {name: metrics[name] for name in ('loss', 'entropy')}


class SFTUpdater:
  """Optimizer steps, and the loss of texts, of one model under one config.

  Args:
    cfg: config.SFT. model: ModelConfig. optimizer: an optax transformation. mesh: Mesh.

  Attributes:
    size: rows of a microbatch.

  Raises:
    ConfigError: a microbatch does not divide over the mesh.
  """

  def __init__(self, cfg, model, optimizer, mesh):
    self.size, shards = cfg.microbatch or cfg.batch, parallel.batch_shards(mesh)
    require(
      self.size % shards == 0,
      f"{self.size} rows a microbatch do not divide over {shards} devices on axes 'data', 'fsdp' and "
      f"'expert'; set microbatch (or batch) to a multiple of {shards} or use a smaller mesh.",
    )
    self._cfg, self._model, self.optimizer = cfg, model, optimizer
    self.options = policy.Options(1.0, cfg.logit_chunk, cfg.model.dtype, cfg.model.remat, mesh, cfg.model.attention)
    self.sharding, self.everywhere = parallel.batch_sharding(mesh), parallel.replicated(mesh)

  def update(self, state, arrays, step):
    """One optimizer step.

    Args:
      state: TrainState; donated. arrays: of `data.packing.pack`, the config's batch of rows. step: for messages.

    Returns:
      TrainState, metrics {name: float}.
    """
    count = self._count(arrays)
    state, metrics = accumulated_step(
      state,
      self._microbatches(arrays),
      lambda params, grads, batch: accumulate(params, grads, batch, count, cfg=self._model, options=self.options),
      self._cfg.grad_dtype,
      self.optimizer,
      self._cfg.balance_rate,
      'grad_norm',
    )
    return state, trained(metrics, step)

  def evaluate(self, params, pieces):
    """{'loss', 'entropy'} in nats a response token, of rows in pieces as `update` takes them, of `size` at most."""
    found, count = [], 0
    for arrays in pieces:
      count += int(arrays[-1][:, 1:].sum())
      more = self.size - len(arrays[0])  # filled up with rows of nothing
      (batch,) = self._microbatches([np.pad(x, ((0, more), (0, 0))) for x in arrays])
      found.append(
        _metrics(params, batch, parallel.put(np.float32(1), self.everywhere), cfg=self._model, options=self.options)
      )
    return {name: float(x) / count for name, x in policy.combine(parallel.get(found)).items()}

  def _count(self, arrays):
    return parallel.put(np.float32(arrays[-1][:, 1:].sum()), self.everywhere)

  def _microbatches(self, arrays):
    for first in range(0, len(arrays[0]), self.size):
      yield parallel.put(PackedBatch(*(x[first : first + self.size] for x in arrays)), self.sharding)
