"""Grades responses that lm-evaluation-harness has graded with our `math` reward, and lists where the two disagree.

  python -m experiments.regrade --where=stated W/samples/gsm8k.jsonl ...

The files are samples of `experiments.lm_eval`, or of lm_eval's own `--log_samples`, of a task with `exact_match`, whose
reference ends in `#### ANSWER` or is the answer. Where a task has several filters, `flexible-extract` counts.
"""

import os
import pathlib

from absl import app, flags

from r1jax import config as config_lib
from r1jax.metrics import writer
from r1jax.rewards.mathematics import math_answer
from r1jax.runs import cli

FILTERS = ('flexible-extract', 'none')
METRIC = 'exact_match'


def read(path):
  """The rows of a file by one filter. Raises ConfigError if they are of another kind."""
  rows = writer.read_lines(pathlib.Path(path))
  chosen = next((name for name in FILTERS if any(row.get('filter') == name for row in rows)), None)
  rows = [row for row in rows if row.get('filter') == chosen]
  config_lib.require(
    chosen and all(METRIC in row for row in rows),
    f'{path} has no samples with {METRIC} by a filter {" or ".join(FILTERS)}; pass those of a task such as gsm8k.',
  )
  return rows


def compare(rows, where):
  """Grades lm_eval's samples once more.

  Args:
    rows: dicts with 'doc_id', 'target', 'resps', 'filtered_resps' and 'exact_match'; a first response counts.
    where: as the option of `math`.

  Returns:
    (right by lm_eval, right by us), counts, and a dict for each row on which they disagree.
  """
  theirs = ours = 0
  disagreements = []
  for row in rows:
    answer = str(row['target']).rpartition('#### ')[2].strip()
    item = {'prompt': '', 'problem': '', 'response': row['resps'][0][0], 'answer': answer}
    verdict = math_answer.verdict(item, where=where)
    right = bool(row[METRIC]), verdict['score'] == 1
    theirs, ours = theirs + right[0], ours + right[1]
    if right[0] != right[1]:
      disagreements.append(
        {
          'doc_id': row['doc_id'],
          'answer': answer,
          'lm_eval': row['filtered_resps'][0],
          'right': {'lm_eval': right[0], 'math': right[1]},
          'reason': verdict['reason'],
          'end': item['response'].strip()[-80:],
        }
      )
  return (theirs, ours), disagreements


def describe(path, rows, counts, disagreements):
  """The lines to print for a file."""
  n, (theirs, ours) = len(rows), counts
  lines = [
    f'{os.path.basename(path)}: {n} responses; right by lm_eval {theirs} ({theirs / n:.1%}), by math {ours} '
    f'({ours / n:.1%}); {len(disagreements)} disagreements'
  ]
  for case in disagreements:
    by = 'lm_eval' if case['right']['lm_eval'] else 'math'
    lines.append(
      f'  {case["doc_id"]}: right by {by} only; reference {case["answer"]!r}, lm_eval read {case["lm_eval"]!r}; '
      f'math: {case["reason"]}; ...{case["end"]!r}'
    )
  return lines


def main(argv):
  with cli.errors_in_one_line():
    config_lib.require(len(argv) > 1, 'no files; pass samples/TASK.jsonl of experiments.lm_eval.')
    for path in argv[1:]:
      rows = read(path)
      print('\n'.join(describe(path, rows, *compare(rows, flags.FLAGS.where))))


if __name__ == '__main__':
  flags.DEFINE_enum('where', 'stated', ['both', 'tags', 'boxed', 'stated'], 'Where `math` looks for the answer.')
  app.run(main)
