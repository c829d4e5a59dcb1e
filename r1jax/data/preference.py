"""Examples for outcome reward models: preference pairs, and responses labelled as safe, or as right, or not.

The row of a pair has `prompt`, `chosen` and `rejected`; that of a point has `prompt`, `response` and `safe` (1 or 0).
Samples of experiments.generate are points, whose label says whether the response is right.
A prompt is a text, which stands for one user turn, or a list of turns {'role', 'content'}. A row without `id` gets one
from the file name and the row number. Both kinds of row become an item, which is a dict:

  id: str.
  turns: list of turns, the prompt.
  texts: list of str, the visible parts of the responses.
  labels: list of float, 1 or 0 for each text.
  key: str that is equal for equal prompts; a split keeps items with equal keys together.
"""

import functools
import json
import os

from r1jax import templates
from r1jax.data import conversation, reader, shards


def read_pairs(path, view):
  """Reads preference pairs.

  Args:
    path: JSON Lines file.
    view: one of config.VIEWS.

  Returns:
    (items with texts [chosen, rejected] and labels [1.0, 0.0], {reason: number of pairs dropped}). The reasons are
    'unseen', a response has no visible part, and 'same', the visible parts are equal.

  Raises:
    DataError: a bad row; the message names file, line and field.
  """
  rows = reader.read_rows(path, functools.partial(_check, fields=('chosen', 'rejected')))
  return _items(path, rows, lambda row: [row['chosen'], row['rejected']], lambda row: [1.0, 0.0], view)


def read_points(path, view):
  """Reads safety labels, like `read_pairs`: items with texts [response] and labels [1.0] if it is safe, else [0.0]."""
  rows = reader.read_rows(path, _check_point)
  return _items(path, rows, lambda row: [row['response']], lambda row: [float(row['safe'])], view)


def read_samples(folder, view):
  """Reads graded samples, like `read_points`: labels [1.0] if the response is right.

  Args:
    folder: a workdir of experiments.generate.
    view: one of config.VIEWS.
  """
  rows = [
    {
      'id': f'{row["id"]}:{row["sample"]}',
      'prompt': row['problem'],
      'response': templates.completed(row['prompt'], row['response']),
      'safe': row['correct'],
    }
    for row in shards.read(os.path.join(folder, 'samples'))
  ]
  return _items(folder, rows, lambda row: [row['response']], lambda row: [float(row['safe'])], view)


def turns_of(prompt):
  """Returns the turns of a prompt, which is a text or already a list of turns."""
  return [{'role': 'user', 'content': prompt}] if isinstance(prompt, str) else prompt


def prompt_key(turns):
  """Returns the conversation as JSON with white space collapsed."""
  return json.dumps([[turn['role'], ' '.join(turn['content'].split())] for turn in turns], ensure_ascii=False)


def _check(row, fields):
  if 'prompt' not in row:
    raise ValueError("no field 'prompt'")
  conversation.check_turns(turns_of(row['prompt']))
  for field in fields:
    if field not in row:
      raise ValueError(f"no field '{field}'")
    if not isinstance(row[field], str):
      raise ValueError(f"field '{field}' is a {type(row[field]).__name__}, not a string")


def _check_point(row):
  _check(row, ('response',))
  if 'safe' not in row:
    raise ValueError("no field 'safe'")
  if row['safe'] not in (0, 1):  # True and False are equal to 1 and 0
    raise ValueError(f"field 'safe' is {row['safe']!r}; it must be 1 or 0")


def _items(path, rows, texts_of, labels_of, view):
  items, dropped = [], {'unseen': 0, 'same': 0}
  for number, row in enumerate(rows, 1):
    turns = turns_of(row['prompt'])
    texts = [conversation.visible_text(text, view) for text in texts_of(row)]
    if None in texts:
      dropped['unseen'] += 1
    elif len(texts) > len(set(texts)):
      dropped['same'] += 1
    else:
      items.append(
        {
          'id': str(row.get('id', f'{os.path.basename(path)}:{number}')),
          'turns': turns,
          'texts': texts,
          'labels': labels_of(row),
          'key': prompt_key(turns),
        }
      )
  return items, dropped
