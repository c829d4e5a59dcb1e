"""Is the answer of a mathematics problem right? By rule, through math-verify."""
import logging
import re

from r1jax import templates

MAX_ANSWER = 1000  # characters; a longer prediction is wrong, unread: parsing is not linear

_INTEGER = re.compile('([+-]?)([0-9]+|[0-9]{1,3}(?:,[0-9]{3})+)')
_BOXED = '\\boxed{'


def math_answer(items):
  """1.0 where the response's answer equals the item's 'answer', else 0.0.

  The prediction is the text between the answer tags, or where there are none the last `\\boxed{}`.
  Integers are compared as text; everything else (fractions, decimals, percentages, expressions, sets)
  by math-verify, which may take arbitrarily long or much memory: call it under a limit (`pool.Grader`).

  Args:
    items: list of dicts with 'response' and 'answer' (str or number).
  """
  return [_score(item['response'], str(item['answer'])) for item in items]


def prepare():
  """Imports the verifier and builds its patterns: a second or more, and not to be charged to an item."""
  # It warns once that its own limits are off. They are signals, caught in Python: no use against a
  # long operation in C, and the pool's limit stands above them.
  logging.getLogger('math_verify').setLevel(logging.ERROR)
  _equal('1/2', '0.5')


def _score(response, gold):
  predicted = _prediction(response)
  if not predicted or len(predicted) > MAX_ANSWER or _closing(predicted + '}') != len(predicted):
    return 0.0   # nothing, too long, or braces that would end the box that it is put into
  whole, want = _integer(predicted), _integer(gold)
  if whole is not None and want is not None:
    return float(whole == want)
  return float(_equal(gold, predicted))


def _prediction(response):
  """The answer's text, out of its box if it is in one; None where there is no answer."""
  answer = templates.parse(response).answer
  if answer is None:
    return _last_boxed(response)
  boxed = _last_boxed(answer)
  return answer.strip() if boxed is None else boxed


def _last_boxed(text):
  """What the last `\\boxed{` holds, up to its matching brace; None where there is none, or no end."""
  start = text.rfind(_BOXED)
  if start < 0:
    return None
  inside = text[start + len(_BOXED):][:MAX_ANSWER + 1]
  end = _closing(inside)
  return None if end is None else inside[:end].strip()


def _closing(text):
  """Where the brace opened just before `text` is closed; None where it is not."""
  depth = 1
  for at, character in enumerate(text):
    if character in '{}' and text[at - 1:at] != '\\':
      depth += 1 if character == '{' else -1
      if not depth:
        return at
  return None


def _integer(text):
  """(negative, digits) of a plain decimal integer in ASCII, as text: int() has a limit, and takes other digits."""
  match = _INTEGER.fullmatch(text.strip())
  if not match:
    return None
  digits = match[2].replace(',', '').lstrip('0') or '0'
  return match[1] == '-' and digits != '0', digits


def _equal(gold, predicted):
  import math_verify  # sympy: only workers that score mathematics pay for it
  config = [math_verify.LatexExtractionConfig(boxed_match_priority=0)]
  try:
    # In a box the whole text counts: a list of guesses is a set, and not whichever number comes last.
    sides = [math_verify.parse(f'{_BOXED}{_bare(text)}}}', extraction_config=config, parsing_timeout=None)
             for text in (gold, predicted)]
    return math_verify.verify(*sides, timeout_seconds=None)
  except Exception:  # what a parser raises on a model's text is no right answer
    return False


def _bare(text):
  return text.strip().strip('$').removesuffix('.')
