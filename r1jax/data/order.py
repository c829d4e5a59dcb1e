"""The order of problems: which ones a draw holds is a function of the seed and the draw's number alone."""

import fractions
import itertools
import zlib

import grain
import numpy as np

from r1jax.config import require


def batch(problems, seed, step, count, process_index=0, process_count=1):
  """The problems of one step, or one process's part of them.

  Step s, or with several draws a step draw s, takes positions s * count ... (s + 1) * count - 1 of an endless
  sequence in which every epoch is a new permutation of the problems. Nothing is remembered between steps, so a
  resumed run neither repeats nor skips. A step that straddles two epochs may hold a problem twice.

  Args:
    problems: sequence of N problems, the same on every process.
    seed: int >= 0 that fixes the permutations.
    step: int >= 0.
    count: problems a step, over all processes.
    process_index: this process, 0 ... process_count - 1.
    process_count: processes; the parts in order of process_index make up the step.

  Returns:
    list of count / process_count problems.

  Raises:
    ConfigError: count does not divide over the processes.
  """
  require(
    count % process_count == 0,
    f'{count} problems a step do not divide over {process_count} processes; '
    f'set rollout.prompts to a multiple of {process_count}.',
  )
  # Lookup by position is lazy: making this costs microseconds whatever N is.
  endless = grain.MapDataset.source(problems).seed(seed).shuffle().repeat()
  part = count // process_count
  first = step * count + process_index * part
  return [endless[i] for i in range(first, first + part)]


class Mixture:
  """The order of a mixture's problems: each step draws from its parts by weight.

  Each part has an endless sequence of its own, in which every epoch is a new permutation; a step takes the next few of
  each. How many follows from the weights alone, evenly: with weights 3 and 1, of 8 problems a step 6 and 2. A part has
  its share from the step on at which it begins.

  Args:
    problems: sequence of problems with the field 'part', the same on every process.
    parts: name -> config.Part; those of weight 0 are left out.
    seed: int >= 0.
  """

  def __init__(self, problems, parts, seed):
    self._parts = {name: part for name, part in sorted(parts.items()) if part.weight}
    by_part = {name: [p for p in problems if p['part'] == name] for name in self._parts}
    for name, some in by_part.items():
      require(
        some,
        f'no problem of data.parts.{name} is left to train on; set its weight to 0, or rollout.max_prompt '
        'to the length of its prompts.',
      )
    # A seed for each name: two parts of equal length must not go through theirs in step.
    seeds = {name: np.random.SeedSequence([seed, zlib.crc32(name.encode())]).generate_state(1)[0] for name in by_part}
    self._endless = {
      name: grain.MapDataset.source(some).seed(int(seeds[name])).shuffle().repeat() for name, some in by_part.items()
    }

  def batch(self, draw, count, begun=None):
    """The problems of one draw, list of `count`.

    Args:
      draw: number of all draws before it.
      count: problems a draw.
      begun: {step: number of its first draw} for the steps that have come at which parts begin; None where each step
        takes one draw.
    """
    begun = {part.start_step: part.start_step for part in self._parts.values()} if begun is None else begun
    firsts = {name: begun[part.start_step] for name, part in self._parts.items() if part.start_step in begun}
    taken, out = dict.fromkeys(self._parts, 0), []
    for begin, end in itertools.pairwise([*sorted(set(firsts.values())), None]):
      at = {name: part.weight for name, part in self._parts.items() if name in firsts and firsts[name] <= begin}
      last = end is None or draw < end
      first = ((draw if last else end) - begin) * count
      for name, n in _shares(first, at).items():
        taken[name] += n
      if last:
        break
    before = _shares(first, at)
    for position in range(first + 1, first + count + 1):
      after = _shares(position, at)
      (name,) = (name for name in at if after[name] > before[name])
      out.append(self._endless[name][taken[name]])
      taken[name] += 1
      before = after
    return out


class Draws:
  """The draws of a run, one behind the other: with dynamic sampling a step takes as many as it needs.

  Args:
    problems: sequence of problems, the same on every process.
    data: config.Data.
    seed: int >= 0.
    count: problems a draw.
  """

  def __init__(self, problems, data, seed, count):
    self._problems, self._seed, self._count = problems, seed, count
    self._mixture = Mixture(problems, data.parts, seed) if data.source == 'mixture' else None
    self._begins = {part.start_step for part in data.parts.values()}
    self._made, self._begun = 0, {}

  def next(self, step):
    """The problems of the next draw, list of `count`, which belongs to training step `step`."""
    for begin in self._begins:
      if begin <= step:
        self._begun.setdefault(begin, self._made)
    draw, self._made = self._made, self._made + 1
    if self._mixture:
      return self._mixture.batch(draw, self._count, self._begun)
    return batch(self._problems, self._seed, draw, self._count)

  def position(self):
    """Where the next draw begins, as a dict of JSON values: what `go_to` takes."""
    return {'draws': self._made, 'begun': {str(step): draw for step, draw in self._begun.items()}}

  def go_to(self, step, position=None):
    """Goes on at training step `step` with what `position` returned; None: each step before has taken one draw."""
    position = position or {'draws': step, 'begun': {begin: begin for begin in self._begins if begin < step}}
    self._made = position['draws']
    self._begun = {int(begin): draw for begin, draw in position['begun'].items()}


def _shares(count, weights):
  """How many of the first `count` draws fall to each name: by weight, and never fewer for a larger count."""
  weights = {name: fractions.Fraction(str(weight)) for name, weight in weights.items()}  # 0.1 is a tenth
  out, left, total = {}, count, sum(weights.values())
  for name, weight in weights.items():  # one name after another is split from what is left for those behind it
    behind = left * (total - weight) // total
    out[name] = left - behind
    left, total = behind, total - weight
  return out
