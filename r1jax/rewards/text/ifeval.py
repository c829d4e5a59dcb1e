"""Does the answer follow the instructions of its prompt that a program can check? (IF-Eval)"""

import difflib
import functools
import inspect

from r1jax import templates
from r1jax.config import ConfigError
from r1jax.rewards.text.instructions import INSTRUCTIONS


def ifeval(items, *, loose=False, fraction=False):
  """1.0 where all instructions are followed, else 0.0.

  Judged is the final answer: what follows the thinking, of that what the answer tags hold if there are any. An empty
  answer follows nothing.

  Args:
    items: list of dicts with 'prompt', 'response', 'instruction_id_list' (keys of INSTRUCTIONS) and 'kwargs' (a dict
      for each; None stands for no value).
    loose: an instruction counts as followed if it is without the first line, the last, or both, or without asterisks
      as well (the paper's loose accuracy).
    fraction: the share of the instructions followed instead.

  Returns:
    List of floats in [0, 1].

  Raises:
    ConfigError: an instruction that is not known, or not the arguments that it needs.
  """
  for name, value in (('loose', loose), ('fraction', fraction)):
    if not isinstance(value, bool):
      raise ConfigError(f"option '{name}' of the ifeval reward is {value!r}; it must be True or False.")
  return [verdict(item, loose=loose, fraction=fraction)['score'] for item in items]


def verdict(item, *, loose=False, fraction=False):
  """How `ifeval` scores one item: a dict with 'score', 'reason' and 'followed', instruction ids and bools in pairs."""
  checks = _checks(item['instruction_id_list'], item['kwargs'])
  answer = _answer(templates.completed(item.get('prompt', ''), item['response']))
  texts = [text for text in (_variants(answer) if loose else [answer]) if text.strip()]
  followed = [(name, any(check(text) for text in texts)) for name, check in checks]
  failed = [name for name, yes in followed if not yes]
  score = 1 - len(failed) / len(checks) if fraction else float(not failed)
  reason = 'no answer' if not texts else f'not followed: {", ".join(failed)}' if failed else 'all followed'
  return {'score': score, 'reason': reason, 'followed': followed}


def _checks(names, arguments):
  """(name, function from a text to bool) of each instruction."""
  if not names or len(names) != len(arguments):
    raise ConfigError(
      f"{len(names)} instructions with {len(arguments)} sets of arguments; give 'kwargs' one dict for "
      "each of 'instruction_id_list', which must not be empty."
    )
  out = []
  for name, given in zip(names, arguments, strict=True):
    if name not in INSTRUCTIONS:
      near = difflib.get_close_matches(name, INSTRUCTIONS, n=1, cutoff=0)[0]
      raise ConfigError(f"unknown instruction '{name}'; the nearest known one is '{near}'.")
    function = INSTRUCTIONS[name]
    given = {key: value for key, value in given.items() if value is not None}
    try:
      inspect.signature(function).bind('', **given)
    except TypeError as error:
      raise ConfigError(f"instruction '{name}' does not take {given}: {error}.") from None
    out.append((name, functools.partial(function, **given)))
  return out


def _answer(text):
  """The final answer of a response; '' where the thinking has no end."""
  summary = templates.summary(text) or ''
  answer = templates.parse(summary).answer
  return (summary if answer is None else answer).strip()


def _variants(text):
  """The text, without its first, last, and both lines; each as it is and without asterisks."""
  lines = text.split('\n')
  cut = [text] + ['\n'.join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1])]
  return cut + [part.replace('*', '') for part in cut]
