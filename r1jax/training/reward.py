"""Learning to score: the loss of labelled rows, and an optimizer step over microbatches of them."""

import dataclasses

import flax.struct
import jax.numpy as jnp
import numpy as np

from r1jax import losses, models, parallel
from r1jax.data import rows as rows_lib
from r1jax.training import accumulate, finite
from r1jax.typed import Array, shape_struct


class ScoreBatch(flax.struct.PyTreeNode):
  """Rows with labels at marks.

  Attributes:
    tokens: i32[B, T], right-padded; lengths: i32[B].
    marks: i32[B, S], positions whose scores count; negative ones fill up.
    labels: f32[B, S]; negative: none. Of pairs, rows are chosen and rejected in turn.
  """

  tokens: Array
  lengths: Array
  marks: Array
  labels: Array


@dataclasses.dataclass(frozen=True)
class ScoreLoss:
  """`losses.SCORE_LOSSES[objective]` as `accumulate` takes it: (params, ScoreBatch, count) -> loss, metrics, params.

  Attributes:
    model: ModelConfig with head 'score'. options: models.ForwardOptions. objective: one of config.OBJECTIVES.
  """

  model: models.ModelConfig
  options: models.ForwardOptions
  objective: str

  def __call__(self, params, batch, count):
    out = models.marked_scores(params, self.model, batch.tokens, batch.lengths, batch.marks, self.options)
    value, metrics = losses.SCORE_LOSSES[self.objective](out.scores, batch.labels, count)
    return value, metrics if out.expert_load is None else metrics | {'moe/load': out.expert_load}, out.params


def make_trainer(cfg, model, optimizer, mesh):
  """The Trainer of a config.RewardModel. Raises ConfigError where a microbatch does not divide over the mesh."""
  parallel.require_divisible(cfg.microbatch or cfg.batch, 'examples', mesh)
  options = models.ForwardOptions(cfg.model.dtype, cfg.model.remat, cfg.model.attention, mesh)
  return accumulate.Trainer(ScoreLoss(model, options, cfg.objective), optimizer, cfg.grad_dtype, cfg.balance_rate)


def update(trainer, state, examples, cfg, step):
  """One optimizer step.

  Args:
    trainer: as `make_trainer` gives it. state: TrainState; donated.
    examples: list of data.labelled.Example, of the config's batch. cfg: config.RewardModel. step: for messages.

  Returns:
    TrainState, metrics {name: float}.
  """
  count = np.float32(_count(examples, cfg.objective))
  state, metrics = trainer.step(state, microbatches(examples, cfg.microbatch or cfg.batch), count)
  return state, finite.named(metrics, step)


def _count(examples, objective):
  """What the loss is a mean over: pairs, responses, or labelled steps."""
  if objective != 'steps':
    return len(examples)
  return sum(int((example.labels >= 0).sum()) for example in examples)


def microbatches(examples, size):
  """ScoreBatches on the host, of `size` examples of like length, padded to the longest of them only."""
  longest = lambda example: max(len(row.ids) for row in example.rows)
  examples = sorted(examples, key=longest)
  for first in range(0, len(examples), size):
    some = examples[first : first + size]
    length = rows_lib.padded(longest(some[-1]))
    marks = rows_lib.padded(max(e.labels.shape[1] for e in some), least=1)
    tokens, lengths, places = rows_lib.pad([row for e in some for row in e.rows], length, marks)
    labels = np.concatenate(
      [np.pad(e.labels, ((0, 0), (0, marks - e.labels.shape[1])), constant_values=-1) for e in some]
    )
    yield ScoreBatch(tokens, lengths, places, labels)


def abstract_microbatch(cfg, mesh):
  """A microbatch of the longest rows as ShapeDtypeStructs: what a plan compiles. Of steps there are more marks."""
  rows = (cfg.microbatch or cfg.batch) * (2 if cfg.objective == 'pairs' else 1)
  marks, sharding = rows_lib.padded(1, least=1), parallel.batch_sharding(mesh)
  of = lambda *shape, dtype=jnp.int32: shape_struct(shape, dtype, sharding)
  return ScoreBatch(
    of(rows, rows_lib.padded(cfg.data.max_length)), of(rows), of(rows, marks), of(rows, marks, dtype=jnp.float32)
  )
