"""The graded samples of one task, in a JSON Lines file that a killed evaluation goes on with."""

import os
import pathlib

from r1jax.metrics import writer

# Of a row: what was asked (`split`: the problem's value of the task's field of that name), how it was sampled, the
# response with its tokens and why it ended, the grader's score, whether that counts as right, and what `tasks.ABOUT`
# keeps of its verdict; the answer as text, and its number among the answers to the problem (null for none).
TEXTS = ('id', 'split', 'response', 'stop', 'reason', 'grade')
NUMBERS = ('seed', 'sample', 'length', 'score', 'length_difference')
OTHERS = ('correct', 'answer', 'voted')


def append(path, rows):
  """Appends rows; they are on the disk when it returns."""
  with open(path, 'a', encoding='utf-8', errors='backslashreplace', newline='\n') as file:
    file.writelines(writer.dumps(row) + '\n' for row in rows)
    file.flush()
    os.fsync(file.fileno())


def read(path):
  """The rows of a file. Raises RecordError for a damaged one."""
  return writer.read_lines(pathlib.Path(path), _check)


def resume(path, ids, runs, samples, chunk):
  """Drops what a killed evaluation has left of an unfinished chunk: rows, and the beginning of one.

  Args:
    path: the file, which need not exist.
    ids: of the problems, in their order in each of `runs` runs.
    samples: rows of each problem.
    chunk: problems that are written at a time, from the first one of each run on.

  Returns:
    the number of problems that are finished, counted over runs one after the other.

  Raises:
    RecordError: a row is damaged, or is not of the problem in its place.
  """
  if not os.path.exists(path):
    return 0
  with open(path, 'rb+') as file:
    ends = [0]
    for line in file:
      if line.endswith(b'\n'):
        ends.append(ends[-1] + len(line))
    file.truncate(ends[-1])
    rows, expected = read(path), [(name, n) for name in ids * runs for n in range(samples)]
    for number, (row, place) in enumerate(zip(rows, expected), 1):
      if (row['id'], row['sample']) != place:
        raise writer.RecordError(
          f'{path}, line {number}: sample {row["sample"]} of {row["id"]!r} is in the place of sample {place[1]} of '
          f'{place[0]!r}; delete the file, and its task starts again.'
        )
    done = len(rows) // samples
    done -= done % len(ids) % chunk
    file.truncate(ends[done * samples])
  return done


def _check(row):
  """Raises ValueError for a row that is not a graded sample."""
  for name in (*TEXTS, *NUMBERS, *OTHERS):
    if name not in row:
      raise ValueError(f'it has no {name!r}')
    kind = str if name in TEXTS else (int, float) if name in NUMBERS else object
    if not isinstance(row[name], kind):
      raise ValueError(f'{name!r} is {str(row[name])[:40]!r}, which is invalid')
