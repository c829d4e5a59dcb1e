"""Datasets as folders: rows, records and the card."""

import json

import pytest

from r1jax import config, data
from r1jax.data import shards
from r1jax.recipes import dataset

ROWS = [
  {'id': 'a', 'source': 's', 'problem': 'p', 'response': '<think>x</think>y', 'answer': '1', 'kind': 'math'},
  {'id': 'b', 'source': 's', 'turns': [{'role': 'user', 'content': '你好'}], 'response': 'r', 'language': 'zh'},
  {'id': 'c', 'source': 's', 'problem': 'p', 'response': 'r', 'answer': 5, 'asserts': ['assert 1'], 'more': 'm'},
  {'id': 'd', 'source': 's', 'problem': 'p', 'response': 'r', 'x': {'y': None}, 'z': True},
]


def write(path, rows):
  path.write_text(''.join(json.dumps(row, ensure_ascii=False) + '\n' for row in rows), encoding='utf-8')
  return path


@pytest.mark.parametrize('row', ROWS)
def test_a_record_keeps_the_whole_row(row):
  record = dataset.to_record(row)
  assert set(record) == set(dataset.FIELDS) and all(isinstance(value, str) for value in record.values())
  assert dataset.from_record({key: value.encode() for key, value in record.items()}) == row


def test_files_of_a_dataset_of_samples_and_of_a_single_file(tmp_path):
  file = write(tmp_path / 'train.jsonl', ROWS)
  assert dataset.files(tmp_path) == [file] and dataset.files(file) == [file]
  assert list(dataset.rows(tmp_path)) == ROWS
  out = shards.Shards(tmp_path / 'run' / 'samples', 2)
  out.write(0, ROWS[:1])
  with pytest.raises(data.DataError, match='1 of 2 files'):
    dataset.files(tmp_path / 'run')
  out.write(1, ROWS[1:])
  assert list(dataset.rows(tmp_path / 'run')) == list(dataset.rows(tmp_path / 'run' / 'samples')) == ROWS
  (tmp_path / 'empty').mkdir()
  with pytest.raises(data.DataError, match='empty'):
    dataset.files(tmp_path / 'empty')


def test_evaluation_problems_of_files_and_worlds(tmp_path):
  chat = {
    'id': 'c',
    'prompt': [
      {'role': 'user', 'content': 'x'},
      {'role': 'assistant', 'content': 'y'},
      {'role': 'user', 'content': 'z'},
    ],
  }
  file = write(tmp_path / 'e.jsonl', [{'problem': 'p', 'id': 3}, {'question': 'q'}, chat])
  assert list(dataset.held_out(str(file))) == [('3', 'p'), ('2', 'q'), ('c', 'x\nz')]
  world = list(dataset.held_out('r1_open'))
  assert [text for _, text in world] == [p['problem'] for p in data.load(config.Data(source='r1_open')).held_out]
  with pytest.raises(data.DataError, match="row 1 of .*'problem'"):
    list(dataset.held_out(str(write(tmp_path / 'f.jsonl', [{'x': 1}]))))
  for prompt in ([{'from': 'user', 'value': 'p'}], ['p'], [{'role': 'user', 'content': 1}], []):
    with pytest.raises(data.DataError, match="row 1 of .*'problem'"):
      list(dataset.held_out(str(write(tmp_path / 'f.jsonl', [{'prompt': prompt}]))))
  with pytest.raises(data.DataError, match='there is no file'):
    list(dataset.held_out(str(tmp_path / 'none.jsonl')))


@pytest.mark.slow
def test_tfds_reads_the_rows_back_in_order(tmp_path):
  import tensorflow_datasets as tfds  # takes a second

  rows = [dict(ROWS[n % 4], id=str(n)) for n in range(25)]
  cfg = config.Curate(samples='x', per_prompt=1, name='some_rows', version='2.1.0', shard=10)
  write(tmp_path / 'train.jsonl', rows)
  (tmp_path / '.some_rows.tmp').mkdir()  # left by a killed run
  (tmp_path / '.some_rows.tmp' / 'torn').write_text('x')
  dataset.write_records(tmp_path, cfg, 25, 'a description')
  target = tmp_path / 'some_rows' / '2.1.0'
  source = tfds.builder_from_directory(str(target)).as_data_source('train')
  assert [dataset.from_record(source[n]) for n in range(len(source))] == rows
  assert {path.name for path in target.iterdir()} == {
    'dataset_info.json',
    'features.json',
    *(f'some_rows-train.array_record-0000{n}-of-00003' for n in range(3)),
  }
  assert not (tmp_path / '.some_rows.tmp').exists()
  before = (target / 'dataset_info.json').stat().st_mtime_ns
  dataset.write_records(tmp_path, cfg, 25, 'again')
  assert (target / 'dataset_info.json').stat().st_mtime_ns == before
