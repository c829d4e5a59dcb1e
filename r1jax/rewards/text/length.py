"""Rewards for the length and the repetitiveness of a response. They do not judge its content."""

import math
import re

from r1jax.config import ConfigError

UNITS = ('tokens', 'words', 'characters')

_HAN = '\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff'  # including Japanese kana
_WORD = re.compile(rf'[{_HAN}]|[^\s{_HAN}]+')


def words(text):
  """The words of the text in lower case: runs without white space, and each Chinese or Japanese character alone."""
  return _WORD.findall(text.lower())


def length_of(item, unit):
  """The length of the item's response, in `unit`. Raises ValueError for tokens if the item has no 'tokens'."""
  if unit == 'tokens':
    if 'tokens' not in item:
      raise ValueError(
        "the item has no 'tokens' (the length of the response); set the option unit to 'words' or 'characters'."
      )
    return item['tokens']
  return len(words(item['response'])) if unit == 'words' else len(item['response'])


def length_cosine(
  items,
  *,
  max_length=14_336,
  correct='math',
  unit='tokens',
  right_short=2.0,
  right_long=1.0,
  wrong_short=-10.0,
  wrong_long=0.0,
  exceeded=-10.0,
):
  """The cosine reward of Yeo et al. 2025 (Demystifying Long Chain-of-Thought Reasoning, arXiv 2502.03373).

  The score of a correct response falls from `right_short` at length 0 along half a cosine to `right_long` at
  `max_length`; that of a wrong one goes from `wrong_short` to `wrong_long`, so that longer thinking pays only as long
  as the answer is not found. A response that reaches `max_length` gets `exceeded`. The defaults are the paper's.
  Another reward decides whether a response is correct. It is computed again here, because the scores of other parts are
  not available.

  Args:
    items: list of dicts with the fields that `correct` reads, and 'tokens' (int) if that is the unit.
    max_length: in `unit`; for tokens, the rollout's max_response.
    correct: the reward (a name in `rewards.REWARDS`, or module:function) that decides with its default options: a score
      of 1 or more is correct.
    unit: 'tokens', 'words' (see `words`) or 'characters'.
    right_short, right_long, wrong_short, wrong_long, exceeded: scores as described above.

  Returns:
    list of float between the smallest and the largest of the five.

  Raises:
    ConfigError: an unknown unit or reward, a max_length that is not positive, a score that is not a finite number.
    ValueError: an item without 'tokens' if that is the unit.
  """
  from r1jax import rewards  # not at the top: `rewards` imports this module

  _check_positive('max_length', max_length)
  _check_unit(unit)
  scores = {
    'right_short': right_short,
    'right_long': right_long,
    'wrong_short': wrong_short,
    'wrong_long': wrong_long,
    'exceeded': exceeded,
  }
  for name, value in scores.items():
    if not _is_number(value):
      raise ConfigError(f'{name} is {value!r}; it must be a finite number.')
  judge = rewards.resolve(correct)
  out = []
  for item in items:
    length = length_of(item, unit)
    short, long = (right_short, right_long) if judge([item])[0] >= 1 else (wrong_short, wrong_long)
    out.append(float(exceeded) if length >= max_length else cosine(length, max_length, short, long))
  return out


def cosine(length, max_length, short, long):
  """From `short` at length 0 to `long` at max_length, along half a cosine."""
  return long + (short - long) * (1 + math.cos(math.pi * length / max_length)) / 2


def soft_overlong(items, *, max_length=20_480, buffer=4_096, unit='tokens'):
  """DAPO's soft overlong punishment: 0 up to max_length - buffer, then falling linearly to -1 at max_length.

  The formula of `losses.soft_overlong`, for grading outside of training; in training, `reward.overlong_buffer` adds it.
  The defaults are the paper's.

  Args:
    items: list of dicts with 'response', and 'tokens' (int) if that is the unit.
    max_length, buffer: in `unit`; buffer in (0, max_length].
    unit: 'tokens', 'words' or 'characters'.

  Returns:
    list of float in [-1, 0].

  Raises:
    ConfigError: a buffer out of range, or an unknown unit.
    ValueError: an item without 'tokens' if that is the unit.
  """
  _check_positive('max_length', max_length)
  _check_positive('buffer', buffer)
  _check_unit(unit)
  if buffer > max_length:
    raise ConfigError(f'the overlong buffer of {buffer} {unit} is not in (0, {max_length}]; set it within max_length.')
  return [min(0.0, max(-1.0, (max_length - buffer - length_of(item, unit)) / buffer)) for item in items]


def repetition(items, *, n=40, scale=1.0):
  """Minus the share of a response's n-grams that occur in it earlier, times `scale` (Yeo et al. 2025).

  N-grams are of words, or of characters in Chinese text (see `words`). The paper's n is 40; it penalizes each repeated
  token separately, which a score for the whole response cannot do.

  Args:
    items: list of dicts with 'response'.
    n: length of an n-gram in words.
    scale: the penalty for a response that repeats everything; positive.

  Returns:
    list of float in (-scale, 0]; 0.0 for a response of fewer than n words.

  Raises:
    ConfigError: an n below 1, or a scale that is not positive.
  """
  if not isinstance(n, int) or isinstance(n, bool) or n < 1:
    raise ConfigError(f'n is {n!r}; an n-gram must have at least 1 word.')
  _check_positive('scale', scale)
  return [-scale * _repeated(words(item['response']), n) for item in items]


def _repeated(tokens, n):
  """The share of n-grams that have occurred before."""
  total = len(tokens) - n + 1
  # Keep hashes only: the n-grams themselves would take n times the memory of the text.
  return 1 - len({hash(tuple(tokens[i : i + n])) for i in range(total)}) / total if total > 0 else 0.0


def _is_number(value):
  return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_positive(name, value):
  if not _is_number(value) or value <= 0:
    raise ConfigError(f'{name} is {value!r}; it must be a positive number.')


def _check_unit(unit):
  if unit not in UNITS:
    raise ConfigError(f'the unit is {unit!r}; known: {", ".join(UNITS)}.')
