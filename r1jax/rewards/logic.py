"""Knights and knaves: who of the people of the problem is a knight, and who a knave?"""

import re

from r1jax.config import ConfigError
from r1jax.rewards import answers

WHERE = (*answers.WHERE, 'summary')
LIMIT = 20_000  # characters of an answer

_TOKEN = re.compile(r'\w+|[:=]')
_VERBS = {'is', ':', '='}
_ARTICLES = {'a', 'an', 'the'}
_ROLES = {'knight': True, 'knave': False}
_LINK = 4  # tokens between a name and its role at most


def logic(items, *, where='both', partial=False):
  """1.0 where the response's answer states each person's role, and each rightly, else 0.0.

  A statement is `NAME is a knight`, `NAME: knave` or the like; numbers before it and words between statements do not
  matter. A role in any other place ('not a knight', 'a knight or a knave', someone unknown) makes the answer
  unreadable; that, a person left out and a person given both roles score 0. The same statement twice is one.

  Args:
    items: list of dicts with 'response', and 'names' and 'is_knight', lists of str and bool.
    where: 'tags', 'boxed', 'both', or 'summary', all that follows the thinking.
    partial: True gives the share of people whose role is right. A guess is worth a half.

  Returns:
    list of float in [0, 1].

  Raises:
    ConfigError: an unknown `where`, or a `partial` that is neither True nor False.
  """
  _check(where, partial)
  return [verdict(item, where=where, partial=partial)['score'] for item in items]


def verdict(item, *, where='both', partial=False):
  """As logic, of one item: a dict with 'score', 'reason' and 'extracted', name -> is a knight, as far as read."""
  _check(where, partial)
  found = answers.find(item, where, limit=LIMIT)
  if found.text is None:
    return {'score': 0.0, 'reason': found.reason, 'extracted': None}
  if found.later is not None:
    return {'score': 0.0, 'reason': f'followed by another answer: {found.later[:80]}', 'extracted': None}
  roles, wrong = _stated(found.text, item['names'])
  missing = [name for name in item['names'] if name not in roles]
  if wrong or missing:
    return {'score': 0.0, 'reason': wrong or f'no role for {", ".join(missing)}', 'extracted': roles}
  right = sum(roles[name] == bool(knight) for name, knight in zip(item['names'], item['is_knight'], strict=True))
  share = right / len(item['names'])
  return {
    'score': share if partial else float(share == 1),
    'reason': f'{right} of {len(item["names"])} right',
    'extracted': roles,
  }


def vote(item, *, where='both', partial=False):
  """The roles that the response states, in the order of the names; None where they cannot be read."""
  del partial
  found = answers.find(item, where, limit=LIMIT)
  roles, wrong = _stated(found.text, item['names']) if found.text is not None and found.later is None else ({}, '')
  return None if wrong or not roles else ', '.join(f'{name}: {roles[name]}' for name in item['names'] if name in roles)


def _stated(text, names):
  """(name -> is a knight, '' or what is wrong), of the statements in a text."""
  tokens = _TOKEN.findall(text)
  known, roles = {name.casefold(): name for name in names}, {}
  for at, token in enumerate(tokens):
    role = token.casefold()
    if role not in _ROLES:
      if role in ('knights', 'knaves'):
        return roles, f'{token} are not told apart'
      continue
    # Backwards from the role: an article, a verb, and the name.
    before = [t.casefold() for t in tokens[max(0, at - _LINK) : at]]
    if before and before[-1] in _ARTICLES:
      before.pop()
    while before and before[-1] in _VERBS:
      before.pop()
    name = known.get(before[-1]) if before else None
    if name is None:
      return roles, f'no name to a {role}'
    if roles.setdefault(name, _ROLES[role]) != _ROLES[role]:
      return roles, f'two roles for {name}'
  return roles, ''


def _check(where, partial):
  answers.check_where(where, WHERE)
  if not isinstance(partial, bool):
    raise ConfigError(f'partial is {partial!r}; it must be True or False.')
