"""Examples for process reward models: solutions in steps, each labelled right, wrong or not at all.

A row has `problem`, `steps` (texts) and `labels`, one per step: 1 (right), 0 (wrong), null (no label), or the share of
rollouts from this step that ended right, between 0 and 1. A split keeps rows with the same `group` together, and rows
without a group by their problem. Items are as in `r1jax.data.preference`: the texts are the steps, the labels floats
with -1 for none.

Steps are the pieces of a text between newlines, or between blank lines: `spans` finds them in a response, and
`one_step` writes a labelled step so that it remains a single piece.
"""

import os
import re

from r1jax import templates
from r1jax.data import preference, reader

_TAG = re.compile('|'.join(map(re.escape, templates.TAGS)))


def read_steps(path, rule):
  """Reads solutions in steps.

  Args:
    path: JSON Lines file.
    rule: one of config.STEP_RULES.

  Returns:
    (items, {'unlabelled': rows dropped as no step has a label, 'empty_steps': steps dropped with their labels}).

  Raises:
    DataError: a bad row; the message names file, line and field.
  """
  rows, items, dropped = reader.read_rows(path, check), [], {'unlabelled': 0, 'empty_steps': 0}
  for number, row in enumerate(rows, 1):
    pairs = [
      (one_step(step, rule), -1.0 if label is None else float(label))
      for step, label in zip(row['steps'], row['labels'])
      if _strip_tags(step)
    ]
    dropped['empty_steps'] += len(row['steps']) - len(pairs)
    if max((label for _, label in pairs), default=-1) < 0:
      dropped['unlabelled'] += 1
      continue
    turns = preference.turns_of(row['problem'])
    group = row.get('group')
    items.append(
      {
        'id': str(row.get('id', f'{os.path.basename(path)}:{number}')),
        'turns': turns,
        'texts': [step for step, _ in pairs],
        'labels': [label for _, label in pairs],
        'key': preference.prompt_key(turns) if group is None else f'group {group}',
      }
    )
  return items, dropped


def check(row, labelled=True):
  """Raises ValueError unless the row is a solution in steps.

  Args:
    row: the row.
    labelled: True if steps have labels and may be empty; False for rows without labels, none of whose steps is empty.
  """
  if not isinstance(row.get('problem'), str) or not row['problem'].strip():
    raise ValueError("field 'problem' is not a text, or empty")
  steps, labels = row.get('steps'), row.get('labels')
  if not isinstance(steps, list) or not steps:
    raise ValueError("field 'steps' is not a list of texts, or empty")
  for n, step in enumerate(steps):
    if not isinstance(step, str) or not (labelled or _strip_tags(step)):
      raise ValueError(f"field 'steps', step {n}: not a text, or empty")
  if not labelled:
    return
  if not isinstance(labels, list) or len(labels) != len(steps):
    count = len(labels) if isinstance(labels, list) else f'a {type(labels).__name__}'
    raise ValueError(f"field 'labels' has {count} for {len(steps)} steps; give one label per step")
  for n, label in enumerate(labels):
    if label is not None and (isinstance(label, bool) or not isinstance(label, (int, float)) or not 0 <= label <= 1):
      raise ValueError(f"field 'labels', step {n}: {label!r}; use 1, 0, a share between them, or null")


def one_step(step, rule):
  """Returns a step's text as `spans` would find it: without tags, and without line breaks that would split it."""
  lines = [line.strip() if rule == 'line' else line.rstrip() for line in _TAG.sub(' ', step).strip().split('\n')]
  return (' ' if rule == 'line' else '\n').join(line for line in lines if line.strip())


def spans(text, rule):
  """Returns the (start, end) of each step of a text, with the end exclusive.

  Steps are the pieces between separators. Pieces that contain nothing but white space and think or answer tags are
  skipped.
  """
  steps, position = [], 0
  for piece in re.split('(\n)' if rule == 'line' else '(\n[^\\S\n]*\n\\s*)', text):
    if _strip_tags(piece):
      indent = len(piece) - len(piece.lstrip())
      steps.append((position + indent, position + len(piece.rstrip())))
    position += len(piece)
  return steps


def _strip_tags(piece):
  return _TAG.sub(' ', piece).strip()
