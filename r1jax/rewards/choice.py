"""Multiple choice and exact match. The answer is found by the rules of `r1jax.rewards.answers`."""

import re

from r1jax.config import ConfigError
from r1jax.rewards import answers
from r1jax.rewards.mathematics import labels, mathtext

WHERE = (*answers.WHERE, 'summary')
LETTERS = 'ABCDEFGHIJ'

_LETTER = re.compile(r'(?:option |choice |故?选项?:? ?)?[(\[]?([A-Ja-j])[)\]]?[.:]?', re.IGNORECASE)
_LETTERS = re.compile(rf'(?:故?选项?:? ?)?(?:[(\[]?[A-J][)\]]?\.?[{mathtext.MARKS} 、，]*){{2,10}}')
_LEADING = re.compile(r'[(\[]? ?([A-J]) ?(?:[)\]][.:,]?|[.:,]| ) ?')


def choice(items, *, where='both'):
  """1.0 if the response chooses the letter of the item's 'answer', else 0.0.

  The answer must be only the letter, such as C, (C), C. or Option C, with or without 'the answer is'. If the item has
  'options', it may also be the text of the correct option, or the letter and that text; without options, the letter
  and a value such as a number. Two letters are wrong, even if one of them is correct, and so is an answer that the
  response contradicts later.

  If several options are correct, 'answer' is all their letters, such as AD or A, D. Then the answer must be these
  letters in any order, such as AD, A and D or (D), (A).

  Args:
    items: list of dicts with 'response', 'answer' (a letter from A to J, or several) and optionally 'options': a list
      of texts in the order of the letters, or a dict from letter to text.
    where: 'tags', 'boxed', 'both', or 'summary' (everything after the thinking).

  Returns:
    list of float, 0.0 or 1.0.

  Raises:
    ConfigError: an unknown `where`.
    ValueError: an 'answer' that is not a letter, or not one of the options.
  """
  answers.check_where(where, WHERE)
  return [choice_verdict(item, where=where)['score'] for item in items]


def choice_verdict(item, *, where='both'):
  """How `choice` scores one item: a dict with 'score', 'reason' and 'extracted', the answer found or None."""
  answers.check_where(where, WHERE)
  gold = _gold(item)
  if not gold or len(set(gold)) != len(gold) or set(gold) - set(LETTERS):
    raise ValueError(f"the item's 'answer' is {item['answer']!r}; it must be a letter from A to J, or several.")
  options = _options(item.get('options') or {})
  if options and set(gold) - set(options):
    raise ValueError(f"the item's 'answer' is {gold!r}, which is not one of the options {', '.join(options)}.")
  answer = answers.find(item, where)
  if answer.text is None:
    return {'score': 0.0, 'reason': answer.reason, 'extracted': None}
  several = len(gold) > 1
  letter = _chosen(answer.text, options, several)
  reason = f'chose {letter}' if letter else 'not one letter, and not the text of one option'
  if letter == gold and answer.later is not None and _chosen(answer.later, options, several) != gold:
    letter, reason = None, f'followed by another answer: {answer.later[:80]}'
  return {'score': float(letter == gold), 'reason': reason, 'extracted': answer.text}


def choice_vote(item, *, where='both'):
  """The letter that the response chooses; None if it chooses none, or a different one later."""
  answer, options = answers.find(item, where), _options(item.get('options') or {})
  several = len(_gold(item)) > 1
  letter = _chosen(answer.text, options, several) if answer.text is not None else None
  return None if answer.later is not None and _chosen(answer.later, options, several) != letter else letter


def _gold(item):
  """The letters of the item's 'answer', in order."""
  return ''.join(sorted(re.sub('[(), ]', '', answers.reference(item) if 'answer' in item else '')))


def _options(options):
  """{letter: normalized text} of the options, given as a list or a dict."""
  pairs = options.items() if hasattr(options, 'items') else zip(LETTERS, options, strict=False)
  return {str(letter): _option_key(mathtext.normalize(str(text))) for letter, text in pairs}


def _option_key(text):
  return ' '.join(mathtext.strip_fonts(text).split()).casefold()


def _chosen(text, options, several=False):
  """The letter that an answer chooses; None if it is not exactly one. several: letters, in order, are read as well."""
  text = mathtext.normalize(text)
  if several and _LETTERS.fullmatch(mathtext.strip_fonts(text)):
    letters = re.findall('[A-J]', mathtext.strip_fonts(text))
    return ''.join(sorted(letters)) if len(set(letters)) == len(letters) else None
  letter = _LETTER.fullmatch(mathtext.strip_fonts(text))
  if letter:
    return letter[1].upper()
  equal = [letter for letter, option in options.items() if option == _option_key(text)]
  leading = _LEADING.match(mathtext.strip_fonts(text))
  if leading and options.get(leading[1]) == _option_key(mathtext.strip_fonts(text)[leading.end() :]) and not equal:
    return leading[1]
  labelled = None if options else labels.split(text)
  if labelled and labels.is_value(labelled[1]):
    return labelled[0]
  return equal[0] if len(equal) == 1 else None


def exact(items, *, where='both', case=False, space=False):
  """1.0 if the response's answer equals the item's 'answer' as text, else 0.0.

  Args:
    items: list of dicts with 'response' and 'answer'.
    where: as in `choice`.
    case: whether upper and lower case differ.
    space: whether white space inside the answer must be the same; if False, any run of it counts as one space. White
      space at the ends never matters.

  Returns:
    list of float, 0.0 or 1.0.

  Raises:
    ConfigError: an unknown `where`, or a `case` or `space` that is not a bool.
  """
  _check(where, case, space)
  return [exact_verdict(item, where=where, case=case, space=space)['score'] for item in items]


def exact_verdict(item, *, where='both', case=False, space=False):
  """How `exact` scores one item: a dict with 'score', 'reason' and 'extracted', the answer found or None."""
  _check(where, case, space)
  answer = answers.find(item, where, limit=len(answers.reference(item)) + answers.MAX_ANSWER)
  if answer.text is None:
    return {'score': 0.0, 'reason': answer.reason, 'extracted': None}
  expected, got = (_normalize(text, case, space) for text in (answers.reference(item), answer.text))
  return {
    'score': float(expected == got),
    'reason': 'equal' if expected == got else 'not equal',
    'extracted': answer.text,
  }


def exact_vote(item, *, where='both', case=False, space=False):
  """The response's answer, with case and white space normalized as for the comparison; None if there is none."""
  answer = answers.find(item, where, limit=len(answers.reference(item)) + answers.MAX_ANSWER).text
  return None if answer is None else _normalize(answer, case, space)


def _normalize(text, case, space):
  text = text.strip() if space else ' '.join(text.split())
  return text if case else text.casefold()


def _check(where, case, space):
  answers.check_where(where, WHERE)
  for name, value in (('case', case), ('space', space)):
    if not isinstance(value, bool):
      raise ConfigError(f'{name} is {value!r}; it must be True or False.')
