"""Rewards: text in, scores out.

A reward function maps a list of items to one float per item. An item is a dict with 'prompt', 'response' (decoded,
without its end token), 'problem', 'answer' and the problem's other fields. The score of an item must not depend on the
other items of the list. Options are keyword-only and come from `reward.options` of the config; calling the function
with options and an empty list must raise ConfigError for bad values.

A reward that can explain its score also has a function from one item to a verdict: a dict with 'score', 'reason' and
whatever else helps (VERDICTS). A reward that has a rule for what the answer of a response is also has a function from
one item to that text (VOTES, see `r1jax.rewards.votes`).

To add a reward, write the function, a line in REWARDS and a test. A config names a reward of another package as
`module:function`.

This package must not import anything heavy at the top: every worker process loads it.
"""

from collections.abc import Callable
import difflib
import importlib
import inspect
import math
from typing import Any

from r1jax.config import ConfigError
from r1jax.rewards import choice, countdown, logic, toy
from r1jax.rewards.coding import code_tests
from r1jax.rewards.mathematics import math_answer
from r1jax.rewards.printable import printable
from r1jax.rewards.text import drop, form, ifeval, language, length, refusal, sections
from r1jax.rewards.text.language import declared as language_of
from r1jax.rewards.text.language import language_consistency

__all__ = [
  'MERGED',
  'PREPARE',
  'REWARDS',
  'VERDICTS',
  'VOTES',
  'check',
  'check_options',
  'language_consistency',
  'language_of',
  'resolve',
  'verdict_function',
]

REWARDS: dict[str, Callable[..., Any]] = {
  'math': math_answer.math_answer,
  'format': form.form,
  'choice': choice.choice,
  'exact': choice.exact,
  'logic': logic.logic,
  'countdown': countdown.countdown,
  'code': code_tests.code,
  'length_cosine': length.length_cosine,
  'soft_overlong': length.soft_overlong,
  'repetition': length.repetition,
  'language': language.language,
  'ifeval': ifeval.ifeval,
  'drop_f1': drop.drop_f1,
  'refusal': refusal.refusal,
  'sections': sections.sections,
  'signs': toy.signs,
  'open': toy.open_question,
}

# Rewards that can explain their score: function from one item to its verdict.
VERDICTS: dict[str, Callable[..., Any]] = {
  'math': math_answer.verdict,
  'format': form.verdict,
  'choice': choice.choice_verdict,
  'exact': choice.exact_verdict,
  'logic': logic.verdict,
  'countdown': countdown.verdict,
  'code': code_tests.verdict,
  'language': language.verdict,
  'ifeval': ifeval.verdict,
  'drop_f1': drop.verdict,
  'refusal': refusal.verdict,
  'sections': sections.verdict,
}

# Function from one item (and the reward's options) to the answer that is graded, normalized so that equal answers are
# equal texts; None if the response has no answer.
VOTES = {
  'math': math_answer.vote,
  'choice': choice.choice_vote,
  'exact': choice.exact_vote,
  'logic': logic.vote,
  'countdown': countdown.vote,
  'drop_f1': drop.vote,
  'signs': toy.signs_vote,
}

# Rewards for which two different texts can still be the same answer.
MERGED = {'math'}

# Called once when a worker starts, outside the time limit of any item.
PREPARE = {
  'language': language.prepare,
  'ifeval': language.prepare_identifier,
  'math': math_answer.prepare,
  'length_cosine': math_answer.prepare,  # it calls the math reward by default
}


def resolve(name) -> Callable[..., Any]:
  """Returns the reward function called `name`: a key of REWARDS, or `module:function`. Raises ConfigError."""
  if name in REWARDS:
    return REWARDS[name]
  module, colon, function = name.partition(':')
  if not colon:
    nearest = difflib.get_close_matches(name, REWARDS, n=1, cutoff=0)[0]
    raise ConfigError(
      f"unknown reward '{name}'; the nearest known one is '{nearest}'. Name a reward of your own as 'module:function'."
    )
  try:
    reward = getattr(importlib.import_module(module), function)
    if not callable(reward):
      raise ValueError(f'{name} is not a function')
    return reward
  except (ImportError, AttributeError, ValueError) as error:
    raise ConfigError(f"reward '{name}' cannot be imported: {error}; check the module and the function.") from error


def check(name, options):
  """Raises ConfigError for an unknown reward, an option it does not have, or an option value it does not accept."""
  check_options(name, resolve(name), options)
  if options:
    resolve(name)([], **options)


def check_options(name, function, options):
  """Raises ConfigError for an option that the function does not have, or a required option that is missing."""
  parameters = [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
  known = [p.name for p in parameters]
  for option in options:
    if option not in known:
      nearest = difflib.get_close_matches(option, known, n=1, cutoff=0)
      raise ConfigError(
        f"reward '{name}' has no option '{option}'; "
        + (f"the nearest known one is '{nearest[0]}'." if nearest else 'it has no options.')
      )
  missing = [p.name for p in parameters if p.default is p.empty and p.name not in options]
  if missing:
    raise ConfigError(f"reward '{name}' needs the option '{missing[0]}': set reward.options.{name}.{missing[0]}.")


def verdict_function(name, options):
  """Returns the reward `name` as a function from one item to its verdict.

  A verdict is a dict with at least 'score', a finite float. The function raises ValueError for an item that the reward
  cannot read, or a score that is not finite.
  """
  function, explain = resolve(name), VERDICTS.get(name)

  def verdict(item):
    for key in ('prompt', 'response'):
      if not isinstance(item.get(key, ''), str):
        raise ValueError(f"the item's '{key}' is {str(item[key])[:40]!r}; it must be a string.")
    try:
      result = explain(item, **options) if explain else {'score': float(function([item], **options)[0])}
    except KeyError as error:
      if name not in REWARDS:
        raise
      raise ValueError(f"the item has no {error}, which the reward '{name}' reads.") from error
    if not math.isfinite(result['score']):
      raise ValueError(f"reward '{name}' returned {result['score']}; a score must be finite.")
    return result | {'reason': printable(result['reason'])} if 'reason' in result else result

  return verdict
