"""Compares sets of real numbers in any notation: inequalities, intervals, unions, the reals, the empty set.

The numbers in two answers divide the real line into points and the open intervals between them, so every set is a set
of such pieces. Of n numbers in order, piece 2k + 1 is number k, and piece 2k is the interval below it.
"""

import functools
import re

from r1jax.rewards.mathematics import mathtext, symbolic

_BOUNDS = 12  # most different numbers in two answers
_SIGN = re.compile(r'\\(?:le|ge|ne)(?![A-Za-z])|[<>]|(?<!:)=')
_RELATION = re.compile(r'\\(?:le|ge|ne|in)(?![A-Za-z])|[<>]')
_FLIPPED = {'<': '>', '>': '<', '\\le': '\\ge', '\\ge': '\\le', '=': '=', '\\ne': '\\ne'}
_BUILDER = re.compile(r'\\\{ ?([^|:]*?) ?(?:\\mid(?![A-Za-z])|\\vert(?![A-Za-z])|[|:]) ?(.*[^ ]) ?\\\}')
_REAL = re.compile(r' ?\\in ?\\mathbb ?\{ ?R ?\}')
_NAME = re.compile(r'\\?[A-Za-z]+(?: ?_ ?(?:\{[^{}]*\}|[A-Za-z0-9]))?(?: ?\( ?[A-Za-z] ?\))?')
_CONSTANTS = {'e', 'i', '\\pi', '\\infty', '\\emptyset'}
_CUP, _SETMINUS = re.compile(r'\\cup(?![A-Za-z])'), re.compile(r'\\setminus(?![A-Za-z])')
_INFINITE = {'\\infty': 1, '+\\infty': 1, '-\\infty': -1}
_NO_SET = frozenset([-1])  # not equal to any set
_NONE, _ALL = ('or', []), ('and', [])


def equal(gold, predicted, equal_numbers):
  """Whether two answers are the same set of real numbers.

  Args:
    gold, predicted: answers normalized by `mathtext.normalize`.
    equal_numbers: function of two texts that says whether they are equal numbers.

  Returns:
    True or False; None if they are not both sets, or if `gold` may be something else, such as the point (1,2) or 5.
  """
  if not _is_set(gold):
    return None
  expected, got = _read(gold, loose=True), _read(predicted)
  if expected is None or got is None or (expected[0] and got[0] and expected[0] != got[0]):
    return _chains(gold, predicted, equal_numbers)
  order = _sort_numbers([*_numbers(expected[1]), *_numbers(got[1])], equal_numbers)
  if order is None:
    return _chains(gold, predicted, equal_numbers) if _numbers(expected[1]) else False
  return _pieces(expected[1], *order) == _pieces(got[1], *order)


def _is_set(text):
  """Whether it can only be a set of real numbers; [1,2] may be a pair, and an equation is a single value."""
  interval = text[:1] in ('(', '[') and text[-1:] in (')', ']')
  return bool(
    _RELATION.search(text)
    or text in ('\\emptyset', '\\mathbb{R}')
    or '\\cup' in text
    or '\\setminus' in text
    or (interval and text.count(',') == 1 and (text[0] + text[-1] in ('[)', '(]') or '\\infty' in text))
  )


def _read(text, loose=False):
  """Parses a text into (name of the variable or '', set); None if it is not a set.

  A set is (sign, number), the numbers that are in this relation to the number; or (kind, list of sets), where kind is
  'or', 'and', 'list' (a union or an intersection), 'without' or 'interval'.

  Args:
    text: normalized by `mathtext.normalize`.
    loose: read 'and' as 'list', too.
  """
  text = text.strip()
  builder = _BUILDER.fullmatch(text)
  if builder:
    inner = _read(builder[2], loose)
    return inner if inner and inner[0] in ('', _REAL.sub('', builder[1]).strip()) else None
  for mark, kind in ((';', 'or'), (mathtext.AND, 'list' if loose else 'and'), (',', 'list')):
    entries = mathtext.split(text, mark)
    if entries is None:
      return None
    if len(entries) > 1:
      return _joined(kind, [_read(entry, loose) for entry in entries])
  pieces = _CUP.split(text)
  if len(pieces) > 1 and all(map(_SIGN.search, pieces)):  # x < 1 \cup x > 3
    return _joined('or', [_read(piece, loose) for piece in pieces])
  name, member_sign, inside = text.partition('\\in')
  if member_sign and not inside[:1].isalpha():
    inner = _set(inside.strip())
    return (name.strip(), inner) if inner and _is_name(name) else None
  operands = [part.strip() for part in _SIGN.split(text)]
  if len(operands) == 1:
    inner = _set(text)
    return inner and ('', inner)
  return _relation(operands, _SIGN.findall(text))


def _joined(kind, entries):
  """As `_read`: joins results of `_read` that are all about the same named variable."""
  names = {entry and entry[0] for entry in entries}
  return (names.pop(), (kind, [inner for _, inner in entries])) if len(names) == 1 and all(names) else None


def _relation(operands, signs):
  """As `_read`, for a < x and a < x < b."""
  index = next((i for i, operand in enumerate(operands) if _is_name(operand)), None)
  one_way = any(set(signs) <= way for way in ({'<', '\\le'}, {'>', '\\ge'}))
  if index is None or (len(operands) > 2 and not (len(operands) == 3 and index == 1 and one_way)):
    return None
  bounds = [(_FLIPPED[sign], number) for sign, number in zip(signs[:index], operands[:index], strict=True)]
  bounds += zip(signs[index:], operands[index + 1 :], strict=True)
  return (operands[index], ('and', bounds)) if all(number and not _is_name(number) for _, number in bounds) else None


def _set(text):
  """Parses an interval, a set in braces, a union of these, the reals or the empty set; None for anything else."""
  for pattern, kind in ((_SETMINUS, 'without'), (_CUP, 'or')):
    pieces = pattern.split(text)
    if len(pieces) > 1:
      inner = [_set(piece.strip()) for piece in pieces]
      return None if None in inner or (kind == 'without' and len(inner) > 2) else (kind, inner)
  if text in ('\\emptyset', '\\mathbb{R}'):
    return _NONE if text == '\\emptyset' else _ALL
  braces = text.startswith('\\{') and text.endswith('\\}')
  entries = mathtext.split(text[2:-2] if braces else text[1:-1], mathtext.MARKS)
  if entries is None or '' in entries:
    return None
  if braces:
    return ('or', [('=', entry) for entry in entries])
  if text[:1] not in ('(', '[') or text[-1:] not in (')', ']') or len(entries) != 2:
    return None
  low, high = '>' if text[0] == '(' else '\\ge', '<' if text[-1] == ')' else '\\le'
  return ('interval', [(low, entries[0]), (high, entries[1])])


def _is_name(text):
  text = text.strip()
  return bool(_NAME.fullmatch(text)) and text not in _CONSTANTS


def _numbers(parsed):
  _kind, inner = parsed
  return [number for each in inner for number in _numbers(each)] if isinstance(inner, list) else [inner]


def _sort_numbers(numbers, equal_numbers):
  """Sorts the finite numbers: returns ({text: index in order}, count); None if their order is not known."""
  representative, values = {}, {}
  for text in dict.fromkeys(numbers):
    if text not in _INFINITE:
      representative[text] = next((known for known in values if equal_numbers(known, text)), text)
      if representative[text] == text:
        values[text] = symbolic.value(text)
      if values[representative[text]] is None or len(values) > _BOUNDS:
        return None
  order = sorted(set(values.values()))
  if len(order) < len(values):  # two numbers that differ beyond the known digits
    return None
  return {text: order.index(values[known]) for text, known in representative.items()}, len(order)


def _pieces(parsed, order, count):
  """The frozenset of pieces of the real line that make up a set."""
  kind, inner = parsed
  every = frozenset(range(2 * count + 1))
  if not isinstance(inner, list):
    if inner in _INFINITE:
      return every if kind == ('<' if _INFINITE[inner] > 0 else '>') else _NO_SET  # no number equals infinity
    point = 2 * order[inner] + 1
    return frozenset(
      piece
      for piece in every
      if {
        '<': piece < point,
        '\\le': piece <= point,
        '>': piece > point,
        '\\ge': piece >= point,
        '=': piece == point,
        '\\ne': piece != point,
      }[kind]
    )
  sets = [_pieces(each, order, count) for each in inner]
  if kind == 'without':
    return sets[0] - sets[1]
  union = functools.reduce(frozenset.union, sets, frozenset())
  if kind == 'or':
    return union
  common = functools.reduce(frozenset.intersection, sets, every)
  if kind == 'interval' and not common:
    return _NO_SET  # (5, 2) is a point, not an interval
  return common if kind == 'and' or common else union  # x < 1, x > 3: no number is both, so the list means a union


def _chains(gold, predicted, equal_numbers):
  """True if both are the same chain a < f(x) < b of any terms, perhaps written in reverse; else None."""
  sides = []
  for text in (gold, predicted):
    operands, signs = [part.strip() for part in _SIGN.split(text)], _SIGN.findall(text)
    if signs and signs[0] in ('>', '\\ge'):
      operands, signs = operands[::-1], [_FLIPPED[sign] for sign in reversed(signs)]
    sides.append((operands, signs))
  (expected, signs), (got, others) = sides
  if len(signs) < 2 or signs != others or any(mark in text for text in (gold, predicted) for mark in mathtext.MARKS):
    return None
  return True if all(equal_numbers(w, g) for w, g in zip(expected, got, strict=True)) else None
