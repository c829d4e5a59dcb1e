"""Parses equations and assignments: sides, names on the left-hand side, and lists such as x = 1 or x = 2."""

import re

from r1jax.rewards.mathematics import mathtext

_EQUALS = re.compile(r'(?:(?<![<>!:=\\])=(?!=)|\\in(?![A-Za-z]))(?![^{}]*(?<!\\)\})')
SUBSCRIPT = re.compile(r'_ ?(?:\{[^{}]*\}|[A-Za-z0-9])')
_CONSTANT = re.compile(r'\\(?:frac|sqrt|pi|cdot|times|div|infty|circ|ln|log|sin|cos|tan|binom|pm)(?![A-Za-z])')
COMMAND = re.compile(r'\\[A-Za-z]+')
# The value of a function; the length of a segment or vector, or the size of a set. Not |x|: of |x| = 5, x may be -5.
CALL = re.compile(
  r"(?:[fghpqFGHPQRSTENVDC]|\\Pr|\\operatorname ?\{[A-Za-z]+\})(?:'*| ?\^ ?\{? ?(?:-1|\\prime) ?\}?) ?"
  r'(?:\((?:[^()]|\([^()]*\))*\)|\[[^][]*\])'
)
_BARS = re.compile(r"\|(?: ?[A-Z][A-Z'0-9 ]*|[zw]|[^|=<>]*\\(?:vec|overrightarrow)(?![A-Za-z])[^|=<>]*)\|")
CALL_MULTIPLE = re.compile(f'[0-9]+ ?{CALL.pattern}')
_SEGMENT = re.compile(r"\|([A-Z][A-Z'0-9 ]*)\||\\overline ?\{([A-Z][A-Z'0-9 ]*)\}")


def values(text):
  """(name, whether it is numbered, values) of x = 1; x = 2, of x_1 = 1; x_2 = 2 or of x = 1; 2. Else no values."""
  entries = [split_at_equals(entry) for entry in mathtext.split(text, mathtext.MARKS) or ()]
  if len(entries) < 2 or len(entries[0]) != 2 or any(len(entry) > 2 for entry in entries):
    return '', False, []
  labels = {mathtext.key(entry[0]) for entry in entries if len(entry) == 2}
  names = {SUBSCRIPT.sub('', label) for label in labels}
  if len(names) > 1 or not is_name(entries[0][0]) or len(labels) not in (1, len(entries)):
    return '', False, []
  return names.pop(), len(labels) > 1, [entry[-1].strip() for entry in entries]


def split_at_equals(text):
  """Splits the text at the signs = and \\in that are outside of brackets."""
  sides, start, position, depth = [], 0, 0, 0
  for sign in _EQUALS.finditer(text):
    between, position = text[position : sign.start()], sign.start()
    depth += sum(map(between.count, '([{')) - sum(map(between.count, ')]}'))
    if depth <= 0:
      sides.append(text[start:position])
      start = sign.end()
  return [*sides, text[start:]]


def left_side_key(text):
  """The key of a left-hand side, in which the length |AB| of a segment is the same as AB."""
  return mathtext.key(_SEGMENT.sub(lambda match: match[1] or match[2], text))


def is_name(text):
  """Whether it is a name: the left of x = 5, f(x) = 2x, m_{\\max} = n, AB = 3, f(2) = 3, P(X = 2) = 0.3, |AB| = 1."""
  text = SUBSCRIPT.sub('', text).strip()
  if not text or len(text) > 40 or '\\sqrt' in text:
    return False
  return not any(c in '0123456789+-*/^<>=|' for c in text) or bool(CALL.fullmatch(text) or _BARS.fullmatch(text))


def has_one_unknown(text):
  """Whether it is an expression in one letter, such as x - 1: then x - 1 = 5 means 6, unless x - 1 was asked for."""
  return not is_name(text) and len(set(re.findall('[A-Za-z]', COMMAND.sub('', text)))) == 1


def has_letter(text):
  return any(c.isalpha() for c in _CONSTANT.sub('', text))
