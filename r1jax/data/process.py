"""Examples for process reward models: solutions in steps, each labelled right, wrong or not at all.

A row holds `problem`, `steps` (texts) and `labels`, one a step: 1 right, 0 wrong, null none, and between 0 and 1 the
share of roll-outs from the step that came out right. Rows with the same `group`, or without one the same problem,
stay on one side of a split. Items are as in `r1jax.data.preference`, their texts the steps, their labels -1 for none.

Steps are the pieces of a text between line ends, or between blank lines: `spans` finds them in a response, and
`one_step` writes a labelled step so that it stays one piece.
"""

import os
import re

from r1jax import templates
from r1jax.data import preference, reader
from r1jax.data.conversation import SEPARATORS

_TAG = re.compile('|'.join(map(re.escape, templates.TAGS)))


def read_steps(path, rule):
  """Items, and {reason: number} left out: 'unlabelled' rows, and 'empty_steps', each with its label.

  Args:
    path: JSON Lines. rule: of config.STEP_RULES.

  Raises:
    DataError: naming file, line and field.
  """
  rows, items, dropped = reader.read_rows(path, check), [], {'unlabelled': 0, 'empty_steps': 0}
  for number, row in enumerate(rows, 1):
    pairs = [
      (one_step(step, rule), -1.0 if label is None else float(label))
      for step, label in zip(row['steps'], row['labels'])
      if _text(step)
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
  """Raises ValueError unless the row is a solution in steps; labelled: whether they have labels, and some are empty."""
  if not isinstance(row.get('problem'), str) or not row['problem'].strip():
    raise ValueError("field 'problem' is not a text, or empty")
  steps, labels = row.get('steps'), row.get('labels')
  if not isinstance(steps, list) or not steps:
    raise ValueError("field 'steps' is not a list of texts, or empty")
  for n, step in enumerate(steps):
    if not isinstance(step, str) or not (labelled or _text(step)):
      raise ValueError(f"field 'steps', step {n}: not a text, or empty")
  if not labelled:
    return
  if not isinstance(labels, list) or len(labels) != len(steps):
    found = len(labels) if isinstance(labels, list) else f'a {type(labels).__name__}'
    raise ValueError(f"field 'labels' has {found} for {len(steps)} steps; give one label a step")
  for n, label in enumerate(labels):
    if label is not None and (isinstance(label, bool) or not isinstance(label, (int, float)) or not 0 <= label <= 1):
      raise ValueError(f"field 'labels', step {n}: {label!r}; use 1, 0, a share between them, or null")


def one_step(step, rule):
  """A step's text as `spans` would find it: without tags, and without what would part it."""
  lines = [line.strip() if rule == 'line' else line.rstrip() for line in _TAG.sub(' ', step).strip().split('\n')]
  return (' ' if rule == 'line' else '\n').join(line for line in lines if line.strip())


def spans(text, rule):
  """[(start, end)] of a text's steps, ends behind the last character: pieces between separators, but not empty ones.

  Think and answer tags are no text of a step: a piece of nothing else is none.
  """
  found, at = [], 0
  for piece in re.split('(\n)' if rule == 'line' else '(\n[^\\S\n]*\n\\s*)', text):
    if _text(piece):
      lead = len(piece) - len(piece.lstrip())
      found.append((at + lead, at + len(piece.rstrip())))
    at += len(piece)
  return found


def _text(piece):
  return _TAG.sub(' ', piece).strip()


def joined(steps, rule):
  """Steps as the beginning of a solution, which ends where the next step begins."""
  return ''.join(step + SEPARATORS[rule] for step in steps)
