"""Training datasets as folders: `train.jsonl`, the same rows as a TFDS dataset of array_record files, and a card.

A row has the strings id, source and response, and either problem or turns ([{role, content}]) that end with a user
turn; and, where known, kind, language, answer and whatever else its reward reads.
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
# Fields of a TFDS record: texts, '' if the row lacks the field; `more` is the JSON of all other fields.
FIELDS = ('id', 'source', 'kind', 'language', 'problem', 'response', 'answer', 'more')


def files(path):
  """The JSON Lines files of a path: a dataset's folder, a workdir or samples folder of experiments.generate, or a file.

  Raises:
    DataError: the folder holds no rows, or some files of samples are missing.
  """
  path = pathlib.Path(path)
  if not path.is_dir():
    return [path]
  if (path / ROWS).exists():
    return [path / ROWS]
  return shards.files(path / 'samples' if (path / 'samples').is_dir() else path)


def rows(path):
  """Yields the rows of a dataset; path as for `files`. Raises DataError, also for a malformed line."""
  for file in files(path):
    for number, line in reader.raw_lines(str(file)):
      try:
        yield reader.parse(line)
      except ValueError as e:
        raise data.DataError(f'{file}, line {number}: {e}; correct or remove the line.') from e


def held_out(entry):
  """Yields (id, text) of the problems of an evaluation entry: a path, or the name of a world that generates problems.

  Raises DataError, ConfigError.
  """
  if generated(entry):
    problems = data.load(config_lib.Data(source=entry)).held_out
  else:
    problems = rows(entry)
  for number, row in enumerate(problems, 1):
    problem = next((row[key] for key in ('problem', 'question', 'prompt', 'turns') if key in row), None)
    if isinstance(problem, list) and all(isinstance(turn, dict) for turn in problem):
      user_turns = [turn.get('content') for turn in problem if turn.get('role') == 'user']
      problem = '\n'.join(user_turns) if user_turns and all(isinstance(text, str) for text in user_turns) else None
    if not isinstance(problem, str):
      raise data.DataError(
        f"row {number} of {entry} has no text 'problem', 'question', 'prompt' or 'turns'; name a file of problems."
      )
    yield str(row.get('id', number)), problem


def decontaminated(problems, evaluation):
  """Drops the problems that contain an evaluation problem.

  Args:
    problems: list of dicts with 'problem'.
    evaluation: evaluation entries, as for `held_out`.

  Returns:
    the problems that are kept, in order, and {entry: number of problems dropped because of it}.
  """
  index = contamination.Index(
    [(entry, text) for entry in evaluation for _, text in held_out(entry)], contamination.WINDOW, contamination.OVERLAP
  )
  matches = [index.find(problem['problem']) for problem in problems]
  kept = [problem for problem, entry in zip(problems, matches, strict=True) if entry is None]
  return kept, dict(collections.Counter(entry for entry in matches if entry is not None))


def generated(entry):
  """Whether an evaluation entry names a world whose problems are generated, rather than a file."""
  return entry in data.SOURCES and not os.path.exists(entry)


def write_records(folder, cfg, count, description):
  """Writes the rows of a dataset's folder as the TFDS dataset folder/NAME/VERSION as well, atomically.

  Read it with `tfds.builder_from_directory(PATH).as_data_source('train')`, and each record with `from_record`. An
  existing dataset is left unchanged. The same rows always give the same bytes; TFDS's own writers do not guarantee
  that, as they order the fields of a record differently in each process.

  Args:
    cfg: config.Curate, of which name, version and shard (rows per file) are used.
    count: number of rows.
    description: text for the dataset's metadata.
  """
  target, temporary = pathlib.Path(folder, cfg.name, cfg.version), pathlib.Path(folder, f'.{cfg.name}.tmp')
  if target.exists():
    return
  from array_record.python.array_record_module import ArrayRecordWriter
  import tensorflow_datasets as tfds  # imported here, as it takes a second
  from tensorflow_datasets.core import dataset_info, example_serializer, naming

  shutil.rmtree(temporary, ignore_errors=True)
  temporary.mkdir()
  features = tfds.features.FeaturesDict({field: tfds.features.Text() for field in FIELDS})
  identity = dataset_info.DatasetIdentity(
    name=cfg.name, version=tfds.core.Version(cfg.version), data_dir=str(temporary), module_name='r1jax'
  )
  info = dataset_info.DatasetInfo(builder=identity, description=description, features=features)
  info.set_file_format('array_record')
  serializer = example_serializer.ExampleSerializer(features.get_serialized_info())  # pyright: ignore[reportArgumentType]
  paths = naming.ShardedFileTemplate(
    data_dir=tfds.core.Path(temporary), dataset_name=cfg.name, split='train', filetype_suffix='array_record'
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
    tfds.core.SplitDict(
      [tfds.core.SplitInfo(name='train', shard_lengths=lengths, num_bytes=size, filename_template=paths)]
    )
  )
  info.write_to_directory(temporary)
  target.parent.mkdir(exist_ok=True)
  temporary.rename(target)


def to_record(row):
  """Turns a row into a record with the fields FIELDS, all of them texts."""
  plain = {key: row[key] for key in FIELDS if isinstance(row.get(key), str) and key != 'more'}
  extra = {key: value for key, value in row.items() if key not in plain}
  return dict.fromkeys(FIELDS, '') | plain | {'more': json.dumps(extra, ensure_ascii=False) if extra else ''}


def from_record(record):
  """The row of a record; its values are texts, or bytes as TFDS reads them."""
  texts = {key: value.decode() if isinstance(value, bytes) else value for key, value in record.items()}
  extra = texts.pop('more')
  return {key: value for key, value in texts.items() if value} | (json.loads(extra) if extra else {})


def write_card(folder, card):
  """Writes card.json and README.md. card: dict, see `make_card` in experiments/curate.py."""
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
