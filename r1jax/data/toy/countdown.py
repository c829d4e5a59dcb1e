"""The game Countdown: reach a target with three or four numbers, each used once, by + - * /.

`Using the numbers [44, 19, 35], create an equation that equals 98. ...` Every problem is made from an expression, so
that it has a solution. Numbers are from 1 to 99, targets from 10 to 100, as in the task of TinyZero; every value on the
way is a positive whole number.
"""

import numpy as np

from r1jax.data.toy.arithmetic import is_held_out

TRAIN_POOL, HELD_OUT_POOL = 32_768, 1024
LARGEST = 99  # of the numbers
TARGETS = (10, 100)
TEXT = (
  'Using the numbers [{}], create an equation that equals {}. You can use basic arithmetic operations (+, -, *, /) '
  'and each number can only be used once.'
)


def problems(seed, count, held_out):
  """Returns `count` different problems of one split; no two have the same numbers, in any order, and target.

  Returns:
    list of {'id', 'problem', 'answer', 'numbers', 'target'}; the answer is one solution, of which there may be others.
  """
  split, found = 'held_out' if held_out else 'train', {}
  draws = _uniform(np.random.default_rng([seed, 31 + held_out]))
  while len(found) < count:
    numbers, target, solution = _make(draws)
    key = f'{sorted(numbers)} {target}'
    if is_held_out(key) == held_out and key not in found:
      found[key] = {
        'id': f'countdown/{split}/{len(found)}',
        'problem': TEXT.format(', '.join(map(str, numbers)), target),
        'answer': solution,
        'numbers': numbers,
        'target': target,
      }
  return list(found.values())


def _make(draws):
  """One problem: (numbers, target, an expression of them with that value)."""
  size = 3 + _pick(draws, 2)
  while True:
    numbers = [1 + _pick(draws, LARGEST) for _ in range(size)]
    tree = _joined(draws, [(n,) for n in numbers])
    if TARGETS[0] <= tree[0] <= TARGETS[1]:
      return numbers, tree[0], _written(tree)[1:-1]  # without the outer parentheses


def _joined(draws, trees):
  """Joins trees, two at a time and at random: (value, sign, left, right), or (value,) of a number. Returns the last."""
  while len(trees) > 1:
    left, right = (trees.pop(_pick(draws, len(trees))) for _ in range(2))
    a, b = left[0], right[0]
    results = [(a + b, '+'), (a * b, '*')]
    if a > b:
      results.append((a - b, '-'))
    if a % b == 0:
      results.append((a // b, '/'))
    trees.append((*results[_pick(draws, len(results))], left, right))
  return trees[0]


def _written(tree):
  return f'({_written(tree[2])} {tree[1]} {_written(tree[3])})' if len(tree) > 1 else str(tree[0])


def _uniform(rng):
  """Yields numbers from [0, 1); drawn in blocks, as single ones take most of the time."""
  while True:
    yield from rng.random(4096).tolist()


def _pick(draws, count):
  """A random index below `count`."""
  return int(next(draws) * count)
