"""Files of rows: complete or absent, in order, and a missing one is noticed."""

import json

import pytest

from r1jax.data import DataError, shards


def rows(number):
  return [{'id': f'{number}/{n}', 'text': 'a line\nanother\u2028答'} for n in range(3)]


def test_rows_come_back_in_order_whatever_order_they_were_written_in(tmp_path):
  out = shards.Shards(tmp_path / 'new' / 'samples', 12)
  for number in (11, 0, *range(1, 11)):
    assert not out.done(number)
    out.write(number, rows(number))
    assert out.done(number)
  assert list(shards.read(out.folder)) == [row for number in range(12) for row in rows(number)]
  assert [p.name for p in shards.files(out.folder)][:2] == ['00000-of-00012.jsonl', '00001-of-00012.jsonl']


def test_an_interrupted_write_leaves_no_file(tmp_path):
  out = shards.Shards(tmp_path, 1)

  def broken():
    yield {'id': 1}
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    out.write(0, broken())
  assert not out.done(0)
  out.write(0, rows(0))
  with pytest.raises(KeyboardInterrupt):
    out.write(0, broken())
  assert list(shards.read(tmp_path)) == rows(0)


def test_missing_files_are_an_error(tmp_path):
  with pytest.raises(DataError, match='00000-of-00012.jsonl'):
    shards.files(tmp_path)
  out = shards.Shards(tmp_path, 3)
  for number in (0, 2):
    out.write(number, rows(number))
  with pytest.raises(DataError, match='2 of 3'):
    list(shards.read(tmp_path))
  (tmp_path / 'notes.jsonl').write_text(json.dumps({}))
  out.write(1, [])
  assert len(list(shards.read(tmp_path))) == 6
