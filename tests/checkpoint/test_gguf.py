"""GGUF files as models: every architecture and type of tensor against the same values in a Hugging Face directory."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax import checkpoint, config, models, parallel
from r1jax.checkpoint import gguf_models
from r1jax.gguf_files import KINDS, Kind
from r1jax.models.config import MoE, RopeScaling
from tests.checkpoint import gguf_writing as writing
from tests.checkpoint import model_dirs

# Rows of 256 for the K-quants; heads of 64.
SHAPE = dict(vocab=40, embed=256, layers=2, heads=4, kv_heads=2, head_dim=64, mlp=256, context=64, norm_eps=1e-5)
MODELS = {
  'llama': models.ModelConfig(**SHAPE, rope_theta=5e5),
  'qwen2': models.ModelConfig(**SHAPE, family='qwen2', qkv_bias=True, tied=True),
  'qwen3': models.ModelConfig(**SHAPE | dict(head_dim=128), family='qwen3', qk_norm=True),
  'qwen3_moe': models.ModelConfig(**SHAPE, family='qwen3_moe', qk_norm=True, moe=MoE(experts=4, top_k=2, mlp=256)),
}
LLAMA = MODELS['llama']


def load(path, dtype='keep'):
  source = checkpoint.open_model(path)
  abstract = source.abstract(parallel.make_mesh(config.Mesh()), dtype)
  steps = []
  params = source.load(abstract, lambda done, total: steps.append((done, total)))
  assert steps[-1][0] == steps[-1][1] == sum(x.nbytes for x in jax.tree.leaves(params))
  jax.tree.map(lambda x, like: x.dtype == like.dtype or pytest.fail(str(like)), params, abstract)
  return source, params


def assert_same(params, others):
  """The same names, dtypes and bits."""
  assert jax.tree.structure(params) == jax.tree.structure(others)
  for (at, x), y in zip(jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(others)):
    assert x.dtype == y.dtype and np.asarray(x).tobytes() == np.asarray(y).tobytes(), at


@pytest.mark.parametrize('kind', [Kind.F32, Kind.Q4_K], ids=lambda kind: kind.name)
@pytest.mark.parametrize('name', MODELS)
def test_each_architecture_is_read(tmp_path, name, kind):
  cfg = MODELS[name]
  values = writing.write(tmp_path / 'm.gguf', cfg, kind)
  source, params = load(tmp_path / 'm.gguf')
  assert source.cfg == cfg
  assert_same(params, model_dirs.load(model_dirs.write(tmp_path / 'hf', cfg, values))[1])


@pytest.mark.parametrize('kind', KINDS, ids=lambda kind: kind.name)
def test_each_type_of_tensor_is_read(tmp_path, kind):
  values = writing.write(tmp_path / 'm.gguf', LLAMA, kind)
  assert all(np.isfinite(x).all() and x.astype(np.float32).std() > 0.1 for x in values.values())
  source, params = load(tmp_path / 'm.gguf')
  stored = {Kind.F16: np.float16, Kind.BF16: jnp.bfloat16}.get(kind, np.float32)
  assert {x.dtype for x in jax.tree.leaves(params['layers']['mlp'])} == {np.dtype(stored)}
  want = {n: x.astype(stored) if x.ndim > 1 else x for n, x in values.items()}
  assert_same(params, model_dirs.load(model_dirs.write(tmp_path / 'hf', LLAMA, want))[1])
  assert_same(load(tmp_path / 'm.gguf', 'bfloat16')[1], jax.tree.map(lambda x: x.astype(jnp.bfloat16), params))
  assert source.dtypes()['layers.mlp.gate'] == stored


@pytest.mark.parametrize(('kind', 'per_block'), [(Kind.Q8_0, 34), (Kind.Q4_0, 18), (Kind.Q4_1, 20)])
def test_simple_types_are_scale_times_integer(tmp_path, kind, per_block):
  """Dequantised here by their definition, in ggml's ggml-quants.c."""
  writing.write(tmp_path / 'm.gguf', LLAMA, kind)
  file, _, cfg = gguf_models.open_file(tmp_path / 'm.gguf')
  tensor = file.tensors['token_embd.weight']
  blocks = np.frombuffer((tmp_path / 'm.gguf').read_bytes(), np.uint8, tensor.bytes, tensor.start).reshape(
    -1, per_block
  )
  half = lambda at: np.ascontiguousarray(blocks[:, at : at + 2]).view(np.float16).astype(np.float32)
  if kind == Kind.Q8_0:
    want = half(0) * np.ascontiguousarray(blocks[:, 2:]).view(np.int8)
  else:
    first = per_block - 16
    digits = np.concatenate([blocks[:, first:] & 15, blocks[:, first:] >> 4], axis=1).astype(np.float32)
    want = half(0) * (digits - 8) if kind == Kind.Q4_0 else half(0) * digits + half(2)
  np.testing.assert_array_equal(load(tmp_path / 'm.gguf')[1]['embed'], want.reshape(cfg.vocab, cfg.embed))


@pytest.mark.parametrize('name', ['llama', 'qwen3'])
def test_any_part_of_a_tensor_can_be_read(tmp_path, monkeypatch, name):
  cfg = MODELS[name]
  values = writing.write(tmp_path / 'm.gguf', cfg, Kind.Q8_0)
  file, _, cfg = gguf_models.open_file(tmp_path / 'm.gguf')
  entries, reader, rng = gguf_models.entries(file, cfg), gguf_models.Reader(file), np.random.default_rng(1)
  monkeypatch.setattr(gguf_models, '_VALUES', 10 * 256)  # several reads
  for part in ('self_attn.q_proj', 'self_attn.k_proj', 'mlp.down_proj'):
    name = f'model.layers.1.{part}.weight'
    want = values[name]
    for _ in range(5):
      first, last = sorted(rng.choice(len(want) + 1, 2, replace=False))
      out = np.empty((last - first, 100), np.float32)
      reader.read(
        entries[f'model.layers.1.{part}.weight'], (first, last), [((7, 40), out[:, :33]), ((40, 107), out[:, 33:])]
      )
      np.testing.assert_array_equal(out, want[first:last, 7:107])
  reader.close()


def test_rows_are_permuted_in_pairs():
  """Rows 0 1 2 3 | 4 5 6 7 of two heads: GGUF has the pairs (0, 2), (1, 3) side by side."""
  cfg = dataclasses.replace(LLAMA, heads=2, kv_heads=1, head_dim=4)
  stored = np.array([0, 2, 1, 3, 4, 6, 5, 7])
  assert stored[gguf_models.permutation(cfg, 'layers.attention.q')].tolist() == list(range(8))
  assert stored[:4][gguf_models.permutation(cfg, 'layers.attention.k')].tolist() == list(range(4))
  for leaf, family in (('layers.attention.v', 'llama'), ('layers.attention.q', 'qwen2')):
    assert gguf_models.permutation(dataclasses.replace(cfg, family=family), leaf) is None


def test_a_file_that_shrinks_while_it_is_read_is_refused(tmp_path):
  writing.write(tmp_path / 'm.gguf', LLAMA)
  source = checkpoint.open_model(tmp_path / 'm.gguf')
  abstract, file = source.abstract(parallel.make_mesh(config.Mesh())), gguf_models.open_file(tmp_path / 'm.gguf')[0]
  with open(tmp_path / 'm.gguf', 'r+b') as f:
    f.truncate((tmp_path / 'm.gguf').stat().st_size // 2)
  with pytest.raises(checkpoint.ModelDirError, match='ended while tensor'):
    gguf_models.load(file, source.cfg, abstract)


def test_ids_and_digest_are_of_the_file(tmp_path):
  writing.write(tmp_path / 'm.gguf', LLAMA)
  first = checkpoint.open_model(tmp_path / 'm.gguf')
  assert first.config['architectures'] == ['LlamaForCausalLM'] and json.dumps(first.config)
  writing.write(tmp_path / 'm.gguf', LLAMA, change=lambda fields, tensors: tensors['output.weight'][0].__imul__(2))
  assert checkpoint.open_model(tmp_path / 'm.gguf').digest != first.digest


def test_the_mesh_does_not_change_what_is_read(tmp_path):
  for name, cfg in MODELS.items():
    writing.write(tmp_path / f'{name}.gguf', cfg, Kind.Q8_0)
  script = pathlib.Path(__file__).with_name('gguf_on_meshes.py')
  flags = {'XLA_FLAGS': '--xla_force_host_platform_device_count=8', 'PYTHONPATH': str(script.parents[2])}
  done = subprocess.run([sys.executable, script, tmp_path], env=os.environ | flags, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert done.stdout.split() == ['ok'] * 3 * len(MODELS)


# RoPE scaling.


def open_with(path, cfg=LLAMA, tensors=None, drop=(), **fields):
  """The config of a file whose metadata and tensors are changed."""

  def change(own, arrays):
    own |= {key.replace('__', '.'): value for key, value in fields.items()}
    arrays |= tensors or {}
    for name in drop:
      own.pop(name, None)
      arrays.pop(name, None)

  writing.write(path, cfg, change=change)
  return path


def rope_of(path):
  return gguf_models.open_file(path)[2].rope


def test_linear_and_yarn_scaling_are_read(tmp_path):
  path, original = tmp_path / 'm.gguf', dict(rope__scaling__original_context_length=16)
  assert rope_of(open_with(path, rope__scaling__factor=2.0)) == RopeScaling('linear', 2.0)
  assert rope_of(open_with(path, rope__scale_linear=2.0)) == RopeScaling('linear', 2.0)
  assert rope_of(open_with(path, rope__scaling__type='linear', rope__scaling__factor=1.0)) is None
  assert rope_of(open_with(path, rope__scaling__type='none', rope__scaling__factor=4.0)) is None
  yarn = dict(rope__scaling__type='yarn', rope__scaling__factor=4.0) | original
  assert rope_of(open_with(path, MODELS['qwen2'], **yarn)) == RopeScaling('yarn', 4.0, 16)
  betas = dict(rope__scaling__yarn_beta_fast=16.0, rope__scaling__yarn_beta_slow=2.0)
  assert rope_of(open_with(path, **yarn, **betas)) == RopeScaling('yarn', 4.0, 16, beta_fast=16.0, beta_slow=2.0)
  assert 'longrope' in writing.refusal(open_with(path, rope__scaling__type='longrope'))


def llama3(theta, size, factor, original, low=1.0, high=4.0):
  """The factors as llama.cpp's converter computes them, one at a time."""
  out = []
  for i in range(0, size, 2):
    wavelength = 2 * np.pi * theta ** (i / size)
    if wavelength < original / high:
      out.append(1.0)
    elif wavelength > original / low:
      out.append(factor)
    else:
      smooth = (original / wavelength - low) / (high - low)
      out.append(1 / ((1 - smooth) / factor + smooth))
  return np.array(out, np.float32)


@pytest.mark.parametrize('factor', [8.0, 32.0])
def test_the_factors_of_llama_3_are_its_scaling(tmp_path, factor):
  values = llama3(5e5, 64, factor, 8192)
  assert 1 in values and factor in values and len(set(values)) > 4
  path = open_with(tmp_path / 'm.gguf', tensors={'rope_freqs.weight': (values, Kind.F32)})
  assert rope_of(path) == RopeScaling('llama3', factor, 8192, low_freq_factor=1.0, high_freq_factor=4.0)


@pytest.mark.parametrize(
  ('values', 'cfg', 'words'),
  [
    (llama3(5e5, 64, 8.0, 4096), LLAMA, "other factors than Llama 3's (8.0 from 8192"),
    (llama3(5e5, 64, 8.0, 8192, high=8.0), LLAMA, 'other factors'),
    (np.full(32, np.nan, np.float32), LLAMA, 'ends with nan'),
    (np.full(32, 0.5, np.float32), LLAMA, 'ends with 0.5'),
    (np.ones(16, np.float32), LLAMA, 'F32[16], not F32[32]'),
    (np.ones(32, np.float16), LLAMA, 'F16[32], not F32[32]'),
    (llama3(1e4, 64, 8.0, 8192), MODELS['qwen2'], 'in another family'),
  ],
)
def test_other_factors_are_refused(tmp_path, values, cfg, words):
  kind = Kind.F32 if values.dtype == np.float32 else Kind.F16
  path = open_with(tmp_path / 'm.gguf', cfg, tensors={'rope_freqs.weight': (values, kind)})
  assert words in (message := writing.refusal(path)) and 'rope_freqs.weight' in message


# What is refused.


@pytest.mark.parametrize(
  ('fields', 'words'),
  [
    (dict(attention__sliding_window=32), 'attention.sliding_window = 32'),
    (dict(attention__value_length=32), 'attention.value_length is 32, but heads have 64'),
    (dict(rope__dimension_count=32), 'rope.dimension_count is 32, but heads have 64'),
    (dict(attention__head_count=[4, 4]), 'num_attention_heads'),
    (dict(attention__head_count=0), 'num_attention_heads'),
    (dict(embedding_length='256'), 'hidden_size'),
    (dict(block_count=1 << 30), 'tensors, over'),
    (dict(rope__scaling__attn_factor=1.5), 'attn_factor = 1.5'),
    (dict(attn_logit_softcapping=50.0), 'attn_logit_softcapping = 50.0'),
    (dict(final_logit_softcapping='a\nb'), "final_logit_softcapping = 'a\\nb'"),
    (dict(expert_shared_count=1), 'expert_shared_count = 1'),
    (dict(rope__scaling__type='a\nb'), "'a\\nb'"),
    (dict(rope__scaling__factor=[2.0, 2.0]), "'factor' is [2.0, 2.0]"),
    (dict(rope__freq_base='1e4'), "'rope_theta' is '1e4'"),
    (dict(embedding_length=128), 'blk.0.attn_norm.weight has shape [256], not [128]'),
    (dict(block_count=3), 'blk.2.attn_k.weight is missing'),
    (dict(block_count=1), "'blk.1.attn_k.weight' is unexpected"),
  ],
)
def test_metadata_that_is_not_supported_is_refused(tmp_path, fields, words):
  assert words in writing.refusal(open_with(tmp_path / 'm.gguf', **fields))


@pytest.mark.parametrize('key', ['embedding_length', 'context_length', 'attention.layer_norm_rms_epsilon'])
def test_metadata_that_is_missing_is_named(tmp_path, key):
  message = writing.refusal(open_with(tmp_path / 'm.gguf', drop=[key]))
  assert key in message and 'missing' in message


@pytest.mark.parametrize(
  'fields', [dict(attention__sliding_window=64), dict(logit_scale=1.0), dict(attention__scale=0.0)]
)
def test_what_is_off_changes_nothing(tmp_path, fields):
  assert gguf_models.open_file(open_with(tmp_path / 'm.gguf', **fields))[2] == LLAMA


def test_unknown_metadata_is_named_in_a_warning(tmp_path, caplog):
  gguf_models.open_file(open_with(tmp_path / 'm.gguf', attention__novel=3))
  assert 'attention.novel' in caplog.text


def test_an_architecture_that_is_no_text_is_refused(tmp_path):
  writing.write_file(tmp_path / 'm.gguf', 'llama', {}, {}, general={'general.architecture': ['llama']})
  assert "architecture ['llama'] is" in writing.refusal(tmp_path / 'm.gguf')


@pytest.mark.parametrize(('fields', 'words'), [({}, "architecture 'gemma3' "), ({'split.count': 3}, '3 parts')])
def test_other_architectures_and_parts_are_refused(tmp_path, fields, words):
  architecture = 'llama' if fields else 'gemma3'
  writing.write_file(tmp_path / 'm.gguf', architecture, writing.metadata(LLAMA), {}, general=fields)
  assert words in writing.refusal(tmp_path / 'm.gguf')


def test_tensors_of_one_expert_too_few_are_refused(tmp_path):
  path = open_with(tmp_path / 'm.gguf', MODELS['qwen3_moe'], expert_count=5)
  assert 'has shape [4, 256, 256], not [5, 256, 256]' in writing.refusal(path)


def test_a_file_cut_anywhere_is_refused(tmp_path):
  writing.write(tmp_path / 'm.gguf', LLAMA)
  contents = (tmp_path / 'm.gguf').read_bytes()
  for size in np.linspace(0, len(contents) - 40, 50).astype(int):
    (tmp_path / 'm.gguf').write_bytes(contents[:size])
    assert 'truncated' in writing.refusal(tmp_path / 'm.gguf')
