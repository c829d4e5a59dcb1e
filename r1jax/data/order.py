"""The order of problems: which problems a draw has depends only on the seed and the number of the draw.

With data.drop_solved it also depends on which problems were solved in earlier draws.
"""

import fractions
import itertools
import logging
from typing import Any
import zlib

import grain
import numpy as np

from r1jax.config import require
from r1jax.data.solved import Solved

log = logging.getLogger('r1jax')


def batch(problems, seed, step, count) -> list[Any]:
  """Returns the problems of one step.

  Step s (or draw s, if a step takes several draws) takes positions s * count ... (s + 1) * count - 1 of an endless
  sequence in which every epoch is a new permutation of the problems. There is no state between steps, so a resumed run
  neither repeats nor skips a problem. A step that straddles two epochs may have a problem twice.

  Args:
    problems: sequence of N problems, the same on every process.
    seed: int >= 0, the seed of the permutations.
    step: int >= 0.
    count: problems per step.

  Returns:
    list of `count` problems.
  """
  endless = Endless(problems, seed)
  return [endless[i] for i in range(step * count, (step + 1) * count)]


class Endless:
  """An endless sequence of problems in which every epoch is a new permutation, but for those solved by then.

  Args:
    problems: sequence of problems.
    seed: int >= 0.
    solved: Solved, whose problems are passed over, or all drawn if no others are left; items must then be taken in
      order. None: nothing is passed over.
    name: of the problems, for the log.

  Attributes:
    skipped: how many problems have been passed over before the next item.
  """

  def __init__(self, problems, seed, solved=None, name='data'):
    self._problems, self._solved, self._name = problems, solved, name
    # Lookup by position is lazy: building this takes microseconds for any N.
    self._endless = grain.MapDataset.source(problems).seed(int(seed)).shuffle().repeat()
    self.skipped, self._warned = 0, False

  def __getitem__(self, position):
    is_solved = lambda: self._solved is not None and self._endless[position + self.skipped] in self._solved
    if is_solved() and not self._all_solved():
      while is_solved():
        self.skipped += 1
    return self._endless[position + self.skipped]

  def _all_solved(self):
    found = all(problem in self._solved for problem in self._problems)
    if found and not self._warned:
      log.warning(
        'data.drop_solved: all %d problems of %s are solved; from now on all of them are drawn again.',
        len(self._problems),
        self._name,
      )
    self._warned |= found
    return found


class Mixture:
  """The order of a mixture's problems: each draw takes problems from the parts by weight.

  Each part has its own endless sequence, in which every epoch is a new permutation, and a draw takes the next few
  problems of each. The numbers follow evenly from the weights: of 8 problems per draw, weights 3 and 1 give 6 and 2. A
  part gets its share from its start_step on.

  Args:
    problems: sequence of problems with the field 'part', the same on every process.
    parts: name -> config.Part; parts with weight 0 are left out.
    seed: int >= 0.
    solved: Solved, whose problems are not drawn; draws must then follow each other.
  """

  def __init__(self, problems, parts, seed, solved=None):
    self._parts = {name: part for name, part in sorted(parts.items()) if part.weight}
    by_part = {name: [p for p in problems if p['part'] == name] for name in self._parts}
    for name, part_problems in by_part.items():
      require(
        part_problems,
        f'no problem of data.parts.{name} is left to train on; set its weight to 0, or raise rollout.max_prompt to '
        'the length of its prompts.',
      )
    # A seed per name, so that parts with equally many problems have different permutations.
    seeds = {name: np.random.SeedSequence([seed, zlib.crc32(name.encode())]).generate_state(1)[0] for name in by_part}
    self.endless = {
      name: Endless(part_problems, seeds[name], solved, f'data.parts.{name}') for name, part_problems in by_part.items()
    }

  def batch(self, draw, count, start_draws=None):
    """Returns the problems of one draw, a list of `count`.

    Args:
      draw: number of the draw, from 0.
      count: problems per draw.
      start_draws: {start_step of a part: number of the first draw in that step}, for the steps reached so far; None if
        each step takes one draw.
    """
    if start_draws is None:
      start_draws = {part.start_step: part.start_step for part in self._parts.values()}
    starts = {name: start_draws[p.start_step] for name, p in self._parts.items() if p.start_step in start_draws}
    taken, problems = dict.fromkeys(self._parts, 0), []
    # The parts are the same from one start to the next: count what each has given in each such interval.
    for begin, end in itertools.pairwise([*sorted(set(starts.values())), None]):
      weights = {name: part.weight for name, part in self._parts.items() if name in starts and starts[name] <= begin}
      is_last = end is None or draw < end
      position = ((draw if end is None else min(draw, end)) - begin) * count
      for name, n in _shares(position, weights).items():
        taken[name] += n
      if is_last:
        break
    before = _shares(position, weights)
    for n in range(position + 1, position + count + 1):
      after = _shares(n, weights)
      (name,) = (name for name in weights if after[name] > before[name])
      problems.append(self.endless[name][taken[name]])
      taken[name] += 1
      before = after
    return problems


class Draws:
  """The consecutive draws of a run; with dynamic sampling a step takes as many as it needs.

  Args:
    problems: sequence of problems, the same on every process.
    data: config.Data.
    seed: int >= 0.
    count: problems per draw.
  """

  def __init__(self, problems, data, seed, count):
    self._count = count
    self._solved = Solved(problems, data.drop_solved) if data.drop_solved else None
    self._mixture = Mixture(problems, data.parts, seed, self._solved) if data.source == 'mixture' else None
    self._endless = self._mixture.endless if self._mixture else {'': Endless(problems, seed, self._solved)}
    self._start_steps = {part.start_step for part in data.parts.values()}
    self._next_draw, self._start_draws = 0, {}

  def next(self, step):
    """Returns the problems of the next draw, a list of `count`, which belongs to training step `step`."""
    for start_step in self._start_steps:
      if start_step <= step:
        self._start_draws.setdefault(start_step, self._next_draw)
    draw, self._next_draw = self._next_draw, self._next_draw + 1
    if self._mixture:
      return self._mixture.batch(draw, self._count, self._start_draws)
    return [self._endless[''][i] for i in range(draw * self._count, (draw + 1) * self._count)]

  def record(self, problems, right, known):
    """Notes which responses to the problems of a draw are right; without data.drop_solved nothing.

    Args:
      problems: P problems. right: bool[P, G]. known: bool[P], problems of which anything can say that they are solved.
    """
    for problem, responses, is_known in zip(problems, right, known, strict=True):
      if self._solved is not None and is_known:
        self._solved.record(problem, int(responses.sum()), len(responses))

  def metrics(self):
    """data/solved, the problems that data.drop_solved has dropped; {} without it."""
    return {} if self._solved is None else {'data/solved': len(self._solved)}

  def position(self):
    """Returns the position of the next draw, for `go_to`, as a dict of JSON values."""
    position = {'draws': self._next_draw, 'begun': {str(step): draw for step, draw in self._start_draws.items()}}
    if self._solved is None:
      return position
    skipped = {name: endless.skipped for name, endless in self._endless.items()}
    return position | {'skipped': skipped, 'history': self._solved.history()}

  def go_to(self, step, position=None):
    """Continues at training step `step` from what `position` returned; None: each earlier step took one draw."""
    position = position or {'draws': step, 'begun': {start: start for start in self._start_steps if start < step}}
    self._next_draw = position['draws']
    self._start_draws = {int(start): draw for start, draw in position['begun'].items()}
    if self._solved is not None:
      self._solved.restore(position['history'])
      for name, skipped in position['skipped'].items():
        self._endless[name].skipped = skipped


def _shares(count, weights):
  """Returns how many of the first `count` problems come from each part, by weight: {name: int}.

  The share of each part never shrinks as `count` grows, and grows by one in total with each problem.
  """
  weights = {name: fractions.Fraction(str(weight)) for name, weight in weights.items()}  # exact: 0.1 is one tenth
  shares, left, total = {}, count, sum(weights.values())
  for name, weight in weights.items():  # split off one part after another from what is left
    rest = left * (total - weight) // total
    shares[name] = left - rest
    left, total = rest, total - weight
  return shares
