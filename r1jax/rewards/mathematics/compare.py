"""Are two answers of a mathematics problem equal? Cheap exact comparisons first, then math-verify.

- Numbers are compared exactly, as fractions; a unit may be left out, but two units must agree. 50% is 0.5, and also 50
  where the reference has a percent sign, or is an integer above 1 and the problem speaks of per cent (or is not
  known). A decimal counts as a number that it cannot state exactly only with six significant digits and six after the
  point, all of them right.
- Where one value is asked, a list (commas, 'and', 'or', \\pm, a set, several boxes) counts only if each of its entries
  is that value: a set of guesses is wrong. Lists and sets are compared in any order, tuples, intervals and matrices
  entry by entry; a chain a = b = 5 by its last part, each earlier part holding a letter or being equal too.
- Sets of real numbers are compared as such, however they are stated (`relations`): 0 < x < 1 is (0,1), and so is x > 0
  and x < 1. A bare (1,2) or [1,2] may be something else, and is itself only.
- Words and choice letters are compared as text, words without case. Of a letter with its value, (C) 25, either will do
  and what is given of the two must be right.
- All else by math-verify, whose yes numbers must bear out (`symbolic`).
"""

from fractions import Fraction
import re

from r1jax.rewards import answers
from r1jax.rewards.mathematics import labels, mathtext, quantity, relations, symbolic

_ENTRIES = 16  # of a list compared in any order, at most
_DEPTH = 4  # of lists within lists
_NESTED = 30  # brackets; the time of the verifier's parser grows with a power of them
_LETTER = re.compile(r'[(\[]?([A-Z])[)\]]?\.?')
_WORDS = re.compile("[A-Za-z][A-Za-z' -]*")
_WORD = re.compile('[A-Za-z]{3}')  # two letters may be a product
_SHORT_WORDS = 'am|an|as|at|be|by|do|go|he|hi|if|in|is|it|me|my|no|of|oh|ok|on|or|so|to|up|us|we'
# One short word, or words and numbers with a space between.
_SAID = re.compile(
  rf'(?i:{_SHORT_WORDS})|[A-Z][a-z]|[A-Za-z]{{3,}}\.? +[0-9]+|'
  r'[0-9]+ +[A-Za-z]{3,}(?: [A-Za-z]+)*\.?'
)
_LETTERS = re.compile('[A-Za-z]+|[0-9]+')
_HAN = re.compile('[\u4e00-\u9fff]')
_MATRIX = re.compile(r'\\begin ?\{([pb]?)matrix\}((?:(?!\\begin).)*)\\end ?\{\1matrix\} ?')
_BASED = re.compile(r'(\()?([0-9A-Fa-f]+)(?(1)\))_(\()?(?:base)?([0-9]+)(?(3)\))')
_EQUALS = re.compile(r'(?:(?<![<>!:=\\])=(?!=)|\\in(?![A-Za-z]))(?![^{}]*(?<!\\)\})')
_APART = re.compile(r'(?<![\^_])[0-9.] +[0-9.]|[0-9] ?_|\\\\')  # numbers side by side, a base, a new line
_SUBSCRIPT = re.compile(r'_ ?(?:\{[^{}]*\}|[A-Za-z0-9])')
_ANGLES = re.compile(r'\\?(?:sin|cos|tan|cot|sec|csc)')
_CONSTANT = re.compile(r'\\(?:frac|sqrt|pi|cdot|times|div|infty|circ|ln|log|sin|cos|tan|binom|pm)(?![A-Za-z])')
# What an expression may hold that the reference does not: the verifier's parser passes over what it does not know.
_CHARACTERS = set('abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 +-*/^_=<>()[]{}.,;|!&\\')
_COMMAND = re.compile(r'\\[A-Za-z]+')
_COMMANDS = {
  '\\' + name
  for name in """frac sqrt pi infty cdot times div pm le ge ne lt gt in cup cap setminus emptyset
varnothing sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln lg exp lfloor rfloor lceil rceil binom
dbinom tbinom max min gcd lcm alpha beta gamma delta epsilon varepsilon zeta eta theta iota kappa lambda mu nu xi rho
sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Sigma Phi Psi Omega circ mathbb mathrm text mathit
mathbf operatorname begin end sum prod int lim to vert lvert rvert mid""".split()
}
# A function's value; the length of a segment or vector, the size of a set. |x| = 5 names nothing: x may be -5.
_CALL = re.compile(
  r"(?:[fghpqFGHPQRSTENVDC]|\\Pr|\\operatorname ?\{[A-Za-z]+\})(?:'*| ?\^ ?\{? ?(?:-1|\\prime) ?\}?) ?"
  r'(?:\((?:[^()]|\([^()]*\))*\)|\[[^][]*\])'
)
_BARS = re.compile(r"\|(?: ?[A-Z][A-Z'0-9 ]*|[zw]|[^|=<>]*\\(?:vec|overrightarrow)(?![A-Za-z])[^|=<>]*)\|")
_MULTIPLE = re.compile('[0-9]+ ?[A-Za-z]')
_CALL_MULTIPLE = re.compile(f'[0-9]+ ?{_CALL.pattern}')
_SEGMENT = re.compile(r"\|([A-Z][A-Z'0-9 ]*)\||\\overline ?\{([A-Z][A-Z'0-9 ]*)\}")
_RELATIONS = ('<', '>', '\\le', '\\ge', '\\ne')


def difference(gold, predicted, problem=''):
  """None where the two answers are equal; else in words what differs."""
  gold, predicted = gold.strip(), predicted.strip()
  if len(gold) > answers.MAX_ANSWER or len(predicted) > answers.MAX_ANSWER:
    return f'longer than {answers.MAX_ANSWER} characters'
  if any(answers.closing(text + '}') != len(text) for text in (gold, predicted)):
    return 'braces do not match'
  if _depth(predicted) > _NESTED:
    return f'brackets nested more than {_NESTED} deep'
  return _difference(mathtext.plain(gold), mathtext.plain(predicted), problem, _DEPTH)


def _depth(text):
  """How deep its brackets are nested, of any kind."""
  depth = deepest = 0
  for character in text:
    depth += (character in '([{') - (character in ')]}')
    deepest = max(deepest, depth)
  return deepest


def _difference(gold, predicted, problem, depth):
  if not predicted or not depth:
    return 'nothing is left of the answer' if depth else 'lists too deep'
  if _key(gold) == _key(predicted):
    return None
  for compare in (
    _labelled,
    _text,
    _quantities,
    _based,
    _matrices,
    _relations,
    _solutions,
    _assignments,
    _lists,
    _chains,
  ):
    found = compare(gold, predicted, problem, depth)
    if found is not NotImplemented:
      return found
  return _expressions(gold, predicted, problem)


def _key(text):
  """Without the spaces that separate nothing."""
  return re.sub(r'(?<![0-9A-Za-z,;]) | (?![0-9A-Za-z])', '', text.strip())


def _labelled(gold, predicted, problem, depth):
  """A choice letter with its value, on either side."""
  want = labels.split(gold)
  got = labels.split(predicted, listed=want is not None)
  if want is None and got is None:
    return NotImplemented
  letter = _LETTER.fullmatch(mathtext.words(gold if want is None else predicted))
  if want and got:
    return _difference(want[1], got[1], problem, depth - 1) if want[0] == got[0] else f'the letter is {want[0]}'
  if letter and letter[1] in 'ABCDEFGHIJ':
    right = letter[1] == (want or got)[0] and (want or labels.is_value(got[1], problem))
    return None if right else f'the letter is {want[0] if want else letter[1]}'
  return _difference(want[1] if want else gold, got[1] if got else predicted, problem, depth - 1)


def _text(gold, predicted, problem, depth):
  """Choice letters and words."""
  del depth
  letter = _LETTER.fullmatch(mathtext.words(gold))
  if letter and letter[1] in 'ABCDEFGHIJ' or letter and letter[0] != letter[1]:
    given = _LETTER.fullmatch(mathtext.words(predicted))
    return None if given and given[1] == letter[1] else f'the letter is {letter[1]}'
  said = mathtext.words(gold)
  given = mathtext.words(predicted)
  if _SAID.fullmatch(said) and quantity.read(said, problem) is None and _LETTERS.search(given):
    # Letters of words and dates are no factors: on is not No, and yaM 5 not May 5.
    return None if _LETTERS.findall(given.casefold()) == _LETTERS.findall(said.casefold()) else 'other words'
  if _WORDS.fullmatch(said) and _WORD.search(said) or _HAN.search(said) and quantity.read(said) is None:
    given = mathtext.words(predicted).casefold().removeprefix('the ')
    return None if given.replace(' ', '') == said.casefold().removeprefix('the ').replace(' ', '') else 'other words'
  return NotImplemented


def _quantities(gold, predicted, problem, depth):
  del depth
  want, got = quantity.read(gold, problem, strict=True), quantity.read(predicted, problem)
  if want is None or got is None:
    return NotImplemented
  if want.unit and got.unit and want.unit != got.unit:
    return f'the units differ: {want.unit}, {got.unit}'
  if want.percent == got.percent:
    return None if want.value == got.value or _rounded(want, got) else 'another number'
  if want.unit or got.unit:
    return 'a percentage, and a unit'
  if (want.value / 100 if want.percent else want.value) == (got.value / 100 if got.percent else got.value):
    return None
  asked = want.percent or any(word in problem.lower() for word in ('percent', 'per cent', '%', '百分'))
  if problem and not asked or not asked and want.value.denominator > 1 or abs(want.value) <= 1:
    return 'another number'
  return None if want.value == got.value else 'another number'


def _rounded(want, got):
  """Is one of the two the other, a fraction that no decimal states, to six digits or more?"""
  for decimal, exact in ((got, want), (want, got)):
    if decimal.decimals and exact.decimals is None and abs(decimal.value - exact.value) < _margin(decimal):
      return True
  return False


def _margin(decimal):
  """How far off the number may be that a decimal Quantity states: its last digit, where it has six; else nothing."""
  scale = 10**decimal.decimals
  rounded = decimal.decimals >= 6 and abs(decimal.value) * scale >= 10**5
  return Fraction(rounded, scale)


def _based(gold, predicted, problem, depth):
  """Numbers in another base, 52_8, by their digits; the base may be left out where the problem names one."""
  del depth
  want, got = (_BASED.fullmatch(re.sub('[{} ]', '', mathtext.words(text))) for text in (gold, predicted))
  if not want:
    return 'a number in another base' if got else NotImplemented
  if got:
    return None if want.group(2, 4) == got.group(2, 4) else 'other digits or base'
  return None if predicted == want[2] and 'base' in problem.lower() else 'the base is missing'


def _matrices(gold, predicted, problem, depth):
  want, got = _MATRIX.fullmatch(gold), _MATRIX.fullmatch(predicted)
  if not want or not got:
    return 'a matrix on one side only' if ('\\begin' in gold) != ('\\begin' in predicted) else NotImplemented
  want, got = (
    [[cell.strip() for cell in row.split('&')] for row in match[2].split('\\\\') if row.strip()]
    for match in (want, got)
  )
  if [len(row) for row in want] != [len(row) for row in got]:
    return 'another shape'
  return _each([c for row in want for c in row], [c for row in got for c in row], problem, depth)


def _each(want, got, problem, depth):
  if len(want) != len(got):
    return f'{len(got)} entries in place of {len(want)}'
  wrong = [_difference(w, g, problem, depth - 1) is not None for w, g in zip(want, got, strict=True)]
  return f'entry {wrong.index(True) + 1} differs' if any(wrong) else None


def _lists(gold, predicted, problem, depth):
  (kind, want), (other, got) = (
    (None, []) if quantity.read(text, problem) else mathtext.entries(text) for text in (gold, predicted)
  )  # 1,234
  if 'broken' in (kind, other):
    return 'brackets do not match'
  if kind is None and other in ('list', 'set'):
    guesses = [g for g in got if _difference(gold, g, problem, depth - 1) is not None]
    return 'several values where one is asked' if guesses or not got else None
  if other is None and kind is None:
    return NotImplemented
  if kind is None or other is None:
    # Only an inequality can equal an interval, and the other way round it is the question given back.
    relation = kind is None and other is not None and any(mark in gold for mark in _RELATIONS)
    return NotImplemented if relation else f'{other or "one value"} in place of {kind or "one value"}'
  if kind == 'union' or other == 'union':
    same = _any_order(want, got, problem, depth) is None
    return None if same else _expressions(gold, predicted, problem)
  named = {_key(name) for name, mark, _ in (entry.partition('=') for entry in want) if mark and _is_name(name)}
  if kind == other == 'list' and len(named) == len(want) > 1 and not any('=' in entry for entry in got):
    return _each(want, got, problem, depth)  # x = 1, y = 2 is not 2, 1
  if kind in ('list', 'set') and other in ('list', 'set'):
    return _any_order(want, got, problem, depth)
  if kind == other or {kind, other} == {'()', 'list'}:
    return _each(want, got, problem, depth)
  return f'{other} in place of {kind}'


def _any_order(want, got, problem, depth):
  if len(want) != len(got):
    return f'{len(got)} entries in place of {len(want)}'
  if len(want) > _ENTRIES:
    return None if sorted(map(_key, want)) == sorted(map(_key, got)) else 'other entries'
  got = list(got)
  for entry in sorted(want, key=lambda w: all(_key(w) != _key(g) for g in got)):  # the cheap ones first
    same = next((g for g in got if _key(g) == _key(entry)), None)
    if same is None:
      same = next((g for g in got if _difference(entry, g, problem, depth - 1) is None), None)
    if same is None:
      return f'no entry is {entry[:80]}'
    got.remove(same)
  return None


def _relations(gold, predicted, problem, depth):
  """Inequalities, intervals and other sets of real numbers, whichever way each is stated."""
  same = relations.equal(gold, predicted, lambda a, b: _difference(a, b, problem, depth - 1) is None)
  return NotImplemented if same is None else None if same else 'other numbers'


def _solutions(gold, predicted, problem, depth):
  """x = 1 or x = 2 and x_1 = 1, x_2 = 2: the values, where the other side names them otherwise or not at all."""
  (name, labelled, values), (other, both, found) = _values(gold), _values(predicted)
  if not values or found and (name != other or labelled and both):
    return NotImplemented
  parts = _sides(predicted)
  if not found and len(parts) == 2:
    if _key(parts[0]) != name or not parts[1].strip().startswith('\\{'):
      return NotImplemented
    predicted = parts[1].strip()  # x in {1, 2}
  elif not found:
    entries = [_sides(entry) for entry in mathtext.split(predicted, mathtext.MARKS) or ()]
    if any(len(entry) > 1 and _SUBSCRIPT.sub('', _key(entry[0])) != name for entry in entries):
      return 'the values of something else'
  if not found and not labelled and mathtext.entries(predicted)[0] not in (None, 'list', 'set'):
    return 'a tuple in place of the values of one unknown'
  return _difference('; '.join(values), '; '.join(found) if found else predicted, problem, depth - 1)


def _values(text):
  """(name, whether it has numbers, values) of x = 1; x = 2 or x_1 = 1; x_2 = 2 or x = 1; 2; no values for all else."""
  entries = [_sides(entry) for entry in mathtext.split(text, mathtext.MARKS) or ()]
  if len(entries) < 2 or len(entries[0]) != 2 or any(len(entry) > 2 for entry in entries):
    return '', False, []
  labels = {_key(entry[0]) for entry in entries if len(entry) == 2}
  names = {_SUBSCRIPT.sub('', label) for label in labels}
  if len(names) > 1 or not _is_name(entries[0][0]) or len(labels) not in (1, len(entries)):
    return '', False, []
  return names.pop(), len(labels) > 1, [entry[-1].strip() for entry in entries]


def _assignments(gold, predicted, problem, depth):
  """x = 5 and 5, whichever of the two is the reference; x in [1,2] and [1,2]."""
  want, got = _sides(gold), _sides(predicted)
  if len(want) > 1 and not any(map(_has_letter, want)):
    return _difference(want[-1].strip(), predicted, problem, depth - 1)  # 0.56 = 56%
  if len(want) == 2 and _is_name(want[0]) and (len(got) == 1 or len(got) == 2 and _name(want[0]) == _name(got[0])):
    return _difference(want[1].strip(), got[-1].strip(), problem, depth - 1)
  if len(want) == len(got) == 2 and any(_CALL.fullmatch(side[0].strip()) for side in (want, got)):
    return 'the value of something else'  # the verifier may know nothing of either
  if len(want) == 1 and len(got) == 2 and _is_name(got[0]) and not any(mark in gold for mark in _RELATIONS):
    return _difference(gold, got[1].strip(), problem, depth - 1)
  return NotImplemented


def _chains(gold, predicted, problem, depth):
  """Where the reference is 5: x = 2 + 3 = 5."""
  exact, approximate, rounded = predicted.partition('\\approx')
  got = _sides(exact)
  if approximate and not _approximates(quantity.read(rounded.strip(), problem), got[-1]):
    return 'an approximation that is none'
  if len(got) == 1 and approximate:
    return _difference(gold, exact.strip(), problem, depth - 1)
  if len(got) == 1 or len(_sides(gold)) > 1 or any(mark in gold for mark in _RELATIONS):
    return NotImplemented
  if (_one_unknown(got[0]) or _CALL_MULTIPLE.fullmatch(got[0].strip())) and _key(got[0]) not in _key(problem):
    return 'an equation to be solved'
  for part in got[:-1]:
    if any(mark in part for mark in (*_RELATIONS, '\\Rightarrow', '\\to')) or _MULTIPLE.fullmatch(part.strip()):
      return 'a chain that says something else'
    if not _has_letter(part) and _difference(gold, part.strip(), problem, depth - 1) is not None:
      return 'a chain with another value in it'
  return _difference(gold, got[-1].strip(), problem, depth - 1)


def _approximates(decimal, text):
  """Is a Quantity the value of the text to all its digits?"""
  return (
    decimal is not None
    and decimal.decimals is not None
    and symbolic.near(text, decimal.value, Fraction(1, 10**decimal.decimals))
  )


def _sides(text):
  """The text at its signs of equality and membership outside of brackets."""
  sides, start, at, depth = [], 0, 0, 0
  for sign in _EQUALS.finditer(text):
    before, at = text[at : sign.start()], sign.start()
    depth += sum(map(before.count, '([{')) - sum(map(before.count, ')]}'))
    if depth <= 0:
      sides.append(text[start:at])
      start = sign.end()
  return [*sides, text[start:]]


def _name(text):
  """The key of what is on the left; the length |AB| of a segment is AB, too."""
  return _key(_SEGMENT.sub(lambda match: match[1] or match[2], text))


def _is_name(text):
  """Is it a name, as on the left of x = 5, f(x) = 2x, m_{\\max} = n, AB = 3, f(2) = 3, P(X = 2) = 0.3, |AB| = 1?"""
  text = _SUBSCRIPT.sub('', text).strip()
  if not text or len(text) > 40 or '\\sqrt' in text:
    return False
  return not any(c in '0123456789+-*/^<>=|' for c in text) or bool(_CALL.fullmatch(text) or _BARS.fullmatch(text))


def _one_unknown(text):
  """Is it an expression in one letter, as x - 1 or |x|? Of x - 1 = 5 the answer is 6, unless x - 1 was asked for."""
  return not _is_name(text) and len(set(re.findall('[A-Za-z]', _COMMAND.sub('', text)))) == 1


def _has_letter(text):
  return any(c.isalpha() for c in _CONSTANT.sub('', text))


def _expressions(gold, predicted, problem):
  """What is left: expressions, equations, inequalities, unions of intervals."""
  (gold, unit), (predicted, other) = (_without_unit(text, problem) for text in (gold, predicted))
  if unit and other and unit != other:
    return f'the units differ: {unit}, {other}'
  rows = [text.replace('\\\\', ';') if '\\begin' in text else text for text in (gold, predicted)]
  if any(map(_APART.search, rows)) or gold.count('\\circ') != predicted.count('\\circ'):
    return 'not one expression, or degrees on one side only'
  unknown = set(predicted) - set(gold) - _CHARACTERS or (
    set(_COMMAND.findall(predicted)) - set(_COMMAND.findall(gold)) - _COMMANDS
  )
  if unknown:
    return f'not read as mathematics: {sorted(unknown)[0]}'
  for text, decimal in ((gold, quantity.read(predicted)), (predicted, quantity.read(gold))):
    if decimal is not None and decimal.decimals and not decimal.percent and _margin(decimal):
      right = symbolic.near(text, decimal.value, _margin(decimal))
      return None if right else 'another number'
  return None if symbolic.equal(gold, predicted) else 'not equal'


def _without_unit(text, problem):
  r"""(text, unit) without a unit in \text{}, a degree sign or a unit of several letters at its end."""
  degrees = () if _ANGLES.search(text) else ('^\\circ',)
  for start in {text.rfind(mark) for mark in ('\\text', '\\mbox', '\\mathrm', ' ', *degrees)}:
    if start > 0:
      unit = quantity.unit_of(text[start:], problem, strict=True)
      if unit:
        return text[:start].strip(), unit
  return text, ''
