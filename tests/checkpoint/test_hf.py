"""Hugging Face directories in and out: bit for bit, or refused in one line that says what does not match."""

import dataclasses
import json
import logging
import os
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from r1jax import models
from r1jax import params as params_lib
from r1jax.checkpoint import families, hf, safetensors_files
from r1jax.checkpoint.model_dir import ModelDirError
from tests.checkpoint.model_dirs import DEEPSEEK, KINDS, MODELS, load, random_tensors, read_back, same, write


@pytest.mark.parametrize(
  ('name', 'kind'),
  [*((name, 'bfloat16') for name in MODELS), ('qwen2', 'float16'), ('deepseek_v3', 'float32'), ('llama', 'float32')],
)
def test_load_and_save_are_bit_exact(tmp_path, name, kind):
  cfg = MODELS[name]
  tensors = random_tensors(cfg, KINDS[kind], mixed=True)
  write(tmp_path / 'theirs', cfg, tensors, shards=3)
  loaded, params, count = load(tmp_path / 'theirs')
  assert dataclasses.replace(loaded, family=cfg.family) == cfg
  assert count == sum(x.nbytes for x in tensors.values())
  reports = []
  hf.save(
    tmp_path / 'ours',
    cfg,
    params,
    hf.read_config(tmp_path / 'theirs'),
    progress=lambda done, total: reports.append((done, total)),
  )
  same(read_back(tmp_path / 'ours'), tensors)
  assert [p.name for p in sorted((tmp_path / 'ours').iterdir())] == ['config.json', 'model.safetensors']
  assert reports == sorted(reports) and reports[-1] == (count, count)


def test_each_tensor_is_loaded_into_its_parameter(tmp_path):
  """Spelled out for some tensors; the parity tests compare what the model computes with transformers."""
  cfg = MODELS['qwen2']
  tensors = random_tensors(cfg, np.float32)
  _, params, _ = load(write(tmp_path / 'm', cfg, tensors))
  at = lambda n, layer=1: tensors[f'model.layers.{layer}.{n}']
  layer = jax.tree.map(lambda x: np.asarray(x[1]), params['layers'])
  q, o = (at(f'self_attn.{x}_proj.weight') for x in 'qo')
  np.testing.assert_array_equal(params['embed'], tensors['model.embed_tokens.weight'])
  np.testing.assert_array_equal(layer['attention']['q'], q.reshape(4, 8, 16).transpose(2, 0, 1))
  np.testing.assert_array_equal(layer['attention']['k_bias'], at('self_attn.k_proj.bias').reshape(2, 8))
  np.testing.assert_array_equal(layer['attention']['o'], o.reshape(16, 4, 8).transpose(1, 2, 0))
  np.testing.assert_array_equal(layer['mlp']['down'], at('mlp.down_proj.weight').T)
  np.testing.assert_array_equal(layer['mlp_norm'], at('post_attention_layernorm.weight'))

  cfg = DEEPSEEK
  tensors = random_tensors(cfg, np.float32)
  _, params, _ = load(write(tmp_path / 'd', cfg, tensors))
  moe = params['layers']['moe']
  np.testing.assert_array_equal(params['dense_layers']['mlp']['up'][0], at('mlp.up_proj.weight', 0).T)
  np.testing.assert_array_equal(moe['gate'][1, 3], at('mlp.experts.3.gate_proj.weight', 2).T)
  np.testing.assert_array_equal(moe['shared']['up'][0], at('mlp.shared_experts.up_proj.weight').T)
  np.testing.assert_array_equal(moe['router'][1], at('mlp.gate.weight', 2).T)
  np.testing.assert_array_equal(params['unembed'], tensors['lm_head.weight'].T)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('dtype', KINDS)
def test_parameters_are_rounded_to_a_chosen_dtype(tmp_path, kind, dtype):
  tensors = random_tensors(MODELS['llama'], KINDS[kind])
  _, params, _ = load(write(tmp_path / 'm', MODELS['llama'], tensors), dtype)
  want = jnp.asarray(tensors['lm_head.weight']).astype(dtype).T
  np.testing.assert_array_equal(params['unembed'], want)
  np.testing.assert_array_equal(params['norm'], jnp.asarray(tensors['model.norm.weight']).astype(dtype))


def test_layers_of_different_dtypes_are_promoted_to_one(tmp_path):
  tensors = random_tensors(MODELS['llama'], KINDS['bfloat16'])
  for name, kind in (('layers.0.mlp.up_proj', np.float32), ('layers.1.mlp.down_proj', np.float16)):
    tensors[f'model.{name}.weight'] = tensors[f'model.{name}.weight'].astype(kind)
  _, params, _ = load(write(tmp_path / 'm', MODELS['llama'], tensors))
  mlp = params['layers']['mlp']
  assert {n: x.dtype.name for n, x in mlp.items()} == {'gate': 'bfloat16', 'up': 'float32', 'down': 'float32'}
  for i in range(2):
    for name in ('up', 'down'):
      np.testing.assert_array_equal(mlp[name][i], tensors[f'model.layers.{i}.mlp.{name}_proj.weight'].T)


def test_shards_have_at_most_the_requested_size(tmp_path):
  tensors = random_tensors(DEEPSEEK, KINDS['bfloat16'], mixed=True)
  _, params, total = load(write(tmp_path / 'theirs', DEEPSEEK, tensors))
  (tmp_path / 'tokenizer.json').write_text('{"a": 1}')
  hf.save(tmp_path / 'ours', DEEPSEEK, params, hf.read_config(tmp_path / 'theirs'), [tmp_path / 'tokenizer.json'], 4000)
  same(read_back(tmp_path / 'ours'), tensors)
  files = sorted(p.name for p in (tmp_path / 'ours').glob('*.safetensors'))
  assert len(files) > total / 4000 and files[1] == f'model-00002-of-{len(files):05d}.safetensors'
  index = json.loads((tmp_path / 'ours' / safetensors_files.INDEX).read_text())
  assert index['metadata'] == {'total_size': total} and index['weight_map'].keys() == tensors.keys()
  for file in files:
    contents = safetensors.numpy.load_file(tmp_path / 'ours' / file)
    assert sum(x.nbytes for x in contents.values()) <= 4000
    assert contents.keys() == {name for name, place in index['weight_map'].items() if place == file}
  assert (tmp_path / 'ours' / 'tokenizer.json').read_text() == '{"a": 1}'
  jax.tree.map(np.testing.assert_array_equal, load(tmp_path / 'ours')[1], params)


def with_prediction(tensors, layer=3):
  extra = {
    f'model.layers.{layer}.eh_proj.weight': np.ones((16, 32), np.float32),
    f'model.layers.{layer}.mlp.experts.0.up_proj.weight': np.ones((8, 16), np.float32),
  }
  return tensors | extra


def test_layers_for_multi_token_prediction_are_skipped_with_one_log_message(tmp_path, caplog):
  tensors = random_tensors(DEEPSEEK, np.float32)
  path = write(tmp_path / 'm', DEEPSEEK, with_prediction(tensors), num_nextn_predict_layers=1)
  with caplog.at_level(logging.INFO, logger='r1jax'):
    caplog.handler.setLevel(logging.INFO)
    logging.getLogger('r1jax').addHandler(caplog.handler)
    try:
      _, _params, count = load(path)
    finally:
      logging.getLogger('r1jax').removeHandler(caplog.handler)
  messages = {id(r): r.getMessage() for r in caplog.records if 'multi-token' in r.getMessage()}
  (message,) = messages.values()
  assert '2 tensors' in message and 'model.layers.3.' in message
  assert count == sum(x.nbytes for x in tensors.values())
  with pytest.raises(ModelDirError, match='layers.3.eh_proj.weight is unexpected'):
    load(write(tmp_path / 'm', DEEPSEEK, with_prediction(tensors), num_nextn_predict_layers=0))
  with pytest.raises(ModelDirError, match='layers.4.eh_proj.weight is unexpected'):
    load(write(tmp_path / 'm', DEEPSEEK, with_prediction(tensors, 4), num_nextn_predict_layers=1))


FP8 = dataclasses.replace(DEEPSEEK, embed=144, mlp=200, moe=dataclasses.replace(DEEPSEEK.moe, mlp=40))


def quantised(tensors):
  """The matrices of layers, except routers, as FP8 with scales for blocks of 128 x 128, as DeepSeek publishes them."""
  rng, out = np.random.default_rng(1), {}
  for name, x in tensors.items():
    out[name] = x
    if name.endswith('_proj.weight') or '_proj_with_mqa' in name:
      out[name] = rng.integers(0, 127, x.shape, np.uint8).view(ml_dtypes.float8_e4m3fn)
      out[name + '_scale_inv'] = rng.uniform(0.5, 2, [-(-n // 128) for n in x.shape]).astype(np.float32)
  return out


def dequantised(tensors, name, kind=ml_dtypes.bfloat16):
  x, scale = tensors[name], tensors[name + '_scale_inv']
  factor = np.kron(scale, np.ones((128, 128), np.float32))[: x.shape[0], : x.shape[1]]
  return (x.astype(np.float32) * factor).astype(kind)


def test_fp8_is_dequantised(tmp_path):
  tensors = quantised(with_prediction(random_tensors(FP8, KINDS['bfloat16'], mixed=True)))
  about = {'quant_method': 'fp8', 'weight_block_size': [128, 128]}
  path = write(tmp_path / 'm', FP8, tensors, shards=2, num_nextn_predict_layers=1, quantization_config=about)
  cfg, params, _ = load(path)
  assert cfg == FP8
  assert params['layers']['moe']['router_bias'].dtype == np.float32
  assert {x.dtype.name for x in jax.tree.leaves(params)} == {'bfloat16', 'float32'}
  hf.save(tmp_path / 'out', cfg, params, families.to_hf(cfg))
  want = {
    name: dequantised(tensors, name) if name + '_scale_inv' in tensors else x
    for name, x in tensors.items()
    if 'layers.3.' not in name and not name.endswith('_scale_inv')
  }
  assert any(tensors[name].dtype.itemsize == 1 and max(tensors[name].shape) % 128 for name in want)
  same(read_back(tmp_path / 'out'), want)
  name = 'model.layers.0.mlp.down_proj.weight'
  np.testing.assert_array_equal(
    load(path, 'float32')[1]['dense_layers']['mlp']['down'][0], dequantised(tensors, name, np.float32).T
  )


@pytest.mark.parametrize(
  ('change', 'words'),
  [
    (lambda t: t.pop('model.layers.0.mlp.up_proj.weight_scale_inv'), 'mlp.up_proj.weight_scale_inv is missing'),
    (
      lambda t: t.update({'model.layers.0.mlp.up_proj.weight_scale_inv': np.ones((2, 1), np.float32)}),
      r'up_proj.weight_scale_inv has shape \[2, 1\], not \[2, 2\], for .* of shape \[200, 144\]',
    ),
    (
      lambda t: t.update({'model.norm.weight_scale_inv': np.ones((1, 1), np.float32)}),
      'model.norm.weight_scale_inv is unexpected',
    ),
    (
      lambda t: t.update(
        {
          'model.norm.weight': np.ones(144, ml_dtypes.float8_e4m3fn),
          'model.norm.weight_scale_inv': np.ones(2, np.float32),
        }
      ),
      r'model.norm.weight_scale_inv has shape \[2\]',
    ),
    (
      lambda t: t.update({'model.layers.0.mlp.up_proj.weight_scale_inv': np.ones((2, 2), ml_dtypes.float8_e4m3fn)}),
      'up_proj.weight_scale_inv is FP8 itself',
    ),
  ],
)
def test_scales_that_do_not_match_are_named(tmp_path, change, words):
  tensors = quantised(random_tensors(FP8, KINDS['bfloat16']))
  change(tensors)
  with pytest.raises(ModelDirError, match=words):
    load(write(tmp_path / 'm', FP8, tensors))


@pytest.mark.parametrize('block', [[0, 128], [128], 'x', [128, True], [1.5, 2], {'a': 1}, [10**30, 128], [128, 2**31]])
def test_an_invalid_scale_block_is_refused(tmp_path, block):
  path = write(
    tmp_path / 'm',
    FP8,
    quantised(random_tensors(FP8, KINDS['bfloat16'])),
    quantization_config={'weight_block_size': block},
  )
  with pytest.raises(ModelDirError, match="config.json: 'weight_block_size' is"):
    load(path)


def test_check_names_each_tensor_that_does_not_match(tmp_path):
  cfg = MODELS['qwen2']
  tensors = random_tensors(cfg, np.float32)
  del tensors['model.norm.weight'], tensors['model.layers.1.mlp.up_proj.weight']
  tensors |= {
    'model.layers.2.mlp.up_proj.weight': np.ones((1, 1), np.float32),
    'visual.proj': np.ones(1, np.float32),
    'model.embed_tokens.weight': np.ones((41, 16), np.float32),
    'model.layers.0.self_attn.q_proj.bias': np.ones((16, 2), np.float32),
    'model.layers.0.self_attn.rotary_emb.inv_freq': np.ones(4, np.float32),
    'lm_head.weight': np.ones((40, 16), np.float32),
  }  # some files hold lm_head although it is tied
  path = write(tmp_path / 'm', cfg, tensors)
  problems, skipped = hf.check(cfg, hf.read_config(path), safetensors_files.entries(path))
  assert problems == [
    'model.layers.1.mlp.up_proj.weight is missing',
    'model.norm.weight is missing',
    'model.layers.2.mlp.up_proj.weight is unexpected',
    'visual.proj is unexpected',
    'model.embed_tokens.weight has shape [41, 16], not [40, 16]',
    'model.layers.0.self_attn.q_proj.bias has shape [16, 2], not [32]',
  ]
  assert not skipped


def test_a_mismatch_is_reported_before_a_device_is_used(tmp_path, monkeypatch):
  cfg = MODELS['llama']
  tensors = random_tensors(cfg, np.float32)
  for name in list(tensors)[:6]:
    del tensors[name]
  path = write(tmp_path / 'm', cfg, tensors)
  monkeypatch.setattr(jax, 'device_put', lambda *_: pytest.fail('a device was used'))
  monkeypatch.setattr(safetensors_files.Reader, 'read', lambda *_: pytest.fail('a tensor was read'))
  with pytest.raises(ModelDirError, match='config.json: .* is missing; .* and 2 more') as error:
    hf.load(path, cfg, hf.read_config(path), params_lib.abstract(models.specs(cfg)))
  assert '\n' not in str(error.value) and str(path) in str(error.value)


def test_a_file_that_shrinks_while_it_is_read_ends_the_load(tmp_path, monkeypatch):
  path = write(tmp_path / 'm', MODELS['llama'], random_tensors(MODELS['llama'], np.float32))
  original = safetensors_files.Reader.__init__

  def truncate(*args):
    original(*args)
    os.truncate(path / 'model.safetensors', 8000)

  monkeypatch.setattr(safetensors_files.Reader, '__init__', truncate)
  with pytest.raises(ModelDirError, match='model.safetensors .* tensor '):
    load(path)


@pytest.mark.parametrize(
  ('damage', 'words'),
  [
    (lambda p: (p / 'config.json').unlink(), 'no config.json'),
    (lambda p: shutil.rmtree(p), 'no config.json'),
    (lambda p: (shutil.rmtree(p), p.write_text('x')), 'is a file'),
    (lambda p: (p / 'config.json').write_text('{"a": '), 'is not JSON'),
    (lambda p: (p / 'config.json').write_text('[' * 100_000), 'is not JSON'),
    (lambda p: (p / 'config.json').write_bytes(b'{"a": "\xff"}'), 'is not JSON'),
    (lambda p: (p / 'config.json').write_text('[]'), 'holds a list'),
    (lambda p: (p / 'model.safetensors').rename(p / 'pytorch_model.bin'), 'pytorch_model.bin is a pickle'),
    (lambda p: os.truncate(p / 'model.safetensors', 9000), 'is truncated'),
  ],
)
def test_anything_but_a_model_directory_is_refused(tmp_path, damage, words):
  path = write(tmp_path / 'm', MODELS['llama'], random_tensors(MODELS['llama'], np.float32))
  damage(path)
  with pytest.raises(ModelDirError) as error:
    load(path)
  assert words in str(error.value) and '\n' not in str(error.value) and str(path) in str(error.value)
