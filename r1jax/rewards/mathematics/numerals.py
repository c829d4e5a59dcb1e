"""Chinese numerals: 三十二, 二分之一, 百分之五十, 三点五, 一又二分之一, 二零二四, 3万."""

from fractions import Fraction
import re

_DIGITS = {c: i for i, c in enumerate('零一二三四五六七八九')} | {'两': 2}
_TENS = {'十': 10, '百': 100, '千': 1000}


def numeral(text):
  """The value of a Chinese numeral as a Fraction; None for any other text.

  Reads integers up to 亿亿, fractions with 又 and 分之, and decimals with 点.
  """
  whole, mixed, part = text.partition('又') if '又' in text else ('零', '', text)
  below, fraction, above = part.partition('分之')
  if fraction:
    below = '一' + below if below in _TENS else below  # 百分之五
    values = [numeral(text) for text in (whole, below, above)]
    return None if None in values or not values[1] else values[0] + values[2] / values[1]
  if mixed:
    return None
  before, point, after = text.partition('点')
  if point:
    value = numeral(before)
    if value is None or not after or any(c not in _DIGITS for c in after):
      return None
    return value + Fraction(int(''.join(str(_DIGITS[c]) for c in after)), 10 ** len(after))
  return _integer(text)


def _integer(text):
  """The value of a Chinese numeral without fraction or point; Arabic digits may precede 百, 千, 万 and 亿."""
  for unit, size in (('亿', 10**8), ('万', 10**4)):
    above, separator, below = text.rpartition(unit)
    if separator:
      high, low = _integer(above), _integer(below) if below else Fraction(0)
      return None if high is None or low is None or low >= size else high * size + low
  digits = re.match('[0-9]+(?:[.][0-9]+)?', text)
  if digits:
    value, rest = decimal(digits[0]), text[digits.end() :]
    return value if not rest else value * _TENS[rest] if rest in _TENS else None
  if not text or any(c not in _DIGITS and c not in _TENS for c in text):
    return None
  if len(text) > 1 and all(c in _DIGITS for c in text):  # digit by digit: 二零二四
    return Fraction(int(''.join(str(_DIGITS[c]) for c in text)))
  total, digit, last = 0, None, 10**4
  for character in text:
    if character in _TENS:
      size = _TENS[character]
      if size >= last or digit == 0 or (digit is None and character != '十'):
        return None
      total, digit, last = total + (1 if digit is None else digit) * size, None, size
    elif digit:
      return None
    else:
      digit = _DIGITS[character]
  return Fraction(total + (digit or 0))


def decimal(text):
  """The value of a decimal such as -1,234.50 as a Fraction."""
  sign, digits = (-1, text[1:]) if text[0] == '-' else (1, text)
  whole, _, places = digits.replace(',', '').partition('.')
  return sign * Fraction(int(whole + places or '0'), 10 ** len(places))
