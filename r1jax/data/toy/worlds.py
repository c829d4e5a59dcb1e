"""The generated worlds by name: what a base model reads, and problems by which it is seen what it has learned."""

import functools

import numpy as np

from r1jax.data.toy import arithmetic, r1, r1_text

WORLDS = (*arithmetic.WORLDS, 'r1')


def documents(world, seed, count):
  """`count` pairs of texts: a prompt without its last line's end, and the response."""
  if world == 'r1':
    return r1_text.documents(seed, count)
  return [tuple(text.split('\n')) for text in arithmetic.documents(world, seed, count)]


def asked(world, seed, count):
  """`count` held-out problems, each with a function from a response to its steps: (kind, whether right) pairs."""
  if world != 'r1':
    return [
      (p, functools.partial(arithmetic.WORLDS[world].steps, p['problem']))
      for p in arithmetic.problems(world, seed, count, held_out=True)
    ]
  rng, found = np.random.default_rng([seed, 9]), {}
  kinds = [kind for kind in r1.KINDS if kind != 'open']
  while len(found) < count:
    kind = kinds[len(found) % len(kinds)]
    problem, facts = r1.make(rng, kind)
    if r1.is_held_out(problem['problem']):
      found[problem['problem']] = problem, functools.partial(r1.steps, kind, facts)
  return list(found.values())
