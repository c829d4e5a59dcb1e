"""Parses numbers with units exactly; never raises, and never takes long.

Reads a text that is one number in any notation: 1,234, 1.5, 3/4, 1\\frac{1}{2}, 2\\times10^{-5}, 0.1\\overline{6}, with
a percent sign, currency or unit, or in Chinese numerals.
"""

from fractions import Fraction
import re
from typing import NamedTuple

from r1jax.rewards.mathematics import mathtext, numerals


class Quantity(NamedTuple):
  """A number with a unit.

  Attributes:
    value: as written, so 50 for 50%.
    decimals: number of digits after the point; None for a fraction.
    percent: whether it is a percentage.
    unit: name of the unit; '' for none.
  """

  value: Fraction
  decimals: int | None
  percent: bool = False
  unit: str = ''


# One unit per line: its name, then its aliases. (Chinese counters are not units.)
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
_LETTERS = {'m', 's', 'h', 'g', 'l', 'L'}  # units only in \text{} or after a space: 6m may be 6 times m
_LENGTHS = {'mm', 'cm', 'dm', 'm', 'km', 'inch', 'foot', 'yard', 'mile', 'unit'}  # only these can be squared or cubed
# Words that change a number or join two numbers; never ignored, even if they occur in the problem.
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
  """Parses a text that is a single number.

  Args:
    text: normalized by `mathtext.normalize`.
    problem: text of the problem; its words may follow the number as the name of what is counted.
    strict: accept a single letter as a unit only inside `\\text{}`. For reference answers, where '6 m' may mean 6m.

  Returns:
    Quantity, or None if the text is not a single number.
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
  if rest.strip() in ('%', '\\%') or mathtext.strip_fonts(rest).strip().lower() in ('percent', 'pct', 'percentage'):
    return Quantity(value, decimals, True)
  unit = unit_of(rest, problem, strict)
  if unit is None or (percent and unit) or (money and unit not in ('', money)):
    return None
  return Quantity(value, decimals, percent, money or unit)


def _number(text):
  """(value, decimals, rest of the text, whether it is a percentage) of the number that begins the text, or None."""
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
  if not below or (parts['whole'] and (above < 0 or above.denominator > 1)):
    return None
  return int(parts['whole'] or 0) + above / below, None, rest, False


def _places(text):
  return len(text.partition('.')[2])


def unit_of(text, problem='', strict=False):
  """The unit in the text after a number: '' for none or a counting word; None if the text is not a unit."""
  after_space, text = text[:1] == ' ', text.strip()
  wrapped = bool(mathtext.FONT.match(text))
  text = mathtext.strip_fonts(text).removesuffix('.').strip() if wrapped else text
  scale = _SCALE.fullmatch(mathtext.strip_fonts(text))
  if scale:
    return 'celsius' if scale[1] else 'fahrenheit'
  if text in ('', '^\\circ', mathtext.CURRENCY):
    return {'': '', '^\\circ': 'degree', mathtext.CURRENCY: 'dollar'}[text]
  if len(text) > 60 or (text.partition('^')[0] in _LETTERS and not wrapped and (strict or not after_space)):
    return None
  power = 1
  for ending, exponent in (('^2', 2), ('^{2}', 2), ('^3', 3), ('^{3}', 3), (' squared', 2), (' cubed', 3)):
    if text.endswith(ending):
      text, power = text.removesuffix(ending).strip(), exponent
  for beginning, exponent in _POWERS:
    if text.startswith(beginning):
      text, power = text.removeprefix(beginning).strip(), exponent
  text = mathtext.strip_fonts(text)
  unit = _UNITS.get(text) or (len(text) > 2 and _UNITS.get(text.lower()))  # M is not a metre
  if unit and power > 1:
    return f'{unit}^{power}' if unit in _LENGTHS else None
  if unit:
    return unit
  for infix in (' per ', '/', ' an ', ' a '):
    above, separator, below = text.partition(infix)
    if separator and _UNITS.get(above.strip().lower()) and _UNITS.get(below.strip().lower()):
      return f'{_UNITS[above.strip().lower()]}/{_UNITS[below.strip().lower()]}'
  if text in _COUNTERS or (text[:1] in _COUNTERS and text[1:] in problem and not _HAN.search(text[1:])):
    return ''  # 5个, or 5个苹果 if the problem is about 苹果
  words = text.lower().split()
  known = set(re.findall('[a-z]+', problem.lower()))
  if 0 < len(words) <= 4 and all(
    w.isascii()
    and w.isalpha()
    and len(w) > 1
    and w not in _NO_UNITS
    and (w in known or w + 's' in known or w.removesuffix('s') in known)
    for w in words
  ):
    return ''
  return None


def _chinese(text):
  """As `_number`, for Chinese numerals and for digits followed by 百, 千, 万 or 亿."""
  match = _HAN.match(text[:60])
  if not match:
    return None
  # The shortest prefix that is a number followed by a unit: 三千克 is 3 of the unit 千克.
  for end in range(match.start('n') + 1, match.end('n') + 1):
    value = numerals.numeral(text[match.start('n') : end])
    if value is not None and (end == len(text) or unit_of(text[end:]) is not None or text[end] in '%'):
      percent = text[match.start('n') : end].startswith('百分之')
      value = value * 100 if percent else value
      return -value if match['sign'] else value, None, text[end:], percent
  return None
