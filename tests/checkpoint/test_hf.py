"""Hugging Face directories in and out: bit for bit, or refused in one line that says what does not fit."""

import dataclasses
import json
import logging
import math
import os
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from r1jax import checkpoint, models
from r1jax import params as params_lib
from r1jax.checkpoint import families, hf, safetensors_files
from r1jax.checkpoint.model_dir import ModelDirError
from r1jax.models import layers
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
  """{name in the file: random values}; `mixed`: correction biases are float32 whatever `kind`."""
  rng = np.random.default_rng(0)
  return {
    t.name: rng.normal(size=t.shape)
    .astype(np.float32)
    .astype(np.float32 if mixed and t.name.endswith('correction_bias') else kind)
    for leaf in families.tensors(cfg).values()
    for t in leaf.values()
  }


def write(path, cfg, tensors, shards=1, **config):
  """A directory as others write it, with the safetensors library."""
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
  """{name: values}, as the safetensors library reads a directory."""
  out = {}
  for file in sorted(path.glob('*.safetensors')):
    out |= safetensors.numpy.load_file(file)
  return out


def load(path, dtype=None):
  """(ModelConfig, parameters, bytes read) of a directory; `dtype`: None keeps what is on disk."""
  config = hf.read_config(path)
  cfg = families.from_hf(config, path / 'config.json')
  kept = hf.dtypes(cfg, hf.open_files(path, cfg, config))
  one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  abstract = params_lib.abstract(
    models.specs(cfg), dtype or kept, jax.tree.map(lambda _: one, models.specs(cfg), is_leaf=params_lib.is_spec)
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


@pytest.mark.parametrize(
  'name, kind',
  [*((name, 'bfloat16') for name in MODELS), ('qwen2', 'float16'), ('deepseek_v3', 'float32'), ('llama', 'float32')],
)
def test_in_and_out_again_is_bit_equal(tmp_path, name, kind):
  cfg = MODELS[name]
  tensors = random_tensors(cfg, KINDS[kind], mixed=True)
  write(tmp_path / 'theirs', cfg, tensors, shards=3)
  found, params, count = load(tmp_path / 'theirs')
  assert dataclasses.replace(found, family=cfg.family) == cfg
  assert count == sum(x.nbytes for x in tensors.values())
  said = []
  hf.save(
    tmp_path / 'ours',
    cfg,
    params,
    hf.read_config(tmp_path / 'theirs'),
    progress=lambda done, total: said.append((done, total)),
  )
  same(read_back(tmp_path / 'ours'), tensors)
  assert [p.name for p in sorted((tmp_path / 'ours').iterdir())] == ['config.json', 'model.safetensors']
  assert said == sorted(said) and said[-1] == (count, count)


def test_each_tensor_comes_to_its_place(tmp_path):
  """Spelled out for some; that the model then computes the same is tested against transformers."""
  cfg = MODELS['qwen2']
  tensors = random_tensors(cfg, np.float32)
  _, params, _ = load(write(tmp_path / 'm', cfg, tensors))
  at = lambda n, layer=1: tensors[f'model.layers.{layer}.{n}']
  own = jax.tree.map(lambda x: np.asarray(x[1]), params['layers'])
  q, o = (at(f'self_attn.{x}_proj.weight') for x in 'qo')
  np.testing.assert_array_equal(params['embed'], tensors['model.embed_tokens.weight'])
  np.testing.assert_array_equal(own['attention']['q'], q.reshape(4, 8, 16).transpose(2, 0, 1))
  np.testing.assert_array_equal(own['attention']['k_bias'], at('self_attn.k_proj.bias').reshape(2, 8))
  np.testing.assert_array_equal(own['attention']['o'], o.reshape(16, 4, 8).transpose(1, 2, 0))
  np.testing.assert_array_equal(own['mlp']['down'], at('mlp.down_proj.weight').T)
  np.testing.assert_array_equal(own['mlp_norm'], at('post_attention_layernorm.weight'))

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
@pytest.mark.parametrize('kept', KINDS)
def test_a_chosen_dtype_is_rounded_to(tmp_path, kind, kept):
  tensors = random_tensors(MODELS['llama'], KINDS[kind])
  _, params, _ = load(write(tmp_path / 'm', MODELS['llama'], tensors), kept)
  want = jnp.asarray(tensors['lm_head.weight']).astype(kept).T
  np.testing.assert_array_equal(params['unembed'], want)
  np.testing.assert_array_equal(params['norm'], jnp.asarray(tensors['model.norm.weight']).astype(kept))


def test_where_layers_differ_a_dtype_that_holds_all_is_taken(tmp_path):
  tensors = random_tensors(MODELS['llama'], KINDS['bfloat16'])
  for name, kind in (('layers.0.mlp.up_proj', np.float32), ('layers.1.mlp.down_proj', np.float16)):
    tensors[f'model.{name}.weight'] = tensors[f'model.{name}.weight'].astype(kind)
  _, params, _ = load(write(tmp_path / 'm', MODELS['llama'], tensors))
  mlp = params['layers']['mlp']
  assert {n: x.dtype.name for n, x in mlp.items()} == {'gate': 'bfloat16', 'up': 'float32', 'down': 'float32'}
  for i in range(2):
    for name in ('up', 'down'):
      np.testing.assert_array_equal(mlp[name][i], tensors[f'model.layers.{i}.mlp.{name}_proj.weight'].T)


def test_shards_are_of_the_size_asked_for(tmp_path):
  tensors = random_tensors(DEEPSEEK, KINDS['bfloat16'], mixed=True)
  _, params, total = load(write(tmp_path / 'theirs', DEEPSEEK, tensors))
  (tmp_path / 'tokenizer.json').write_text('{"a": 1}')
  hf.save(tmp_path / 'ours', DEEPSEEK, params, hf.read_config(tmp_path / 'theirs'), [tmp_path / 'tokenizer.json'], 4000)
  same(read_back(tmp_path / 'ours'), tensors)
  files = sorted(p.name for p in (tmp_path / 'ours').glob('*.safetensors'))
  assert len(files) > total / 4000 and files[1] == f'model-00002-of-{len(files):05d}.safetensors'
  found = json.loads((tmp_path / 'ours' / safetensors_files.INDEX).read_text())
  assert found['metadata'] == {'total_size': total} and found['weight_map'].keys() == tensors.keys()
  for file in files:
    held = safetensors.numpy.load_file(tmp_path / 'ours' / file)
    assert sum(x.nbytes for x in held.values()) <= 4000
    assert held.keys() == {name for name, at in found['weight_map'].items() if at == file}
  assert (tmp_path / 'ours' / 'tokenizer.json').read_text() == '{"a": 1}'
  jax.tree.map(np.testing.assert_array_equal, load(tmp_path / 'ours')[1], params)


def with_prediction(tensors, layer=3):
  extra = {
    f'model.layers.{layer}.eh_proj.weight': np.ones((16, 32), np.float32),
    f'model.layers.{layer}.mlp.experts.0.up_proj.weight': np.ones((8, 16), np.float32),
  }
  return tensors | extra


def test_the_layer_for_multi_token_prediction_is_left_out_and_said_so_once(tmp_path, caplog):
  tensors = random_tensors(DEEPSEEK, np.float32)
  path = write(tmp_path / 'm', DEEPSEEK, with_prediction(tensors), num_nextn_predict_layers=1)
  with caplog.at_level(logging.INFO, logger='r1jax'):
    caplog.handler.setLevel(logging.INFO)
    logging.getLogger('r1jax').addHandler(caplog.handler)
    try:
      _, params, count = load(path)
    finally:
      logging.getLogger('r1jax').removeHandler(caplog.handler)
  said = {id(r): r.getMessage() for r in caplog.records if 'multi-token' in r.getMessage()}
  assert len(said) == 1 and '2 tensors' in min(said.values()) and 'model.layers.3.' in min(said.values())
  assert count == sum(x.nbytes for x in tensors.values())
  with pytest.raises(ModelDirError, match='layers.3.eh_proj.weight is unexpected'):
    load(write(tmp_path / 'm', DEEPSEEK, with_prediction(tensors), num_nextn_predict_layers=0))
  with pytest.raises(ModelDirError, match='layers.4.eh_proj.weight is unexpected'):
    load(write(tmp_path / 'm', DEEPSEEK, with_prediction(tensors, 4), num_nextn_predict_layers=1))


FP8 = dataclasses.replace(DEEPSEEK, embed=144, mlp=200, moe=dataclasses.replace(DEEPSEEK.moe, mlp=40))


def quantised(tensors):
  """Matrices of layers but routers as FP8 with factors of blocks of 128 x 128, as DeepSeek publishes them."""
  rng, out = np.random.default_rng(1), {}
  for name, x in tensors.items():
    out[name] = x
    if name.endswith('_proj.weight') or '_proj_with_mqa' in name:
      out[name] = rng.integers(0, 127, x.shape, np.uint8).view(ml_dtypes.float8_e4m3fn)
      out[name + '_scale_inv'] = rng.uniform(0.5, 2, [-(-n // 128) for n in x.shape]).astype(np.float32)
  return out


def multiplied_out(tensors, name, kind=ml_dtypes.bfloat16):
  x, scale = tensors[name], tensors[name + '_scale_inv']
  factor = np.kron(scale, np.ones((128, 128), np.float32))[: x.shape[0], : x.shape[1]]
  return (x.astype(np.float32) * factor).astype(kind)


def test_fp8_is_multiplied_out(tmp_path):
  tensors = quantised(with_prediction(random_tensors(FP8, KINDS['bfloat16'], mixed=True)))
  about = {'quant_method': 'fp8', 'weight_block_size': [128, 128]}
  path = write(tmp_path / 'm', FP8, tensors, shards=2, num_nextn_predict_layers=1, quantization_config=about)
  cfg, params, _ = load(path)
  assert cfg == FP8
  assert params['layers']['moe']['router_bias'].dtype == np.float32
  assert {x.dtype.name for x in jax.tree.leaves(params)} == {'bfloat16', 'float32'}
  hf.save(tmp_path / 'out', cfg, params, families.to_hf(cfg))
  want = {
    name: multiplied_out(tensors, name) if name + '_scale_inv' in tensors else x
    for name, x in tensors.items()
    if 'layers.3.' not in name and not name.endswith('_scale_inv')
  }
  assert any(tensors[name].dtype.itemsize == 1 and max(tensors[name].shape) % 128 for name in want)
  same(read_back(tmp_path / 'out'), want)
  name = 'model.layers.0.mlp.down_proj.weight'
  np.testing.assert_array_equal(
    load(path, 'float32')[1]['dense_layers']['mlp']['down'][0], multiplied_out(tensors, name, np.float32).T
  )


@pytest.mark.parametrize(
  'change, words',
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
def test_factors_that_do_not_fit_are_named(tmp_path, change, words):
  tensors = quantised(random_tensors(FP8, KINDS['bfloat16']))
  change(tensors)
  with pytest.raises(ModelDirError, match=words):
    load(write(tmp_path / 'm', FP8, tensors))


@pytest.mark.parametrize('block', [[0, 128], [128], 'x', [128, True], [1.5, 2], {'a': 1}, [10**30, 128], [128, 2**31]])
def test_a_block_of_factors_has_two_sizes(tmp_path, block):
  path = write(
    tmp_path / 'm',
    FP8,
    quantised(random_tensors(FP8, KINDS['bfloat16'])),
    quantization_config={'weight_block_size': block},
  )
  with pytest.raises(ModelDirError, match="config.json: 'weight_block_size' is"):
    load(path)


def test_check_names_each_tensor_that_does_not_fit(tmp_path):
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
  }  # tied: some files hold it all the same
  path = write(tmp_path / 'm', cfg, tensors)
  lines, skipped = hf.check(cfg, hf.read_config(path), safetensors_files.entries(path))
  assert lines == [
    'model.layers.1.mlp.up_proj.weight is missing',
    'model.norm.weight is missing',
    'model.layers.2.mlp.up_proj.weight is unexpected',
    'visual.proj is unexpected',
    'model.embed_tokens.weight has shape [41, 16], not [40, 16]',
    'model.layers.0.self_attn.q_proj.bias has shape [16, 2], not [32]',
  ]
  assert not skipped


def test_what_does_not_fit_is_said_before_a_device_is_touched(tmp_path, monkeypatch):
  cfg = MODELS['llama']
  tensors = random_tensors(cfg, np.float32)
  for name in list(tensors)[:6]:
    del tensors[name]
  path = write(tmp_path / 'm', cfg, tensors)
  monkeypatch.setattr(jax, 'device_put', lambda *_: pytest.fail('a device was touched'))
  monkeypatch.setattr(safetensors_files.Reader, 'read', lambda *_: pytest.fail('a tensor was read'))
  with pytest.raises(ModelDirError, match='does not fit its config.json: .* is missing; .* and 2 more') as error:
    hf.load(path, cfg, hf.read_config(path), params_lib.abstract(models.specs(cfg)))
  assert '\n' not in str(error.value) and str(path) in str(error.value)


def test_a_file_that_shrinks_while_it_is_read_ends_the_load(tmp_path, monkeypatch):
  path = write(tmp_path / 'm', MODELS['llama'], random_tensors(MODELS['llama'], np.float32))
  opened = safetensors_files.Reader.__init__

  def cut(*args):
    opened(*args)
    os.truncate(path / 'model.safetensors', 8000)

  monkeypatch.setattr(safetensors_files.Reader, '__init__', cut)
  with pytest.raises(ModelDirError, match='model.safetensors ended while tensor .* was read'):
    load(path)


@pytest.mark.parametrize(
  'harm, words',
  [
    (lambda p: (p / 'config.json').unlink(), 'holds no config.json'),
    (lambda p: shutil.rmtree(p), 'holds no config.json'),
    (lambda p: (shutil.rmtree(p), p.write_text('x')), 'is a file; pass the directory'),
    (lambda p: (p / 'config.json').write_text('{"a": '), 'is not JSON'),
    (lambda p: (p / 'config.json').write_text('[' * 100_000), 'is not JSON'),
    (lambda p: (p / 'config.json').write_bytes(b'{"a": "\xff"}'), 'is not JSON'),
    (lambda p: (p / 'config.json').write_text('[]'), 'holds a list, not an object'),
    (lambda p: (p / 'model.safetensors').rename(p / 'pytorch_model.bin'), 'pytorch_model.bin is a pickle'),
    (lambda p: os.truncate(p / 'model.safetensors', 9000), 'is truncated'),
  ],
)
def test_a_directory_that_is_none_is_refused(tmp_path, harm, words):
  path = write(tmp_path / 'm', MODELS['llama'], random_tensors(MODELS['llama'], np.float32))
  harm(path)
  with pytest.raises(ModelDirError) as error:
    load(path)
  assert words in str(error.value) and '\n' not in str(error.value) and str(path) in str(error.value)


@pytest.mark.parametrize(
  'name, change, words',
  [
    ('llama', {'architectures': ['FooForCausalLM']}, "architecture 'FooForCausalLM' is not supported; known: Llama"),
    ('llama', {'architectures': None, 'model_type': 'mistral'}, "architecture 'none' is not supported"),
    ('llama', {'architectures': [], 'model_type': None}, "architecture 'none' is not supported"),
    ('llama', {'architectures': None, 'model_type': ['llama']}, 'm/config.json'),
    ('llama', {'rms_norm_eps': math.nan}, "'rms_norm_eps' is nan, which is no float of at least 0 and at most 1"),
    ('llama', {'rms_norm_eps': math.inf}, "'rms_norm_eps' is inf"),
    ('llama', {'rms_norm_eps': 2}, "'rms_norm_eps' is 2"),
    ('llama', {'rope_theta': math.inf}, "'rope_theta' is inf, which is no float of at least 1"),
    ('llama', {'rope_theta': math.nan}, "'rope_theta' is nan"),
    ('llama', {'rope_theta': 1}, 'rope_theta 1.0 must be'),
    ('llama', {'rope_theta': 10**400}, 'm/config.json'),
    ('llama', {'rope_scaling': {'type': 'linear', 'factor': math.inf}}, "'factor' is inf"),
    ('llama', {'rope_scaling': {'type': 'yarn', 'factor': 2, 'beta_fast': math.nan}}, "'beta_fast' is nan"),
    ('llama', {'rope_scaling': {'type': 'yarn', 'factor': 2, 'attn_factor': 0}}, 'attn_factor 0.0 must be above 0'),
    ('llama', {'rope_scaling': {'type': 'yarn', 'factor': 2, 'attn_factor': '1'}}, "'attn_factor' is '1'"),
    ('llama', {'rope_scaling': {'type': 'yarn', 'factor': 2, 'extrapolation_factor': 2}}, 'extrapolation_factor = 2'),
    ('llama', {'num_hidden_layers': 10**5}, '100000 layers have 900003 tensors, over 262144'),
    ('llama', {'num_hidden_layers': 10**7}, '10000000 layers have 90000003 tensors, over 262144'),
    ('llama', {'num_hidden_layers': 10**12}, "'num_hidden_layers' is 1000000000000, which is no int"),
    ('llama', {'num_hidden_layers': 10**30}, 'and at most 2147483647'),
    ('qwen3_moe', {'num_experts': 10**9}, 'layers of 1000000000 experts have'),
    ('deepseek_v3', {'n_routed_experts': 4 * 10**8, 'n_group': 4}, 'layers of 400000000 experts have'),
    ('deepseek_v3', {'n_routed_experts': 10**20}, "'n_routed_experts' is 100000000000000000000"),
    ('deepseek_v3', {'first_k_dense_replace': 10**9}, 'layers are dense: too many'),
    ('deepseek_v3', {'topk_group': 5}, 'too many'),
    ('deepseek_v3', {'routed_scaling_factor': math.nan}, 'is nan'),
    ('llama', {'head_dim': None, 'num_attention_heads': 64, 'num_key_value_heads': 64}, '0 rotated dimensions a head'),
    ('llama', {'vocab_size': 10**12}, "'vocab_size' is 1000000000000"),
    ('llama', {'hidden_size': None}, "'hidden_size' is missing"),
    ('llama', {'hidden_size': '16'}, "'hidden_size' is '16', which is no int"),
    ('llama', {'num_hidden_layers': True}, "'num_hidden_layers' is True"),
    ('llama', {'tie_word_embeddings': 1}, "'tie_word_embeddings' is 1, which is no bool"),
    ('llama', {'hidden_act': 'gelu'}, "hidden_act = 'gelu' is not supported, only 'silu'"),
    ('llama', {'attention_bias': True}, 'attention_bias = True is not supported'),
    ('qwen2', {'use_sliding_window': True}, 'use_sliding_window = True is not supported'),
    ('qwen3', {'layer_types': ['full_attention', 'sliding_attention']}, 'layer_types other than full_attention'),
    ('llama', {'num_key_value_heads': 3}, '4 heads do not divide over 3 KV heads'),
    (
      'llama',
      {'rope_scaling': {'rope_type': 'longrope', 'factor': 2.0}},
      "rope type 'longrope' is not supported; known: default, linear, llama3, yarn",
    ),
    ('llama', {'rope_parameters': {'partial_rotary_factor': 0.5}}, 'partial_rotary_factor = 0.5'),
    ('llama', {'rope_parameters': 'yarn'}, 'is damaged'),
    ('llama', {'rope_theta': 0}, "'rope_theta' is 0, which is no float of at least 1"),
    ('llama', {'rope_scaling': {'type': 'linear'}}, "'factor' is missing"),
    ('llama', {'rope_scaling': {'type': 'yarn', 'factor': -1}}, "'factor' is -1, which is no float of at least 0"),
    ('llama', {'rope_scaling': {'type': 'yarn', 'factor': 0.5}}, 'rope scaling by 0.5; it must be at least 1'),
    (
      'llama',
      {'rope_scaling': {'rope_type': 'llama3', 'factor': 8.0, 'low_freq_factor': 'a', 'high_freq_factor': 4}},
      "'low_freq_factor' is 'a'",
    ),
    (
      'llama',
      {'rope_scaling': {'rope_type': 'llama3', 'factor': 8.0, 'low_freq_factor': 4, 'high_freq_factor': 4}},
      'low_freq_factor 4.0 must be below high_freq_factor 4.0',
    ),
    ('llama', {'vocab_size': 0}, "'vocab_size' is 0"),
    ('llama', {'architectures': {'a': 1}}, 'm/config.json'),
    ('llama', {'num_attention_heads': 0}, "'num_attention_heads' is 0"),
    ('deepseek_v3', {'scoring_func': 'softmax'}, "scoring_func = 'softmax' is not supported"),
    ('deepseek_v3', {'n_group': 3}, '4 experts do not divide into 3 groups'),
    ('deepseek_v3', {'kv_lora_rank': None}, "'kv_lora_rank' is missing"),
    ('qwen3_moe', {'mlp_only_layers': [0]}, r'mlp_only_layers = [0] is not supported, only []'),
  ],
)
def test_a_config_that_is_not_supported_is_refused(name, change, words):
  config = families.to_hf(MODELS[name])
  families.from_hf(config, 'm/config.json')
  with pytest.raises(ModelDirError) as error:
    families.from_hf(config | change, 'm/config.json')
  assert str(error.value).startswith('m/config.json: ') and words in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize('name', [name for name, cfg in MODELS.items() if cfg.head == 'tokens'])
@pytest.mark.parametrize('named', [{'architectures': None}, {'architectures': []}, {}])
def test_an_architecture_that_is_missing_follows_from_the_model_type(tmp_path, name, named):
  path, cfg = tmp_path / 'm', MODELS[name]
  config = {key: value for key, value in families.to_hf(cfg).items() if key != 'architectures'} | named
  write(path, cfg, random_tensors(cfg, np.float32))
  (path / 'config.json').write_text(json.dumps(config))
  source = checkpoint.open_model(path)
  assert source.cfg == cfg
  assert source.config['architectures'] == families.to_hf(cfg)['architectures']  # an export names it again


def test_yarns_attn_factor_counts():
  """Cosines and sines are longer by it, on top of what follows from the factor (0.1 ln 4 + 1) or attention_factor."""
  config = families.to_hf(MODELS['llama'])

  def factor(**fields):
    scaling = {'rope_type': 'yarn', 'factor': 4.0, 'original_max_position_embeddings': 64} | fields
    cfg = families.from_hf(config | {'rope_scaling': scaling}, 'm/config.json')
    assert families.from_hf(families.to_hf(cfg), 'again') == cfg
    return layers.rope_frequencies(cfg)[1]

  derived = 0.1 * math.log(4) + 1
  for value in (0.5, 1.0, 1.7, None):
    assert factor(attn_factor=value) == pytest.approx(derived * (value or 1))
  assert factor(attn_factor=0.5, attention_factor=3.0) == pytest.approx(1.5)


def test_what_is_not_known_of_rope_is_said(caplog):
  config = families.to_hf(MODELS['llama'])
  families.from_hf(config | {'rope_scaling': {'type': 'linear', 'factor': 2.0, 'finetuned': True}}, 'm/config.json')
  assert not caplog.records
  families.from_hf(config | {'rope_scaling': {'type': 'linear', 'factor': 2.0, 'alpha': 8}}, 'm/config.json')
  assert 'm/config.json: rope scaling has alpha, which is not known' in caplog.text
