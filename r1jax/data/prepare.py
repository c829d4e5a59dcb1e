"""Writes a TFDS set for `data.source = 'tfds'`, from the user's file or from a toy world.

python -m r1jax.data.prepare gsm8k --source train.jsonl --data_dir DIR
python -m r1jax.data.prepare toy/trial --data_dir DIR
"""

import argparse
import sys

from r1jax.data.reader import DataError

NAMES = ('gsm8k', 'toy/trial', 'toy/chain')


def prepare(name, source, data_dir):
  """Writes the set `name` under data_dir as array_record.

  Args:
    name: one of NAMES.
    source: for 'gsm8k' the path of the file to read; '' for the toy worlds.
    data_dir: folder of TFDS sets; created if missing.

  Returns:
    (path of the set, {split: records}).

  Raises:
    DataError: the file cannot be used, or data_dir already has the set.
  """
  builder = _builder(name, source, data_dir)
  if builder.data_path.exists():
    # TFDS would silently keep the old records.
    raise DataError(f'{builder.data_path} already exists; delete it or pass another --data_dir.')
  builder.download_and_prepare(file_format='array_record')
  return str(builder.data_path), {k: v.num_examples for k, v in builder.info.splits.items()}


def main(argv=None):
  parser = argparse.ArgumentParser(prog='python -m r1jax.data.prepare', description=(__doc__ or '').split('\n')[0])
  parser.add_argument('name', choices=NAMES, help='the set to write')
  parser.add_argument('--source', default='', help='JSON Lines file to read (gsm8k)')
  parser.add_argument('--data_dir', required=True, help='folder for TFDS sets')
  args = parser.parse_args(argv)
  try:
    path, splits = prepare(args.name, args.source, args.data_dir)
  except DataError as e:
    sys.exit(str(e))
  print(f'wrote {", ".join(f"{n} {split}" for split, n in splits.items())} problems to {path}')


def _builder(name, source, data_dir):
  name, _, world = name.partition('/')
  if name == 'gsm8k':
    if not source:
      raise DataError('gsm8k needs the file to read; pass it with --source FILE.')
    from r1jax.data.builders.gsm8k import gsm8k_dataset_builder  # TFDS takes seconds to import

    return gsm8k_dataset_builder.Builder(source=source, data_dir=data_dir)
  if source:
    raise DataError(f'--source {source} would not be read, as the toy worlds are generated; leave it out.')
  from r1jax.data.builders.toy import toy_dataset_builder

  return toy_dataset_builder.Builder(config=world, data_dir=data_dir)


if __name__ == '__main__':
  main()
