"""Decides whether two answers to a mathematics problem are equal: cheap exact comparisons first, then math-verify.

- Numbers are compared exactly, as fractions. A unit may be left out, but two units must agree. 50% equals 0.5. It also
  equals 50 if the reference has a percent sign, or is an integer above 1 and the problem mentions percent (or is not
  known). A decimal equals a number that it cannot represent exactly only if it has six significant digits and six after
  the point, all of them correct.
- If one value is asked for, a list (commas, 'and', 'or', \\pm, a set, several boxes) is correct only if each entry is
  that value, so a list of guesses is wrong. Lists and sets are compared in any order; tuples, intervals and matrices
  entry by entry; a chain a = b = 5 by its last part, and each earlier part must contain a letter or be equal, too.
- Sets of real numbers are compared as sets (`relations`): 0 < x < 1 equals (0,1), and so does x > 0 and x < 1. A bare
  (1,2) or [1,2] may be something else, so it equals only itself.
- Words and choice letters are compared as text, words without regard to case. Of a letter and its value, (C) 25, either
  is enough, but both must be correct if both are given.
- Everything else is decided by math-verify, and a yes must be confirmed by numbers (`symbolic`).
"""

from fractions import Fraction
import re

from r1jax.rewards import answers
from r1jax.rewards.mathematics import equations, labels, mathtext, quantity, relations, symbolic

_ENTRIES = 16  # most entries of a list that is compared in any order
_DEPTH = 4  # most levels of nested lists
_NESTED = 30  # most levels of brackets; the time of math-verify's parser grows with a power of them
_LETTER = re.compile(r'[(\[]?([A-Z])[)\]]?\.?')
_WORDS = re.compile("[A-Za-z][A-Za-z' -]*")
_WORD = re.compile('[A-Za-z]{3}')  # two letters may be a product
_SHORT_WORDS = 'am|an|as|at|be|by|do|go|he|hi|if|in|is|it|me|my|no|of|oh|ok|on|or|so|to|up|us|we'
# One short word, or words and numbers separated by a space.
_PHRASE = re.compile(
  rf'(?i:{_SHORT_WORDS})|[A-Z][a-z]|[A-Za-z]{{3,}}\.? +[0-9]+|'
  r'[0-9]+ +[A-Za-z]{3,}(?: [A-Za-z]+)*\.?'
)
_LETTERS = re.compile('[A-Za-z]+|[0-9]+')
_HAN = re.compile('[\u4e00-\u9fff]')
_MATRIX = re.compile(r'\\begin ?\{([pb]?)matrix\}((?:(?!\\begin).)*)\\end ?\{\1matrix\} ?')
_BASED = re.compile(r'(\()?([0-9A-Fa-f]+)(?(1)\))_(\()?(?:base)?([0-9]+)(?(3)\))')
_NOT_ONE_EXPRESSION = re.compile(r'(?<![\^_])[0-9.] +[0-9.]|[0-9] ?_|\\\\')  # adjacent numbers, a base, a line break
_ROW = re.compile(f'[0-9]+(?: ?[{mathtext.MARKS}] ?[0-9]+)+')
_ANGLES = re.compile(r'\\?(?:sin|cos|tan|cot|sec|csc)')
# What an answer may contain even if the reference does not. math-verify's parser skips what it does not know.
_CHARACTERS = set('abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 +-*/^_=<>()[]{}.,;|!&\\')
_COMMANDS = {
  '\\' + name
  for name in """frac sqrt pi infty cdot times div pm le ge ne lt gt in cup cap setminus emptyset
varnothing sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln lg exp lfloor rfloor lceil rceil binom
dbinom tbinom max min gcd lcm alpha beta gamma delta epsilon varepsilon zeta eta theta iota kappa lambda mu nu xi rho
sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Sigma Phi Psi Omega circ mathbb mathrm text mathit
mathbf operatorname begin end sum prod int lim to vert lvert rvert mid""".split()
}
_MULTIPLE = re.compile('[0-9]+ ?[A-Za-z]')
_RELATIONS = ('<', '>', '\\le', '\\ge', '\\ne')


def difference(gold, predicted, problem=''):
  """Returns None if the two answers are equal, else a message that says how they differ."""
  gold, predicted = gold.strip(), predicted.strip()
  if len(gold) > answers.MAX_ANSWER or len(predicted) > answers.MAX_ANSWER:
    return f'longer than {answers.MAX_ANSWER} characters'
  if any(answers.closing(text + '}') != len(text) for text in (gold, predicted)):
    return 'braces do not match'
  if _depth(predicted) > _NESTED:
    return f'brackets nested more than {_NESTED} deep'
  return _difference(mathtext.normalize(gold), mathtext.normalize(predicted), problem, _DEPTH)


def _depth(text):
  """The depth to which brackets of any kind are nested."""
  depth = deepest = 0
  for character in text:
    depth += (character in '([{') - (character in ')]}')
    deepest = max(deepest, depth)
  return deepest


def _difference(gold, predicted, problem, depth):
  if not predicted or not depth:
    return 'the answer is empty' if depth else 'the lists are nested too deeply'
  if mathtext.key(gold) == mathtext.key(predicted):
    return None
  for compare in (
    _choice_letters,
    _words,
    _rows,
    _quantities,
    _other_base,
    _matrices,
    _relations,
    _solutions,
    _assignments,
    _lists,
    _chains,
  ):
    result = compare(gold, predicted, problem, depth)
    if result is not NotImplemented:
      return result
  return _expressions(gold, predicted, problem)


def _choice_letters(gold, predicted, problem, depth):
  """A choice letter with its value, as either of the two answers."""
  expected = labels.split(gold)
  got = labels.split(predicted, listed=expected is not None)
  if expected and got:
    if expected[0] != got[0]:
      return f'the letter is {expected[0]}'
    return _difference(expected[1], got[1], problem, depth - 1)
  if expected:
    letter = _LETTER.fullmatch(mathtext.strip_fonts(predicted))
    if letter and letter[1] in 'ABCDEFGHIJ':
      return None if letter[1] == expected[0] else f'the letter is {expected[0]}'
    return _difference(expected[1], predicted, problem, depth - 1)
  if got:
    letter = _LETTER.fullmatch(mathtext.strip_fonts(gold))
    if letter and letter[1] in 'ABCDEFGHIJ':
      correct = letter[1] == got[0] and labels.is_value(got[1], problem)
      return None if correct else f'the letter is {letter[1]}'
    return _difference(gold, got[1], problem, depth - 1)
  return NotImplemented


def _words(gold, predicted, problem, depth):
  """Choice letters and words."""
  del depth
  letter = _LETTER.fullmatch(mathtext.strip_fonts(gold))
  if (letter and letter[1] in 'ABCDEFGHIJ') or (letter and letter[0] != letter[1]):
    got_letter = _LETTER.fullmatch(mathtext.strip_fonts(predicted))
    return None if got_letter and got_letter[1] == letter[1] else f'the letter is {letter[1]}'
  expected, got = mathtext.strip_fonts(gold), mathtext.strip_fonts(predicted)
  if _PHRASE.fullmatch(expected) and quantity.read(expected, problem) is None and _LETTERS.search(got):
    # The letters of words and dates are not factors that can be reordered: on is not No, and yaM 5 is not May 5.
    return None if _LETTERS.findall(got.casefold()) == _LETTERS.findall(expected.casefold()) else 'different words'
  if (_WORDS.fullmatch(expected) and _WORD.search(expected)) or (
    _HAN.search(expected) and quantity.read(expected) is None
  ):
    expected, got = (text.casefold().removeprefix('the ').replace(' ', '') for text in (expected, got))
    return None if expected == got else 'different words'
  return NotImplemented


def _rows(gold, predicted, problem, depth):
  """The same whole numbers in a row, however they are separated: 24,112 may be a number, or a list like 24, 112."""
  del problem, depth
  rows = [re.findall('[0-9]+', text) for text in (gold, predicted) if _ROW.fullmatch(text)]
  return None if len(rows) == 2 and rows[0] == rows[1] else NotImplemented


def _quantities(gold, predicted, problem, depth):
  del depth
  expected, got = quantity.read(gold, problem, strict=True), quantity.read(predicted, problem)
  if expected is None or got is None:
    return NotImplemented
  if expected.unit and got.unit and expected.unit != got.unit:
    return f'the units differ: {expected.unit}, {got.unit}'
  if expected.percent == got.percent:
    return None if expected.value == got.value or _equal_up_to_rounding(expected, got) else 'a different number'
  if expected.unit or got.unit:
    return 'one is a percentage, the other has a unit'
  if (expected.value / 100 if expected.percent else expected.value) == (got.value / 100 if got.percent else got.value):
    return None
  percent = expected.percent or any(word in problem.lower() for word in ('percent', 'per cent', '%', '百分'))
  if (problem and not percent) or (not percent and expected.value.denominator > 1) or abs(expected.value) <= 1:
    return 'a different number'
  return None if expected.value == got.value else 'a different number'


def _equal_up_to_rounding(expected, got):
  """Whether one is a decimal of six digits or more for the other, a fraction that no decimal represents exactly."""
  for decimal, exact in ((got, expected), (expected, got)):
    if decimal.decimals and exact.decimals is None and abs(decimal.value - exact.value) < _tolerance(decimal):
      return True
  return False


def _tolerance(decimal):
  """The tolerance of a decimal Quantity: one unit of its last digit if it has six digits, else 0."""
  scale = 10**decimal.decimals
  rounded = decimal.decimals >= 6 and abs(decimal.value) * scale >= 10**5
  return Fraction(rounded, scale)


def _other_base(gold, predicted, problem, depth):
  """Numbers in another base such as 52_8, compared by digits; the base may be left out if the problem names one."""
  del depth
  expected, got = (_BASED.fullmatch(re.sub('[{} ]', '', mathtext.strip_fonts(text))) for text in (gold, predicted))
  if not expected:
    return 'a number in another base' if got else NotImplemented
  if got:
    return None if expected.group(2, 4) == got.group(2, 4) else 'different digits or base'
  return None if predicted == expected[2] and 'base' in problem.lower() else 'the base is missing'


def _matrices(gold, predicted, problem, depth):
  expected, got = _MATRIX.fullmatch(gold), _MATRIX.fullmatch(predicted)
  if not expected or not got:
    return 'only one of them is a matrix' if ('\\begin' in gold) != ('\\begin' in predicted) else NotImplemented
  expected, got = (
    [[cell.strip() for cell in row.split('&')] for row in match[2].split('\\\\') if row.strip()]
    for match in (expected, got)
  )
  if [len(row) for row in expected] != [len(row) for row in got]:
    return 'a matrix of a different shape'
  return _in_order([c for row in expected for c in row], [c for row in got for c in row], problem, depth)


def _in_order(expected, got, problem, depth):
  if len(expected) != len(got):
    return f'{len(got)} entries in place of {len(expected)}'
  different = [_difference(e, g, problem, depth - 1) is not None for e, g in zip(expected, got, strict=True)]
  return f'entry {different.index(True) + 1} differs' if any(different) else None


def _lists(gold, predicted, problem, depth):
  (expected_kind, expected), (got_kind, got) = (
    (None, []) if quantity.read(text, problem) else mathtext.entries(text) for text in (gold, predicted)
  )  # 1,234 is one number
  if 'broken' in (expected_kind, got_kind):
    return 'brackets do not match'
  if expected_kind is None and got_kind in ('list', 'set'):
    guesses = [g for g in got if _difference(gold, g, problem, depth - 1) is not None]
    return 'several values where one is asked' if guesses or not got else None
  if got_kind is None and expected_kind is None:
    return NotImplemented
  if expected_kind is None or got_kind is None:
    # An inequality may equal an interval; the reverse would only repeat the question.
    relation = expected_kind is None and got_kind is not None and any(mark in gold for mark in _RELATIONS)
    return NotImplemented if relation else f'{got_kind or "one value"} in place of {expected_kind or "one value"}'
  if expected_kind == 'union' or got_kind == 'union':
    equal = _any_order(expected, got, problem, depth) is None
    return None if equal else _expressions(gold, predicted, problem)
  names = {
    mathtext.key(name)
    for name, mark, _ in (entry.partition('=') for entry in expected)
    if mark and equations.is_name(name)
  }
  if expected_kind == got_kind == 'list' and len(names) == len(expected) > 1 and not any('=' in entry for entry in got):
    return _in_order(expected, got, problem, depth)  # x = 1, y = 2 is not 2, 1
  if expected_kind in ('list', 'set') and got_kind in ('list', 'set'):
    return _any_order(expected, got, problem, depth)
  if expected_kind == got_kind or {expected_kind, got_kind} == {'()', 'list'}:
    return _in_order(expected, got, problem, depth)
  return f'{got_kind} in place of {expected_kind}'


def _any_order(expected, got, problem, depth):
  if len(expected) != len(got):
    return f'{len(got)} entries in place of {len(expected)}'
  if len(expected) > _ENTRIES:
    return None if sorted(map(mathtext.key, expected)) == sorted(map(mathtext.key, got)) else 'different entries'
  got = list(got)
  # Entries with an identical counterpart come first, because they are cheap.
  for entry in sorted(expected, key=lambda e: all(mathtext.key(e) != mathtext.key(g) for g in got)):
    match = next((g for g in got if mathtext.key(g) == mathtext.key(entry)), None)
    if match is None:
      match = next((g for g in got if _difference(entry, g, problem, depth - 1) is None), None)
    if match is None:
      return f'no entry equals {entry[:80]}'
    got.remove(match)
  return None


def _relations(gold, predicted, problem, depth):
  """Inequalities, intervals and other sets of real numbers, in any notation."""
  equal = relations.equal(gold, predicted, lambda a, b: _difference(a, b, problem, depth - 1) is None)
  return NotImplemented if equal is None else None if equal else 'different numbers'


def _solutions(gold, predicted, problem, depth):
  """x = 1 or x = 2; x_1 = 1, x_2 = 2: compares the values if the other answer names them differently or not at all."""
  name, numbered, expected = equations.values(gold)
  got_name, got_numbered, got = equations.values(predicted)
  if not expected or (got and (name != got_name or (numbered and got_numbered))):
    return NotImplemented
  parts = equations.split_at_equals(predicted)
  if not got and len(parts) == 2:
    if mathtext.key(parts[0]) != name or not parts[1].strip().startswith('\\{'):
      return NotImplemented
    predicted = parts[1].strip()  # x in {1, 2}
  elif not got:
    entries = [equations.split_at_equals(entry) for entry in mathtext.split(predicted, mathtext.MARKS) or ()]
    if any(len(entry) > 1 and equations.SUBSCRIPT.sub('', mathtext.key(entry[0])) != name for entry in entries):
      return 'values of something else'
  if not got and not numbered and mathtext.entries(predicted)[0] not in (None, 'list', 'set'):
    return 'a tuple in place of the values of one unknown'
  return _difference('; '.join(expected), '; '.join(got) if got else predicted, problem, depth - 1)


def _assignments(gold, predicted, problem, depth):
  """x = 5 and 5, whichever of the two is the reference; also x in [1,2] and [1,2]."""
  expected, got = equations.split_at_equals(gold), equations.split_at_equals(predicted)
  if len(expected) > 1 and not any(map(equations.has_letter, expected)):
    return _difference(expected[-1].strip(), predicted, problem, depth - 1)  # 0.56 = 56%
  if (
    len(expected) == 2
    and equations.is_name(expected[0])
    and (len(got) == 1 or (len(got) == 2 and equations.left_side_key(expected[0]) == equations.left_side_key(got[0])))
  ):
    return _difference(expected[1].strip(), got[-1].strip(), problem, depth - 1)
  if len(expected) == len(got) == 2 and any(equations.CALL.fullmatch(side[0].strip()) for side in (expected, got)):
    return 'the value of something else'  # math-verify may understand neither side
  if (
    len(expected) == 1 and len(got) == 2 and equations.is_name(got[0]) and not any(mark in gold for mark in _RELATIONS)
  ):
    return _difference(gold, got[1].strip(), problem, depth - 1)
  return NotImplemented


def _chains(gold, predicted, problem, depth):
  """A chain such as x = 2 + 3 = 5 for the reference 5."""
  exact, approximate, rounded = predicted.partition('\\approx')
  got = equations.split_at_equals(exact)
  if approximate and not _is_approximation(quantity.read(rounded.strip(), problem), got[-1]):
    return 'a wrong approximation'
  if len(got) == 1 and approximate:
    return _difference(gold, exact.strip(), problem, depth - 1)
  if len(got) == 1 or len(equations.split_at_equals(gold)) > 1 or any(mark in gold for mark in _RELATIONS):
    return NotImplemented
  unsolved = equations.has_one_unknown(got[0]) or equations.CALL_MULTIPLE.fullmatch(got[0].strip())
  if unsolved and mathtext.key(got[0]) not in mathtext.key(problem):
    return 'an equation that is not solved'
  for part in got[:-1]:
    if any(mark in part for mark in (*_RELATIONS, '\\Rightarrow', '\\to')) or _MULTIPLE.fullmatch(part.strip()):
      return 'a chain that says something else'
    if not equations.has_letter(part) and _difference(gold, part.strip(), problem, depth - 1) is not None:
      return 'a chain with a different value in it'
  return _difference(gold, got[-1].strip(), problem, depth - 1)


def _is_approximation(decimal, text):
  """Whether a Quantity equals the value of the text up to its last digit."""
  return (
    decimal is not None
    and decimal.decimals is not None
    and symbolic.is_close(text, decimal.value, Fraction(1, 10**decimal.decimals))
  )


def _expressions(gold, predicted, problem):
  """Everything else: expressions, equations, inequalities, unions of intervals."""
  (gold, unit), (predicted, predicted_unit) = (_split_unit(text, problem) for text in (gold, predicted))
  if unit and predicted_unit and unit != predicted_unit:
    return f'the units differ: {unit}, {predicted_unit}'
  rows = [text.replace('\\\\', ';') if '\\begin' in text else text for text in (gold, predicted)]
  if any(map(_NOT_ONE_EXPRESSION.search, rows)) or gold.count('\\circ') != predicted.count('\\circ'):
    return 'not one expression, or only one of them in degrees'
  unknown = set(predicted) - set(gold) - _CHARACTERS or (
    set(equations.COMMAND.findall(predicted)) - set(equations.COMMAND.findall(gold)) - _COMMANDS
  )
  if unknown:
    return f'cannot be read as mathematics: {sorted(unknown)[0]}'
  for text, decimal in ((gold, quantity.read(predicted)), (predicted, quantity.read(gold))):
    if decimal is not None and decimal.decimals and not decimal.percent and _tolerance(decimal):
      equal = symbolic.is_close(text, decimal.value, _tolerance(decimal))
      return None if equal else 'a different number'
  return None if symbolic.equal(gold, predicted) else 'not equal'


def _split_unit(text, problem):
  r"""Splits off a unit in \text{}, a degree sign, or a unit of several letters at the end; returns (text, unit)."""
  degrees = () if _ANGLES.search(text) else ('^\\circ',)
  for start in {text.rfind(mark) for mark in ('\\text', '\\mbox', '\\mathrm', ' ', *degrees)}:
    if start > 0:
      unit = quantity.unit_of(text[start:], problem, strict=True)
      if unit:
        return text[:start].strip(), unit
  return text, ''
