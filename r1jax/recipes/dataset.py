"""Datasets to learn from, as folders: `train.jsonl`, the same as a TFDS set of array_record files, and their card.

A row has the strings id, source and response, and problem, or turns ([{role, content}]) that end with the user's;
where they are known kind, language, answer, and whatever its reward reads.
"""

import collections
import itertools
import json
import os
import pathlib
import shutil

import jinja2

from r1jax import config as config_lib
from r1jax import data
from r1jax.data import reader, shards
from r1jax.recipes import contamination

ROWS, CARD, README = 'train.jsonl', 'card.json', 'README.md'
# Of a record of the TFDS set: texts, '' where a row has none; `more` is the JSON of all other fields.
FIELDS = ('id', 'source', 'kind', 'language', 'problem', 'response', 'answer', 'more')


def files(path):
  """The JSON Lines files of a dataset's folder, of a generation's workdir or folder of samples, or the file itself.

  Raises DataError: there is no such thing, or the samples are not all there.
  """
  path = pathlib.Path(path)
  if not path.is_dir():
    return [path]
  if (path / ROWS).exists():
    return [path / ROWS]
  return shards.files(path / 'samples' if (path / 'samples').is_dir() else path)


def rows(path):
  """The rows of a dataset, one at a time; path as for `files`. Raises DataError, also of a malformed line."""
  for file in files(path):
    for number, line in reader.raw_lines(str(file)):
      try:
        yield reader.parse(line)
      except ValueError as e:
        raise data.DataError(f'{file}, line {number}: {e}; mend or remove the line.') from e


def held_out(entry):
  """(id, text) of the problems of an entry of config.Curate.evaluation. Raises DataError, ConfigError."""
  if generated(entry):
    problems = data.load(config_lib.Data(source=entry)).held_out
  else:
    problems = rows(entry)
  for number, row in enumerate(problems, 1):
    asked = next((row[key] for key in ('problem', 'question', 'prompt', 'turns') if key in row), None)
    if isinstance(asked, list) and all(isinstance(turn, dict) for turn in asked):
      said = [turn.get('content') for turn in asked if turn.get('role') == 'user']
      asked = '\n'.join(said) if said and all(isinstance(text, str) for text in said) else None
    if not isinstance(asked, str):
      raise data.DataError(
        f"row {number} of {entry} has no text 'problem', 'question', 'prompt' or 'turns'; name a file of problems."
      )
    yield str(row.get('id', number)), asked


def decontaminated(problems, evaluation):
  """Drops the problems that hold one that a model is evaluated on.

  Args:
    problems: dicts with 'problem'. evaluation: entries as for `held_out`.

  Returns:
    (the problems kept, in order; {entry: number dropped}).
  """
  index = contamination.Index(
    [(entry, text) for entry in evaluation for _, text in held_out(entry)], contamination.WINDOW, contamination.OVERLAP
  )
  held = [index.holds(problem['problem']) for problem in problems]
  return [p for p, entry in zip(problems, held, strict=True) if entry is None], dict(
    collections.Counter(entry for entry in held if entry is not None)
  )


def generated(entry):
  """Whether an entry names a world whose problems are generated, rather than a file."""
  return entry in data.SOURCES and not os.path.exists(entry)


def write_records(folder, cfg, count, description):
  """Writes the rows of a dataset's folder once more, as the TFDS set folder/NAME/VERSION, whole or not at all.

  Read it with `tfds.builder_from_directory(PATH).as_data_source('train')`, and each record with `from_record`. A set
  that is there is left as it is. The same rows are the same bytes, which they are not by TFDS's own writers: those
  put the fields of a record in an order of their process.

  Args:
    cfg: config.Curate, with name, version and shard.
    count: how many rows there are.
  """
  target, temporary = pathlib.Path(folder, cfg.name, cfg.version), pathlib.Path(folder, f'.{cfg.name}.tmp')
  if target.exists():
    return
  from array_record.python.array_record_module import ArrayRecordWriter
  import tensorflow_datasets as tfds  # takes a second
  from tensorflow_datasets.core import dataset_info, example_serializer, naming

  shutil.rmtree(temporary, ignore_errors=True)
  temporary.mkdir()
  features = tfds.features.FeaturesDict({field: tfds.features.Text() for field in FIELDS})
  identity = dataset_info.DatasetIdentity(
    name=cfg.name, version=tfds.core.Version(cfg.version), data_dir=str(temporary), module_name='r1jax'
  )
  info = dataset_info.DatasetInfo(builder=identity, description=description, features=features)
  info.set_file_format('array_record')
  serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
  paths = naming.ShardedFileTemplate(
    data_dir=temporary, dataset_name=cfg.name, split='train', filetype_suffix='array_record'
  )
  stream, lengths, size, shard_count = rows(folder), [], 0, -(-count // cfg.shard)
  for number in range(shard_count):
    path = paths.sharded_filepath(shard_index=number, num_shards=shard_count)
    writer = ArrayRecordWriter(str(path), 'group_size:1')
    lengths.append(0)
    for row in itertools.islice(stream, cfg.shard):
      example = serializer.get_tf_example(features.encode_example(to_record(row)))
      record = example.SerializeToString(deterministic=True)
      writer.write(record)
      lengths[-1] += 1
      size += len(record)
    writer.close()
  info.set_splits(
    tfds.core.splits.SplitDict(
      [tfds.core.SplitInfo(name='train', shard_lengths=lengths, num_bytes=size, filename_template=paths)]
    )
  )
  info.write_to_directory(temporary)
  target.parent.mkdir(exist_ok=True)
  temporary.rename(target)


def to_record(row):
  """A row with the fields FIELDS, all texts."""
  plain = {key: row[key] for key in FIELDS if isinstance(row.get(key), str) and key != 'more'}
  more = {key: value for key, value in row.items() if key not in plain}
  return dict.fromkeys(FIELDS, '') | plain | {'more': json.dumps(more, ensure_ascii=False) if more else ''}


def from_record(record):
  """The row of a record: of bytes, as TFDS reads it, or texts."""
  texts = {key: value.decode() if isinstance(value, bytes) else value for key, value in record.items()}
  more = texts.pop('more')
  return {key: value for key, value in texts.items() if value} | (json.loads(more) if more else {})


def write_card(folder, card):
  """Writes card.json and README.md; card: see experiments/curate.py."""
  template = jinja2.Environment(
    loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
  ).get_template('card.md.j2')
  texts = {CARD: json.dumps(card, indent=2, ensure_ascii=False) + '\n', README: template.render(card)}
  for name, text in texts.items():
    temporary = pathlib.Path(folder, name + '.tmp')
    temporary.write_text(text, encoding='utf-8')
    temporary.replace(pathlib.Path(folder, name))
