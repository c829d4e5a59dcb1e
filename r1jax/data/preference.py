"""Examples for outcome reward models: pairs of responses of which one is preferred, and responses that are safe or not.

A pair is a row with `prompt`, `chosen` and `rejected`, a point one with `prompt`, `response` and `safe` (1 or 0). A
prompt is a text, which is one turn of the user, or a list of turns {'role', 'content'}; `id` is made from the file's
name and the row's number where absent. An item made of either is a dict:

  id: str. turns: the prompt's. texts: what is scored, as the view has it. labels: of the texts, 1 or 0.
  key: what 'the same prompt' means for a split.
"""

import functools
import json
import os

from r1jax.data import conversation, reader


def read_pairs(path, view):
  """Items with texts [chosen, rejected] and labels [1, 0], and {reason: number} of those left out.

  A response of which the view shows nothing is left out with its pair ('unseen'), and so are pairs whose
  responses look the same ('same').

  Raises:
    DataError: naming file, line and field.
  """
  rows = reader.read_rows(path, functools.partial(_check, fields=('chosen', 'rejected')))
  return _items(path, rows, lambda row: [row['chosen'], row['rejected']], lambda row: [1.0, 0.0], view)


def read_points(path, view):
  """The same with texts [response] and labels [1.0] where it is safe, else [0.0]."""
  rows = reader.read_rows(path, _check_point)
  return _items(path, rows, lambda row: [row['response']], lambda row: [float(row['safe'])], view)


def turns_of(prompt):
  """The turns of a row's or an item's prompt."""
  return [{'role': 'user', 'content': prompt}] if isinstance(prompt, str) else prompt


def prompt_key(turns):
  """The conversation with white space collapsed, as text."""
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
  if row['safe'] not in (0, 1):  # True and False are these
    raise ValueError(f"field 'safe' is {row['safe']!r}; it must be 1 or 0")


def _items(path, rows, texts_of, labels_of, view):
  items, dropped = [], {'unseen': 0, 'same': 0}
  for number, row in enumerate(rows, 1):
    turns = turns_of(row['prompt'])
    texts = [conversation.shown(text, view) for text in texts_of(row)]
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
