"""What reflection is worth: statistics of graded samples, as functions of their rows.

A row is a response: 'id' of its problem, 'correct', 'tokens', 'stop', 'steps' (how many it has) and 'at', the tokens in
which its reflections begin. Where studies are pooled, 'id' differs between them, and 'problem' is what they have in
common. Where there are reflections, a row also has

- 'answered', the answer that the model gives when it is cut off before the first reflection: 'correct', and 'same',
  whether that is the answer of the whole response (None where either has none);
- 'continued', another continuation from there that does not begin with a reflection: 'correct', and 'tokens' of it all;
  None where no such one was drawn.

A figure is [value, low, high] with a 95% bootstrap interval over problems, as the responses to a problem are not
independent; None where nothing counts.
"""

import collections

import numpy as np

from r1jax.batch import LENGTH
from r1jax.evaluation import estimates

PLACES = 10  # parts of a response
LEVELS = (0.25, 0.5, 0.75, 1.0)  # upper ends of the levels of pass rates
LENGTHS = 4  # groups by length in a level
STEPS = (5, 10, 20, 50)  # upper ends of the groups by number of steps
CHANGES = ('right to right', 'wrong to right', 'right to wrong', 'wrong to wrong')


def _problem(row):
  return row.get('problem', row['id'])


def ratio(rows, value, counts=lambda row: True):
  """A figure: the mean of value(row) over the rows that count. Problems are resampled, with all these rows."""
  sums = collections.defaultdict(lambda: np.zeros(2))
  for row in filter(counts, rows):
    sums[_problem(row)] += (float(value(row)), 1)
  if not sums:
    return None
  found = np.array([*sums.values()])[None]
  total, count = found.sum(axis=(0, 1))
  means = estimates.resampled(found)
  return [float(total / count), *np.percentile(means[:, 0] / means[:, 1], (2.5, 97.5)).tolist()]


def reflects(row):
  return bool(row['at'])


def rates(rows):
  """How often responses reflect: a dict of figures, and counts."""
  correct = lambda row: row['correct']
  return {
    'responses': len(rows),
    'problems': len({_problem(row) for row in rows}),
    'reflecting': ratio(rows, reflects),
    'reflections': ratio(rows, lambda row: len(row['at'])),
    'accuracy': ratio(rows, correct),
    'accuracy with': ratio(rows, correct, reflects),
    'accuracy without': ratio(rows, correct, lambda row: not reflects(row)),
    'tokens with': ratio(rows, lambda row: row['tokens'], reflects),
    'tokens without': ratio(rows, lambda row: row['tokens'], lambda row: not reflects(row)),
  }


def places(rows):
  """Where reflections stand: their share in each tenth of the response, a list; None without any."""
  found = [at / row['tokens'] for row in rows for at in row['at']]
  if not found:
    return None
  counts = np.bincount((np.array(found) * PLACES).astype(int), minlength=PLACES)
  return (counts / len(found)).tolist()


def change(row):
  """Which of CHANGES the answer of a response that reflects went through since its first reflection."""
  sides = ['right' if correct else 'wrong' for correct in (row['answered']['correct'], row['correct'])]
  return ' to '.join(sides)


def changes(rows):
  """What became of the answers before the first reflection.

  Returns:
    dict: 'responses' that reflect; a share of them for each of CHANGES; 'gain', the share that got right minus that
    which got wrong; 'other answer', of those with an answer before and at the end the share whose answers differ; 'lost
    at the limit', of those that went from right to wrong the share that was cut off.
  """
  rows = [row for row in rows if reflects(row)]
  out = {name: ratio(rows, lambda row, name=name: change(row) == name) for name in CHANGES}
  return {
    'responses': len(rows),
    **out,
    'gain': ratio(rows, lambda row: row['correct'] - row['answered']['correct']),
    'other answer': ratio(
      rows, lambda row: not row['answered']['same'], lambda row: row['answered']['same'] is not None
    ),
    'lost at the limit': ratio(rows, lambda row: row['stop'] == LENGTH, lambda row: change(row) == CHANGES[2]),
  }


def without(rows):
  """The accuracy of responses that reflect, against the same ones with the reflection cut out.

  Returns:
    dict of figures: 'whole', as they are; 'answered' before it; 'continued' without it; and 'whole minus answered',
    'whole minus continued', paired by response. 'continued' counts only responses for which there is one, and
    'whole, where continued' is of the same ones.
  """
  rows = [row for row in rows if reflects(row)]
  found = lambda row: row['continued'] is not None
  difference = lambda name: lambda row: row['correct'] - row[name]['correct']
  return {
    'whole': ratio(rows, lambda row: row['correct']),
    'answered': ratio(rows, lambda row: row['answered']['correct']),
    'whole minus answered': ratio(rows, difference('answered')),
    'continued responses': sum(map(found, rows)),
    'whole, where continued': ratio(rows, lambda row: row['correct'], found),
    'continued': ratio(rows, lambda row: row['continued']['correct'], found),
    'whole minus continued': ratio(rows, difference('continued'), found),
  }


def pass_rates(rows):
  """{id of a problem: share of its responses that are right}, by which its difficulty is judged."""
  found = collections.defaultdict(list)
  for row in rows:
    found[row['id']].append(row['correct'])
  return {name: float(np.mean(correct)) for name, correct in found.items()}


def by_length(rows):
  """Accuracy against length at equal difficulty.

  Problems that are always or never solved say nothing and are left out.

  Returns:
    {'levels': [{'above', 'up to', 'problems', 'points'}], 'longer minus shorter': figure}. The points of a level of
    difficulty are LENGTHS groups of its responses by length: {'tokens': mean, 'responses', 'accuracy': figure}. The
    difference is that between the longer and the shorter half of the responses to each problem, so that difficulty is
    the same exactly.
  """
  rate = pass_rates(rows)
  chosen = [row for row in rows if 0 < rate[row['id']] < 1]
  levels = []
  for low, high in zip((0.0, *LEVELS), LEVELS):
    inside = sorted((r for r in chosen if low < rate[r['id']] <= high), key=lambda row: row['tokens'])
    groups = [[inside[i] for i in part] for part in np.array_split(np.arange(len(inside)), LENGTHS)]
    points = [
      {
        'tokens': float(np.mean([row['tokens'] for row in group])),
        'responses': len(group),
        'accuracy': ratio(group, lambda row: row['correct']),
      }
      for group in groups
      if group
    ]
    problems = len({row['id'] for row in inside})
    levels.append({'above': low, 'up to': high, 'problems': problems, 'points': points})
  return {'levels': levels, 'longer minus shorter': _longer_minus_shorter(chosen)}


def _longer_minus_shorter(rows):
  by_problem = collections.defaultdict(list)
  for row in sorted(rows, key=lambda row: row['tokens']):
    by_problem[row['id']].append(float(row['correct']))
  halves = [(name, x[: len(x) // 2], x[-(len(x) // 2) :]) for name, x in by_problem.items() if len(x) > 1]
  differences = [{'id': name, 'difference': np.mean(long) - np.mean(short)} for name, short, long in halves]
  return ratio(differences, lambda row: row['difference'])


def by_steps(rows):
  """Accuracy against the number of steps.

  Returns:
    list of {'above', 'up to' (None for no limit), 'responses', 'accuracy': figure, 'expected': figure, 'beyond':
    figure}. 'expected' is the mean pass rate of the problems of these responses, and 'beyond' the difference of the
    two: what is left of the accuracy at equal difficulty.
  """
  rate, out = pass_rates(rows), []
  for low, high in zip((0, *STEPS), (*STEPS, None)):
    inside = [row for row in rows if low < row['steps'] and (high is None or row['steps'] <= high)]
    out.append(
      {
        'above': low,
        'up to': high,
        'responses': len(inside),
        'accuracy': ratio(inside, lambda row: row['correct']),
        'expected': ratio(inside, lambda row: rate[row['id']]),
        'beyond': ratio(inside, lambda row: row['correct'] - rate[row['id']]),
      }
    )
  return out


def summarise(rows):
  """All of the above, as a dict that JSON can hold."""
  return {
    'rates': rates(rows),
    'places': places(rows),
    'changes': changes(rows),
    'without': without(rows),
    'by length': by_length(rows),
    'by steps': by_steps(rows),
  }
