"""Rows in numbered files of JSON Lines, each written whole or not at all: what is there is done."""

import hashlib
import json
import os
import pathlib
import re

from r1jax.data.reader import DataError

_NAME = re.compile(r'(\d{5})-of-(\d{5})\.jsonl')


class Shards:
  """A folder of `count` files, `00000-of-00012.jsonl` and so on. Made, with its parents, if absent.

  Several processes may write into one folder, each its own files.
  """

  def __init__(self, folder, count):
    self.folder, self.count = pathlib.Path(folder), count
    self.folder.mkdir(parents=True, exist_ok=True)

  def path(self, number):
    return self.folder / f'{number:05d}-of-{self.count:05d}.jsonl'

  def done(self, number):
    return self.path(number).exists()

  def write(self, number, rows):
    """Writes a file under a temporary name and renames it; the same rows are the same bytes."""
    temporary = self.path(number).with_suffix('.tmp')
    with open(temporary, 'w', encoding='utf-8', newline='\n') as f:
      f.writelines(json.dumps(row, ensure_ascii=False) + '\n' for row in rows)
    os.replace(temporary, self.path(number))


def files(folder):
  """The paths of all files of a folder that `Shards` has written, in order.

  Raises:
    DataError: no such folder, none there, or some are missing.
  """
  folder = pathlib.Path(folder)
  found = sorted(p for p in folder.glob('*.jsonl') if _NAME.fullmatch(p.name))
  if not found:
    raise DataError(f'{folder} holds no files like 00000-of-00012.jsonl; name the folder of samples of a run.')
  count = int(_NAME.fullmatch(found[0].name)[2])
  if [p.name for p in found] != [f'{n:05d}-of-{count:05d}.jsonl' for n in range(count)]:
    raise DataError(f'{folder} holds {len(found)} of {count} files; give the command that writes them again.')
  return found


def digest(paths):
  """SHA-256 of files, one after the other."""
  found = hashlib.sha256()
  for path in paths:
    with open(path, 'rb') as f:
      while piece := f.read(1 << 20):
        found.update(piece)
  return found.hexdigest()


def read(folder):
  """The rows of all files, in order, one at a time. Raises DataError as `files` does."""
  for path in files(folder):
    with open(path, encoding='utf-8') as f:
      yield from map(json.loads, f)
