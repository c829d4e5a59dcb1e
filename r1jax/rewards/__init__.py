"""Rewards: text in, scores out.

A reward maps a list of items to one float each. An item is a dict: 'prompt', 'response' (decoded,
without its end token), 'problem', 'answer', and the problem's other fields. A score must depend on
its own item alone. To add one: a function, a line in REWARDS, a test. One that lives elsewhere is
named in a config by `module:function`.

This package imports nothing heavy: every worker process loads it.
"""
import difflib
import importlib

from r1jax.config import ConfigError
from r1jax.rewards import form, math_answer, toy
from r1jax.rewards.language import language_consistency

__all__ = ['PREPARE', 'REWARDS', 'language_consistency', 'resolve']

REWARDS = {
    'math': math_answer.math_answer,
    'format': form.form,
    'signs': toy.signs,
}

# Run once when a worker starts, outside any item's time limit.
PREPARE = {
    'math': math_answer.prepare,
}


def resolve(name):
  """The reward function called `name`: a key of REWARDS, or `module:function`. Raises ConfigError."""
  if name in REWARDS:
    return REWARDS[name]
  module, colon, function = name.partition(':')
  if not colon:
    near = difflib.get_close_matches(name, REWARDS, n=1, cutoff=0)[0]
    raise ConfigError(f"unknown reward '{name}'; the nearest known one is '{near}' (your own: 'module:function').")
  try:
    return getattr(importlib.import_module(module), function)
  except (ImportError, AttributeError, ValueError) as error:
    raise ConfigError(f"reward '{name}' cannot be imported: {error}; check the module and the function.") from error
