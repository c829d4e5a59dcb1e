"""The rule-based reward for mathematics: does the answer equal the reference?

`r1jax.rewards.answers` finds the answer and `r1jax.rewards.mathematics.compare` decides whether it is equal; their
docstrings state the rules. A policy will find and exploit any wrong answer that scores 1, so an answer in doubt is
wrong.
"""

from r1jax.config import ConfigError
from r1jax.rewards import answers
from r1jax.rewards.mathematics import compare, mathtext, symbolic

WHERE = (*answers.WHERE, 'stated')


def math_answer(items, *, where='both', bare=False):
  """1.0 if the response's answer equals the item's 'answer', else 0.0.

  This can take any amount of time and memory: call it under limits (`pool.Grader`).

  Args:
    items: list of dicts with 'response' and 'answer' (str or number), and optionally 'prompt' and 'problem'.
    where: 'tags', 'boxed', 'both' or 'stated', see `answers`.
    bare: a response without any tag or box is itself the answer.

  Returns:
    list of float, 0.0 or 1.0.

  Raises:
    ConfigError: an unknown `where`, or a `bare` that is not a bool.
  """
  _check(where, bare)
  return [verdict(item, where=where, bare=bare)['score'] for item in items]


def verdict(item, *, where='both', bare=False):
  """How `math_answer` scores one item: a dict with 'score', 'reason' and 'extracted', the answer found or None."""
  _check(where, bare)
  answer = answers.find(item, where, bare)
  if answer.text is None:
    return {'score': 0.0, 'reason': answer.reason, 'extracted': None}
  gold, problem = mathtext.strip_end(answers.reference(item)), str(item.get('problem', ''))
  difference = compare.difference(gold, mathtext.strip_end(answer.text), problem)
  if difference and answer.together and compare.difference(gold, answer.together, problem) is None:
    difference = None
  if difference is None and answer.later is not None and compare.difference(gold, answer.later, problem) is not None:
    difference = f'followed by another answer: {answer.later[:80]}'
  return {'score': float(difference is None), 'reason': difference or 'equal', 'extracted': answer.text}


def vote(item, *, where='both', bare=False):
  """The answer of the response; None if there is none."""
  answer = answers.find(item, where, bare)
  return answer.together or answer.text


def prepare():
  """Imports math-verify and builds its tables, which takes seconds that should not count against an item."""
  for text in (r'\frac{\sqrt{2}}{2}+3\pi', 'x^2+2x-1=y', r'(-\infty,2)\cup[3,4]', r'2(x+1)', r'x\ge 3'):
    symbolic.equal(text, text)


def _check(where, bare):
  answers.check_where(where, WHERE)
  if not isinstance(bare, bool):
    raise ConfigError(f'bare is {bare!r}; it must be True or False.')
