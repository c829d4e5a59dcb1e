"""Replaces equivalent notations by one of them: roman letters, names of functions, powers, fractions, sets.

No pattern contains a repetition within a repetition, so each takes time linear in the text.
"""

import re
import unicodedata

_NAMES = 'arcsin arccos arctan sinh cosh tanh sin cos tan cot csc ln log'.split()
_OTHERS = {'arctg': 'arctan', 'cotg': 'cot', 'ctg': 'cot', 'tg': 'tan', 'cosec': 'csc', 'lg': 'log_{10}'}
_FUNCTIONS = {name: '\\' + name + ' ' for name in (*_NAMES, 'exp', 'sec', 'min', 'max', 'gcd', 'lcm')} | {
  name: '\\' + other + ' ' for name, other in _OTHERS.items()
}
_NAME = '|'.join((*_NAMES, *_OTHERS))
_ROMAN = re.compile(
  r'\\(?:mathrm|mathit|text|textrm|textit|mbox) ?\{ ?(?:\\rm )?(' + _NAME + r'|exp|[ei]) ?\}|'
  r'\\(?:operatorname\*?|mathop) ?\{ ?(?:\\rm )?(' + '|'.join(_FUNCTIONS) + r'|[ei]) ?\}|'
  r'\{\\rm ([ei])\}'
)
# Function names without a backslash, followed by an argument: `5 min` are minutes, and `log in` is not a logarithm.
_BARE = re.compile(
  r'(?<![A-Za-z\\])(?:(min|max|gcd|lcm|exp|sec)(?= ?\()|'
  r'(' + _NAME + r')(?= ?(?:[(_^0-9]|\\(?!text|mbox))| [A-Za-z](?![A-Za-z])))'
)
_SUPERSCRIPTS = str.maketrans('⁰¹²³⁴⁵⁶⁷⁸⁹⁻ⁿ', '0123456789-n')
_SUBSCRIPTS = str.maketrans('₀₁₂₃₄₅₆₇₈₉', '0123456789')
_SETS = {
  words: name
  for name, all_words in (
    (
      '\\emptyset',
      (
        '\\{\\}',
        '\\{ \\}',
        'empty set',
        'the empty set',
        'no solution',
        'no solutions',
        'no real solution',
        'no real solutions',
        'there is no solution',
        'there are no solutions',
        '无解',
      ),
    ),
    ('\\mathbb{R}', ('all reals', 'all real numbers', 'real numbers', 'the real numbers', 'the reals')),
  )
  for words in all_words
}
_WRAPPED = re.compile(r'\\text ?\{([^{}]*)\}')
_REPLACED = [
  (re.compile(pattern), by)
  for pattern, by in (
    ('[⁰¹²³⁴-⁹⁻ⁿ]+', lambda m: '^{' + m[0].translate(_SUPERSCRIPTS) + '}'),
    ('[₀-₉]+', lambda m: '_{' + m[0].translate(_SUBSCRIPTS) + '}'),
    ('[¼-¾⅐-⅞]', lambda m: '\\frac{{{}}}{{{}}}'.format(*tuple(unicodedata.normalize('NFKC', m[0]).split('⁄')))),
    ('(?<=[0-9])(?:[\u2009\u202f]|\\{\\\\,\\}|\\\\ |\\\\thinspace ?|, ?\\\\! ?)(?=[0-9]{3}(?![0-9]))', ''),
    ('[\u2000-\u200a\u202f]', ' '),
    ('∅', r'\\emptyset '),
    ('ℝ', r'\\mathbb{R}'),
    ('ⅈ', 'i'),
    (r'\\varnothing(?![A-Za-z])', r'\\emptyset'),
    (r'\\imath(?![A-Za-z])', ' i'),
    (r'\\middle(?![A-Za-z])', ''),
    (r'\\(?:R|Reals)(?![A-Za-z])|\\math(?:bb|bf) ?(?:R(?![A-Za-z])|\{ ?R ?\})', r'\\mathbb{R}'),
    (r'\\(' + '|'.join(_OTHERS) + ')(?![A-Za-z])', lambda m: _FUNCTIONS[m[1]]),
    (r'\\log ?_ ?(?:e(?![A-Za-z])|\{ ?e ?\})', r'\\ln'),
    (r'\{ ?([^{}\\]+?) ?\\choose(?![A-Za-z]) ?([^{}\\]+?) ?\}', r'\\binom{\1}{\2}'),
    (r'\\[dt]binom(?![A-Za-z])', r'\\binom'),
    (r'(?<![A-Za-z\\])sqrt ?(?=[{\[])', r'\\sqrt'),
    (r'(?:(?<![A-Za-z\\])sqrt|√|\\sqrt) ?\(([^()]*)\)', r'\\sqrt{\1}'),
  )
]
_POWER = re.compile(r'(?<=[0-9A-Za-z)}])\*\*(-?[0-9A-Za-z]+|\([^()*]*\))')
_NUMBERS = re.compile('[-+0-9 .,/()=%$]*')
_TOWER = re.compile(r'\*\*[^+\-,;=<>*/ ]*\*\*')


def normalize(text):
  """A raw answer with all its notations replaced by the preferred ones."""
  if _NUMBERS.fullmatch(text):
    return text
  for pattern in (_ROMAN, _BARE):
    text = pattern.sub(lambda m: _FUNCTIONS.get(name := next(filter(None, m.groups()))) or f' {name}', text)
  for pattern, replacement in _REPLACED:
    text = pattern.sub(replacement, text)
  if '**' in text and not _TOWER.search(text):
    text = _POWER.sub(r'^{\1}', text)
  stripped = text.strip(' $.')
  wrapped = _WRAPPED.fullmatch(stripped)
  return _SETS.get((wrapped[1] if wrapped else stripped).strip().casefold(), text)
