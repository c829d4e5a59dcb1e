"""TFDS sets: they read like their source, and TensorFlow is never imported."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from r1jax import config, data
from r1jax.data import prepare

pytestmark = pytest.mark.slow  # TFDS takes seconds to import


@pytest.fixture
def source(tmp_path):
  path = tmp_path / 'train.jsonl'
  rows = [{'id': f'g/{i}', 'question': f'{i} 个苹果?', 'answer': f'So {i}.\n#### {i},000'} for i in range(200)]
  path.write_text(''.join(json.dumps(row, ensure_ascii=False) + '\n' for row in rows), encoding='utf-8')
  return str(path)


def tfds(name, folder, **kwargs):
  return data.load(config.Data(source='tfds', name=name, path=str(folder), **kwargs))


def test_gsm8k_reads_as_its_file_does(tmp_path, source):
  path, splits = prepare.prepare('gsm8k', source, str(tmp_path / 'sets'))
  assert splits == {'train': 200} and os.path.isdir(path)
  problems = tfds('gsm8k', tmp_path / 'sets')
  assert problems == data.load(config.Data(source='jsonl', path=source))  # order included
  assert {p['id']: p['answer'] for p in problems.train + problems.held_out}['g/7'] == '7000'


def test_eval_path_is_another_data_dir(tmp_path, source):
  few = tmp_path / 'test.jsonl'
  few.write_bytes(b''.join(pathlib.Path(source).read_bytes().splitlines(keepends=True)[:10]))
  prepare.prepare('gsm8k', source, str(tmp_path / 'a'))
  prepare.prepare('gsm8k', str(few), str(tmp_path / 'b'))
  problems = tfds('gsm8k', tmp_path / 'a', eval_path=str(tmp_path / 'b'))
  assert [p['id'] for p in problems.held_out] == [f'g/{i}' for i in range(10)]
  assert len(problems.train) == 190 and problems.dropped['held_out'] == 10


@pytest.mark.parametrize('world', ['trial', 'chain'])
def test_toy_worlds_read_as_generated(tmp_path, world):
  prepare.prepare(f'toy/{world}', '', str(tmp_path))
  assert tfds(f'toy/{world}', tmp_path) == data.load(config.Data(source=world))


def test_an_existing_set_is_not_silently_kept(tmp_path, source):
  prepare.prepare('gsm8k', source, str(tmp_path / 'sets'))
  with pytest.raises(data.DataError, match='gsm8k.*--data_dir'):
    prepare.prepare('gsm8k', source, str(tmp_path / 'sets'))


def test_a_bad_file_is_one_line_and_leaves_nothing(tmp_path):
  bad = tmp_path / 'bad.jsonl'
  bad.write_text('oops\n')
  with pytest.raises(SystemExit) as e:
    prepare.main(['gsm8k', '--source', str(bad), '--data_dir', str(tmp_path / 'sets')])
  assert 'line 1: not JSON' in str(e.value) and '\n' not in str(e.value)
  assert not (tmp_path / 'sets').exists()


@pytest.mark.parametrize(
  ('name', 'file', 'words'), [('gsm8k', '', '--source FILE'), ('toy/trial', 'x', 'leave it out')]
)
def test_source_is_required_for_gsm8k_and_refused_for_toy_worlds(tmp_path, name, file, words):
  with pytest.raises(data.DataError, match=words):
    prepare.prepare(name, file, str(tmp_path))


@pytest.mark.parametrize('fault', ['absent', 'cut', 'overwritten', 'no_records', 'bad_info', 'bad_features'])
def test_absent_or_damaged_sets_stop_in_one_line(tmp_path, source, fault):
  if fault != 'absent':
    path, _ = prepare.prepare('gsm8k', source, str(tmp_path))
    (records,) = [os.path.join(path, f) for f in os.listdir(path) if 'array_record' in f]
    size = os.path.getsize(records)
    if fault == 'cut':
      os.truncate(records, size // 2)
    elif fault == 'overwritten':
      with open(records, 'r+b') as f:
        f.write(bytes(size // 2))
    elif fault == 'no_records':
      os.remove(records)
    else:
      name = {'bad_info': 'dataset_info.json', 'bad_features': 'features.json'}[fault]
      with open(os.path.join(path, name), 'w') as f:
        f.write('{')
  with pytest.raises(data.DataError, match='no readable TFDS set .gsm8k.*r1jax.data.prepare gsm8k') as e:
    tfds('gsm8k', tmp_path)
  assert '\n' not in str(e.value)


def test_no_tensorflow(tmp_path, source):
  """A fake TensorFlow on the path lets the test fail if anything imports it."""
  (tmp_path / 'fake' / 'tensorflow').mkdir(parents=True)
  (tmp_path / 'fake' / 'tensorflow' / '__init__.py').write_text('')
  code = f"""
import sys
from r1jax import config, data
from r1jax.data import order, prepare
prepare.main(['gsm8k', '--source', {source!r}, '--data_dir', {str(tmp_path)!r}])
problems = data.load(config.Data(source='tfds', name='gsm8k', path={str(tmp_path)!r}))
order.batch(problems.train, 0, 0, 4)
assert 'tensorflow' not in sys.modules
import tensorflow
print('found', tensorflow.__file__)
"""
  env = {**os.environ, 'PYTHONPATH': os.pathsep.join([str(tmp_path / 'fake'), *sys.path])}
  run = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True, check=False)
  assert run.returncode == 0, run.stderr[-2000:]
  assert 'wrote 200 train problems' in run.stdout and str(tmp_path / 'fake') in run.stdout
