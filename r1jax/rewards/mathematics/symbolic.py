"""Equality of mathematical expressions: math-verify's yes, where evaluation at a few points does not deny it.

math-verify alone says yes too often for a reward: it takes 2^{-100} for 3^{-100}, x^2+1=0 for x^2+2=0 (no real
solution either), R-r for r-R, and drops what it takes for a unit. Sympy is imported on the first use.
"""

from fractions import Fraction
import functools
import logging
import re

_DIGITS = 30
_EXACT, _ROUNDED = 1e-15, 2e-6  # relative error allowed without, and with, decimals inside an expression
# Where expressions are evaluated: of either sign, below and above 1, no integer.
_POINTS = [
  Fraction(n, d)
  for n, d in ((7, 5), (-17, 23), (29, 13), (-41, 11), (3, 19), (-5, 3), (59, 7), (-1, 31), (37, 29), (-83, 6))
]
_TRIALS = 6
_PRODUCT = re.compile(r'(?<![_^])([0-9]) ?\(')  # the parser adds 2 and 4/3 in 2(4/3), as in a mixed number
_DECIMAL = re.compile(r'(?<![A-Za-z0-9.])([0-9]*)\.([0-9]{1,5})(?![0-9.])')  # of more digits, it may be rounded
_IMAGINARY = re.compile(r'(?<![A-Za-z\\])i(?![A-Za-z])')
_INDEX = re.compile(r'\\(?:sum|prod)(?![A-Za-z])|_ ?(?:i(?![A-Za-z])|\{[^{}]*(?<![A-Za-z\\])i(?![A-Za-z])[^{}]*\})')
_VERIFIED = 300  # bits that math-verify compares, nearly
_BITS = 1 << 22  # of the numbers in an expression, at most, where that is not enough


def equal(gold, predicted):
  """Are two LaTeX expressions, equations, inequalities or sets equal? May take long; raises nothing."""
  import math_verify

  # It warns once that its own limits are off. They are signals, caught in Python: no use against a
  # long operation in C, and the pool's limit stands above them.
  logging.getLogger('math_verify').setLevel(logging.ERROR)
  imaginary = _imaginary(gold, predicted)
  try:
    sides = _parsed(gold, imaginary), _parsed(predicted, imaginary)
    # Digits enough that a small number is not taken for nothing.
    return not _denied(*sides) and math_verify.verify(*sides, numeric_precision=100, timeout_seconds=None)
  except MemoryError:
    raise
  except Exception:  # what a parser raises on a model's text is no right answer
    return False


def value(text):
  """The real number that an expression without variables is, to 30 digits, a sympy Float; None for all else."""
  try:
    number = _parsed(text, _imaginary(text)).evalf(_DIGITS)
    return number if number.is_Float or number.is_Integer or number.is_Rational else None
  except MemoryError:
    raise
  except Exception:
    return None


def near(text, value, error):
  """Is an expression without variables within `error` of `value`? Both Fraction. May take long; raises nothing."""
  import sympy

  try:
    side = _parsed(text, _imaginary(text))
    digits = _DIGITS + len(str(value.numerator))
    gap = (side - sympy.Rational(value.numerator, value.denominator)).evalf(digits, maxn=2 * digits)
    return bool(gap.is_number and abs(gap) < sympy.Rational(error.numerator, error.denominator) * (1 - _EXACT))
  except MemoryError:
    raise
  except Exception:
    return False


def _imaginary(*texts):
  """Is the letter i in any of them the imaginary unit? It is where it counts nothing."""
  return any(map(_IMAGINARY.search, texts)) and not any(map(_INDEX.search, texts))


@functools.lru_cache(maxsize=256)
def _parsed(text, imaginary=False):
  """What math-verify's parser reads in the whole text, a sympy object. Raises what the parser raises.

  Not `math_verify.parse`: where it cannot read the whole it falls back on a fraction somewhere inside. Kept, as the
  responses of a group share their reference, and often their answer.
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
  parsed = parser.latex2sympy(
    text,
    is_real=None if imaginary else True,
    convert_degrees=False,
    normalization_config=None,
    conversion_config=ConversionConfig(lowercase_symbols=False),
  )
  return parsed.subs(sympy.Symbol('i'), sympy.I) if imaginary else parsed


def _denied(a, b):
  """Do numbers show that two sympy objects differ?"""
  import sympy

  for kind in (sympy.MatrixBase | sympy.MatrixExpr, sympy.Expr):
    if isinstance(a, kind) != isinstance(b, kind):
      return True  # a number is no set, and no equation
    if isinstance(a, sympy.MatrixBase | sympy.MatrixExpr):
      return False
  if isinstance(a, sympy.Expr) and bool(a.free_symbols) != bool(b.free_symbols):
    return True  # x/x is no answer where 1 is
  if _differ_by_little(a, b):
    return True
  names = sorted({s.name for side in (a, b) for s in side.free_symbols})
  ratio = None
  for trial in range(_TRIALS if names else 1):
    point = {name: _POINTS[(i * 3 + trial) % len(_POINTS)] + i for i, name in enumerate(names)}
    if isinstance(a, sympy.Expr):
      if not _agree(_at(a, point), _at(b, point), _ROUNDED if a.has(sympy.Float) or b.has(sympy.Float) else _EXACT):
        return True
    elif isinstance(a, sympy.Equality) and isinstance(b, sympy.Equality):
      # Two equations are one where a constant factor lies between them.
      one, other = _at(a.lhs - a.rhs, point), _at(b.lhs - b.rhs, point)
      if one is None or other is None:
        continue
      if not one or not other or ratio is not None and not _agree(one / other, ratio, _ROUNDED):
        return True
      ratio = one / other
    elif isinstance(a, sympy.logic.boolalg.Boolean) and isinstance(b, sympy.logic.boolalg.Boolean):
      holds = [side.subs({s: sympy.Rational(point[s.name]) for s in side.free_symbols}) for side in (a, b)]
      if all(h in (True, False) for h in holds) and holds[0] != holds[1]:
        return True
  return False


def _differ_by_little(a, b):
  """Do two sympy objects with very large or small numbers in them differ, beyond the digits that all else compares?"""
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
  gap = (a.subs(point).doit() - b.subs(point).doit()).evalf(15, maxn=bits + 100)
  return not _vanishes(gap) if gap.is_number else True


def _bits(side):
  """About how many bits the numbers in a sympy object have before and after the point, its powers worked out."""
  import sympy

  if side.is_Rational:
    return int(side.p).bit_length() + int(side.q).bit_length() - 1
  if not getattr(side, 'args', ()):
    return 4
  bits = sum(map(_bits, side.args))
  if isinstance(side, sympy.Sum | sympy.Product):
    return bits + _bits(side.function.subs({limit[0]: limit[-1] for limit in side.limits}))
  if isinstance(side, sympy.Pow | sympy.Function):
    arg = side.exp if isinstance(side, sympy.Pow) else side.args[0]
    size = abs(arg.evalf(5, subs=dict.fromkeys(arg.free_symbols, 70)))
    base = _bits(side.base) if isinstance(side, sympy.Pow) else _bits(arg)
    bits += int(size * base) if size.is_number and size.is_finite else 0
  return bits


def _at(side, point):
  """The value of an expression at a point, name -> Fraction; None where it has none."""
  import sympy

  values = {s: sympy.Rational(point[s.name].numerator, point[s.name].denominator) for s in side.free_symbols}
  value = side.evalf(_DIGITS, subs=values)
  return value if value.is_number and value.is_finite else None


def _agree(a, b, error):
  """Two numbers, either None for unknown, which agrees with everything."""
  if a is None or b is None:
    return True
  size = max(abs(a), abs(b))
  return _vanishes(a) and _vanishes(b) or bool(abs(a - b) <= error * size)


def _vanishes(value):
  """Zero, or a difference of which no digit is known: what is left of two equal terms."""
  return value == 0 or all(part == 0 or part.is_Float and part._prec == 1 for part in value.as_real_imag())
