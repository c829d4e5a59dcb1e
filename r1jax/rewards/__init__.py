"""Rewards: text in, scores out.

A reward maps a list of items to one float each. An item is a dict: 'prompt', 'response' (decoded,
without its end token), 'problem', 'answer', and the problem's other fields. A score must depend on
its own item alone. Options are keyword-only; a config gives them in `reward.options`, and a call
with them and no items must refuse bad values with ConfigError. A reward that can say why has a function from
one item to a dict with 'score', 'reason' and whatever else helps; one that has a rule for what the answer is, a
function from one item to that text (`r1jax.rewards.votes`).

To add one: a function, a line in REWARDS, a test. One that lives elsewhere is named in a config by
`module:function`.

This package imports nothing heavy: every worker process loads it.
"""

import difflib
import importlib
import inspect
import math

from r1jax.config import ConfigError
from r1jax.rewards import choice, logic, toy
from r1jax.rewards.coding import code_tests
from r1jax.rewards.mathematics import math_answer
from r1jax.rewards.printable import printable
from r1jax.rewards.text import form, ifeval, language, length
from r1jax.rewards.text.language import language_consistency
from r1jax.rewards.text.language import named as language_of

__all__ = [
  'MERGED',
  'PREPARE',
  'REWARDS',
  'VERDICTS',
  'VOTES',
  'check',
  'check_options',
  'explained',
  'language_consistency',
  'language_of',
  'resolve',
]

REWARDS = {
  'math': math_answer.math_answer,
  'format': form.form,
  'choice': choice.choice,
  'exact': choice.exact,
  'logic': logic.logic,
  'code': code_tests.code,
  'length_cosine': length.length_cosine,
  'soft_overlong': length.soft_overlong,
  'repetition': length.repetition,
  'language': language.language,
  'ifeval': ifeval.ifeval,
  'signs': toy.signs,
  'open': toy.open_question,
}

# One item -> its verdict, for those that can say why.
VERDICTS = {
  'math': math_answer.verdict,
  'format': form.verdict,
  'choice': choice.choice_verdict,
  'exact': choice.exact_verdict,
  'logic': logic.verdict,
  'code': code_tests.verdict,
  'language': language.verdict,
  'ifeval': ifeval.verdict,
}

# One item, and the reward's options -> the answer that is graded, as a text that is the same for the same answer; None
# where there is none.
VOTES = {
  'math': math_answer.vote,
  'choice': choice.choice_vote,
  'exact': choice.exact_vote,
  'logic': logic.vote,
  'signs': toy.signs_vote,
}

# Those of them where different texts can be the same answer.
MERGED = {'math'}

# Run once when a worker starts, outside any item's time limit.
PREPARE = {
  'language': language.prepare,
  'ifeval': language.prepare_identifier,
  'math': math_answer.prepare,
  'length_cosine': math_answer.prepare,  # by default it asks math
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
    found = getattr(importlib.import_module(module), function)
    if not callable(found):
      raise ValueError(f'{name} is no function')
    return found
  except (ImportError, AttributeError, ValueError) as error:
    raise ConfigError(f"reward '{name}' cannot be imported: {error}; check the module and the function.") from error


def check(name, options):
  """Raises ConfigError for a reward that is not known, an option it does not have, or a value it refuses."""
  check_options(name, resolve(name), options)
  if options:
    resolve(name)([], **options)


def check_options(name, function, options):
  """Raises ConfigError for an option that the function does not have, or one that it needs and is not given."""
  parameters = [p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
  known = [p.name for p in parameters]
  for option in options:
    if option not in known:
      near = difflib.get_close_matches(option, known, n=1, cutoff=0)
      raise ConfigError(
        f"reward '{name}' has no option '{option}'; "
        + (f"the nearest known one is '{near[0]}'." if near else 'it has none.')
      )
  missing = [p.name for p in parameters if p.default is p.empty and p.name not in options]
  if missing:
    raise ConfigError(f"reward '{name}' needs the option '{missing[0]}': set reward.options.{name}.{missing[0]}.")


def explained(name, options):
  """The reward `name` as a function from one item to its verdict: a dict with 'score', a finite float, at least."""
  function, explain = resolve(name), VERDICTS.get(name)

  def verdict(item):
    for key in ('prompt', 'response'):
      if not isinstance(item.get(key, ''), str):
        raise ValueError(f"the item's '{key}' is {str(item[key])[:40]!r}; it must be a text.")
    try:
      found = explain(item, **options) if explain else {'score': float(function([item], **options)[0])}
    except KeyError as error:
      if name not in REWARDS:
        raise
      raise ValueError(f"the item has no {error}, which the reward '{name}' reads.") from error
    if not math.isfinite(found['score']):
      raise ValueError(f"reward '{name}' gave {found['score']}; a score must be finite.")
    return found | {'reason': printable(found['reason'])} if 'reason' in found else found

  return verdict
