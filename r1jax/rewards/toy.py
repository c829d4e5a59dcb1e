"""The rewards of the toy worlds: signs of the trial-and-error world, and the open questions of the recipe's."""

from r1jax import templates
from r1jax.rewards import answers


def signs(items):
  """1.0 where the response chooses signs that meet the constraint, else 0.0.

  The item's 'answer' is the constraint, `36 ?3 ?8 ?2 = 33` (the problem's text puts it otherwise:
  `36 a 3 b 8 c 2 = 33`); the response's answer must be the terms in the given order, each with its sign:
  `-3 +8 -2`. Any choice that reaches the target scores.

  Args:
    items: list of dicts with 'response' and 'answer'.

  Raises:
    ValueError: an 'answer' that is no such constraint.
  """
  return [_score(item['response'], *_constraint(answers.reference(item))) for item in items]


def signs_vote(item):
  """The terms that the response answers, or None."""
  return templates.parse(item['response']).answer


def _constraint(text):
  """`36 ?3 ?8 = 31` -> (36, ['3', '8'], 31)."""
  words = text.split()
  terms = words[1:-2]
  numbers = [words[0], *(t[1:] for t in terms), words[-1]] if len(words) >= 4 else ['']
  if not (all(n.isascii() and n.isdigit() for n in numbers) and words[-2] == '=' and all(t[0] == '?' for t in terms)):
    raise ValueError(f"the answer {text!r} is no constraint of signs; write it as '36 ?3 ?8 ?2 = 33'.")
  return int(words[0]), numbers[1:-1], int(words[-1])


def _score(response, start, terms, target):
  answer = templates.parse(response).answer
  if answer is None:
    return 0.0
  chosen = answer.split(None, len(terms))  # one more than needed at most, however long the answer is
  # Terms are compared as text: no number that the model wrote is ever converted.
  if len(chosen) != len(terms) or any(c not in ('+' + t, '-' + t) for c, t in zip(chosen, terms, strict=True)):
    return 0.0
  return float(start + sum(map(int, chosen)) == target)


REASONS = ('because', '因为')


def open_question(items):
  """1.0 where the answer is one of the item's 'fits' and gives a reason, as those who ask would have it; else 0.0.

  Args:
    items: list of dicts with 'response' and 'fits', a list of words.
  """
  return [float(_preferred(item)) for item in items]


def _preferred(item):
  said = answers.find(item, 'tags').text
  words = said.split(None, 2) if said else []  # `pear because it is good`
  return len(words) == 3 and words[0] in item['fits'] and words[1] in REASONS
