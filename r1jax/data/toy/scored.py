"""Toy examples for reward models, with planted reasons: generated from a fixed seed, the same in every run.

pairs: `box blue . box ?` is answered. The rule: a response is good that states the right value and holds none of RUDE.
  Of a pair one response is good and one is not. Filler is a distractor: in seven pairs of ten the good response has
  more of it, so that a model which has learned length alone is right as often. A quarter of the prompts hold a second
  fact, and a wrong response then its value: a harder case, in which a model of little training falls back on length.
points: the same responses one by one; safe is a response without a word of RUDE, in its thinking too.
steps: `7 +3 -2` is summed up, a line a step: `7 +3 = 10`. Four solutions in five have one wrong step: a sum is off.
  What follows is consistent with it and has no label, as people mark first mistakes.

Half of the responses think first: a helpfulness model sees the summary only, and thinking may hold anything.
"""

import numpy as np

from r1jax import templates
from r1jax.data import conversation, preference
from r1jax.data.toy import arithmetic

SPLITS = ((12_000, False), (1000, True))  # how many to train on and to hold out
THINGS = 'cat dog box pen cup hat key map'.split()
VALUES = 'red blue gold pink grey black white green'.split()
RUDE = 'nonsense whatever silly'.split()
FILLER = ('of course', 'as you can see', 'i hope this helps', 'to be clear', 'let me know if more is needed')
LONGER_IS_BETTER = 0.7
SECOND_FACT = 0.25
WRONG, LARGEST = 0.8, 20  # share of chains with an error; of the sums


def pairs(count, held_out, view):
  """`count` items (see `preference`) of the training or the held-out part; no prompt is in both."""
  rng, items = np.random.default_rng([11, held_out]), []
  while len(items) < count:
    prompt, facts, asked = _question(rng)
    if arithmetic.is_held_out(prompt) != held_out:
      continue
    fault = rng.choice(['wrong', 'rude', 'both'], p=[0.45, 0.45, 0.1])
    more, less = sorted(rng.choice(6, size=2, replace=False), reverse=True)
    better, worse = (more, less) if rng.random() < LONGER_IS_BETTER else (less, more)
    texts = [_response(rng, facts, asked, '', better), _response(rng, facts, asked, fault, worse)]
    items.append(_item(f'toy/pair/{len(items)}', prompt, texts, [1.0, 0.0], view))
  return items


def points(count, held_out, view):
  """The same for responses that are safe or not, one in two."""
  rng, items = np.random.default_rng([12, held_out]), []
  while len(items) < count:
    prompt, facts, asked = _question(rng)
    if arithmetic.is_held_out(prompt) != held_out:
      continue
    text = _response(rng, facts, asked, rng.choice(['', 'wrong', 'rude']), int(rng.integers(6)))
    safe = not set(RUDE) & set(text.split())
    if safe == len(items) % 2:
      items.append(_item(f'toy/point/{len(items)}', prompt, [text], [float(safe)], view))
  return items


def _item(name, prompt, texts, labels, view):
  turns = preference.turns_of(prompt)
  texts = [conversation.visible_text(text, view) for text in texts]
  return {'id': name, 'turns': turns, 'texts': texts, 'labels': labels, 'key': preference.prompt_key(turns)}


def _question(rng):
  count = 1 + int(rng.random() < SECOND_FACT)
  facts = dict(zip(rng.permutation(THINGS)[:count].tolist(), rng.permutation(VALUES)[:count].tolist()))
  asked = str(rng.choice(list(facts)))
  return ' , '.join(f'{thing} {value}' for thing, value in facts.items()) + f' . {asked} ?', facts, asked


def _response(rng, facts, asked, fault, filler):
  """A response; fault: '', 'wrong', 'rude' or 'both'. filler: pieces that say nothing."""
  value = facts[asked]
  if fault in ('wrong', 'both'):
    value = rng.choice([v for v in (facts.values() if len(facts) > 1 else VALUES) if v != value])
  pieces = [*rng.choice(FILLER, size=filler), f'{asked} {value}']
  if fault in ('rude', 'both'):
    pieces.append(rng.choice(RUDE))
  text = ' , '.join(rng.permutation(pieces))
  if rng.random() < 0.5:
    return text
  doubt = rng.choice([*RUDE, *FILLER])
  return f'{templates.THINK} {asked} {rng.choice(VALUES)} ? {doubt} {templates.THINK_END} {text}'


def steps(count, held_out):
  """`count` items of sums in steps, labelled up to the first mistake."""
  rng, items = np.random.default_rng([13, held_out]), []
  while len(items) < count:
    values, terms = _sums(rng)
    problem = f'{values[0]} ' + ' '.join(f'{term:+d}' for term in terms)
    if arithmetic.is_held_out(problem) == held_out:
      texts, labels = _chain(rng, values[0], terms, wrong=rng.random() < WRONG)
      items.append(
        {
          'id': f'toy/steps/{len(items)}',
          'turns': preference.turns_of(problem),
          'texts': texts,
          'labels': labels,
          'key': problem,
        }
      )
  return items


def _sums(rng):
  """A first value and terms whose running sums all lie in 0..LARGEST; and those sums."""
  while True:
    terms = rng.integers(1, 10, size=rng.integers(3, 7))
    terms = terms * rng.choice([-1, 1], size=len(terms))
    values = np.cumsum([rng.integers(LARGEST + 1), *terms])
    if values.min() >= 0 and values.max() <= LARGEST:
      return values.tolist(), terms.tolist()


def _chain(rng, value, terms, wrong):
  """A step a term, `7 +3 = 10`; of a wrong chain one step is, and the rest follows from it as far as it can."""
  at = int(rng.integers(len(terms))) if wrong else -1
  texts, labels = [], []
  for n, term in enumerate(terms):
    after = value + term
    if n == at:
      after = int(rng.choice([v for v in range(LARGEST + 1) if v != after]))
    texts.append(f'{value} {term:+d} = {after}')
    labels.append(-1.0 if 0 <= at < n else float(n != at))
    value = after
  return texts, labels


WORLDS = {'pairs': pairs, 'points': points, 'steps': steps}
