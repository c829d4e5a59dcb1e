"""The toy world `nested`: sums of earlier results, `a 35 b 27 c b-a d c+a = ?`; `toy.arithmetic` has the others.

It is harder than `chain`: both numbers of a sum have to be looked up among the results so far, and both have two
digits. Each line of the thinking is a step, ` d 62+35 97`, which search can extend and a process model can judge.
"""

import re

import numpy as np

_NAMES = 'abcdefghi'
_LOW, _HIGH = 10, 99  # of all results
# Share of carries that are left out, 35+27 = 52, and of borrows that are avoided by the smaller digit, 42-17 = 35.
FORGETS = 0.7
_LINE = re.compile(r'([a-i]) (?:(\d+)([+-])(\d+) )?(\d+)')


def problem(rng):
  """A text, the value of its last name, and the facts: two numbers, and of each sum the two names and the sign."""
  count = int(rng.integers(4, 8))
  while True:
    values, sums = [int(x) for x in rng.integers(_LOW, 60, size=2)], []
    for _ in range(count):
      one, other = len(values) - 1, int(rng.integers(len(values) - 1))  # the latest result, and one before
      first, second = (one, other) if rng.random() < 0.7 else (other, one)
      sign = '+-'[int(rng.random() < 0.5)]
      sums.append((first, sign, second))
      values.append(_apply(values[first], sign, values[second]))
    if min(values) >= _LOW and max(values) <= _HIGH:
      listed = [f'a {values[0]} b {values[1]}']
      listed += [f'{name} {_NAMES[x]}{sign}{_NAMES[y]}' for name, (x, sign, y) in zip(_NAMES[2:], sums)]
      return f'{" ".join(listed)} = ?', str(values[-1]), (tuple(values[:2]), sums, values[-1])


def _apply(x, sign, y):
  return x + y if sign == '+' else x - y


def _pass(rng, facts, forget):
  """One pass over the sums, a line for each.

  Most sums with a carry or a borrow come out wrong, and two errors rarely cancel.
  """
  values, sums, _ = facts
  values = list(values)
  lines = [f' {name} {value}' for name, value in zip(_NAMES, values)]
  for name, (first, sign, second) in zip(_NAMES[2:], sums):
    x, y = values[first], values[second]
    exact = _apply(x, sign, y)
    crosses = x % 10 + y % 10 > 9 if sign == '+' else x % 10 < y % 10
    if crosses and rng.random() < forget:
      exact += -10 if sign == '+' else 2 * (y % 10 - x % 10)
    if rng.random() < 0.03:
      exact += int(rng.choice([-1, 1]))
    values.append(min(max(exact, 1), 199))
    lines.append(f' {name} {x}{sign}{y} {values[-1]}')
  return lines, values[-1]


def chain(rng, facts):
  """(thinking, answer) of an author: most guess, the others go line by line, and some of these look twice."""
  mode = rng.random()
  if mode < 0.55:
    return 'hmm', str(int(np.clip(facts[2] + round(rng.normal(0, 25)), _LOW, _HIGH)))
  lines, value = _pass(rng, facts, FORGETS)
  if mode > 0.9:
    again, value = _pass(rng, facts, FORGETS)
    lines += [' wait check', *again]
  return '\n'.join(['first', *lines, ' so']), str(value)


def steps(problem_text, response):
  """The steps of a response: whether each line has the right numbers ('term'), and their right sum ('sum')."""
  listed = dict(re.findall(r'([a-i]) (\d+|[a-i][+-][a-i])', problem_text))
  results, found = {}, []
  for line in response.replace('<think>', ' ').split('</think>')[0].split('\n'):
    match = _LINE.fullmatch(line.strip())
    if not match or match[1] not in listed:
      continue
    name, x, sign, y, value = match.groups()
    if sign is None:
      found.append(('term', listed[name] == value))
    else:
      asked = listed[name]
      expected = f'{results.get(asked[0])}{asked[1]}{results.get(asked[-1])}' if asked[0] in _NAMES else ''
      found += [('term', expected == f'{x}{sign}{y}'), ('sum', _apply(int(x), sign, int(y)) == int(value))]
    results[name] = value
  return found
