"""Problems that are nearly always solved, which a run need not draw again."""

import collections

from r1jax.config import require


class Solved:
  """The problems whose pass rate over all their responses has reached a threshold.

  ScaleRL drops them for good (arXiv 2510.13786, section 3.2: no-positive-resampling), so a problem that has been solved
  stays so; what is recorded of it afterwards does not count.

  Args:
    problems: the problems of a run; their ids are the keys of the history.
    threshold: of the pass rate, above 0.
  """

  def __init__(self, problems, threshold):
    counts = collections.Counter(p['id'] for p in problems)
    shared = [name for name, count in counts.items() if count > 1]
    require(
      not shared,
      f'data.drop_solved counts by id, but {len(shared)} ids are of several problems, such as {shared[:1]}; give each '
      'problem an id of its own, or leave the ids out.',
    )
    self._threshold = threshold
    self.restore({})

  def __len__(self):
    return len(self._solved)

  def __contains__(self, problem):
    return problem['id'] in self._solved

  def record(self, problem, right, responses):
    """Adds `responses` to a problem, of which `right` are right."""
    if problem in self:
      return
    before = self._history.get(problem['id'], (0, 0))
    self._history[problem['id']] = before[0] + right, before[1] + responses
    self._note(problem['id'])

  def history(self):
    """{id: (right responses, responses)}, for `restore`; JSON may turn the pairs into lists."""
    return dict(self._history)

  def restore(self, history):
    """Continues with what `history` returned."""
    self._history, self._solved = {key: tuple(counts) for key, counts in history.items()}, set()
    for key in self._history:
      self._note(key)

  def _note(self, key):
    right, responses = self._history[key]
    if right / responses >= self._threshold:
      self._solved.add(key)
