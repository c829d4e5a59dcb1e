"""Mixtures of problems: each part of a mixture is a source.

Besides its own fields a problem of a mixture has 'part' and 'kind', and 'language' and 'template' if its part sets
them. A problem that is a conversation also has 'turns'; its 'problem' is then the text of the turns.
"""

import hashlib
import itertools
import re

from r1jax.config import ConfigError
from r1jax.data import conversation
from r1jax.data.reader import DataError, normalise, text_key

_PLACEHOLDER = re.compile(r'\{(\w+(?::[1-9][0-9]*)?)\}')
_DATA_KEY = re.compile(r'\bdata\.(?=(?:path|eval_path|eval_fraction|name|source)\b)')
LETTERS = 'ABCDEFGHIJ'


def load(cfg, load_part, check=None):
  """Loads the problems of all parts of a config.Data.

  The held-out problems are interleaved by kind, and within a kind by part; those of a part are ordered by a hash. So
  the first n of them are a sample stratified by kind.

  Args:
    cfg: config.Data with source 'mixture'.
    load_part: function (config.Part, check) -> sources.Problems.
    check: see `sources.load`.

  Returns:
    (train, held_out, dropped), the fields of sources.Problems. A text may still be in both train and held_out.
  """
  train, held_out, dropped, ids = [], {}, {}, set()
  for name, part in sorted(cfg.parts.items()):
    if not part.weight:
      continue
    try:
      problems = load_part(part, check and (lambda p, name=name, part=part: check(_label(p, name, part))))
    except (ConfigError, DataError) as error:
      raise type(error)(_DATA_KEY.sub(f'data.parts.{name}.', str(error))) from error
    part_train, part_held_out = (
      [_label(p, name, part) for p in split] for split in (problems.train, problems.held_out)
    )
    if ids & {p['id'] for p in part_train + part_held_out}:  # for example two files of the same name without ids
      part_train, part_held_out = (
        [p | {'id': f'{name}/{p["id"]}'} for p in split] for split in (part_train, part_held_out)
      )
    ids |= {p['id'] for p in part_train + part_held_out}
    train += part_train
    for p in sorted(part_held_out, key=_hash):
      held_out.setdefault(p['kind'], {}).setdefault(name, []).append(p)
    dropped = {reason: dropped.get(reason, 0) + count for reason, count in problems.dropped.items()}
  held_out = _interleave([_interleave(parts.values()) for _, parts in sorted(held_out.items())])
  return train, held_out, dropped


def row_converter(part, row_filter, check=None):
  """Returns the function from a row and a default id to a problem of a config.Part, for `reader.read_jsonl`.

  Args:
    part: config.Rows.
    row_filter: part.filter or part.eval_filter, whichever applies to the file; other rows become None.
    check: see `sources.load`.
  """

  def convert(row, default_id):
    if isinstance(row, dict):
      row = _rename_fields(row, part.fields)
      if not matches(row, row_filter):
        return None
      if isinstance(row.get('problem'), list):
        row |= _conversation_fields(row['problem'])
      if part.problem:
        row['problem'] = fill(part.problem, row)
    problem = normalise(row, default_id, part.answers)
    if problem.get('turns') is not None:
      conversation.check_turns(problem['turns'], 'turns')
    if check:
      check(problem)
    return problem

  return convert


def fill(text, row):
  """The text with row fields in the place of their names in braces. Raises ValueError for a field that is missing."""
  return _PLACEHOLDER.sub(lambda match: _field_text(row, match[1]), text)


def matches(row, row_filter):
  """Whether a row or problem passes a filter {field: allowed values as strings}."""
  return all(str(row.get(field)) in values for field, values in row_filter.items())


def _rename_fields(row, fields):
  """Returns the row with fields renamed by {old name: new name}; a renamed field replaces one that has its new name."""
  renamed = {new: row[old] for old, new in fields.items() if old in row}
  return {field: value for field, value in row.items() if field not in fields} | renamed


def _conversation_fields(turns):
  """The fields of a problem that is a conversation: its text, and 'turns' unless there is only one user turn."""
  conversation.check_turns(turns)
  if len(turns) == 1 and turns[0]['role'] == 'user':
    return {'problem': turns[0]['content']}
  return {'turns': turns, 'problem': '\n'.join(f'{turn["role"].capitalize()}: {turn["content"]}' for turn in turns)}


def _field_text(row, placeholder):
  """The text for a placeholder: the value of a field, with one line per item of a list, and letters for options.

  The placeholder `field:n` stands for the first n items of a list, for example to keep the other tests hidden.
  """
  field, _, count = placeholder.partition(':')
  if field not in row:
    raise ValueError(f"no field '{field}', which the part's problem text names")
  value = row[field]
  if count:
    if not isinstance(value, list):
      raise ValueError(f"field '{field}' is not a list, but the part's problem text names its first {count} items")
    value = value[: int(count)]
  if field == 'options':
    pairs = value.items() if isinstance(value, dict) else zip(LETTERS, value)
    return '\n'.join(f'{letter}. {text}' for letter, text in pairs)
  return '\n'.join(map(str, value)) if isinstance(value, list) else str(value)


def _label(problem, name, part):
  """Returns the problem with its part, kind, language and template."""
  kind = problem.get('kind')
  label = {'part': name, 'kind': part.kind or (kind if isinstance(kind, str) and kind else name)}
  return problem | label | {k: v for k, v in (('language', part.language), ('template', part.template)) if v}


def _hash(problem):
  return hashlib.sha256(text_key(problem).encode('utf-8')).digest()


def _interleave(lists):
  """Takes one item of each list in turn, to the end of the longest."""
  return [x for items in itertools.zip_longest(*lists) for x in items if x is not None]
