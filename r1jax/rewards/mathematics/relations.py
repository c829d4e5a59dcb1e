"""Sets of real numbers, however they are stated: inequalities, intervals, unions, the reals, the empty set.

The numbers in two answers cut the line into these points and the gaps between them, so that each set is a set of
parts: of n numbers in order, part 2k + 1 is number k, and part 2k the gap below it.
"""

import functools
import re

from r1jax.rewards.mathematics import mathtext, symbolic

_BOUNDS = 12  # different numbers in two answers, at most
_SIGN = re.compile(r'\\(?:le|ge|ne)(?![A-Za-z])|[<>]|(?<!:)=')
_RELATION = re.compile(r'\\(?:le|ge|ne|in)(?![A-Za-z])|[<>]')
_FLIPPED = {'<': '>', '>': '<', '\\le': '\\ge', '\\ge': '\\le', '=': '=', '\\ne': '\\ne'}
_BUILDER = re.compile(r'\\\{ ?([^|:]*?) ?(?:\\mid(?![A-Za-z])|\\vert(?![A-Za-z])|[|:]) ?(.*[^ ]) ?\\\}')
_REAL = re.compile(r' ?\\in ?\\mathbb ?\{ ?R ?\}')
_NAME = re.compile(r'\\?[A-Za-z]+(?: ?_ ?(?:\{[^{}]*\}|[A-Za-z0-9]))?(?: ?\( ?[A-Za-z] ?\))?')
_CONSTANTS = {'e', 'i', '\\pi', '\\infty', '\\emptyset'}
_CUP, _SETMINUS = re.compile(r'\\cup(?![A-Za-z])'), re.compile(r'\\setminus(?![A-Za-z])')
_INFINITE = {'\\infty': 1, '+\\infty': 1, '-\\infty': -1}
_NO_SET = frozenset([-1])  # equal to none that is one
_NONE, _ALL = ('or', []), ('and', [])


def equal(gold, predicted, same):
  """Are two answers, as `mathtext.plain` gives them, one set of real numbers?

  Args:
    same: function of two texts: are these numbers equal?

  Returns:
    True or False; None where they are not both such sets or `gold` may be something else, as the point (1,2) or 5.
  """
  if not _is_set(gold):
    return None
  want, got = _read(gold, loose=True), _read(predicted)
  if want is None or got is None or want[0] and got[0] and want[0] != got[0]:
    return _chains(gold, predicted, same)
  places = _places([*_numbers(want[1]), *_numbers(got[1])], same)
  if places is None:
    return _chains(gold, predicted, same) if _numbers(want[1]) else False
  return _parts(want[1], *places) == _parts(got[1], *places)


def _is_set(text):
  """Does it state a set of real numbers and nothing else? [1,2] may be a pair, and an equation is one value."""
  interval = text[:1] in ('(', '[') and text[-1:] in (')', ']')
  return bool(
    _RELATION.search(text)
    or text in ('\\emptyset', '\\mathbb{R}')
    or '\\cup' in text
    or '\\setminus' in text
    or interval
    and text.count(',') == 1
    and (text[0] + text[-1] in ('[)', '(]') or '\\infty' in text)
  )


def _read(text, loose=False):
  """(name of the variable or '', the set) of a text; None where it is no such set.

  A set is (sign, number), the numbers in this relation to that one, or (how they are joined, sets): 'or', 'and',
  'list', which may be either, 'without' or 'interval'. loose: 'and' may be either, too.
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
  name, found, inside = text.partition('\\in')
  if found and not inside[:1].isalpha():
    inner = _set(inside.strip())
    return (name.strip(), inner) if inner and _is_name(name) else None
  operands = [part.strip() for part in _SIGN.split(text)]
  if len(operands) == 1:
    inner = _set(text)
    return inner and ('', inner)
  return _relation(operands, _SIGN.findall(text))


def _joined(kind, entries):
  """As _read, of entries as _read gives them, all of one named variable."""
  names = {entry and entry[0] for entry in entries}
  return (names.pop(), (kind, [inner for _, inner in entries])) if len(names) == 1 and all(names) else None


def _relation(operands, signs):
  """As _read, of a < x, or a < x < b."""
  at = next((i for i, operand in enumerate(operands) if _is_name(operand)), None)
  one_way = any(set(signs) <= way for way in ({'<', '\\le'}, {'>', '\\ge'}))
  if at is None or len(operands) > 2 and not (len(operands) == 3 and at == 1 and one_way):
    return None
  bounds = [(_FLIPPED[sign], number) for sign, number in zip(signs[:at], operands[:at], strict=True)]
  bounds += zip(signs[at:], operands[at + 1 :], strict=True)
  return (operands[at], ('and', bounds)) if all(number and not _is_name(number) for _, number in bounds) else None


def _set(text):
  """An interval, a set of numbers in braces, their unions, the reals, the empty set; None for all else."""
  for pattern, kind in ((_SETMINUS, 'without'), (_CUP, 'or')):
    pieces = pattern.split(text)
    if len(pieces) > 1:
      inner = [_set(piece.strip()) for piece in pieces]
      return None if None in inner or kind == 'without' and len(inner) > 2 else (kind, inner)
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


def _numbers(found):
  kind, inner = found
  return [number for each in inner for number in _numbers(each)] if isinstance(inner, list) else [inner]


def _places(numbers, same):
  """({text: place}, count) of the finite ones among numbers, in order; None where that is not known."""
  first, values = {}, {}
  for text in dict.fromkeys(numbers):
    if text not in _INFINITE:
      first[text] = next((other for other in values if same(other, text)), text)
      if first[text] == text:
        values[text] = symbolic.value(text)
      if values[first[text]] is None or len(values) > _BOUNDS:
        return None
  order = sorted(set(values.values()))
  if len(order) < len(values):  # two that differ beyond the digits known
    return None
  return {text: order.index(values[other]) for text, other in first.items()}, len(order)


def _parts(found, places, count):
  """The set of the parts of the line that a set is."""
  kind, inner = found
  every = frozenset(range(2 * count + 1))
  if not isinstance(inner, list):
    if inner in _INFINITE:
      return every if kind == ('<' if _INFINITE[inner] > 0 else '>') else _NO_SET  # a number equal to infinity
    point = 2 * places[inner] + 1
    return frozenset(
      part
      for part in every
      if {
        '<': part < point,
        '\\le': part <= point,
        '>': part > point,
        '\\ge': part >= point,
        '=': part == point,
        '\\ne': part != point,
      }[kind]
    )
  sets = [_parts(each, places, count) for each in inner]
  if kind == 'without':
    return sets[0] - sets[1]
  union = functools.reduce(frozenset.union, sets, frozenset())
  if kind == 'or':
    return union
  common = functools.reduce(frozenset.intersection, sets, every)
  if kind == 'interval' and not common:
    return _NO_SET  # (5, 2) is a point
  return common if kind == 'and' or common else union  # x < 1, x > 3: no number is both, so either


def _chains(gold, predicted, same):
  """True where one a < f(x) < b, of whatever terms, is the other or the other read from its end; else None."""
  sides = []
  for text in (gold, predicted):
    operands, signs = [part.strip() for part in _SIGN.split(text)], _SIGN.findall(text)
    if signs and signs[0] in ('>', '\\ge'):
      operands, signs = operands[::-1], [_FLIPPED[sign] for sign in reversed(signs)]
    sides.append((operands, signs))
  (want, signs), (got, others) = sides
  if len(signs) < 2 or signs != others or any(mark in text for text in (gold, predicted) for mark in mathtext.MARKS):
    return None
  return True if all(same(w, g) for w, g in zip(want, got, strict=True)) else None
