"""Instruction following, for the instructions that a program can check (IF-Eval)."""

import difflib
import functools
import inspect

from r1jax import templates
from r1jax.config import ConfigError
from r1jax.rewards.text.instructions import INSTRUCTIONS


def ifeval(items, *, loose=False, fraction=False):
  """1.0 if the response follows all instructions, else 0.0.

  Only the final answer is judged: the content of the answer tags if there are any, else everything after the thinking.
  An empty answer follows no instruction.

  Args:
    items: list of dicts with 'prompt', 'response', 'instruction_id_list' (keys of INSTRUCTIONS) and 'kwargs' (a dict
      for each instruction; arguments that are None are ignored).
    loose: an instruction also counts as followed if it is followed once the first line, the last line or both are
      removed, each with or without asterisks (the paper's loose accuracy).
    fraction: score the share of the instructions that are followed instead.

  Returns:
    list of float in [0, 1].

  Raises:
    ConfigError: an unknown instruction, or wrong arguments for one.
  """
  for name, value in (('loose', loose), ('fraction', fraction)):
    if not isinstance(value, bool):
      raise ConfigError(f"option '{name}' of the ifeval reward is {value!r}; it must be True or False.")
  return [verdict(item, loose=loose, fraction=fraction)['score'] for item in items]


def verdict(item, *, loose=False, fraction=False):
  """How `ifeval` scores one item: a dict with 'score', 'reason' and 'followed', a list of (instruction id, bool)."""
  checks = _checks(item['instruction_id_list'], item['kwargs'])
  answer = _answer(templates.completed(item.get('prompt', ''), item['response']))
  texts = [text for text in (_variants(answer) if loose else [answer]) if text.strip()]
  followed = [(name, any(check(text) for text in texts)) for name, check in checks]
  failed = [name for name, is_followed in followed if not is_followed]
  score = 1 - len(failed) / len(checks) if fraction else float(not failed)
  reason = 'no answer' if not texts else f'not followed: {", ".join(failed)}' if failed else 'all followed'
  return {'score': score, 'reason': reason, 'followed': followed}


def _checks(names, arguments):
  """Returns a list of (name, function from a text to bool), one per instruction."""
  if not names or len(names) != len(arguments):
    raise ConfigError(
      f"{len(names)} instructions with {len(arguments)} sets of arguments; 'instruction_id_list' must not be empty, "
      "and 'kwargs' must hold one dict for each instruction."
    )
  out = []
  for name, kwargs in zip(names, arguments, strict=True):
    if name not in INSTRUCTIONS:
      nearest = difflib.get_close_matches(name, INSTRUCTIONS, n=1, cutoff=0)[0]
      raise ConfigError(f"unknown instruction '{name}'; the nearest known one is '{nearest}'.")
    function = INSTRUCTIONS[name]
    kwargs = {key: value for key, value in kwargs.items() if value is not None}
    try:
      inspect.signature(function).bind('', **kwargs)
    except TypeError as error:
      raise ConfigError(f"instruction '{name}' does not take {kwargs}: {error}.") from None
    out.append((name, functools.partial(function, **kwargs)))
  return out


def _answer(text):
  """The final answer of a response; '' if the thinking is not closed."""
  summary = templates.summary(text) or ''
  answer = templates.parse(summary).answer
  return (summary if answer is None else answer).strip()


def _variants(text):
  """The text, and the text without its first line, its last line, and both; each with and without asterisks."""
  lines = text.split('\n')
  cut = [text] + ['\n'.join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1])]
  return cut + [part.replace('*', '') for part in cut]
