"""Is the answer of a mathematics problem right? By rule.

Where the answer stands is decided by `r1jax.rewards.answers`, what counts as equal by
`r1jax.rewards.mathematics.compare`: their first lines are the rules. A policy finds every answer that is scored 1 and
is not right, so what is in doubt is wrong.
"""

from r1jax.config import ConfigError
from r1jax.rewards import answers
from r1jax.rewards.mathematics import compare, mathtext, symbolic


def math_answer(items, *, where='both', bare=False):
  """1.0 where the response's answer equals the item's 'answer', else 0.0.

  May take arbitrarily long or much memory: call it under a limit (`pool.Grader`).

  Args:
    items: list of dicts with 'response' and 'answer' (str or number), and if there 'prompt' and 'problem'.
    where: 'tags', 'boxed' or 'both': see `answers`.
    bare: a response with no tag and no box is itself an answer.

  Raises:
    ConfigError: an unknown `where`, or a `bare` that is neither True nor False.
  """
  _check(where, bare)
  return [verdict(item, where=where, bare=bare)['score'] for item in items]


def verdict(item, *, where='both', bare=False):
  """As math_answer, of one item: a dict with 'score', 'reason' and 'extracted', the answer found or None."""
  _check(where, bare)
  found = answers.find(item, where, bare)
  if found.text is None:
    return {'score': 0.0, 'reason': found.reason, 'extracted': None}
  gold, problem = mathtext.ended(answers.reference(item)), str(item.get('problem', ''))
  wrong = compare.difference(gold, mathtext.ended(found.text), problem)
  if wrong and found.together and compare.difference(gold, found.together, problem) is None:
    wrong = None
  if wrong is None and found.later is not None and compare.difference(gold, found.later, problem) is not None:
    wrong = f'followed by another answer: {found.later[:80]}'
  return {'score': float(wrong is None), 'reason': wrong or 'equal', 'extracted': found.text}


def vote(item, *, where='both', bare=False):
  """The answer that the response gives, or None."""
  found = answers.find(item, where, bare)
  return found.together or found.text


def prepare():
  """Imports the verifier and builds its tables: seconds, and not to be charged to an item."""
  for text in (r'\frac{\sqrt{2}}{2}+3\pi', 'x^2+2x-1=y', r'(-\infty,2)\cup[3,4]', r'2(x+1)', r'x\ge 3'):
    symbolic.equal(text, text)


def _check(where, bare):
  answers.check_where(where)
  if not isinstance(bare, bool):
    raise ConfigError(f'bare is {bare!r}; it must be True or False.')
