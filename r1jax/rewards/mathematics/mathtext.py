"""Normalizes the text of an answer, and splits lists, sets, tuples and intervals into their entries.

No pattern contains a repetition within a repetition, so each takes time linear in the text.
"""

import re

from r1jax.rewards import answers
from r1jax.rewards.mathematics import notation

# Full-width ASCII, and typographic or Chinese variants of signs. Nothing else: ⑥ is not 6.
_SIGNS = (
  {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
  | str.maketrans(
    {
      '\u3000': ' ',
      '\xa0': ' ',
      '。': '.',
      '，': ', ',
      '、': ', ',
      '；': '; ',
      '−': '-',
      '–': '-',
      '—': '-',
      '〇': '零',
      '×': '\\times ',
      '·': '\\cdot ',
      '÷': '/',
      'π': '\\pi ',
      '∞': '\\infty ',
      '≤': '\\le ',
      '≥': '\\ge ',
      '≠': '\\ne ',
      '≈': '\\approx ',
      '∪': '\\cup ',
      '∩': '\\cap ',
      '∈': '\\in ',
      '±': '\\pm ',
      '°': '^\\circ ',
      '²': '^2',
      '³': '^3',
      '￥': '¥',
      '＄': '$',
    }
  )
  | {
    ord(letter): f'\\{name} '
    for letter, name in zip(
      'αβγδεθλμρστφψωΔΣΩ',
      ('alpha beta gamma delta epsilon theta lambda mu rho sigma tau phi psi omega Delta Sigma Omega').split(),
      strict=True,
    )
  }
)
CURRENCY = '\ue000'  # stands for `\$`, a currency sign; a bare $ is a delimiter
AND = '\ue001'  # stands for 'and' between the entries of a list, as ; stands for 'or'
MARKS = ',;' + AND  # separators of entries
FONT = re.compile(r'\\(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mathit|mathsf|mbox|bf|rm)(?![A-Za-z]) ?')
_REPLACED = [
  (re.compile(pattern), by)
  for pattern, by in (
    (r'(?<=\.)([0-9]{0,20}?)([0-9]{1,8}?)\2{2,}(?:\.\.\.|…|\\[lc]?dots(?![A-Za-z]))', r'\1\\overline{\2}'),  # 0.333...
    (r'\s+', ' '),
    (r'\\[dtc]frac(?![A-Za-z])', r'\\frac'),
    (r'\\(?:(?:text)?color(?:box)?|fcolorbox ?\{[^{}]*\}) ?(?:\[[^][{}]*\])? ?\{[^{}]*\}', ''),
    (r'\\(?:bf|rm)(?![A-Za-z]) ?(?!\{)', ''),
    (r'\\(?:underline|uline|uwave|boldsymbol|bm|[Ll]arge|LARGE|[Hh]uge)(?![A-Za-z])', ''),
    (r'\\(?:left|right|[bB]igg?[lr]?|displaystyle|textstyle|limits)(?![A-Za-z])', ''),
    (r'(?<=[0-9])(?:,\\! ?|\{,\\! ?\}|\{,\}|\\,)(?=[0-9]{3}(?![0-9]))', ''),
    (r'\{,\}', ','),
    (r'(?<!\\)\\!', ''),
    (r'(?<!\\)\\[ ,;:]|~|\\q?quad(?![A-Za-z])|(?<!\\)\\[][()]', ' '),
    (r'\\(?:geqslant|geq)(?![A-Za-z])|>=', r'\\ge '),
    (r'\\(?:leqslant|leq)(?![A-Za-z])|<=', r'\\le '),
    (r'\\neq(?![A-Za-z])|!=', r'\\ne '),
    (r'\\gt(?![A-Za-z])', '>'),
    (r'\\lt(?![A-Za-z])', '<'),
    (r'\^ ?\{ ?\\circ ?\}|\\degree(?![A-Za-z])|(?<!\^)(?<!\^ )\\circ(?![A-Za-z])', r'^\\circ'),
    (r'(?<!\\);', ', '),
    (r'\\(?:lor|vee)(?![A-Za-z])', ' or '),
    (r'\\(?:land|wedge)(?![A-Za-z])', ' and '),
    (r'(?<=[0-9)}\]])(or|and)(?=[A-Za-z] ?(?:[=<>]|\\[gln]e|\\in))', r' \1 '),  # x=1orx=2
    (r'\\(?:text|mbox|mathrm|textrm) ?\{ ?,? ?(?:and|和) ?\}', AND),
    (r'\\(?:text|mbox|mathrm|textrm) ?\{ ?,? ?(?:or|或者?) ?\}', ';'),
    (r'(?<![A-Za-z\\])and(?![A-Za-z])|和', AND),
    (r'(?<![A-Za-z\\])or(?![A-Za-z])|或者?', ';'),
    (r'(?:√|(?<![A-Za-z\\])sqrt) ?([0-9]+|[A-Za-z])(?![A-Za-z])', r'\\sqrt{\1}'),
    ('√', r'\\sqrt '),
    (r'(?<![A-Za-z\\])(frac|pi|infty)(?![A-Za-z])', r'\\\1 '),
    (r'(?<![A-Za-z\\])infinity(?![A-Za-z])', r'\\infty'),
    (r'\\frac ?(\\[A-Za-z]+|[0-9]) ?([0-9A-Za-z])', r'\\frac{\1}{\2}'),
    (r'\\frac ?([0-9]) ?\{', r'\\frac{\1}{'),
    (r'(\\frac ?\{[^{}]*\}) ?([0-9])', r'\1{\2}'),
    (r'\s+', ' '),
    (f', ?([;{AND}])|([;{AND}]) ?[,;{AND}]', r'\1\2'),
  )
]
_BOLD = re.compile(r'(?<![0-9A-Za-z)}])\*\*([^* ][^*]*)\*\*(?![0-9A-Za-z({\\])')  # Markdown's, not a power
_FONT_OPENED = re.compile(FONT.pattern + r'\{ ?')
_LAYERS = 4  # most layers around an answer that are removed
_LEAD_IN = re.compile(
  r'(?:\*\*)?(?:so )?(?:the |my )?(?:final |correct )?(?:answer|choice|option|solution|result|value)'
  r'(?: of [A-Za-z])?(?: is:?|:|(?= -?[0-9]))(?:\*\*)? ?|答案(?:是|为)?:? ?|答:? ?',
  re.IGNORECASE,
)


def normalize(text):
  """The text with normalized spaces, fractions, separators and delimiters; 'or' becomes ';', and 'and' becomes AND."""
  text = notation.normalize(_BOLD.sub(r'\1', text)).translate(_SIGNS).replace('\\$', CURRENCY).replace('$', '').strip()
  if '\\begin' not in text:
    text = re.sub(r'\\\\(?=[A-Za-z])', r'\\', text)  # a backslash that was escaped twice
  for pattern, replacement in _REPLACED:
    text = pattern.sub(replacement, text)
  text = text.strip()
  text = text[2:-2].strip() if text.startswith('[ ') and text.endswith(' ]') and ',' not in text else text
  for _ in range(_LAYERS):
    previous, text = text, _strip_layer(text)
    if text == previous:
      break
  return text


def _strip_layer(text):
  r"""The text without one layer of wrapping around the answer: 'The answer is', `\text{}`, braces, `=`, punctuation."""
  text = text.strip()
  while len(text) > 1 and text[0] == text[-1] and text[0] in '*`':
    text = text[1:-1].strip()
  font = _FONT_OPENED.match(text)
  lead_in = _LEAD_IN.match(text, font.end() if font else 0)
  if lead_in and lead_in.end() < len(text):
    text = text[lead_in.end() :] if not font else text[: font.end()] + text[lead_in.end() :]
    text = text[font.end() + 1 :].lstrip() if font and text[font.end() : font.end() + 1] == '}' else text
  text = text.removesuffix('.') if not text.endswith('..') else text
  text = text.removesuffix('\\\\')
  text = text[1:] if text[:1] == '=' != text[1:2] else text
  return _unwrap(text.strip())


def _unwrap(text):
  r"""The content of a text that is a single `\text{..}`, `\mathbf{..}` or the like, or `{..}`; else the text."""
  match = FONT.match(text)
  if match and text[match.end() : match.end() + 1] == '{' and text.find('}') == len(text) - 1:
    return text[match.end() + 1 : -1].strip()
  if text[:1] == '{' and answers.closing(text[1:]) == len(text) - 2 and ',' not in text and ';' not in text:
    return text[1:-1].strip()
  return text


def strip_end(text):
  """The text without punctuation at its end, which belongs to the sentence around it."""
  rest = text.rstrip(',;: $')
  return text if rest.endswith('\\') else rest + '$' * (rest.count('$') % 2)


def strip_fonts(text):
  """The text without commands that only choose a font, and without braces."""
  return FONT.sub('', text).replace('{', '').replace('}', '').strip() if '\\' in text else text


def key(text):
  """The text without spaces that separate nothing, for comparing."""
  return re.sub(r'(?<![0-9A-Za-z,;]) | (?![0-9A-Za-z])', '', text.strip())


def entries(text):
  r"""Splits a text that holds several values.

  Kinds: '()', '[)', ... are tuples and intervals; 'set' is in braces; 'union' is of intervals and sets; 'list' has no
  brackets, or braces that LaTeX does not print; 'broken' means that brackets do not match. An entry with one \pm
  becomes two entries.

  Returns:
    (kind, list of entries), or (None, []) for a single value.
  """
  parts = split(text, MARKS)
  if parts is None:
    return 'broken', []
  pieces = re.split(r'\\cup(?![A-Za-z])', text)
  if len(parts) == 1 and len(pieces) > 1:
    pieces = [piece.strip() for piece in pieces]
    return ('union', pieces) if all(_enclosing(piece) for piece in pieces) else ('broken', [])
  kind = _enclosing(text) if len(parts) == 1 else 'list'
  if kind not in (None, 'list'):
    parts = split(text[2:-2] if text.startswith('\\{') else text[1:-1], MARKS)
  if parts is None or '' in parts:
    return 'broken', []
  parts = [
    entry
    for part in parts
    for entry in ((part.replace('\\pm', '+'), part.replace('\\pm', '-')) if part.count('\\pm') == 1 else (part,))
  ]
  kind = 'list' if kind is None or text.startswith('{') else kind
  return (kind, parts) if len(parts) > 1 or kind == 'set' else (None, [])


def _enclosing(text):
  """'set', or the brackets such as '[)', if one pair of them encloses the whole text; else None."""
  if text.startswith('\\{') and text.endswith('\\}'):
    return 'set' if split(text[2:-2], ',;') is not None else None
  if text[:1] not in ('(', '[', '{') or text[-1:] not in (')', ']', '}') or split(text[1:-1], MARKS) is None:
    return None
  return 'set' if text[0] == '{' or text[-1] == '}' else text[0] + text[-1]


def split(text, marks):
  """Splits the text at any of the marks that is outside of all brackets; None if brackets do not match."""
  if '\\begin' in text:
    return [text]
  parts, depth, start = [], 0, 0
  for i, character in enumerate(text):
    depth += (character in '([{') - (character in ')]}')
    if depth < 0:
      return None
    if not depth and character in marks:
      parts.append(text[start:i].strip())
      start = i + 1
  return None if depth else [*parts, text[start:].strip()]
