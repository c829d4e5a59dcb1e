"""Loading onto meshes, and its memory; in separate processes, as JAX fixes the number of devices when it starts."""

import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from experiments import benchmark_import
from r1jax import models
from r1jax import params as params_lib
from r1jax.checkpoint import families, hf
from r1jax.models.config import MLA, MoE

SHAPE = dict(vocab=64, embed=32, layers=2, heads=4, kv_heads=2, head_dim=8, mlp=64, context=64)
DENSE = models.ModelConfig(**SHAPE, family='qwen2', qkv_bias=True)
DEEPSEEK = models.ModelConfig(
  **SHAPE | dict(layers=3, kv_heads=4, head_dim=12),
  family='deepseek_v3',
  mla=MLA(12, 8, 8, 4, 8),
  moe=MoE(experts=8, top_k=2, mlp=24, shared=1, first_dense=1, score='sigmoid', groups=2, top_groups=1),
)


@pytest.fixture(scope='module')
def model_dirs(tmp_path_factory):
  path = tmp_path_factory.mktemp('models')
  for cfg in (DENSE, DEEPSEEK):
    rng = np.random.default_rng(0)
    params = jax.tree.map(
      lambda s, rng=rng: 0.2 * rng.normal(size=s.shape).astype(np.float32),
      models.specs(cfg),
      is_leaf=params_lib.is_spec,
    )
    hf.save(path / cfg.family, cfg, params, families.to_hf(cfg), shard_bytes=100_000)
  return path


def start(root, devices, *args):
  env = os.environ | {'JAX_PLATFORMS': 'cpu', 'JAX_NUM_CPU_DEVICES': str(devices), 'PYTHONPATH': str(root)}
  script = pathlib.Path(__file__).with_name('on_meshes.py')
  return subprocess.Popen(
    [sys.executable, script, *map(str, args)], env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
  )


def finish(processes):
  try:
    for process in processes:
      out, err = process.communicate(timeout=300)
      assert process.returncode == 0 and out.count('\n') >= 4, out + err[-3000:]
  finally:
    for process in processes:
      process.kill()


@pytest.mark.slow
def test_eight_devices_hold_the_same_as_one_and_everything_is_read_once(model_dirs, pytestconfig):
  finish([start(pytestconfig.rootpath, 8, model_dirs)])


@pytest.mark.slow
def test_each_of_two_processes_reads_its_half(model_dirs, pytestconfig):
  with socket.socket() as s:
    s.bind(('localhost', 0))
    port = s.getsockname()[1]
  finish([start(pytestconfig.rootpath, 4, model_dirs, rank, port) for rank in (0, 1)])


@pytest.mark.slow
def test_peak_memory_is_little_more_than_the_parameters(tmp_path):
  size = benchmark_import.make_checkpoint(tmp_path, models.PRESETS['qwen2_5_1_5b'])
  result = benchmark_import.run_in_process('import_once', str(tmp_path))
  (tmp_path / 'model.safetensors').unlink()
  assert result['bytes'] == size > 3e9
  assert result['peak'] <= 1.25 * size, result
