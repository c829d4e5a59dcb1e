"""Learning to imitate: the loss of packed rows, and an optimizer step over microbatches of them.

With a layer for multi-token prediction (DeepSeek-V3, section 2.2), the loss of what that predicts is added.
"""

import dataclasses
import functools

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from r1jax import losses, models, parallel
from r1jax.config import require
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

  Position t predicts the token at t + 1; a text's first token is predicted by none. The layer for multi-token
  prediction predicts that at t + 2, and so a text's second token neither.

  Attributes:
    model: ModelConfig. options: models.ForwardOptions. logit_chunk: positions whose logits exist at a time.
    mtp_coef: weight of the second loss, of a model with cfg.mtp == 1; with 0 that layer is not run.
  """

  model: models.ModelConfig
  options: models.ForwardOptions
  logit_chunk: int
  mtp_coef: float = 0.0

  def __call__(self, params, batch, count):
    tokens, positions, segments = (x[:, None] for x in (batch.tokens, batch.positions, batch.segments))  # groups of one
    forward = functools.partial(models.forward, real=segments > 0, segments=segments, options=self.options)
    out = forward(params, self.model, tokens, positions)
    value, metrics = losses.sft_loss(*self._logprobs(out, batch, 1), ahead(batch.response), count)
    loads = [out.expert_load]
    if self.mtp_coef:
      # A text's last position has no next token in its text, and the last two have none after that.
      inside, known = (ahead(batch.segments, n) == batch.segments for n in (1, 2))
      forward = functools.partial(models.predict_ahead, segments=segments, options=self.options)
      real = (segments > 0) & inside[:, None]
      out = forward(out.params, self.model, out.hidden, tokens, positions, real=real)
      further, _ = losses.sft_loss(*self._logprobs(out, batch, 2), ahead(batch.response, 2) & known, count)
      value, metrics = value + self.mtp_coef * further, metrics | {'mtp_loss': further}
      loads.append(out.expert_load)
    loads = [load for load in loads if load is not None]
    return value, metrics | ({'moe/load': jnp.concatenate(loads)} if loads else {}), out.params

  def _logprobs(self, out, batch, distance):
    """`models.logprobs` of the tokens that lie `distance` ahead, by the hidden states of a models.Output."""
    hidden, unembed = out.hidden[:, 0], models.unembedding(out.params)
    return models.logprobs(hidden, unembed, ahead(batch.tokens, distance), self.logit_chunk, self.options.mesh)


def ahead(x, distance=1):
  """[B, T], what lies `distance` further on in each row; 0 behind its end."""
  return jnp.pad(x[:, distance:], ((0, 0), (0, distance)))


def check_mtp(cfg, model):
  """Raises ConfigError where a config.SFT trains a layer for multi-token prediction that its ModelConfig lacks."""
  require(
    not cfg.mtp_coef or model.mtp == 1,
    f'mtp_coef is {cfg.mtp_coef}, but {cfg.model.path or cfg.model.preset} has {model.mtp} layers for multi-token '
    'prediction, not 1; set mtp_coef to 0, or start from a model with that layer, such as DeepSeek-V3 (runs without '
    'mtp_coef drop it).',
  )


def make_trainer(cfg, model, optimizer, mesh):
  """The Trainer of a config.SFT. Raises ConfigError where a microbatch does not divide over the mesh."""
  parallel.require_divisible(cfg.microbatch or cfg.batch, 'rows', mesh)
  options = models.ForwardOptions(cfg.model.dtype, cfg.model.remat, cfg.model.attention, mesh)
  loss_fn = lora.wrap(cfg.lora, SFTLoss(model, options, cfg.logit_chunk, cfg.mtp_coef))
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

  params: of the whole model. With an mtp_coef also 'mtp_loss'.
  """
  found, count, mesh = [], 0, trainer.mesh
  one = parallel.to_global(np.float32(1), parallel.replicated(mesh))
  for batch in batches:
    count += batch.response_tokens()
    more = size - len(batch.tokens)  # filled up with empty rows
    batch = jax.tree.map(lambda x, more=more: np.pad(x, ((0, more), (0, 0))), batch)
    batch = parallel.to_global(batch, parallel.batch_sharding(mesh))
    metrics = accumulate.metrics_of(params, batch, one, loss_fn=lora.whole(trainer.loss_fn))
    found.append({name: x for name, x in metrics.items() if name != 'moe/load'})
  return {name: float(x) / count for name, x in accumulate.combine(parallel.to_host(found)).items()}
