"""PPO's value network, shaped like a policy with one number per token as output: its values, loss and updates."""

import dataclasses
import functools

import jax

from r1jax import losses, models
from r1jax.training import accumulate, policy
from r1jax.training import optimizer as optimizer_lib
from r1jax.training import state as state_lib


@dataclasses.dataclass(frozen=True)
class ValueLoss:
  """`losses.value_loss` as `accumulate` takes it: (params, RolloutBatch, losses.Totals) -> loss, metrics, params.

  Attributes:
    model: ModelConfig with head 'score'. options: models.ForwardOptions. clip: see `losses.value_loss`.
  """

  model: models.ModelConfig
  options: models.ForwardOptions
  clip: float = 0.2

  def values(self, params, batch):
    """f32[P, G, T], what is expected before each token of a response, meaningless behind its end; and params."""
    out = models.response_hidden(
      params, self.model, batch.prompts, batch.prompt_lengths, batch.tokens, batch.lengths, self.options
    )
    return models.scores(out.params, out.hidden), out.params

  def __call__(self, params, batch, totals):
    values, params = self.values(params, batch)
    return *losses.value_loss(values, batch, totals, self.clip), params


def make(cfg, model, mesh):
  """The Trainer and the abstract TrainState of a config.RL's critic.

  Args:
    model: ModelConfig of what it begins as: a policy or a reward model.
  """
  model, train = dataclasses.replace(model, head='score', tied=False), cfg.train
  specs = models.specs(model)
  settings = dataclasses.replace(cfg.optimizer, learning_rate=cfg.critic.learning_rate)
  # With adapters train.param_dtype is that of a model which is not trained; a critic always is.
  dtype = 'float32' if cfg.lora.rank else train.param_dtype
  optimizer = optimizer_lib.make(settings, cfg.steps * train.minibatches * train.epochs, specs, dtype)
  options = models.ForwardOptions(cfg.model.dtype, cfg.model.remat, cfg.model.attention, mesh)
  loss = ValueLoss(model, options, cfg.critic.clip)
  trainer = accumulate.Trainer(loss, optimizer, train.grad_dtype, prefix='value/')
  return trainer, state_lib.abstract_state(specs, optimizer, mesh, dtype)


@functools.partial(jax.jit, static_argnames='fn')
def values_program(params, batch, *, fn):
  """f32[P, G, T] of a RolloutBatch, by a ValueLoss."""
  return fn.values(params, batch)[0]


def with_values(trainer, state, batch, cfg):
  """The RolloutBatch with the values of the critic, whose TrainState is `state`."""
  values = policy.per_token(values_program, state.params, batch.without_experts(), cfg, trainer.loss_fn)
  return batch.replace(values=values)


def update(trainer, state, batch, cfg, step):
  """All optimizer steps of one rollout, with the policy's minibatches.

  Args:
    state: the critic's TrainState; donated.
    batch: RolloutBatch on the host, with values and returns. cfg: config.RL. step: as `policy.update`.

  Returns:
    TrainState, metrics {name: float}.
  """
  explained = losses.explained_variance(batch.values, batch.returns, batch.loss_mask)  # before these updates
  state, metrics = policy.update(trainer, state, batch.without_experts(), cfg, step)
  return state, metrics | {'value/explained_variance': explained, 'value/mean': batch.values[batch.loss_mask].mean()}
