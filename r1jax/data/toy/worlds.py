"""The toy worlds by name: pretraining texts, and problems for the gate that tests what a base model has learned."""

import functools

import numpy as np

from r1jax.data.toy import arithmetic, r1, r1_text

WORLDS = (*arithmetic.WORLDS, 'r1')


def documents(world, seed, count):
  """Returns `count` pairs (prompt without its final newline, response)."""
  if world == 'r1':
    return r1_text.documents(seed, count)
  return [tuple(text.split('\n', 1)) for text in arithmetic.documents(world, seed, count)]


def gate_problems(world, seed, count):
  """Returns `count` held-out problems, each with a function from a response to its steps.

  Returns:
    list of (problem, function response -> list of (kind of step, whether it is right)).
  """
  if world != 'r1':
    return [
      (p, functools.partial(arithmetic.WORLDS[world].steps, p['problem']))
      for p in arithmetic.problems(world, seed, count, held_out=True)
    ]
  rng, problems = np.random.default_rng([seed, 9]), {}
  kinds = [kind for kind in r1.KINDS if kind != 'open']
  while len(problems) < count:
    kind = kinds[len(problems) % len(kinds)]
    problem, facts = r1.make(rng, kind)
    if r1.is_held_out(problem['problem']):
      problems[problem['problem']] = problem, functools.partial(r1.steps, kind, facts)
  return list(problems.values())
