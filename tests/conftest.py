"""Shared by all tests."""

import gc
import os
import pathlib
import subprocess
import sys

import pytest

# Before any test imports jax; the processes that tests start inherit it.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('R1JAX_CHECK_TYPES', '1')  # of functions marked `typed`
# Most of a test's time goes to compiling small programs.
if os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1') != '0':
  os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} --xla_cpu_use_fusion_emitters=false'.strip()


def pytest_collection_modifyitems(items):
  """The longest files come first, so that no process is left alone with one at the end."""
  long = ('test_deepseek_v3.py', 'test_recipe.py', 'test_quickstart.py')
  items.sort(key=lambda item: (item.path.name not in long, item.path.parent.name != 'experiments'))


@pytest.fixture(scope='module', autouse=True)
def programs_of_a_file_end_with_it():
  """Collecting garbage goes through all that is traced: with gigabytes of it, later tests took several times longer."""
  yield
  if 'jax' in sys.modules:
    sys.modules['jax'].clear_caches()
    gc.collect()


@pytest.fixture(scope='session')
def data_dir():
  """The folder of public data sets that R1JAX_DATA names (math/gsm8k_train.jsonl.gz lies in it)."""
  path = os.environ.get('R1JAX_DATA', 'none')
  if path == 'none':
    pytest.skip('needs public data sets: set R1JAX_DATA to the folder that holds math/gsm8k_train.jsonl.gz.')
  return pathlib.Path(path)


@pytest.fixture
def small_disk(tmp_path):
  """A folder on a disk of 5 MB, for what happens when it is full."""
  if os.geteuid() != 0:
    pytest.skip('mounting a small tmpfs needs root')
  path = tmp_path / 'disk'
  path.mkdir()
  done = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=5m', 'tmpfs', path], capture_output=True, text=True)
  if done.returncode:
    pytest.skip(f'a tmpfs cannot be mounted here: {done.stderr.strip()}')
  yield path
  subprocess.run(['umount', '-l', path], check=True)
