"""Equality of mathematical expressions: math-verify says yes, and numbers at a few points do not contradict it.

math-verify alone says yes too often for a reward: it judges 2^{-100} equal to 3^{-100}, x^2+1=0 to x^2+2=0 (neither has
a real solution) and R-r to r-R, and drops what it takes for a unit. Sympy is imported on first use.
"""

from fractions import Fraction
import functools
import logging
import re
from typing import Any, cast

_DIGITS = 30
_EXACT, _ROUNDED = 1e-15, 2e-6  # relative tolerance for expressions without and with decimals
# Points at which expressions are evaluated: of both signs, below and above 1, no integers.
_POINTS = [
  Fraction(n, d)
  for n, d in ((7, 5), (-17, 23), (29, 13), (-41, 11), (3, 19), (-5, 3), (59, 7), (-1, 31), (37, 29), (-83, 6))
]
_TRIALS = 6
_PRODUCT = re.compile(r'(?<![_^])([0-9]) ?\(')  # the parser takes 2(4/3) for a mixed number
_DECIMAL = re.compile(r'(?<![A-Za-z0-9.])([0-9]*)\.([0-9]{1,5})(?![0-9.])')  # with more digits it may be rounded
_IMAGINARY = re.compile(r'(?<![A-Za-z\\])i(?![A-Za-z])')
_INDEX = re.compile(r'\\(?:sum|prod)(?![A-Za-z])|_ ?(?:i(?![A-Za-z])|\{[^{}]*(?<![A-Za-z\\])i(?![A-Za-z])[^{}]*\})')
_VERIFIED = 300  # about the number of bits that math-verify compares
_BITS = 1 << 22  # for larger numbers: the most bits in an expression that are evaluated


def equal(gold, predicted):
  """Whether two LaTeX expressions, equations, inequalities or sets are equal. May take long.

  Raises only MemoryError.
  """
  import math_verify

  # Silences its warning that its time limits are off. They are signals caught in Python, which cannot interrupt a long
  # operation in C; the limit of the pool applies instead.
  logging.getLogger('math_verify').setLevel(logging.ERROR)
  imaginary = _imaginary(gold, predicted)
  try:
    sides = _parsed(gold, imaginary), _parsed(predicted, imaginary)
    # Enough digits that a small number is not taken for zero.
    return not _refuted(*sides) and math_verify.verify(*sides, numeric_precision=100, timeout_seconds=None)
  except MemoryError:
    raise
  except Exception:  # a text that cannot be parsed is not a correct answer
    return False


def value(text):
  """The value of an expression without variables to 30 digits, a sympy Float; None if it is not a real number."""
  try:
    number = _parsed(text, _imaginary(text)).evalf(_DIGITS)
    return number if number.is_Float or number.is_Integer or number.is_Rational else None
  except MemoryError:
    raise
  except Exception:
    return None


def is_close(text, value, error):
  """Whether an expression without variables is within `error` of `value` (both Fraction). May take long.

  Raises only MemoryError.
  """
  import sympy

  try:
    side = _parsed(text, _imaginary(text))
    digits = _DIGITS + len(str(value.numerator))
    difference = (side - sympy.Rational(value.numerator, value.denominator)).evalf(digits, maxn=2 * digits)
    return bool(
      difference.is_number and abs(difference) < sympy.Rational(error.numerator, error.denominator) * (1 - _EXACT)
    )
  except MemoryError:
    raise
  except Exception:
    return False


def _imaginary(*texts):
  """Whether the letter i in the texts is the imaginary unit: it is, unless it is used as an index."""
  return any(map(_IMAGINARY.search, texts)) and not any(map(_INDEX.search, texts))


@functools.lru_cache(maxsize=256)
def _parsed(text, imaginary=False) -> Any:
  """Parses the whole text with math-verify's parser into a sympy object. Raises what the parser raises.

  Does not use `math_verify.parse`, which falls back on some fraction inside a text that it cannot read as a whole.
  Cached, because the responses of a group share their reference, and often their answer.
  """
  from latex2sympy2_extended.latex2sympy2 import ConversionConfig
  from math_verify import parser
  import sympy

  text = _PRODUCT.sub(r'\1\\cdot(', text)
  text = _DECIMAL.sub(lambda m: f'\\frac{{{int(m[1] + m[2])}}}{{{10 ** len(m[2])}}}', text)
  text = parser.normalize_latex(
    text,
    parser.NormalizationConfig(
      basic_latex=True, units=False, malformed_operators=True, nits=True, boxed='none', equations=False
    ),
  )
  parsed: Any = parser.latex2sympy(
    text,
    is_real=None if imaginary else True,
    convert_degrees=False,
    normalization_config=None,
    conversion_config=ConversionConfig(lowercase_symbols=False),
  )
  return parsed.subs(sympy.Symbol('i'), sympy.I) if imaginary else parsed


def _refuted(a, b):
  """Whether evaluation shows that two sympy objects differ."""
  import sympy

  for kind in (sympy.MatrixBase | sympy.MatrixExpr, sympy.Expr):
    if isinstance(a, kind) != isinstance(b, kind):
      return True  # a number is neither a set nor an equation
    if isinstance(a, sympy.MatrixBase | sympy.MatrixExpr):
      return False
  if isinstance(a, sympy.Expr) and bool(a.free_symbols) != bool(b.free_symbols):
    return True  # x/x is not an answer if 1 is
  if _differ_beyond_precision(a, b):
    return True
  names = sorted(_names(a) | _names(b))
  ratio = None
  for trial in range(_TRIALS if names else 1):
    point = {name: _POINTS[(i * 3 + trial) % len(_POINTS)] + i for i, name in enumerate(names)}
    if isinstance(a, sympy.Expr):
      if not _agree(
        _evaluate(a, point), _evaluate(b, point), _ROUNDED if a.has(sympy.Float) or b.has(sympy.Float) else _EXACT
      ):
        return True
    elif isinstance(a, sympy.Equality) and isinstance(b, sympy.Equality):
      # Two equations are equivalent if they differ by a constant factor.
      left, right = (_evaluate(cast(Any, side.lhs) - side.rhs, point) for side in (a, b))
      if left is None or right is None:
        continue
      if not left or not right or (ratio is not None and not _agree(left / right, ratio, _ROUNDED)):
        return True
      ratio = left / right
    elif isinstance(a, sympy.logic.boolalg.Boolean) and isinstance(b, sympy.logic.boolalg.Boolean):
      holds = [side.subs(_values(side, point)) for side in (a, b)]
      if all(h in (True, False) for h in holds) and holds[0] != holds[1]:
        return True
  return False


def _differ_beyond_precision(a, b):
  """Whether two sympy objects with very large or small numbers differ beyond the precision used elsewhere."""
  import sympy

  bits = _bits(a) + _bits(b)
  if bits <= _VERIFIED or a == b:
    return False
  if bits > _BITS or not isinstance(a, sympy.Expr):
    return a.doit() != b.doit()
  point = {
    s: sympy.Rational(_POINTS[i % len(_POINTS)].numerator, _POINTS[i % len(_POINTS)].denominator)
    for i, s in enumerate(sorted(a.free_symbols | b.free_symbols, key=str))
  }
  difference = (a.subs(point).doit() - b.subs(point).doit()).evalf(15, maxn=bits + 100)
  return not _vanishes(difference) if difference.is_number else True


def _bits(side):
  """About how many bits the numbers in a sympy object have before and after the point, with its powers expanded."""
  import sympy

  if side.is_Rational:
    return int(side.p).bit_length() + int(side.q).bit_length() - 1
  if not getattr(side, 'args', ()):
    return 4
  bits = sum(map(_bits, side.args))
  if isinstance(side, sympy.Sum | sympy.Product):
    return bits + _bits(side.function.subs({limit[0]: limit[-1] for limit in side.limits}))
  if isinstance(side, sympy.Pow | sympy.Function):
    arg: Any = side.exp if isinstance(side, sympy.Pow) else side.args[0]
    size = abs(arg.evalf(5, subs=dict.fromkeys(arg.free_symbols, 70)))
    base = _bits(side.base) if isinstance(side, sympy.Pow) else _bits(arg)
    bits += int(size * base) if size.is_number and size.is_finite else 0
  return bits


def _names(side):
  return {s.name for s in side.free_symbols}


def _values(side, point) -> dict:
  """The values of the symbols of a sympy object at a point (name -> Fraction)."""
  import sympy

  return {s: sympy.Rational(point[s.name].numerator, point[s.name].denominator) for s in side.free_symbols}


def _evaluate(side, point):
  """The value of an expression at a point; None if it has none."""
  value = side.evalf(_DIGITS, subs=_values(side, point))
  return value if value.is_number and value.is_finite else None


def _agree(a, b, error):
  """Whether two numbers agree up to a relative error; None is unknown and agrees with everything."""
  if a is None or b is None:
    return True
  size = max(abs(a), abs(b))
  return (_vanishes(a) and _vanishes(b)) or bool(abs(a - b) <= error * size)


def _vanishes(value):
  """Whether a value is zero, or a difference without any significant digit, as of two equal terms."""
  return value == 0 or all(part == 0 or (part.is_Float and part._prec == 1) for part in value.as_real_imag())
