"""Directories whose files are links to elsewhere, never end or are not files: refused in one line, nothing copied."""

import json
import os
import shutil

import numpy as np
import pytest

from r1jax import checkpoint, modelfiles, models, tokenizers
from r1jax.checkpoint import ModelDirError, families, hf, safetensors_files
from r1jax.data.toy import arithmetic

CFG = models.ModelConfig(vocab=1024, embed=8, layers=1, heads=2, kv_heads=2, head_dim=4, mlp=8, context=64)
SIDE = (
  'merges.txt',
  'vocab.json',
  'added_tokens.json',
  'special_tokens_map.json',
  'tokenizer_config.json',
  'generation_config.json',
  'chat_template.jinja',
  'tokenizer.json',
  'tokenizer.model',
)


@pytest.fixture(scope='session')
def model_dir(tmp_path_factory):
  """A model directory with a tokenizer."""
  path = tmp_path_factory.mktemp('models') / 'm'
  params = {name: np.zeros(spec.shape, np.float32) for name, spec in _flat(models.specs(CFG)).items()}
  tokenizers.train(arithmetic.documents('chain', 0, 50), path.parent / 'tokenizer.model', 400)
  hf.save(path, CFG, _nested(params), families.to_hf(CFG), tokenizers.files(path.parent))
  return path


def _flat(tree, prefix=''):
  out = {}
  for key, value in tree.items():
    out |= _flat(value, f'{prefix}{key}.') if isinstance(value, dict) else {prefix + key: value}
  return out


def _nested(flat):
  out = {}
  for name, value in flat.items():
    *folders, last = name.split('.')
    at = out
    for folder in folders:
      at = at.setdefault(folder, {})
    at[last] = value
  return out


@pytest.fixture
def copy(model_dir, tmp_path):
  shutil.copytree(model_dir, tmp_path / 'm')
  (tmp_path / 'secret').write_text('{"key": "hidden"}')
  return tmp_path / 'm'


def read_for_export(path):
  """Reads everything that an export reads of a directory; returns the tokenizer's files."""
  source = checkpoint.open_model(path)
  source.load_tokenizer()
  return tokenizers.files(source.tokenizer)


def refusal(path):
  with pytest.raises((ModelDirError, tokenizers.TokenizerError)) as error:
    read_for_export(path)
  assert '\n' not in str(error.value)
  return str(error.value)


@pytest.mark.parametrize('target', ['../secret', '/etc/hostname'])
@pytest.mark.parametrize('name', [*SIDE, 'config.json', 'model.safetensors', safetensors_files.INDEX])
def test_a_link_out_of_the_directory_is_refused(copy, name, target):
  (copy / name).unlink(missing_ok=True)
  (copy / name).symlink_to(target)
  message = refusal(copy)
  assert f'{copy / name} is a link to ' in message and 'outside of its directory' in message


@pytest.mark.parametrize('name', [*SIDE, 'config.json', 'model.safetensors', safetensors_files.INDEX, 'x.safetensors'])
@pytest.mark.parametrize(
  ('make', 'words'),
  [
    (os.mkfifo, 'not a regular file'),
    (lambda p: os.symlink('/dev/zero', p), 'not a regular file'),
    (lambda p: os.symlink('gone', p), 'which does not exist'),
    (lambda p: os.symlink(p, p), 'which does not exist'),
  ],
  ids=['fifo', 'device', 'broken', 'loop'],
)
def test_anything_but_a_regular_file_is_refused_without_waiting(copy, name, make, words):
  (copy / name).unlink(missing_ok=True)
  make(str(copy / name))
  assert f'{copy / name} is ' in (message := refusal(copy)) and words in message


def test_links_within_the_directory_are_files(copy):
  (copy / 'blob').write_text('#version: 0.2')
  (copy / 'merges.txt').symlink_to('blob')
  (copy / 'vocab.json').symlink_to(copy / 'blob')
  (copy.parent / 'link').symlink_to(copy)
  for path in (copy, copy.parent / 'link'):
    assert {'merges.txt', 'vocab.json'} <= {os.path.basename(name) for name in read_for_export(path)}


def snapshot(copy, hub):
  """Copies the directory to a snapshot of links to blobs, as the hub's client stores it."""
  repository = hub / 'models--a--b'
  at = repository / 'snapshots' / ('0' * 40)
  at.mkdir(parents=True)
  (repository / 'blobs').mkdir()
  for n, file in enumerate(sorted(copy.iterdir())):
    shutil.copy(file, repository / 'blobs' / f'{n:064x}')
    (at / file.name).symlink_to(f'../../blobs/{n:064x}')
  return at


def test_a_snapshot_of_a_hugging_face_cache_is_read_wherever_it_is(copy, model_dir, tmp_path):
  at = snapshot(copy, tmp_path / 'hub')
  assert [os.path.basename(name) for name in read_for_export(at)] == [
    os.path.basename(name) for name in read_for_export(model_dir)
  ]
  (at / 'merges.txt').symlink_to('../../refs')
  (at / '../../refs').write_text('main')
  assert 'outside of its directory' in refusal(at)


@pytest.mark.parametrize(
  'variables',
  [
    {'HF_HUB_CACHE': 'cache/hub'},
    {'HF_HOME': 'cache', 'HF_HUB_CACHE': ''},
    {'HF_HOME': '', 'HF_HUB_CACHE': '', 'XDG_CACHE_HOME': 'xdg'},
  ],
  ids=lambda v: '+'.join(v),
)
def test_links_into_the_users_cache_are_files_but_not_to_its_token(copy, tmp_path, monkeypatch, variables):
  for name, value in variables.items():
    monkeypatch.setenv(name, str(tmp_path / value) if value else '')
  home = tmp_path / ('xdg/huggingface' if 'XDG_CACHE_HOME' in variables else 'cache')
  at = snapshot(copy, home / 'hub')
  (copy / 'model.safetensors').unlink()
  (copy / 'model.safetensors').symlink_to(at / 'model.safetensors')
  assert read_for_export(copy)
  (home / 'token').write_text('hidden')
  (copy / 'merges.txt').symlink_to(home / 'token')
  assert 'merges.txt is a link' in refusal(copy)


def test_json_files_have_a_maximum_size(copy, monkeypatch):
  with open(copy / 'tokenizer_config.json', 'wb') as f:
    f.truncate(modelfiles._JSON_BYTES + 1)  # sparse
  assert 'tokenizer_config.json has 268435457 bytes' in (message := refusal(copy)) and '268435456' in message


@pytest.mark.parametrize(
  ('eos_token_id', 'words'),
  [
    (10**12, 'eos_token_id'),
    (10**9, '1000000000'),
    ([0, 1024], '1024'),
    ([3, -1], 'eos_token_id'),
    (True, 'eos_token_id'),
    (1.5, 'eos_token_id'),
  ],
)
def test_eos_ids_that_the_model_lacks_are_refused(copy, eos_token_id, words):
  (copy / 'generation_config.json').write_text(json.dumps({'eos_token_id': eos_token_id}))
  assert words in refusal(copy)


def test_runs_that_started_from_one_another_are_refused(tmp_path, monkeypatch):
  a, b = tmp_path / 'a', tmp_path / 'b'
  for path, base in ((a, b), (b, a / '..' / 'a')):
    (path / checkpoint.CHECKPOINTS).mkdir(parents=True)
    (path / 'config.json').write_text(json.dumps({'model': {'path': str(base)}}))
  monkeypatch.chdir(b)
  for base in (str(b), '.', 7, 'a\0b'):
    (b / 'config.json').write_text(json.dumps({'model': {'path': str(a) if base == str(b) else base}}))
    with pytest.raises(ModelDirError, match='set (model.path|it) to the directory of the tokenizer') as error:
      checkpoint.source._tokenizer(b)
    assert '\n' not in str(error.value)
