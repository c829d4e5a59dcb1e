"""Numbers with units, read off an answer: exactly, and without ever raising or taking long.

A text that is one number is read however it is written: 1,234 or 1.5 or 3/4 or 1\\frac{1}{2} or 2\\times10^{-5} or
0.1\\overline{6}, with a percent sign, currency or unit, or in Chinese numerals.
"""

from fractions import Fraction
import re
from typing import NamedTuple

from r1jax.rewards.mathematics import mathtext, numerals


class Quantity(NamedTuple):
  """value: as written, 50 for 50%; decimals: digits after the point, None for a fraction; unit: '' for none."""

  value: Fraction
  decimals: int | None
  percent: bool = False
  unit: str = ''


# Units: the first name is the one that others are taken for. Counting words have no name: they are no unit.
_UNITS = {
  alias: names[0]
  for names in (
    line.split()
    for line in """
mm millimeter millimeters millimetre millimetres 毫米
cm centimeter centimeters centimetre centimetres 厘米 公分
dm decimeter decimeters 分米
m meter meters metre metres 米
km Km kilometer kilometers kilometre kilometres 千米 公里
inch inches in 英寸
foot feet ft 英尺
yard yards yd
mile miles mi 英里
second seconds sec secs s 秒
minute minutes min mins 分钟
hour hours hr hrs h 小时
day days 天
week weeks 周 星期
month months 个月
year years yr yrs 年 岁
mg milligram milligrams 毫克
g gram grams gm 克
kg Kg kilogram kilograms 千克 公斤
ton tons tonne tonnes 吨
pound pounds lb lbs 磅
ounce ounces oz
ml mL milliliter milliliters 毫升
liter liters litre litres L l 升
gallon gallons gal
dollar dollars usd USD 美元
cent cents ¢ 美分
euro euros €
yuan 元 块 ¥
jiao 角
mph
degree degrees deg 度
radian radians rad
unit units""".split('\n')
    if line
  )
  for alias in names
}
_COUNTERS = set('个只人名位本支枝张条件棵朵辆页次倍袋箱盒瓶道题组双对把台套头匹架艘间层排行列种步圈班粒颗根片分')
_POWERS = (('square ', 2), ('sq ', 2), ('sq. ', 2), ('平方', 2), ('cubic ', 3), ('cu ', 3), ('立方', 3))
_SCALE = re.compile(r'(?:\^ ?\\circ|degrees?) ?(?:(C|[Cc]elsius)|F|[Ff]ahrenheit)')
_LETTERS = {'m', 's', 'h', 'g', 'l', 'L'}  # a unit only in \text{} or after a space: 6m may be six times m
_LENGTHS = {'mm', 'cm', 'dm', 'm', 'km', 'inch', 'foot', 'yard', 'mile', 'unit'}  # only these are squared or cubed
# Words that change a number, or join two, whatever the problem is about.
_NO_UNITS = set(
  """zero one two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty sixty
seventy eighty ninety hundred thousand million billion trillion dozen score half halves third thirds fourth fourths
quarter quarters fifth fifths sixth sixths eighth eighths tenth tenths hundredth hundredths thousandth thousandths
wrong false incorrect except percent and or to plus minus times over by of less more than squared cubed factorial
point not no nor negative base mod modulo per divided equals is was maybe perhaps either but wait""".split()
)

_D = r'(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+)'
_FRACTION = re.compile(
  rf'(?:(?P<whole>[0-9]+) ?)?\\frac ?(?:\{{ ?(?P<n>-?{_D}) ?\}}|(?P<n1>[0-9])) ?'
  rf'(?:\{{ ?(?P<d>{_D}) ?\}}|(?P<d1>[0-9]))'
)
_SLASH = re.compile(rf'(?:(?P<whole>[0-9]+) )?(?P<n>{_D}) ?/ ?(?P<d>{_D})(?![.,]?[0-9])')
_POWER = re.compile(
  rf'(?P<m>{_D})(?: ?(?:\\times|\\cdot|\*|x) ?10 ?\^ ?'
  r'(?:\{ ?(?P<e>[+-]?[0-9]{1,4}) ?\}|(?P<e1>[0-9]))|[eE](?P<e2>[+-]?[0-9]{1,3})(?![0-9]))'
)
_DECIMAL = re.compile(_D)
_REPEATING = re.compile(
  r'(?P<whole>[0-9]*)\.(?P<first>[0-9]*)'
  r'(?:\\(?:overline|bar) ?(?:\{ ?(?P<r>[0-9]+) ?\}|(?P<r1>[0-9]))|(?<=\.)\((?P<r2>[0-9]+)\)|'
  r'\\dot ?\{? ?(?P<r3>[0-9]) ?\}?(?:(?P<r4>[0-9]*)\\dot ?\{? ?(?P<r5>[0-9]) ?\}?)?)'
)
_HAN = re.compile('(?P<sign>负)?(?P<n>[0-9.]*[零一二两三四五六七八九十百千万亿点又分之]+)')


def read(text, problem='', strict=False):
  """The Quantity that a plain text is, or None where it is not just one number.

  Args:
    text: as `mathtext.plain` gives it.
    problem: the problem's text; its words may stand behind the number as what is counted.
    strict: no single letter is a unit unless it stands in `\\text{}`. For reference answers, where '6 m' may be 6m.
  """
  sign, text = (text[0], text[1:].lstrip()) if text[:1] in ('+', '-') else ('', text)
  money = {mathtext.CURRENCY: 'dollar', '¥': 'yuan', '€': 'euro'}.get(text[:1])
  if money:
    text = text[1:].lstrip()
    sign, text = (text[0], text[1:].lstrip()) if text[:1] == '-' and not sign else (sign, text)
  number = _number(text.removeprefix('第'))
  if number is None:
    return None
  value, decimals, rest, percent = number
  value = -value if sign == '-' else value
  if rest.strip() in ('%', '\\%') or mathtext.words(rest).strip().lower() in ('percent', 'pct', 'percentage'):
    return Quantity(value, decimals, True)
  unit = unit_of(rest, problem, strict)
  if unit is None or percent and unit or money and unit not in ('', money):
    return None
  return Quantity(value, decimals, percent, money or unit)


def _number(text):
  """(value, decimals, what follows, whether per cent) of the number that begins the text, or None."""
  for pattern in (_FRACTION, _SLASH, _POWER, _REPEATING, _DECIMAL):
    match = pattern.match(text)
    if match:
      break
  else:
    return _chinese(text)
  parts, rest = match.groupdict(), text[match.end() :]
  if pattern is _DECIMAL:
    if rest[:1] and rest[0] in '万亿千百':
      return _chinese(text)
    return numerals.decimal(match[0]), _places(match[0]), rest, False
  if pattern is _REPEATING:
    repeated = ''.join(parts[name] or '' for name in ('r', 'r1', 'r2', 'r3', 'r4', 'r5'))
    size = 10 ** len(parts['first'])
    value = Fraction(int((parts['whole'] or '0') + parts['first']), size)
    return value + Fraction(int(repeated), (10 ** len(repeated) - 1) * size), None, rest, False
  if pattern is _POWER:
    exponent = int(parts['e'] or parts['e1'] or parts['e2'])
    return numerals.decimal(parts['m']) * Fraction(10) ** exponent, max(0, _places(parts['m']) - exponent), rest, False
  above, below = (numerals.decimal(parts[a] or parts.get(a + '1')) for a in 'nd')
  if not below or parts['whole'] and (above < 0 or above.denominator > 1):
    return None
  return int(parts['whole'] or 0) + above / below, None, rest, False


def _places(text):
  return len(text.partition('.')[2])


def unit_of(text, problem='', strict=False):
  """The unit that the text behind a number is: '' for none or a counting word; None for what is no unit."""
  apart, text = text[:1] == ' ', text.strip()
  wrapped = bool(mathtext.FONT.match(text))
  text = mathtext.words(text).removesuffix('.').strip() if wrapped else text
  scale = _SCALE.fullmatch(mathtext.words(text))
  if scale:
    return 'celsius' if scale[1] else 'fahrenheit'
  if text in ('', '^\\circ', mathtext.CURRENCY):
    return {'': '', '^\\circ': 'degree', mathtext.CURRENCY: 'dollar'}[text]
  if len(text) > 60 or text.partition('^')[0] in _LETTERS and not wrapped and (strict or not apart):
    return None
  power = 1
  for ending, exponent in (('^2', 2), ('^{2}', 2), ('^3', 3), ('^{3}', 3), (' squared', 2), (' cubed', 3)):
    if text.endswith(ending):
      text, power = text.removesuffix(ending).strip(), exponent
  for beginning, exponent in _POWERS:
    if text.startswith(beginning):
      text, power = text.removeprefix(beginning).strip(), exponent
  text = mathtext.words(text)
  unit = _UNITS.get(text) or len(text) > 2 and _UNITS.get(text.lower())  # M is no metre
  if unit and power > 1:
    return f'{unit}^{power}' if unit in _LENGTHS else None
  if unit:
    return unit
  for joint in (' per ', '/', ' an ', ' a '):
    above, found, below = text.partition(joint)
    if found and _UNITS.get(above.strip().lower()) and _UNITS.get(below.strip().lower()):
      return f'{_UNITS[above.strip().lower()]}/{_UNITS[below.strip().lower()]}'
  if text in _COUNTERS or text[:1] in _COUNTERS and text[1:] in problem and not _HAN.search(text[1:]):
    return ''  # 5个, and 5个苹果 where the problem is about 苹果
  named = text.lower().split()
  known = set(re.findall('[a-z]+', problem.lower()))
  if 0 < len(named) <= 4 and all(
    w.isascii()
    and w.isalpha()
    and len(w) > 1
    and w not in _NO_UNITS
    and (w in known or w + 's' in known or w.removesuffix('s') in known)
    for w in named
  ):
    return ''
  return None


def _chinese(text):
  """As _number, of a number in Chinese numerals, or a number in digits with 百, 千, 万 or 亿 behind it."""
  match = _HAN.match(text[:60])
  if not match:
    return None
  # The shortest beginning that is a number with a unit behind it: 三千克 is three of 千克.
  for end in range(match.start('n') + 1, match.end('n') + 1):
    value = numerals.numeral(text[match.start('n') : end])
    if value is not None and (end == len(text) or unit_of(text[end:]) is not None or text[end] in '%'):
      percent = text[match.start('n') : end].startswith('百分之')
      value = value * 100 if percent else value
      return -value if match['sign'] else value, None, text[end:], percent
  return None
