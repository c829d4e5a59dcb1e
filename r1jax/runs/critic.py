"""Opens what the critic of a PPO run begins as."""

from r1jax import checkpoint
from r1jax import config as config_lib
from r1jax.training import state as state_lib


def open_critic(cfg, policy):
  """The checkpoint.Source that the critic of a config.RL begins as; None for a run without one.

  Args:
    policy: checkpoint.Source of the policy.

  Raises:
    ConfigError: the critic's model does not read the policy's tokens. ModelDirError: there is no model.
  """
  if not cfg.has_critic:
    return None
  source = checkpoint.open_model(cfg.critic.path) if cfg.critic.path else policy
  config_lib.require(
    source.cfg.vocab == policy.cfg.vocab,
    f'critic.path {cfg.critic.path} has {source.cfg.vocab} token ids, but the policy {policy.cfg.vocab}; the critic '
    'reads the tokens of the policy, so pass one made from the same base model.',
  )
  config_lib.check_context(cfg.rollout, source.cfg.context)
  return source


def new_critic_state(trainer, abstract, source):
  """The critic's TrainState at step 0. Without a reward model's head, all values are zero."""
  params = checkpoint.load_with_head(source, trainer.loss_fn.model, abstract.params)
  return state_lib.new_state(params, trainer.optimizer, abstract)
