"""The order of problems: which ones a step trains on is a function of (seed, step) alone."""
import grain

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
