"""A model directory is replaced completely or not at all: other people's files, full disks, interrupts, kills."""

import errno
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from r1jax import models
from r1jax import params as params_lib
from r1jax.checkpoint import families, hf
from r1jax.checkpoint.model_dir import ModelDirError

SMALL = dict(vocab=40, embed=16, layers=2, heads=4, kv_heads=2, head_dim=8, mlp=24, context=64)


def contents(path):
  return {p.relative_to(path): p.read_bytes() for p in path.rglob('*') if p.is_file()}


@pytest.fixture
def saver(tmp_path):
  """save(path, seed): a model directory of random parameters of about 1 MB."""
  cfg = models.ModelConfig(**SMALL | dict(vocab=5000))
  config = families.to_hf(cfg)
  (tmp_path / 'tokenizer.json').write_text('{"model": {}}' + ' ' * 5000)

  def save(path, seed, **options):
    rng = np.random.default_rng(seed)
    params = jax.tree.map(
      lambda s: rng.normal(size=s.shape).astype(np.float32), models.specs(cfg), is_leaf=params_lib.is_spec
    )
    hf.save(path, cfg, params, config, [tmp_path / 'tokenizer.json'], shard_bytes=300_000, **options)

  return save


def test_saving_again_replaces_the_whole_directory(saver, tmp_path):
  path = tmp_path / 'out' / 'qwen2.5-x'
  saver(path, 0)
  (path / 'model-old.safetensors').write_bytes(b'of another model')
  first = contents(path)
  saver(path, 1)
  assert contents(path).keys() == first.keys() - {pathlib.Path('model-old.safetensors')}
  assert contents(path) != first
  assert [p.name for p in path.parent.iterdir()] == ['qwen2.5-x']
  link = tmp_path / 'link'
  link.symlink_to(path)
  saver(link, 0)
  assert link.is_symlink() and contents(path) == {k: v for k, v in first.items() if 'old' not in k.name}
  assert [p.name for p in path.parent.iterdir()] == ['qwen2.5-x']


def test_anything_but_a_model_directory_is_not_replaced(saver, tmp_path):
  (tmp_path / 'file').write_text('mine')
  (tmp_path / 'folder').mkdir()
  (tmp_path / 'folder' / 'thesis.txt').write_text('mine')
  before = contents(tmp_path)
  for path, words in (
    (tmp_path / 'file', 'file is a file'),
    (tmp_path / 'folder', 'without config.json'),
    (tmp_path / 'file' / 'below', 'below could not be written'),
  ):
    with pytest.raises(ModelDirError, match=words):
      saver(path, 0)
  assert contents(tmp_path) == before
  (tmp_path / 'empty').mkdir()
  saver(tmp_path / 'empty', 0)
  assert (tmp_path / 'empty' / 'config.json').is_file()


def set_free_bytes(monkeypatch, count):
  usage = shutil.disk_usage('/')
  monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage._replace(free=count))


def test_all_files_count_towards_the_space_needed(saver, tmp_path, monkeypatch):
  saver(tmp_path / 'm', 0)
  before = contents(tmp_path / 'm')
  need = sum(map(len, before.values()))
  set_free_bytes(monkeypatch, need - 1)
  with pytest.raises(ModelDirError, match=f'{tmp_path} .*{need - 1} bytes.* m .*{need}'):
    saver(tmp_path / 'm', 1, progress=lambda *_: pytest.fail('a tensor was written'))
  assert contents(tmp_path / 'm') == before
  assert sorted(p.name for p in tmp_path.iterdir()) == ['m', 'tokenizer.json']
  set_free_bytes(monkeypatch, need)
  saver(tmp_path / 'm', 1)
  assert contents(tmp_path / 'm') != before


def test_a_full_disk_leaves_the_old_directory(saver, small_disk, monkeypatch):
  saver(small_disk / 'm', 0)
  before = contents(small_disk)
  (small_disk / 'other').write_bytes(b'\0' * 4_000_000)
  with pytest.raises(ModelDirError, match=r' \d+ bytes free.* m needs \d+'):
    saver(small_disk / 'm', 1)
  set_free_bytes(monkeypatch, 10**9)  # as if another process then filled the disk
  written = []
  for name in ('m', 'new'):
    with pytest.raises(ModelDirError, match=f'{name} could not be written .*{os.strerror(errno.ENOSPC)}') as error:
      saver(small_disk / name, 1, progress=lambda done, _: written.append(done))
    assert '\n' not in str(error.value)
  assert written
  assert sorted(p.name for p in small_disk.iterdir()) == ['m', 'other']
  (small_disk / 'other').unlink()
  assert contents(small_disk) == before
  saver(small_disk / 'm', 1)


def test_a_save_that_is_interrupted_cleans_up(saver, tmp_path):
  def stop(*_):
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    saver(tmp_path / 'm', 0, progress=stop)
  assert [p.name for p in tmp_path.iterdir()] == ['tokenizer.json']


def test_a_process_killed_between_the_renames_loses_nothing(saver, tmp_path, monkeypatch):
  saver(tmp_path / 'm', 0)
  before = contents(tmp_path / 'm')
  (tmp_path / 'm').rename(tmp_path / 'm.replaced')
  saver(tmp_path / 'half', 1)
  (tmp_path / 'half').rename(tmp_path / 'm.writing')
  set_free_bytes(monkeypatch, 0)
  with pytest.raises(ModelDirError, match=' 0 bytes free'):
    saver(tmp_path / 'm', 1)
  assert contents(tmp_path / 'm') == before
  assert sorted(p.name for p in tmp_path.iterdir()) == ['m', 'tokenizer.json']


KILLED = """
import os, pathlib, shutil, signal, sys
import jax
from r1jax import models, params
from r1jax.checkpoint import families, hf, safetensors_files

path, moment = pathlib.Path(sys.argv[1]), sys.argv[2]
cfg = models.ModelConfig(vocab=40, embed=16, layers=2, heads=4, kv_heads=2, head_dim=8, mlp=24, context=64)
save = lambda seed: hf.save(path, cfg, params.init(models.specs(cfg), jax.random.key(seed)), families.to_hf(cfg))
save(0)
die = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
rename = os.rename
if moment == 'writing':
  write = safetensors_files.write_matrix
  safetensors_files.write_matrix = lambda f, x, transposed: (write(f, x, transposed), f.flush(), die())
elif moment == 'between':
  os.rename = lambda a, b: (rename(a, b), die())
elif moment == 'after':
  os.rename = lambda a, b: (rename(a, b), die() if str(b) == str(path) else None)
save(1)
"""


@pytest.mark.slow
@pytest.mark.parametrize(('moment', 'seed'), [('writing', 0), ('between', None), ('after', 1)])
def test_a_kill_leaves_a_complete_directory_or_none(tmp_path, moment, seed):
  process = subprocess.run([sys.executable, '-c', KILLED, tmp_path / 'm', moment], capture_output=True, text=True)
  assert process.returncode == -signal.SIGKILL, process.stderr
  cfg = models.ModelConfig(**SMALL)

  def save(path, seed):
    hf.save(path, cfg, params_lib.init(models.specs(cfg), jax.random.key(seed)), families.to_hf(cfg))
    return contents(path)

  if seed is None:
    assert not (tmp_path / 'm').exists() and (tmp_path / 'm.replaced').is_dir()
  else:
    assert contents(tmp_path / 'm') == save(tmp_path / 'undisturbed', seed)
    shutil.rmtree(tmp_path / 'undisturbed')
  save(tmp_path / 'm', 2)
  assert [p.name for p in tmp_path.iterdir()] == ['m']
