"""Directories whose files lie elsewhere, never end, or are no files: one line, and nothing is copied out."""

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
def whole(tmp_path_factory):
  """A model directory with a tokenizer."""
  path = tmp_path_factory.mktemp('whole') / 'm'
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
def copy(whole, tmp_path):
  shutil.copytree(whole, tmp_path / 'm')
  (tmp_path / 'secret').write_text('{"key": "hidden"}')
  return tmp_path / 'm'


def opened(path):
  """All that an export reads of a directory."""
  source = checkpoint.open_model(path)
  source.load_tokenizer()
  return tokenizers.files(source.tokenizer)


def refusal(path):
  with pytest.raises((ModelDirError, tokenizers.TokenizerError)) as error:
    opened(path)
  assert '\n' not in str(error.value)
  return str(error.value)


@pytest.mark.parametrize('target', ['../secret', '/etc/hostname'])
@pytest.mark.parametrize('name', [*SIDE, 'config.json', 'model.safetensors', safetensors_files.INDEX])
def test_a_link_out_of_the_directory_is_refused(copy, name, target):
  (copy / name).unlink(missing_ok=True)
  (copy / name).symlink_to(target)
  said = refusal(copy)
  assert f'{copy / name} is a link to ' in said and 'outside of its directory' in said and 'copy the file' in said


@pytest.mark.parametrize('name', [*SIDE, 'config.json', 'model.safetensors', safetensors_files.INDEX, 'x.safetensors'])
@pytest.mark.parametrize(
  'make, words',
  [
    (os.mkfifo, 'not a regular file'),
    (lambda p: os.symlink('/dev/zero', p), 'not a regular file'),
    (lambda p: os.symlink('gone', p), 'which does not exist'),
    (lambda p: os.symlink(p, p), 'which does not exist'),
  ],
  ids=['fifo', 'device', 'broken', 'loop'],
)
def test_what_is_no_file_is_not_waited_for(copy, name, make, words):
  (copy / name).unlink(missing_ok=True)
  make(str(copy / name))
  assert f'{copy / name} is ' in (said := refusal(copy)) and words in said


def test_links_within_the_directory_are_files(copy):
  (copy / 'blob').write_text('#version: 0.2')
  (copy / 'merges.txt').symlink_to('blob')
  (copy / 'vocab.json').symlink_to(copy / 'blob')
  (copy.parent / 'link').symlink_to(copy)
  for path in (copy, copy.parent / 'link'):
    assert {'merges.txt', 'vocab.json'} <= {os.path.basename(name) for name in opened(path)}


def snapshot(copy, hub):
  """The directory as the hub's client stores it: a snapshot of links to blobs."""
  repository = hub / 'models--a--b'
  at = repository / 'snapshots' / ('0' * 40)
  at.mkdir(parents=True)
  (repository / 'blobs').mkdir()
  for n, file in enumerate(sorted(copy.iterdir())):
    shutil.copy(file, repository / 'blobs' / f'{n:064x}')
    (at / file.name).symlink_to(f'../../blobs/{n:064x}')
  return at


def test_a_snapshot_of_the_hugging_face_cache_is_read_wherever_it_lies(copy, whole, tmp_path):
  at = snapshot(copy, tmp_path / 'hub')
  assert [os.path.basename(name) for name in opened(at)] == [os.path.basename(name) for name in opened(whole)]
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
  assert opened(copy)
  (home / 'token').write_text('hidden')
  (copy / 'merges.txt').symlink_to(home / 'token')
  assert 'merges.txt is a link' in refusal(copy)


def test_a_file_that_is_read_whole_has_a_bound(copy, monkeypatch):
  with open(copy / 'tokenizer_config.json', 'wb') as f:
    f.truncate(modelfiles._JSON_BYTES + 1)  # a hole
  assert 'tokenizer_config.json has 268435457 bytes, over the limit of 268435456' in refusal(copy)


@pytest.mark.parametrize(
  'found, words',
  [
    (10**12, 'not an id'),
    (10**9, 'ends with id 1000000000'),
    ([0, 1024], 'ends with id 1024'),
    ([3, -1], 'not an id'),
    (True, 'not an id'),
    (1.5, 'not an id'),
  ],
)
def test_ends_that_the_model_lacks_are_refused(copy, found, words):
  (copy / 'generation_config.json').write_text(json.dumps({'eos_token_id': found}))
  assert words in refusal(copy)


def test_runs_that_began_from_one_another_are_refused(tmp_path, monkeypatch):
  a, b = tmp_path / 'a', tmp_path / 'b'
  for path, began in ((a, b), (b, a / '..' / 'a')):
    (path / checkpoint.CHECKPOINTS).mkdir(parents=True)
    (path / 'config.json').write_text(json.dumps({'model': {'path': str(began)}}))
  monkeypatch.chdir(b)
  for began in (str(b), '.', 7, 'a\0b'):
    (b / 'config.json').write_text(json.dumps({'model': {'path': str(a) if began == str(b) else began}}))
    with pytest.raises(ModelDirError, match='set model.path there') as error:
      checkpoint.source._tokenizer(b)
    assert '\n' not in str(error.value)
