"""Learning to score: the gradient of one microbatch of labelled rows, and an optimizer step over several."""

import functools

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from r1jax import losses, models, parallel
from r1jax.config import require
from r1jax.data import rows as rows_lib
from r1jax.training import policy
from r1jax.training.update import accumulated_step, trained


@flax.struct.dataclass
class ScoreBatch:
  """Rows with labels at marks.

  Attributes:
    tokens: i32[B, T], right-padded; lengths: i32[B].
    marks: i32[B, S], positions whose scores count; negative ones fill up.
    labels: f32[B, S]; negative: none. Of pairs, rows are chosen and rejected in turn.
  """

  tokens: jax.Array
  lengths: jax.Array
  marks: jax.Array
  labels: jax.Array


def accumulate(params, grads, batch, count, *, cfg, options, objective):
  """Adds a microbatch's gradient of `losses.SCORE_LOSSES[objective]` to `grads`, which is donated.

  Args:
    count: f32[], what the loss of the whole batch is divided by. cfg: ModelConfig with head 'score'.
    options: policy.Options.

  Returns:
    grads; and metrics, this microbatch's share of the batch's.
  """
  return _accumulate(
    params, grads, batch, count, cfg=cfg, options=options, objective=objective, places=policy.places_of(grads)
  )


@functools.partial(jax.jit, static_argnames=('cfg', 'options', 'objective', 'places'), donate_argnames=('grads',))
def _accumulate(params, grads, batch, count, *, cfg, options, objective, places):
  def loss(params):
    out = models.marked_scores(
      params,
      cfg,
      batch.tokens,
      batch.lengths,
      batch.marks,
      dtype=jnp.dtype(options.dtype),
      remat=options.remat,
      attention=options.attention,
      mesh=options.mesh,
    )
    value, metrics = losses.SCORE_LOSSES[objective](out.scores, batch.labels, count)
    load = out.expert_load
    return value, (metrics if load is None else metrics | {'moe/load': load}, out.params)

  return policy.add_gradient(loss, params, grads, options.remat, places)


class ScoreUpdater:
  """Optimizer steps of one score model under one config.

  Args:
    cfg: config.RewardModel. model: ModelConfig with head 'score'. optimizer: an optax transformation. mesh: Mesh.

  Raises:
    ConfigError: a microbatch does not divide over the mesh.
  """

  def __init__(self, cfg, model, optimizer, mesh):
    self.size, self.objective = cfg.microbatch or cfg.batch, cfg.objective
    shards = parallel.batch_shards(mesh)
    require(
      self.size % shards == 0,
      f"{self.size} examples a microbatch do not divide over {shards} devices on axes 'data', 'fsdp' and "
      f"'expert'; set microbatch (or batch) to a multiple of {shards} or use a smaller mesh.",
    )
    self._cfg, self._model, self._optimizer = cfg, model, optimizer
    self.options = policy.Options(1.0, 1, cfg.model.dtype, cfg.model.remat, mesh, cfg.model.attention)
    self.sharding, self.everywhere = parallel.batch_sharding(mesh), parallel.replicated(mesh)

  def update(self, state, examples, step):
    """One optimizer step.

    Args:
      state: TrainState; donated. examples: list of data.labelled.Example, of the config's batch.
      step: for messages.

    Returns:
      TrainState, metrics {name: float}.
    """
    count = parallel.put(np.float32(self._count(examples)), self.everywhere)
    state, metrics = accumulated_step(
      state,
      self._microbatches(examples),
      lambda params, grads, batch: accumulate(
        params, grads, batch, count, cfg=self._model, options=self.options, objective=self.objective
      ),
      self._cfg.grad_dtype,
      self._optimizer,
      self._cfg.balance_rate,
      'grad_norm',
    )
    return state, trained(metrics, step)

  def _count(self, examples):
    """What the loss is a mean over: pairs, responses, or labelled steps."""
    if self.objective != 'steps':
      return len(examples)
    return sum(int((example.labels >= 0).sum()) for example in examples)

  def _microbatches(self, examples):
    """ScoreBatches on the device: examples of like length together, padded to the longest of them only."""
    longest = lambda example: max(len(row.ids) for row in example.rows)
    examples = sorted(examples, key=longest)
    for first in range(0, len(examples), self.size):
      some = examples[first : first + self.size]
      length = rows_lib.padded(longest(some[-1]))
      marks = rows_lib.padded(max(e.labels.shape[1] for e in some), least=1)
      tokens, lengths, places = rows_lib.pad([row for e in some for row in e.rows], length, marks)
      labels = np.concatenate(
        [np.pad(e.labels, ((0, 0), (0, marks - e.labels.shape[1])), constant_values=-1) for e in some]
      )
      yield parallel.put(ScoreBatch(tokens, lengths, places, labels), self.sharding)
