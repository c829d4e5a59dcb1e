"""The format reward: is the thinking between think tags and the answer between answer tags?"""
from r1jax import templates


def form(items):
  """1.0 where the response is well formed (`templates.parse`), else 0.0.

  Args:
    items: list of dicts with 'prompt' and 'response'.
  """
  return [float(templates.parse(templates.completed(i['prompt'], i['response'])).well_formed) for i in items]
