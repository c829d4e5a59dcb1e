"""Who scores the parts of a reward."""

from r1jax import rewards
from r1jax.rewards import neural
from r1jax.rewards.workers import pool


def graders(cfg):
  """Who scores the parts of a config.Reward: worker processes, and {part: function} for those a model scores.

  Raises ConfigError for what is no reward, or has no such options; and what opening a model raises.
  """
  options = {name: cfg.options.get(name, {}) for name in cfg.names()}
  by_model = {name: options.pop(name) for name in cfg.names() if cfg.function(name) in neural.NEURAL}
  for name in by_model:
    rewards.check_options(name, neural.NEURAL[cfg.function(name)], by_model[name])
  models = {name: neural.NEURAL[cfg.function(name)](**by_model[name]) for name in by_model}
  return pool.Grader(options, cfg.workers, cfg.timeout, cfg.functions), models
