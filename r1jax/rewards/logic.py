"""Knights-and-knaves puzzles: does the answer say correctly who is a knight and who is a knave?"""

import re

from r1jax.config import ConfigError
from r1jax.rewards import answers

WHERE = (*answers.WHERE, 'summary')
LIMIT = 20_000  # longest answer in characters

_TOKEN = re.compile(r'\w+|[:=]')
_VERBS = {'is', ':', '='}
_ARTICLES = {'a', 'an', 'the'}
_ROLES = {'knight': True, 'knave': False}
_LINK = 4  # tokens before a role in which its name is looked for


def logic(items, *, where='both', partial=False):
  """1.0 if the response's answer states the role of each person correctly, else 0.0.

  A statement looks like `NAME is a knight` or `NAME: knave`; numbers before it and words between statements do not
  matter. A role in any other place ('not a knight', 'a knight or a knave', an unknown person) makes the answer
  unreadable, which scores 0. So does a person left out or with both roles. A repeated statement counts once.

  Args:
    items: list of dicts with 'response', 'names' (list of str) and 'is_knight' (list of bool).
    where: 'tags', 'boxed', 'both', or 'summary' (everything after the thinking).
    partial: score the share of people whose role is correct instead; guessing then scores 0.5 on average.

  Returns:
    list of float in [0, 1].

  Raises:
    ConfigError: an unknown `where`, or a `partial` that is not a bool.
  """
  _check(where, partial)
  return [verdict(item, where=where, partial=partial)['score'] for item in items]


def verdict(item, *, where='both', partial=False):
  """How `logic` scores one item: a dict with 'score', 'reason' and 'extracted'.

  'extracted' maps the names that could be read to whether they are knights; None if there is no answer.
  """
  _check(where, partial)
  answer = answers.find(item, where, limit=LIMIT)
  if answer.text is None:
    return {'score': 0.0, 'reason': answer.reason, 'extracted': None}
  if answer.later is not None:
    return {'score': 0.0, 'reason': f'followed by another answer: {answer.later[:80]}', 'extracted': None}
  roles, error = _read_roles(answer.text, item['names'])
  missing = [name for name in item['names'] if name not in roles]
  if error or missing:
    return {'score': 0.0, 'reason': error or f'no role for {", ".join(missing)}', 'extracted': roles}
  correct = sum(roles[name] == bool(knight) for name, knight in zip(item['names'], item['is_knight'], strict=True))
  share = correct / len(item['names'])
  return {
    'score': share if partial else float(share == 1),
    'reason': f'{correct} of {len(item["names"])} right',
    'extracted': roles,
  }


def vote(item, *, where='both', partial=False):
  """The roles that the response states, in the order of the names; None if they cannot be read."""
  del partial
  answer = answers.find(item, where, limit=LIMIT)
  roles, error = (
    _read_roles(answer.text, item['names']) if answer.text is not None and answer.later is None else ({}, '')
  )
  return None if error or not roles else ', '.join(f'{name}: {roles[name]}' for name in item['names'] if name in roles)


def _read_roles(text, names):
  """Reads the statements in a text. Returns ({name: is a knight}, error message or '')."""
  tokens = _TOKEN.findall(text)
  known, roles = {name.casefold(): name for name in names}, {}
  for i, token in enumerate(tokens):
    role = token.casefold()
    if role not in _ROLES:
      if role in ('knights', 'knaves'):
        return roles, f'{token} are not told apart'
      continue
    # Backwards from the role: an article, a verb, and the name.
    preceding = [t.casefold() for t in tokens[max(0, i - _LINK) : i]]
    if preceding and preceding[-1] in _ARTICLES:
      preceding.pop()
    while preceding and preceding[-1] in _VERBS:
      preceding.pop()
    name = known.get(preceding[-1]) if preceding else None
    if name is None:
      return roles, f'a {role} without a name'
    if roles.setdefault(name, _ROLES[role]) != _ROLES[role]:
      return roles, f'two roles for {name}'
  return roles, ''


def _check(where, partial):
  answers.check_where(where, WHERE)
  if not isinstance(partial, bool):
    raise ConfigError(f'partial is {partial!r}; it must be True or False.')
