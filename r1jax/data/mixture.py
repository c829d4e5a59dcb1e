"""Problems of several sorts together: each part of a mixture is a source of its own.

A problem of a mixture has the fields 'part' and 'kind' besides its own, and 'language' and 'template' where its part
names them. A conversation has its 'turns' too; its 'problem' is then their text.
"""

import hashlib
import itertools
import re

from r1jax.config import ConfigError
from r1jax.data import conversation
from r1jax.data.reader import DataError, normalise, text_key

_PLACE = re.compile(r'\{(\w+(?::[1-9][0-9]*)?)\}')
_SETTING = re.compile(r'\bdata\.(?=(?:path|eval_path|eval_fraction|name|source)\b)')
LETTERS = 'ABCDEFGHIJ'


def load(cfg, load_part, check=None):
  """The problems of all parts of a config.Data.

  What any part holds out is trained on in none. Held out, the kinds take turns, and the parts of a kind, each in an
  order of its own by hash: so the first n problems are a sample stratified by kind.

  Args:
    load_part: function from a config.Part and a check to sources.Problems. check: see `sources.load`.

  Returns:
    (train, held_out, dropped), as of Problems.
  """
  train, held_out, dropped, ids = [], {}, {}, set()
  for name, part in sorted(cfg.parts.items()):
    if not part.weight:
      continue
    try:
      found = load_part(part, check and (lambda p, name=name, part=part: check(_labelled(p, name, part))))
    except (ConfigError, DataError) as error:
      raise type(error)(_SETTING.sub(f'data.parts.{name}.', str(error))) from error
    here, there = ([_labelled(p, name, part) for p in side] for side in (found.train, found.held_out))
    own = {p['id'] for p in here + there}
    if own & ids:  # as where two files have the same name and no ids
      here, there = ([p | {'id': f'{name}/{p["id"]}'} for p in side] for side in (here, there))
    ids |= {p['id'] for p in here + there}
    train += here
    for p in sorted(there, key=_hash):
      held_out.setdefault(p['kind'], {}).setdefault(name, []).append(p)
    dropped = {reason: dropped.get(reason, 0) + count for reason, count in found.dropped.items()}
  held_out = _in_turn([_in_turn(parts.values()) for _, parts in sorted(held_out.items())])
  return train, held_out, dropped


def taker(part, only, check=None):
  """The function from a row and its default id to a problem that a config.Part describes, or None: `read_jsonl`'s take.

  only: part.filter or part.eval_filter, whichever is for the file. check: see `sources.load`.
  """

  def take(row, default_id):
    if isinstance(row, dict):
      row = _renamed(row, part.fields)
      if not wanted(row, only):
        return None
      if isinstance(row.get('problem'), list):
        row |= _talk(row['problem'])
      if part.problem:
        row['problem'] = _PLACE.sub(lambda place: _shown(row, place[1]), part.problem)
    problem = normalise(row, default_id, part.answers)
    if problem.get('turns') is not None:
      conversation.check_turns(problem['turns'], 'turns')
    if check:
      check(problem)
    return problem

  return take


def wanted(row, only):
  """Has the row (or problem) one of the values that `only`, {field: values as texts}, names for each field?"""
  return all(str(row.get(field)) in values for field, values in only.items())


def _renamed(row, fields):
  """The row with some fields under other names, which take the place of fields that had these."""
  given = {ours: row[theirs] for theirs, ours in fields.items() if theirs in row}
  return {field: value for field, value in row.items() if field not in fields} | given


def _talk(turns):
  """The fields of a problem that is a conversation: its text, and 'turns' where they are more than the user's one."""
  conversation.check_turns(turns)
  if len(turns) == 1 and turns[0]['role'] == 'user':
    return {'problem': turns[0]['content']}
  return {'turns': turns, 'problem': '\n'.join(f'{turn["role"].capitalize()}: {turn["content"]}' for turn in turns)}


def _shown(row, field):
  """A field's value for a place in a problem's text: a list by lines, options with their letters.

  `field:n` shows the first n of a list: of tests, the others stay hidden from who must pass them.
  """
  field, _, count = field.partition(':')
  if field not in row:
    raise ValueError(f"no field '{field}', which the part's problem shows")
  value = row[field]
  if count:
    if not isinstance(value, list):
      raise ValueError(f"field '{field}' is no list, of which the part's problem shows the first {count}")
    value = value[: int(count)]
  if field == 'options':
    pairs = value.items() if isinstance(value, dict) else zip(LETTERS, value)
    return '\n'.join(f'{letter}. {text}' for letter, text in pairs)
  return '\n'.join(map(str, value)) if isinstance(value, list) else str(value)


def _labelled(problem, name, part):
  own = problem.get('kind')
  label = {'part': name, 'kind': part.kind or (own if isinstance(own, str) and own else name)}
  return problem | label | {k: v for k, v in (('language', part.language), ('template', part.template)) if v}


def _hash(problem):
  return hashlib.sha256(text_key(problem).encode('utf-8')).digest()


def _in_turn(lists):
  """One of each list, then the next of each, and so on to the end of the longest."""
  return [x for row in itertools.zip_longest(*lists) for x in row if x is not None]
