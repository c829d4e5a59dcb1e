"""The order of problems: which ones a step trains on is a function of (seed, step) alone."""
import fractions
import itertools
import zlib

import grain
import numpy as np

from r1jax.config import require


def batch(problems, seed, step, count, process_index=0, process_count=1):
  """The problems of one step, or one process's part of them.

  Step s takes positions s * count ... (s + 1) * count - 1 of an endless sequence in which every
  epoch is a new permutation of the problems. Nothing is remembered between steps, so a resumed run
  neither repeats nor skips. A step that straddles two epochs may hold a problem twice.

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
  require(count % process_count == 0, f'{count} problems a step do not divide over {process_count} processes; '
          f'set rollout.prompts to a multiple of {process_count}.')
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
      require(some, f'no problem of data.parts.{name} is left to train on; set its weight to 0, or rollout.max_prompt '
                    'to the length of its prompts.')
    # A seed for each name: two parts of equal length must not go through theirs in step.
    seeds = {name: np.random.SeedSequence([seed, zlib.crc32(name.encode())]).generate_state(1)[0] for name in by_part}
    self._endless = {name: grain.MapDataset.source(some).seed(int(seeds[name])).shuffle().repeat()
                     for name, some in by_part.items()}

  def batch(self, step, count, draws=1):
    """The problems of one draw, list of `count`.

    Args:
      step: of all draws, int >= 0: draw n of training step s is s * draws + n.
      count: problems a draw.
      draws: draws that a training step may take.
    """
    begins = sorted({part.begin * draws for part in self._parts.values()})
    taken, out = dict.fromkeys(self._parts, 0), []
    for begin, end in itertools.pairwise([*begins, None]):
      at = {name: part.weight for name, part in self._parts.items() if part.begin * draws <= begin}
      last = end is None or step < end
      first = ((step if last else end) - begin) * count
      for name, n in _shares(first, at).items():
        taken[name] += n
      if last:
        break
    before = _shares(first, at)
    for position in range(first + 1, first + count + 1):
      after = _shares(position, at)
      name, = (name for name in at if after[name] > before[name])
      out.append(self._endless[name][taken[name]])
      taken[name] += 1
      before = after
    return out


def _shares(count, weights):
  """How many of the first `count` draws fall to each name: by weight, and never fewer for a larger count."""
  weights = {name: fractions.Fraction(str(weight)) for name, weight in weights.items()}   # 0.1 is a tenth
  out, left, total = {}, count, sum(weights.values())
  for name, weight in weights.items():      # one name after another is split from what is left for those behind it
    behind = left * (total - weight) // total
    out[name] = left - behind
    left, total = behind, total - weight
  return out
