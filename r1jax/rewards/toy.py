"""The rewards of the toy worlds: signs for the trial-and-error world, open questions for the world of the recipe."""

from r1jax import templates
from r1jax.rewards import answers


def signs(items):
  """1.0 if the response chooses signs that satisfy the constraint, else 0.0.

  The item's 'answer' is the constraint, `36 ?3 ?8 ?2 = 33` (written `36 a 3 b 8 c 2 = 33` in the problem). The
  response's answer must be the terms in the same order, each with its sign: `-3 +8 -2`. Any choice that reaches the
  target is correct.

  Args:
    items: list of dicts with 'response' and 'answer'.

  Returns:
    list of float, 0.0 or 1.0.

  Raises:
    ValueError: an 'answer' that is not such a constraint.
  """
  return [_score(item['response'], *_constraint(answers.reference(item))) for item in items]


def signs_vote(item):
  """The signed terms that the response answers with, or None."""
  return templates.parse(item['response']).answer


def _constraint(text):
  """`36 ?3 ?8 = 31` -> (36, ['3', '8'], 31)."""
  words = text.split()
  terms = words[1:-2]
  numbers = [words[0], *(t[1:] for t in terms), words[-1]] if len(words) >= 4 else ['']
  if not (all(n.isascii() and n.isdigit() for n in numbers) and words[-2] == '=' and all(t[0] == '?' for t in terms)):
    raise ValueError(f"the item's 'answer' is {text!r}; it must be a constraint such as '36 ?3 ?8 ?2 = 33'.")
  return int(words[0]), numbers[1:-1], int(words[-1])


def _score(response, start, terms, target):
  answer = templates.parse(response).answer
  if answer is None:
    return 0.0
  chosen = answer.split(None, len(terms))  # at most one more than needed, however long the answer is
  # Terms are compared as text, so that no number of any length from the response is converted.
  if len(chosen) != len(terms) or any(c not in ('+' + t, '-' + t) for c, t in zip(chosen, terms, strict=True)):
    return 0.0
  return float(start + sum(map(int, chosen)) == target)


REASONS = ('because', '因为')


def open_question(items):
  """1.0 if the answer is one of the item's 'fits' with a reason, which is what the toy users prefer; else 0.0.

  Args:
    items: list of dicts with 'response' and 'fits', a list of words.

  Returns:
    list of float, 0.0 or 1.0.
  """
  return [float(_preferred(item)) for item in items]


def _preferred(item):
  answer = answers.find(item, 'tags').text
  words = answer.split(None, 2) if answer else []  # `pear because it is good`
  return len(words) == 3 and words[0] in item['fits'] and words[1] in REASONS
