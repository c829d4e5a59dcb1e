"""Rows in numbered JSON Lines files. Files are written atomically, so that a file that exists is complete."""

import hashlib
import json
import os
import pathlib
import re

from r1jax.data.reader import DataError

_NAME = re.compile(r'(\d{5})-of-(\d{5})\.jsonl')


class Shards:
  """A folder of `count` files, `00000-of-00012.jsonl` and so on; created with its parents if missing.

  Several processes may write different files to one folder.
  """

  def __init__(self, folder, count):
    self.folder, self.count = pathlib.Path(folder), count
    self.folder.mkdir(parents=True, exist_ok=True)

  def path(self, number):
    return self.folder / f'{number:05d}-of-{self.count:05d}.jsonl'

  def done(self, number):
    return self.path(number).exists()

  def write(self, number, rows):
    """Writes file `number` atomically; equal rows give equal bytes."""
    temporary = self.path(number).with_suffix('.tmp')
    with open(temporary, 'w', encoding='utf-8', newline='\n') as f:
      f.writelines(json.dumps(row, ensure_ascii=False) + '\n' for row in rows)
    os.replace(temporary, self.path(number))


def files(folder):
  """Returns the paths of all files that `Shards` wrote to a folder, in order.

  Raises:
    DataError: the folder or any of the files is missing.
  """
  folder = pathlib.Path(folder)
  paths = sorted(p for p in folder.glob('*.jsonl') if _NAME.fullmatch(p.name))
  if not paths:
    raise DataError(f'{folder} has no files like 00000-of-00012.jsonl; name the folder of samples of a run.')
  count = int(paths[0].stem.rpartition('-')[2])
  if [p.name for p in paths] != [f'{n:05d}-of-{count:05d}.jsonl' for n in range(count)]:
    raise DataError(f'{folder} has {len(paths)} of {count} files; run the command that writes them again.')
  return paths


def digest(paths):
  """Returns the SHA-256 of the concatenated files, in hex."""
  sha256 = hashlib.sha256()
  for path in paths:
    with open(path, 'rb') as f:
      while piece := f.read(1 << 20):
        sha256.update(piece)
  return sha256.hexdigest()


def read(folder):
  """Yields the rows of all files in order. Raises DataError like `files`."""
  for path in files(folder):
    with open(path, encoding='utf-8') as f:
      yield from map(json.loads, f)
