"""Arithmetic in words for small pretrained models: short stories about a number of things, with worked solutions.

`Mia has 34 apples. She buys 4 bags with 7 apples each. She gives 15 apples to Ben. How many apples does Mia have now?`
A worked solution names each event and computes what it leaves; half of the solutions only name the number at the end,
which a small model cannot compute at once. The answer stands in a box.
"""

import numpy as np

from r1jax.data.toy.arithmetic import is_held_out

NAMES = {
  'she': ('Mia', 'Anna', 'Lucy', 'Sara', 'Nora', 'Eva', 'Ruth', 'Zoe'),
  'he': ('Ben', 'Tom', 'Leo', 'Paul', 'Omar', 'Max', 'Ivan', 'Jack'),
}
THINGS = ('apples', 'stickers', 'marbles', 'books', 'coins', 'pencils', 'shells', 'cards', 'stamps', 'buttons')
LARGEST = 200  # number of things at any time
LENGTH = 2  # events of a story
TEMPLATE = '<think>\n{}\n</think>\n\nThe answer is \\boxed{{{}}}.'


# Each event: (rng, who, things, another person, number now) -> sentence, step of the solution, number after.


def _gain(rng, who, things, other, now):
  n = int(rng.integers(11, 60))
  verb = rng.choice(['finds', 'buys', 'wins'])
  return f'{who} {verb} {n} more {things}.', f'{who} {verb} {n} more: {now} + {n} = {now + n}.', now + n


def _bags(rng, who, things, other, now):
  bags, each = (int(n) for n in rng.integers(3, 10, size=2))
  n = bags * each
  told = f'{who} buys {bags} bags with {each} {things} each.'
  return told, f'{bags} bags of {each} are {bags} * {each} = {n}, and {now} + {n} = {now + n}.', now + n


def _loss(rng, who, things, other, now):
  n = int(rng.integers(3, max(4, now - 1)))
  told = f'{who} gives {n} {things} to {other}.' if rng.random() < 0.5 else f'{who} loses {n} {things}.'
  return told, f'{told.removesuffix(".").replace(f" {things}", "")}: {now} - {n} = {now - n}.', now - n


def _double(rng, who, things, other, now):
  whom = {'She': 'her', 'He': 'him'}[who]
  told = f'{other} gives {whom} as many {things} as {who.lower()} already has.'
  return told, f'{other} doubles them: {now} * 2 = {now * 2}.', now * 2


def _share(rng, who, things, other, now):
  parts = [k for k in range(2, 7) if now % k == 0]
  if not parts:
    return _loss(rng, who, things, other, now)
  k = int(rng.choice(parts))
  told = f'{who} puts the {things} into {k} equal heaps and keeps one heap.'
  return told, f'One of {k} heaps has {now} / {k} = {now // k}.', now // k


EVENTS = (_gain, _bags, _loss, _double, _share)


def make(rng):
  """One story: (text, answer, solution)."""
  pronoun = str(rng.choice(list(NAMES)))
  name = str(rng.choice(NAMES[pronoun]))
  other = str(rng.choice([n for names in NAMES.values() for n in names if n != name]))
  things, who = str(rng.choice(THINGS)), pronoun.capitalize()
  now = int(rng.integers(20, 90))
  text, steps = [f'{name} has {now} {things}.'], []
  while len(steps) < LENGTH:
    event = EVENTS[rng.integers(len(EVENTS))]
    told, step, after = event(rng, who, things, other, now)
    if 0 < after <= LARGEST:
      text.append(told)
      steps.append(step)
      now = after
  text.append(f'How many {things} does {name} have now?')
  return ' '.join(text), str(now), ' '.join(steps)


def problems(seed, count, held_out):
  """Returns `count` different stories of one split, each {'id', 'problem', 'answer'}; no text is in both splits."""
  split = 'held_out' if held_out else 'train'
  return [
    {'id': f'stories/{split}/{i}', 'problem': text, 'answer': answer}
    for i, (text, answer, _) in enumerate(_stories(np.random.default_rng([seed, 21 + held_out]), count, held_out))
  ]


def solutions(seed, count):
  """Returns `count` pairs (story, solution in R1's form), none of a held-out story; every other solution is worked."""
  rng = np.random.default_rng([seed, 23])
  return [
    (text, TEMPLATE.format(f'That makes {answer}.' if i % 2 else steps, answer))
    for i, (text, answer, steps) in enumerate(_stories(rng, count, held_out=False))
  ]


def _stories(rng, count, held_out):
  found = {}
  while len(found) < count:
    story = make(rng)
    if is_held_out(story[0]) == held_out:
      found.setdefault(story[0], story)
  return list(found.values())
