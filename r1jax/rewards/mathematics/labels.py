r"""Splits a choice letter from the value of that choice, as printed in contests: \textbf{(C)}\ 25."""

import re

from r1jax.rewards import answers
from r1jax.rewards.mathematics import mathtext

_LABEL = re.compile(r'[(\[](?:\\text(?:bf|rm)? ?\{)? ?([A-J]) ?\}?[)\]][.:]? ?|([A-J])[.:)](?: |$)')
_LETTER_ONLY = re.compile('([A-J]) ?')  # \text{C} \sqrt{3}
_TRAILING = re.compile(r'(?:\\(?:text(?:bf|rm)?|math(?:bf|rm)) ?\{ ?|(?<=[0-9]) )\(([A-J])\) ?\}?$')
_LISTED = re.compile('([A-J]), ?(?=.)')
_OTHER_LETTER = re.compile(r'[(\[] ?[A-J] ?[)\]]|(?<![A-Za-z\\])[A-J](?:[.:)](?: |$)|(?![A-Za-z]))')
# What a value may begin with, and a command that it must not contain.
_VALUE = re.compile(r'[-(\[{]*(?:[0-9.]|[a-z](?![A-Za-z])|\\\$|\\(?!times|cdot|text|rm)[A-Za-z])')
_COMMANDS = re.compile(
  r'\\(?!(?:frac|sqrt|pi|infty|cdot|times|circ|log|ln|sin|cos|tan|text|textbf|mathrm|rm)'
  r'(?![A-Za-z])|[%${}])'
)
_PROSE = re.compile('[A-Za-z]{3}|[\u4e00-\u9fff]|[?]')


def split(text, listed=False):
  """Splits a text that is a choice letter from A to J and a value.

  Args:
    text: normalized by `mathtext.normalize`.
    listed: whether to accept `C, 25`, too.

  Returns:
    (letter, value), or None for any other text.
  """
  pair = _split(text, listed)
  if pair is None:
    return None
  letter, value = pair[0], mathtext.normalize(pair[1])
  if not value or value[0] in ',;' or value[-1] in ',;' or re.search(r'\( ?[A-J] ?\)', value):
    return None
  return letter, value


def _split(text, listed):
  font = mathtext.FONT.match(text)
  if font and text[font.end() : font.end() + 1] == '{':
    start = font.end() + 1
    end = answers.closing(text[start:])
    if end is None:
      return None
    inside, after = text[start : start + end], text[start + end + 1 :]
    label = _LABEL.match(inside)
    if label:
      rest = inside[label.end() :].strip()
      return label[1] or label[2], f'{font[0].strip()}{{{rest}}}{after}' if rest else after
    label = _LETTER_ONLY.fullmatch(inside) if 'text' in font[0] else None
    if label and (inside[-1] == ' ' or after[:1] in (' ', ':', '.')):
      return label[1], after.lstrip(':. ')
  label = _LABEL.match(text) or (listed and _LISTED.match(text))
  if label:
    return next(filter(None, label.groups())), text[label.end() :]
  label = _TRAILING.search(text)
  return (label[1], text[: label.start()]) if label and label.start() else None


def is_value(value, problem=''):
  """Whether the text after a letter is a value, or words of the problem (and not a remark or another letter)."""
  value = value.replace(mathtext.CURRENCY, '')
  words = mathtext.strip_fonts(re.sub(r'\\[A-Za-z]+ ?', ' ', value))
  if len(words) > 3 and ' '.join(words.split()) in ' '.join(mathtext.strip_fonts(problem).split()):
    return True
  return (
    bool(_VALUE.match(value))
    and value[-1] not in ',;='
    and not any(pattern.search(text) for pattern, text in ((_COMMANDS, value), (_PROSE, words), (_OTHER_LETTER, words)))
  )
