"""A shaped reward for structure: does the response have certain sections, such as analysis, steps and verification?"""

import re

from r1jax import templates
from r1jax.config import ConfigError

PLACES = ('thinking', 'summary', 'response')


def sections(items, *, headings=('analysis', 'steps', 'verification'), where='thinking'):
  """Share of the sections that the text has, in their order and none of them empty.

  It says nothing about what is in a section, so it is a reward to add to one for being right, with a small weight.

  Args:
    items: list of dicts with 'response', and 'prompt' if that may end with an opening think tag.
    headings: how each section begins, in order. A heading is a word or phrase in any case; 'check|verify' is either of
      two. One that occurs twice in its section counts once.
    where: 'thinking': the chain of thought, or the whole response if there is none; 'summary': what follows it;
      'response': the whole response.

  Returns:
    list of float in [0, 1].

  Raises:
    ConfigError: no headings, an empty one, or an unknown place.
  """
  return [verdict(item, headings=headings, where=where)['score'] for item in items]


def verdict(item, *, headings=('analysis', 'steps', 'verification'), where='thinking'):
  """How `sections` scores one item: a dict with 'score', 'reason' and 'missing', the headings of absent sections."""
  _check(headings, where)
  text = templates.completed(item.get('prompt', ''), item['response'])
  if where == 'thinking':
    thinking = templates.parse(text).thinking
    text = text if thinking is None else thinking
  elif where == 'summary':
    text = templates.summary(text) or ''
  begins, place = {}, 0
  for heading in headings:
    if match := _pattern(heading).search(text, place):
      begins[heading], place = match.span(), match.end()
  ends = [*(start for start, _ in begins.values()), len(text)][1:]
  full = {h for (h, (_, end)), stop in zip(begins.items(), ends) if any(c.isalnum() for c in text[end:stop])}
  missing = [heading for heading in headings if heading not in full]
  reason = f'missing or empty: {", ".join(missing)}' if missing else 'all sections'
  return {'score': 1 - len(missing) / len(headings), 'reason': reason, 'missing': missing}


def _pattern(heading):
  """Of ASCII headings only whole words match; other scripts have no spaces between words."""
  word = lambda text: rf'(?<![a-z0-9]){re.escape(text)}(?![a-z0-9])' if text.isascii() else re.escape(text)
  return re.compile('|'.join(word(text.strip()) for text in heading.split('|')), re.IGNORECASE)


def _check(headings, where):
  texts = headings if isinstance(headings, (tuple, list)) and headings else ['']
  if not all(isinstance(heading, str) and all(map(str.strip, heading.split('|'))) for heading in texts):
    raise ConfigError(f"headings is {headings!r}; list how each section begins, such as ('analysis', 'check|verify').")
  if len(set(texts)) < len(texts):
    raise ConfigError(f'headings {headings!r} has one of them twice.')
  if where not in PLACES:
    raise ConfigError(f'where is {where!r}; known: {", ".join(PLACES)}.')
