"""Toy worlds for R1-Zero on two CPU cores: problems, and text to pretrain a base model on.

trial: find the signs, `36 a 3 b 8 = 31`. Only trying gives the right answer, so under RL responses get longer and
  check themselves. A try is `36 a +3 39 b -8 31 = 31 ok`, the answer is the signed terms, `+3 -8`.
chain: arithmetic in steps, `a 3*5 b +8 c -9 = ?`. The authors of the text mostly guess, and forget carries.
nested: sums of earlier results, a line for each; see `toy.nested`.

The pretraining text is written by simulated, imperfect authors: some guess, some reason, some check, and six of ten use
the tags properly. Nothing in it demonstrates what RL finds.
"""

from collections.abc import Callable
import dataclasses
import hashlib
import math
from typing import Any

import numpy as np

from r1jax.data.toy import nested

TRAIN_POOL = 4096
HELD_OUT_POOL = 512
DRILLS = 0.25  # share of the documents that are plain sums, or things recalled by name
HELD_OUT_FRACTION = 0.1  # of the problems, by a hash of the text; in neither pretraining nor RL

# Each term of a problem has a name, so that a second pass can find the next term as easily as the first pass.
_NAMES = 'abcdefg'

TAGS = ('<think>', '</think>', '<answer>', '</answer>')


@dataclasses.dataclass(frozen=True)
class World:
  problem: Callable[..., Any]  # rng -> (problem text, reference answer, facts: what the authors need)
  chain: Callable[..., Any]  # (rng, facts) -> (thinking text, answer text)
  steps: Callable[..., Any]  # (problem text, response) -> list of (kind of step, whether it is right)


def is_held_out(text):
  return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) < HELD_OUT_FRACTION * 2**32


def problems(world, seed, count, held_out):
  """Returns `count` different problems of one split, in an order that depends on the seed.

  Returns:
    list of {'id', 'problem', 'answer'}, of 'nested' also 'terms', how many it names; no text is in both splits.
  """
  rng = np.random.default_rng([seed, 7 + held_out])
  rows = {}
  while len(rows) < count:
    text, answer, _ = WORLDS[world].problem(rng)
    if is_held_out(text) == held_out and text not in rows:
      split = 'held_out' if held_out else 'train'
      rows[text] = {'id': f'{world}/{split}/{len(rows)}', 'problem': text, 'answer': answer}
      if world == 'nested':
        rows[text]['terms'] = len(text.partition(' =')[0].split()) // 2
  return list(rows.values())


def documents(world, seed, count):
  """Returns `count` pretraining texts: a problem, and on the next line what one of the imperfect authors wrote.

  A share of them are drills without a problem, as a base model has read much text that is not like its prompts: they
  teach the steps, but not how to use them.
  """
  rng = np.random.default_rng([seed, 3])
  texts = []
  while len(texts) < count:
    if rng.random() < DRILLS:
      texts.append(f'drill\n{_sums(rng) if rng.random() < 0.5 else _recall(rng)}')
      continue
    problem, _, facts = WORLDS[world].problem(rng)
    if not is_held_out(problem):
      texts.append(f'{problem}\n{_tagged(rng, *WORLDS[world].chain(rng, facts))}')
  return texts


def right_chains(seed, count):
  """Returns `count` problems of the world 'chain', none held out, with a response of an author that is right.

  Returns:
    list of (problem, response), the responses in R1-Zero's format.
  """
  rng, world, chains = np.random.default_rng([seed, 5]), WORLDS['chain'], []
  while len(chains) < count:
    problem, right, facts = world.problem(rng)
    thinking, answer = world.chain(rng, facts)
    if answer == right and not is_held_out(problem):
      chains.append((problem, f'<think> {thinking} </think> <answer> {answer} </answer>'))
  return chains


def _sums(rng):
  """Twelve running sums, half of them compared with a number: `36 +3 39 = 41 no -8 31 = 31 ok ...`."""
  value = int(rng.integers(10, 100))
  words = [str(value)]
  for _ in range(12):
    term = int(rng.integers(1, 10)) * (1 if value < 12 or (value < 98 and rng.random() < 0.5) else -1)
    value += term
    words += [f'{term:+d}', str(value)]
    if rng.random() < 0.5:
      other = value + int(rng.integers(1, 10)) * int(rng.choice([-1, 0, 0, 1]))
      words += ['=', str(other), 'ok' if other == value else 'no']
  return ' '.join(words)


def _recall(rng):
  """Things with their names, three times, in a different order each time: `b 3 a 40 a 40 b 3 b 3 a 40`."""
  things = [
    lambda: str(rng.integers(10, 100)),
    lambda: str(rng.integers(1, 10)),
    lambda: f'{_term(rng):+d}',
    lambda: '{}*{}'.format(*rng.integers(2, 10, size=2)),
  ]
  names = rng.permutation(list(_NAMES))[: rng.integers(2, 8)]
  thing = {name: things[rng.integers(len(things))]() for name in names}
  return ' '.join(f'{name} {thing[name]}' for _ in range(3) for name in rng.permutation(names))


def _term(rng):
  return int(rng.integers(1, 10) * rng.choice([-1, 1]))


def _tagged(rng, thinking, answer):
  """Adds tags: six of ten authors use all of them properly, two none, two only some."""
  u = rng.random()
  if u < 0.6:
    parts = ['<think>', thinking, '</think>', '<answer>', answer, '</answer>']
  elif u < 0.8:
    parts = [thinking, 'answer', answer]
  else:
    parts = ['<think>', thinking, '</think>', '<answer>', answer, '</answer>']
    for tag in rng.choice(TAGS, size=rng.integers(1, 3), replace=False):
      parts.remove(tag)
  return ' '.join(p for p in parts if p)


# ---- trial -----------------------------------------------------------------------------------------


def _trial_problem(rng):
  k = 2 if rng.random() < 0.5 else 3
  start = int(rng.integers(30, 51))
  terms = [int(t) for t in rng.choice(np.arange(1, 10), size=k, replace=False)]
  target = start + sum(t * s for t, s in zip(terms, rng.choice([-1, 1], size=k)))
  text = f'{start} ' + ' '.join(f'{name} {t}' for name, t in zip(_NAMES, terms)) + f' = {target}'
  return text, f'{start} ' + ' '.join(f'?{t}' for t in terms) + f' = {target}', (start, terms, int(target))


def _signed(terms, signs):
  return ' '.join(f'{"+" if s > 0 else "-"}{t}' for t, s in zip(terms, signs))


def _next(signs):
  """Returns the next combination of signs: flips the last, and moves on to the one before while it becomes minus."""
  signs = list(signs)
  for i in reversed(range(len(signs))):
    signs[i] = -signs[i]
    if signs[i] > 0:
      break
  return tuple(signs)


def _trial_chain(rng, facts):
  start, terms, target = facts
  draw = lambda: tuple(int(s) for s in rng.choice([-1, 1], size=len(terms)))
  if rng.random() < 0.28:
    # Guesses are not checked: four of ten misquote a term.
    if rng.random() < 0.4:
      i = int(rng.integers(len(terms)))
      terms = [*terms[:i], terms[i] % 9 + 1, *terms[i + 1 :]]
    return 'guess', _signed(terms, draw())
  persistent = rng.random() < 0.12
  orderly = persistent or rng.random() < 0.85  # tries the signs in order; the others draw at random
  words, tried, signs = [], set(), draw()
  for attempt in range(8):
    tried.add(signs)
    value = start
    words.append(str(start))
    for name, t, s in zip(_NAMES, terms, signs):
      value += t * s
      if rng.random() < 0.005:
        value += int(rng.choice([-1, 1]))
      words += [name, f'{"+" if s > 0 else "-"}{t}', str(value)]
    words += ['=', str(target)]
    if value == target or rng.random() < 0.01:
      words.append('ok')
      break
    if attempt == 7 or rng.random() > (0.92 if persistent else 0.1):
      words.append('no')
      break
    words.append('wait')
    signs = _next(signs) if orderly else draw()
    while signs in tried and len(tried) < 2 ** len(terms) and rng.random() > 0.1:
      signs = draw()
  return ' '.join(words), _signed(terms, signs)


def _trial_steps(problem, response):
  """Returns the steps of all tries: start, each term, each sum, the target it is compared with, and the verdict."""
  words = problem.split()
  start, terms, target = int(words[0]), dict(zip(words[1:-2:2], words[2:-2:2])), int(words[-1])
  value, expected, word_before, steps = None, ('start', start), '', []  # expected: kind and value of the next number
  for word in _thinking(response):
    if _is_int(word):
      if expected:
        steps.append((expected[0], int(word) == expected[1]))
      if word_before != '=':
        value = int(word)
      expected = None
    elif word[0] in '+-' and _is_int(word[1:]):
      if value is not None:
        steps.append(('term', terms.get(word_before) == word[1:]))
      expected = ('sum', value + int(word)) if value is not None else None
    elif word == '=':
      expected = 'target', target
    elif word in ('ok', 'no', 'wait') and value is not None:
      steps.append(('verdict', (value == target) == (word == 'ok')))
      value, expected = None, ('start', start)
    word_before = word
  return steps


# ---- chain -----------------------------------------------------------------------------------------

# What the authors say between the steps, in English and Chinese.
_WORDS = {
  'first': ('first', '首先'),
  'then': ('then', '然后'),
  'so': ('so', '所以'),
  'wait': ('wait', '等等'),
  'check': ('check', '检查'),
  'hmm': ('hmm', '嗯'),
}


def _chain_problem(rng):
  while True:
    k = int(rng.integers(3, 8))
    if rng.random() < 0.5:
      a, b = (int(x) for x in rng.integers(2, 10, size=2))
      first, value = f'{a}*{b}', a * b
    else:
      value = int(rng.integers(10, 100))
      first = str(value)
    terms = [int(t) for t in rng.integers(1, 10, size=k - 1) * rng.choice([-1, 1], size=k - 1)]
    values = np.cumsum([value, *terms])
    if values.min() >= 10 and values.max() <= 99:
      text = f'a {first} ' + ' '.join(f'{name} {t:+d}' for name, t in zip(_NAMES[1:], terms)) + ' = ?'
      return text, str(values[-1]), (first, value, terms)


def _chain_pass(rng, facts, say, forget):
  """One pass over the terms: each with its running value; now and then a carry or borrow is forgotten."""
  first, value, terms = facts
  words = [say('first'), 'a', first, str(value)]
  for name, term in zip(_NAMES[1:], terms):
    exact = value + term
    if exact // 10 != value // 10 and rng.random() < forget:
      exact += 10 if term < 0 else -10
    if rng.random() < 0.05:
      exact += int(rng.choice([-1, 1]))
    value = int(np.clip(exact, 1, 109))
    words += [say('then')] * (rng.random() < 0.25) + [name, f'{term:+d}', str(value)]
  return words, value


def _chain_chain(rng, facts):
  u = rng.random()
  chinese = 1.0 if u < 0.12 else 0.5 if u < 0.3 else 0.0
  say = lambda word: _WORDS[word][int(rng.random() < chinese)]
  mode = rng.random()
  if mode < 0.53:
    answer = facts[1] + sum(facts[2]) + round(rng.normal(0, 4))
    return say('hmm'), str(int(np.clip(answer, 1, 109)))
  words, value = _chain_pass(rng, facts, say, 0.55 if rng.random() < 0.9 else 0.15)
  if mode > 0.85:
    again, value = _chain_pass(rng, facts, say, 0.15)
    words += [say('wait'), say('check'), *again]
  return ' '.join([*words, say('so')]), str(value)


def _chain_steps(problem, response):
  """Returns the steps of a chain: each term, looked up by its name, and each running value."""
  words = problem.split()
  terms = dict(zip(words[:-2:2], words[1:-2:2]))
  value, expected, word_before, steps = None, None, '', []  # expected: the number that should come next
  for word in _thinking(response):
    if word_before in tuple(_NAMES):
      steps.append(('term', terms.get(word_before) == word))
      factors = word.split('*')
      if all(map(_is_int, factors)):
        expected = math.prod(map(int, factors))
      else:
        is_term = word[0] in '+-' and _is_int(word[1:])
        expected = value + int(word) if value is not None and is_term else None
    elif _is_int(word):
      if expected is not None:
        steps.append(('sum', int(word) == expected))
      value, expected = int(word), None
    word_before = word
  return steps


def _thinking(response):
  return response.replace('<think>', ' ').split('</think>')[0].split()


def _is_int(word):
  return word.isascii() and word.isdecimal()


WORLDS = {
  'trial': World(_trial_problem, _trial_chain, _trial_steps),
  'chain': World(_chain_problem, _chain_chain, _chain_steps),
  'nested': World(nested.problem, nested.chain, nested.steps),
}
