"""A base model trained in seconds, and a helper that runs commands in separate processes."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from r1jax import checkpoint, models
from r1jax import config as config_lib
from r1jax import params as params_lib
from r1jax.checkpoint import store as store_lib

ROOT = pathlib.Path(__file__).parents[2]
PATIENCE = 600.0  # seconds a run may take on a busy machine before a test gives up
# Small enough to run in seconds, large enough that format rewards differ within groups.
TINY = {
  'steps': 6,
  'checkpoint.every': 2,
  'train.length_slices': 1,
  'rollout.prompts': 4,
  'rollout.samples': 4,
  'rollout.chunk': 2,
  'rollout.max_response': 24,
  'eval.every': 3,
  'eval.problems': 4,
  'eval.samples': 4,
  'eval.final_problems': 4,
  'eval.final_samples': 4,
}


def kill_group(process):
  try:
    os.killpg(process.pid, signal.SIGKILL)
  except ProcessLookupError:
    pass
  process.communicate()


def _end(process):
  try:
    return process.communicate(timeout=PATIENCE)[1]
  finally:
    if process.returncode is None:
      kill_group(process)


def _wait(process, condition):
  deadline = time.monotonic() + PATIENCE
  while not condition():
    assert process.poll() is None, process.stderr.read()
    assert time.monotonic() < deadline, f'the condition did not hold within {PATIENCE:.0f} s'
    time.sleep(0.0005)


def metrics(workdir):
  """The lines of metrics.jsonl, without values that depend on the clock."""
  rows = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  return [{k: v for k, v in row.items() if not k.startswith(('time/', 'throughput/'))} for row in rows]


def last_checkpoint(workdir):
  """(step, {dotted name: array}) of the newest checkpoint, which must be intact."""
  newest = max((workdir / 'checkpoints').glob('step_??????'))
  manifest = json.loads((newest / store_lib.MANIFEST).read_text())
  layout = {k: re.fullmatch(r'(\w+)\[(.*)\]', v) for k, v in manifest['arrays'].items()}
  like = {k: np.zeros([int(n) for n in m[2].split(',') if n], m[1]) for k, m in layout.items()}
  with store_lib.Store(newest.parent, config_lib.Checkpoint(every=1), manifest['fingerprint']) as store:
    arrays, step = store.restore(like)
  assert step == manifest['step']
  return step, arrays


def weights(path):
  """{dotted name: array} of a model directory's parameters, with the names that a run's state uses."""
  source = checkpoint.open_model(path)
  here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  specs = models.specs(source.cfg)
  abstract = params_lib.abstract(specs, shardings=jax.tree.map(lambda _: here, specs, is_leaf=params_lib.is_spec))
  leaves = jax.tree_util.tree_leaves_with_path({'params': source.load(abstract)})
  return {jax.tree_util.keystr(at, simple=True, separator='.'): np.asarray(x) for at, x in leaves}


def same(workdir, reference):
  """Asserts that two finished runs have bitwise equal parameters and optimizer state, and equal metrics and samples."""
  (step, arrays), (want_step, want) = last_checkpoint(workdir), last_checkpoint(reference)
  assert step == want_step and arrays.keys() == want.keys()
  assert [k for k in want if arrays[k].tobytes() != want[k].tobytes()] == []
  assert metrics(workdir) == metrics(reference)
  texts = [{p.name: p.read_text() for p in (d / 'samples').iterdir()} for d in (workdir, reference)]
  assert texts[0].keys() == texts[1].keys() and texts[0] == texts[1]
  summaries = [json.loads((d / 'summary.json').read_text()) for d in (workdir, reference)]
  for part in ('base', 'final', 'dropped'):
    assert summaries[0][part] == summaries[1][part]


class Runs:
  """Starts commands on the tiny base in separate processes, which share a compilation cache."""

  metrics, last_checkpoint, same, weights = map(staticmethod, (metrics, last_checkpoint, same, weights))

  def __init__(self, base, cache):
    self.base = base
    self.env = {
      **os.environ,
      'JAX_PLATFORMS': 'cpu',
      'JAX_COMPILATION_CACHE_DIR': str(cache),
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
      'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
    }

  def start(self, workdir, settings=None, module='rl', config='configs/r1_zero.py:toy', python_path='', env=None):
    """Starts a process group. settings: {dotted key: value}, on top of TINY for `rl`; None removes a key."""
    settings = ({'model.path': self.base} | TINY if module == 'rl' else {}) | (settings or {})
    flags = [f'--config.{key}={value}' for key, value in settings.items() if value is not None]
    return subprocess.Popen(
      [sys.executable, '-m', f'experiments.{module}', '--config', config, '--workdir', workdir, *flags],
      cwd=ROOT,
      env=self.env | {'PYTHONPATH': str(python_path)} | (env or {}),
      text=True,
      start_new_session=True,
      stdin=subprocess.DEVNULL,
      stdout=subprocess.DEVNULL,
      stderr=subprocess.PIPE,
    )

  def finish(self, workdir, settings=None, **kwargs):
    """Runs a command, which must succeed. Returns its stderr."""
    process = self.start(workdir, settings, **kwargs)
    err = _end(process)
    assert process.returncode == 0, err
    return err

  def refuse(self, workdir, settings=None, **kwargs):
    """Runs a command that must fail with a one-line error. Returns that line."""
    process = self.start(workdir, settings, **kwargs)
    err = _end(process)
    assert process.returncode == 1 and 'Traceback' not in err, err
    messages = [line for line in err.splitlines() if line.startswith('error: ')]
    assert len(messages) == 1 and err.rstrip().endswith(messages[0]), err
    return messages[0]

  def interrupt(self, workdir, condition, number, meanwhile=None, **kwargs):
    """Starts a run and sends it a signal once condition() holds and meanwhile() has returned. Returns its last line."""
    process = self.start(workdir, **kwargs)
    try:
      _wait(process, condition)
      if meanwhile is not None:
        os.kill(process.pid, signal.SIGSTOP)  # so that it does not end meanwhile
        meanwhile()
        os.kill(process.pid, signal.SIGCONT)
      process.send_signal(number)
    except BaseException:
      kill_group(process)
      raise
    err = _end(process)
    assert process.returncode == 128 + number and 'Traceback' not in err, err
    return err.splitlines()[-1]

  def kill(self, workdir, condition, settings=None, delay=0.0, **kwargs):
    """Starts a run and kills its whole process group `delay` seconds after condition() holds, before it ends."""
    process = self.start(workdir, settings, **kwargs)
    try:
      _wait(process, condition)
      time.sleep(delay)
    finally:
      kill_group(process)
    assert process.returncode == -signal.SIGKILL


@pytest.fixture(scope='session')
def runs(tmp_path_factory):
  """Runs on a tiny base of the trial world, which sometimes uses the tags correctly."""
  path = tmp_path_factory.mktemp('base')
  runs = Runs(path / 'model', tmp_path_factory.mktemp('compiled'))
  settings = {
    'documents': 2000,
    'steps': 100,
    'max_response': 8,
    'optimizer.name': 'adam',
    'gate.problems': 8,
    'gate.samples': 1,
    'gate.rounds': 0,
  }
  runs.finish(path, settings, module='pretrain', config='configs/toy_base.py:trial')
  return runs


@pytest.fixture(scope='session')
def straight(runs, tmp_path_factory):
  """The workdir of an uninterrupted run with the TINY settings."""
  path = tmp_path_factory.mktemp('uninterrupted')
  runs.finish(path)
  return path
