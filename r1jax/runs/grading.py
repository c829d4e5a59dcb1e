"""Builds the graders of a reward."""

from r1jax import rewards
from r1jax.rewards import neural
from r1jax.rewards.workers import pool


def check_graders(cfg):
  """Raises ConfigError for a part of a config.Reward that does not exist, or an option that it does not have."""
  for name in cfg.names():
    function, options = cfg.function(name), cfg.options.get(name, {})
    if function in neural.NEURAL:
      rewards.check_options(name, neural.NEURAL[function], options)
    else:
      rewards.check(function, options)


def make_graders(cfg):
  """Builds the graders of a config.Reward.

  Returns:
    pool.Grader, whose worker processes score the rule rewards, and {part: scoring function} of the neural rewards.

  Raises:
    ConfigError for an unknown reward or option, and whatever opening a reward model raises.
  """
  check_graders(cfg)
  options = {name: cfg.options.get(name, {}) for name in cfg.names()}
  neural_options = {name: options.pop(name) for name in cfg.names() if cfg.function(name) in neural.NEURAL}
  models = {name: neural.NEURAL[cfg.function(name)](**neural_options[name]) for name in neural_options}
  return pool.Grader(options, cfg.workers, cfg.timeout, cfg.functions), models
