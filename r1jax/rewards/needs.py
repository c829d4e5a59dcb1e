"""Checks that a problem has the fields its rewards read, so that a bad row is reported before anything is sampled."""

from r1jax import templates
from r1jax.config import ConfigError
from r1jax.rewards import answers, choice
from r1jax.rewards.coding import code_tests
from r1jax.rewards.text import drop, ifeval

# A response that is well formed, but that no reward can find correct and that holds no program to run.
_BLANK = {'prompt': '', 'response': '<think>?</think><answer>?</answer>'}


def _answer(item):
  if not answers.reference(item).strip():
    raise ValueError("field 'answer' is empty, so there is nothing to compare a response with")


def _roles(item):
  names, roles = item['names'], item['is_knight']
  if not isinstance(names, list) or not names or not all(isinstance(name, str) and name.strip() for name in names):
    raise ValueError("field 'names' must be a non-empty list of strings")
  if not isinstance(roles, list) or len(roles) != len(names) or not all(role in (0, 1) for role in roles):
    raise ValueError(f"field 'is_knight' must be a list of {len(names)} booleans, one for each of 'names'")


def _numbers(item):
  numbers, target = item['numbers'], item['target']
  if not isinstance(numbers, list) or not numbers or not all(type(n) is int and n >= 0 for n in numbers):
    raise ValueError("field 'numbers' must be a non-empty list of whole numbers, none negative")
  if type(target) is not int:
    raise ValueError(f"field 'target' is {target!r:.40}; it must be a whole number")


def _reference(item):
  if not isinstance(item['reference'], str) or not (templates.summary(item['reference']) or '').strip():
    raise ValueError("field 'reference' must be a response with a text after its thinking, to compare with")


def _options(item):
  options = item.get('options') or {}
  if not isinstance(options, (dict, list)):
    raise ValueError(f"field 'options' is of type {type(options).__name__}; give a list, or a dict of letter to text")
  choice.choice_verdict(item | _BLANK)


# Name of a reward -> function that raises for an item it cannot score: ValueError, or KeyError and ConfigError as the
# rewards themselves do.
NEEDS = {
  'math': _answer,
  'exact': _answer,
  'choice': _options,
  'logic': _roles,
  'countdown': _numbers,
  'code': lambda item: code_tests.verdict(item | {'program': None} | _BLANK),
  'ifeval': lambda item: ifeval.verdict(item | _BLANK),
  'drop_f1': lambda item: drop.verdict(item | _BLANK),
  'pairwise': _reference,
}


def checker(reward):
  """Returns a function that raises ValueError for a problem that the rewards of its kind could not score.

  Rewards named as `module:function` are not checked: their fields are not known here.

  Args:
    reward: config.Reward.
  """

  def check(item):
    kind = item.get('kind') if isinstance(item.get('kind'), str) else None
    for name in reward.weights(kind):
      try:
        NEEDS.get(reward.function(name), lambda item: None)(item)
      except KeyError as error:
        raise ValueError(f'no field {error}, which the reward {name!r} reads') from error
      except (AttributeError, ConfigError, TypeError, ValueError) as error:
        raise ValueError(f'the reward {name!r} cannot score it: {error}') from error

  return check
