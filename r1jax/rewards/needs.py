"""What a reward must find in an item besides the response, so that a bad row is known before anything is sampled."""

from r1jax.config import ConfigError
from r1jax.rewards import answers, choice
from r1jax.rewards.coding import code_tests
from r1jax.rewards.text import ifeval

# A response that every rule reads in vain: it answers, but with nothing that could be right, or run.
_BLANK = {'prompt': '', 'response': '<think>?</think><answer>?</answer>'}


def _answer(item):
  if not answers.reference(item).strip():
    raise ValueError("field 'answer' is empty, and a response is to be compared with it")


def _roles(item):
  names, roles = item['names'], item['is_knight']
  if not isinstance(names, list) or not names or not all(isinstance(name, str) and name.strip() for name in names):
    raise ValueError("field 'names' is no list of texts, or empty")
  if not isinstance(roles, list) or len(roles) != len(names) or not all(role in (0, 1) for role in roles):
    raise ValueError(f"field 'is_knight' must be a list of {len(names)} truths, one for each of 'names'")


def _options(item):
  options = item.get('options') or {}
  if not isinstance(options, (dict, list)):
    raise ValueError(f"field 'options' is a {type(options).__name__}; give a list, or letters with their texts")
  choice.choice_verdict(item | _BLANK)


# Of a reward: function from an item to None, which raises ValueError (or, as rewards do, KeyError, ConfigError).
NEEDS = {
  'math': _answer,
  'exact': _answer,
  'choice': _options,
  'logic': _roles,
  'code': lambda item: code_tests.verdict(item | {'program': None} | _BLANK),
  'ifeval': lambda item: ifeval.verdict(item | _BLANK),
}


def checker(reward):
  """The function from a problem to None that raises ValueError where the rewards of its kind could not score it.

  reward: config.Reward. What a reward from elsewhere needs is not known here.
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
