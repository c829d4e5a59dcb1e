"""Small models of every family, and their directories as other libraries write and read them."""

import dataclasses
import json

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from r1jax import models
from r1jax import params as params_lib
from r1jax.checkpoint import families, hf, safetensors_files
from r1jax.models.config import MLA, MoE

SHAPE = dict(vocab=40, embed=16, layers=2, heads=4, kv_heads=2, head_dim=8, mlp=24, context=64)
MIX = MoE(experts=4, top_k=2, mlp=8)
DEEPSEEK = models.ModelConfig(
  **SHAPE | dict(layers=3, kv_heads=4, head_dim=12),
  family='deepseek_v3',
  mla=MLA(12, 8, 8, 4, 6),
  moe=dataclasses.replace(MIX, shared=1, first_dense=1, score='sigmoid', groups=2, top_groups=1, scale=2.5),
)
MODELS = {
  'llama': models.ModelConfig(**SHAPE),
  'qwen2': models.ModelConfig(**SHAPE, family='qwen2', qkv_bias=True, tied=True),
  'qwen3': models.ModelConfig(**SHAPE, family='qwen3', qk_norm=True),
  'qwen3_moe': models.ModelConfig(**SHAPE, family='qwen3_moe', qk_norm=True, moe=MIX),
  'deepseek_v3': DEEPSEEK,
  'deepseek_v2_lite': dataclasses.replace(DEEPSEEK, mla=dataclasses.replace(DEEPSEEK.mla, q_rank=0)),
  'reward': models.ModelConfig(**SHAPE, head='score'),
}
KINDS = {'float32': np.float32, 'float16': np.float16, 'bfloat16': ml_dtypes.bfloat16}


def random_tensors(cfg, kind, mixed=False):
  """{name in the file: random values}; if `mixed`, correction biases are float32 whatever the `kind`."""
  rng = np.random.default_rng(0)
  return {
    t.name: rng.normal(size=t.shape)
    .astype(np.float32)
    .astype(np.float32 if mixed and t.name.endswith('correction_bias') else kind)
    for leaf in families.tensors(cfg).values()
    for t in leaf.values()
  }


def write(path, cfg, tensors, shards=1, **config):
  """Writes a model directory with the safetensors library."""
  path.mkdir(exist_ok=True)
  (path / 'config.json').write_text(json.dumps(families.to_hf(cfg) | config))
  names, weight_map = sorted(tensors), {}
  for i in range(shards):
    file = f'model-{i + 1:05d}-of-{shards:05d}.safetensors' if shards > 1 else 'model.safetensors'
    safetensors.numpy.save_file({name: tensors[name] for name in names[i::shards]}, path / file)
    weight_map |= {name: file for name in names[i::shards]}
  if shards > 1:
    (path / safetensors_files.INDEX).write_text(json.dumps({'metadata': {}, 'weight_map': weight_map}))
  return path


def read_back(path):
  """{name: values} of a directory, read with the safetensors library."""
  out = {}
  for file in sorted(path.glob('*.safetensors')):
    out |= safetensors.numpy.load_file(file)
  return out


def load(path, dtype=None):
  """(ModelConfig, parameters, bytes read) of a directory; `dtype` None keeps the stored dtypes."""
  config = hf.read_config(path)
  cfg = families.from_hf(config, path / 'config.json')
  stored = hf.dtypes(cfg, hf.open_files(path, cfg, config))
  one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  abstract = params_lib.abstract(
    models.specs(cfg), dtype or stored, jax.tree.map(lambda _: one, models.specs(cfg), is_leaf=params_lib.is_spec)
  )
  params, count = hf.load(path, cfg, config, abstract)
  jax.tree.map(
    lambda x, like: (x.shape, x.dtype) == (like.shape, like.dtype) or pytest.fail(f'{x} {like}'), params, abstract
  )
  return cfg, params, count


def same(got, want):
  assert got.keys() == want.keys()
  for name, x in want.items():
    assert got[name].dtype == x.dtype and got[name].shape == x.shape, name
    assert got[name].tobytes() == x.tobytes(), name
