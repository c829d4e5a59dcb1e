"""Learning to imitate: the loss of packed rows, and an optimizer step over microbatches of them."""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from r1jax import losses, models, parallel
from r1jax.training import accumulate, finite, lora
from r1jax.typed import Array, shape_struct


class PackedBatch(flax.struct.PyTreeNode):
  """Rows of texts side by side, as `data.packing.pack` gives them.

  Attributes:
    tokens, segments, positions: i32[B, T]; response: bool[B, T].
  """

  tokens: Array
  segments: Array
  positions: Array
  response: Array

  def response_tokens(self):
    """How many tokens the loss is a mean over: a row's first one is not predicted."""
    return int(self.response[:, 1:].sum())


@dataclasses.dataclass(frozen=True)
class SFTLoss:
  """`losses.sft_loss` as `accumulate` takes it: (params, PackedBatch, response tokens) -> loss, metrics, params.

  Position t predicts the token at t + 1; a text's first token is predicted by none.

  Attributes:
    model: ModelConfig. options: models.ForwardOptions. logit_chunk: positions whose logits exist at a time.
  """

  model: models.ModelConfig
  options: models.ForwardOptions
  logit_chunk: int

  def __call__(self, params, batch, count):
    group = lambda x: x[:, None]  # [B, 1, T]: a group of one to each row
    out = models.forward(
      params,
      self.model,
      group(batch.tokens),
      group(batch.positions),
      real=group(batch.segments > 0),
      segments=group(batch.segments),
      options=self.options,
    )
    ahead = lambda x: jnp.pad(x[:, 1:], ((0, 0), (0, 1)))
    logp, entropy = models.logprobs(
      out.hidden[:, 0], models.unembedding(out.params), ahead(batch.tokens), self.logit_chunk, self.options.mesh
    )
    value, metrics = losses.sft_loss(logp, entropy, ahead(batch.response), count)
    return value, metrics if out.expert_load is None else metrics | {'moe/load': out.expert_load}, out.params


def make_trainer(cfg, model, optimizer, mesh):
  """The Trainer of a config.SFT. Raises ConfigError where a microbatch does not divide over the mesh."""
  parallel.require_divisible(cfg.microbatch or cfg.batch, 'rows', mesh)
  options = models.ForwardOptions(cfg.model.dtype, cfg.model.remat, cfg.model.attention, mesh)
  loss_fn = lora.wrap(cfg.lora, SFTLoss(model, options, cfg.logit_chunk))
  return accumulate.Trainer(loss_fn, optimizer, cfg.grad_dtype, cfg.balance_rate)


def update(trainer, state, batch, cfg, step):
  """One optimizer step.

  Args:
    trainer: as `make_trainer` gives it. state: TrainState; donated.
    batch: PackedBatch on the host, of the config's rows. cfg: config.SFT. step: for messages.

  Returns:
    TrainState, metrics {name: float}.
  """
  size = cfg.microbatch or cfg.batch
  parts = (jax.tree.map(lambda x, i=i: x[i : i + size], batch) for i in range(0, len(batch.tokens), size))
  state, metrics = trainer.step(state, parts, np.float32(batch.response_tokens()))
  return state, finite.named(metrics, step)


def abstract_microbatch(cfg, mesh):
  """A microbatch as ShapeDtypeStructs: what a plan compiles."""
  shape, sharding = (cfg.microbatch or cfg.batch, cfg.data.max_length), parallel.batch_sharding(mesh)
  of = lambda dtype: shape_struct(shape, dtype, sharding)
  return PackedBatch(of(jnp.int32), of(jnp.int32), of(jnp.int32), of(jnp.bool))


def evaluate(trainer, params, batches, size):
  """{'loss', 'entropy'} in nats a response token, of PackedBatches of at most `size` rows each, on the host.

  params: of the whole model.
  """
  found, count, mesh = [], 0, trainer.mesh
  one = parallel.to_global(np.float32(1), parallel.replicated(mesh))
  for batch in batches:
    count += batch.response_tokens()
    more = size - len(batch.tokens)  # filled up with empty rows
    batch = jax.tree.map(lambda x, more=more: np.pad(x, ((0, more), (0, 0))), batch)
    batch = parallel.to_global(batch, parallel.batch_sharding(mesh))
    metrics = accumulate.metrics_of(params, batch, one, loss_fn=lora.whole(trainer.loss_fn))
    found.append({name: metrics[name] for name in ('loss', 'entropy')})
  return {name: float(x) / count for name, x in accumulate.combine(parallel.to_host(found)).items()}
