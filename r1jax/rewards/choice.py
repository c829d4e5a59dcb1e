"""Multiple choice, and exact match. The answer is looked for by the rule of `r1jax.rewards.answers`."""

import re

from r1jax.config import ConfigError
from r1jax.rewards import answers
from r1jax.rewards.mathematics import labels, mathtext

WHERE = (*answers.WHERE, 'summary')
LETTERS = 'ABCDEFGHIJ'

_LETTER = re.compile(r'(?:option |choice |故?选项?:? ?)?[(\[]?([A-Ja-j])[)\]]?[.:]?', re.IGNORECASE)
_LEADING = re.compile(r'[(\[]? ?([A-J]) ?(?:[)\]][.:,]?|[.:,]| ) ?')


def choice(items, *, where='both'):
  """1.0 where the response's answer is the letter of the item's 'answer', else 0.0.

  The answer must be the letter and nothing else, as C, (C), C. or Option C, after 'the answer is' or not; or, where the
  item has 'options', the text of the right option, or the letter and that text (without options: and a number or the
  like). Two letters are wrong, even if one of them is right; and so is an answer with a contradicting one behind it.

  Args:
    items: list of dicts with 'response', 'answer' (a letter from A to J), and perhaps 'options': a list of texts in the
      order of the letters, or a dict from letter to text.
    where: 'tags', 'boxed', 'both', or 'summary', all that follows the thinking.

  Raises:
    ConfigError: an unknown `where`. ValueError: an 'answer' that is no letter, or has no option.
  """
  answers.check_where(where, WHERE)
  return [choice_verdict(item, where=where)['score'] for item in items]


def choice_verdict(item, *, where='both'):
  """As choice, of one item: a dict with 'score', 'reason' and 'extracted', the answer found or None."""
  answers.check_where(where, WHERE)
  gold = answers.reference(item).strip().strip('()')
  if len(gold) != 1 or gold not in LETTERS:
    raise ValueError(f'the answer {item["answer"]!r} is no choice; it must be a letter from A to J.')
  options = _options(item.get('options') or {})
  if options and gold not in options:
    raise ValueError(f'the answer {gold} is none of the options {", ".join(options)}.')
  found = answers.find(item, where)
  if found.text is None:
    return {'score': 0.0, 'reason': found.reason, 'extracted': None}
  given = _chosen(found.text, options)
  reason = f'chose {given}' if given else 'not one letter, and not the text of one option'
  if given == gold and found.later is not None and _chosen(found.later, options) != gold:
    given, reason = None, f'followed by another answer: {found.later[:80]}'
  return {'score': float(given == gold), 'reason': reason, 'extracted': found.text}


def choice_vote(item, *, where='both'):
  """The letter that the response chooses; None where it chooses none, or another one later."""
  found, options = answers.find(item, where), _options(item.get('options') or {})
  given = _chosen(found.text, options) if found.text is not None else None
  return None if found.later is not None and _chosen(found.later, options) != given else given


def _options(options):
  """letter -> normalised text, of a list or a dict."""
  pairs = options.items() if hasattr(options, 'items') else zip(LETTERS, options, strict=False)
  return {str(letter): _normal(mathtext.plain(str(text))) for letter, text in pairs}


def _normal(text):
  return ' '.join(mathtext.words(text).split()).casefold()


def _chosen(text, options):
  """The letter that an answer chooses, or None."""
  text = mathtext.plain(text)
  letter = _LETTER.fullmatch(mathtext.words(text))
  if letter:
    return letter[1].upper()
  same = [letter for letter, option in options.items() if option == _normal(text)]
  leading = _LEADING.match(mathtext.words(text))
  if leading and options.get(leading[1]) == _normal(mathtext.words(text)[leading.end() :]) and not same:
    return leading[1]
  labelled = None if options else labels.split(text)
  if labelled and labels.is_value(labelled[1]):
    return labelled[0]
  return same[0] if len(same) == 1 else None


def exact(items, *, where='both', case=False, space=False):
  """1.0 where the response's answer is the item's 'answer', else 0.0.

  Args:
    items: list of dicts with 'response' and 'answer'.
    where: as in choice.
    case: whether upper and lower case differ.
    space: whether white space inside counts as it stands; if not, any run of it is one space. At the ends it is cut.

  Raises:
    ConfigError: an unknown `where`, or another value than True or False.
  """
  _check(where, case, space)
  return [exact_verdict(item, where=where, case=case, space=space)['score'] for item in items]


def exact_verdict(item, *, where='both', case=False, space=False):
  """As exact, of one item: a dict with 'score', 'reason' and 'extracted', the answer found or None."""
  _check(where, case, space)
  found = answers.find(item, where, limit=len(answers.reference(item)) + answers.MAX_ANSWER)
  if found.text is None:
    return {'score': 0.0, 'reason': found.reason, 'extracted': None}
  want, got = (_folded(text, case, space) for text in (answers.reference(item), found.text))
  return {'score': float(want == got), 'reason': 'equal' if want == got else 'not equal', 'extracted': found.text}


def exact_vote(item, *, where='both', case=False, space=False):
  """The response's answer, letters and white space folded as they are when it is compared; or None."""
  found = answers.find(item, where, limit=len(answers.reference(item)) + answers.MAX_ANSWER).text
  return None if found is None else _folded(found, case, space)


def _folded(text, case, space):
  text = text.strip() if space else ' '.join(text.split())
  return text if case else text.casefold()


def _check(where, case, space):
  answers.check_where(where, WHERE)
  for name, value in (('case', case), ('space', space)):
    if not isinstance(value, bool):
      raise ConfigError(f'{name} is {value!r}; it must be True or False.')
