"""DeepSeek-V3's layer for multi-token prediction in Hugging Face files: kept bit for bit, or left out on purpose."""

import dataclasses
import json

import ml_dtypes
import numpy as np
import pytest

from r1jax import checkpoint, parallel
from r1jax.checkpoint import families, hf, safetensors_files
from r1jax.checkpoint.model_dir import ModelDirError
from r1jax.config import Mesh
from tests.checkpoint.model_dirs import DEEPSEEK, random_tensors, read_back, same, write
from tests.checkpoint.test_hf import FP8, dequantised, quantised

BF16 = ml_dtypes.bfloat16
AT = 'model.layers.3.'
DECLARED = {'num_nextn_predict_layers': 1}
# As README_WEIGHTS.md of DeepSeek-V3 lists them, and the index of its files.
LAYER = [
  'enorm.weight',
  'hnorm.weight',
  'eh_proj.weight',
  'shared_head.norm.weight',
  'input_layernorm.weight',
  'post_attention_layernorm.weight',
  *(f'self_attn.{x}.weight' for x in ('q_a_proj', 'q_b_proj', 'kv_a_proj_with_mqa', 'kv_b_proj', 'o_proj')),
  *(f'self_attn.{x}_a_layernorm.weight' for x in ('q', 'kv')),
  'mlp.gate.weight',
  'mlp.gate.e_score_correction_bias',
  *(f'mlp.experts.{i}.{x}_proj.weight' for i in range(4) for x in ('gate', 'up', 'down')),
  *(f'mlp.shared_experts.{x}_proj.weight' for x in ('gate', 'up', 'down')),
]
COPIES = {'embed_tokens.weight': 'model.embed_tokens.weight', 'shared_head.head.weight': 'lm_head.weight'}


def with_layer(cfg, kind=BF16):
  """{name: values} of a model with the layer: the model's own as elsewhere, the layer's spelled out here."""
  rng, out = np.random.default_rng(5), random_tensors(cfg, kind, mixed=True)
  for name in LAYER:
    like = f'model.layers.2.{name}'  # otherwise structured as the last of the model's layers
    shape = out[like].shape if like in out else (cfg.embed, 2 * cfg.embed) if 'proj' in name else (cfg.embed,)
    values = rng.normal(size=shape).astype(np.float32)
    out[AT + name] = values if 'correction_bias' in name else values.astype(kind)
  return out | {AT + copy: out[original] for copy, original in COPIES.items()}


def load(path, mtp=True):
  source = checkpoint.open_model(path, mtp=mtp)
  return source, source.load(source.abstract(parallel.make_mesh(Mesh())))


def saved(path, source, params):
  config = families.for_export(source.config, 'bfloat16', source.cfg.mtp)
  hf.save(path, source.cfg, params, config, shard_bytes=4000)
  return config


@pytest.fixture
def theirs(tmp_path):
  return write(tmp_path / 'theirs', DEEPSEEK, with_layer(DEEPSEEK), shards=3, **DECLARED)


def test_the_layer_comes_back_bit_for_bit_with_its_copies(theirs, tmp_path):
  source, params = load(theirs)
  assert source.cfg == dataclasses.replace(DEEPSEEK, mtp=1)
  assert saved(tmp_path / 'ours', source, params)['num_nextn_predict_layers'] == 1
  same(read_back(tmp_path / 'ours'), with_layer(DEEPSEEK))
  index = json.loads((tmp_path / 'ours' / safetensors_files.INDEX).read_text())['weight_map']
  assert index.keys() == with_layer(DEEPSEEK).keys()
  assert index['model.embed_tokens.weight'] == f'model-00001-of-{len(set(index.values())):05d}.safetensors'
  assert families.to_hf(source.cfg)['num_nextn_predict_layers'] == 1
  got, tensors = params['mtp'], with_layer(DEEPSEEK)
  np.testing.assert_array_equal(got['eh_proj'][0], tensors[AT + 'eh_proj.weight'].T)
  for ours, name in (('enorm', 'enorm'), ('hnorm', 'hnorm'), ('head_norm', 'shared_head.norm')):
    np.testing.assert_array_equal(got[ours][0], tensors[f'{AT}{name}.weight'])
  np.testing.assert_array_equal(got['moe']['down'][0, 3], tensors[AT + 'mlp.experts.3.down_proj.weight'].T)


def test_without_it_the_rest_is_the_same_and_the_exported_config_says_so(theirs, tmp_path):
  source, params = load(theirs, mtp=False)
  assert source.cfg == DEEPSEEK and 'mtp' not in params
  assert saved(tmp_path / 'ours', source, params)['num_nextn_predict_layers'] == 0
  same(read_back(tmp_path / 'ours'), {k: v for k, v in with_layer(DEEPSEEK).items() if AT not in k})


def test_a_config_may_declare_a_layer_that_is_not_there(tmp_path):
  """As transformers writes models: it drops the layer, and leaves the number as it was."""
  path = write(tmp_path / 'm', DEEPSEEK, random_tensors(DEEPSEEK, BF16), **DECLARED)
  source, params = load(path)
  assert source.cfg == DEEPSEEK and saved(tmp_path / 'out', source, params)['num_nextn_predict_layers'] == 0


def test_a_part_of_the_layer_is_refused_by_name(tmp_path):
  tensors = with_layer(DEEPSEEK)
  del tensors[AT + 'eh_proj.weight'], tensors[AT + 'mlp.experts.2.up_proj.weight']
  tensors[AT + 'extra.weight'] = np.ones(3, BF16)
  path = write(tmp_path / 'm', DEEPSEEK, tensors, **DECLARED)
  words = 'layers.3.eh_proj.weight is missing; .*experts.2.up_proj.weight is missing; .*layers.3.extra.weight is unexp'
  with pytest.raises(ModelDirError, match=words):
    load(path)
  assert checkpoint.open_model(path).cfg == DEEPSEEK  # runs that leave the layer out do not need it


@pytest.mark.parametrize('copy', COPIES)
def test_copies_are_compared_with_what_they_copy(tmp_path, copy, monkeypatch):
  monkeypatch.setattr(safetensors_files, 'READ_BYTES', 100)  # several reads
  tensors = with_layer(DEEPSEEK)
  tensors[AT + copy] = tensors[AT + copy].copy()
  tensors[AT + copy][-1, -1] += 1
  path = write(tmp_path / 'm', DEEPSEEK, tensors, **DECLARED)
  with pytest.raises(ModelDirError, match=f'{AT}{copy} differs from {COPIES[copy]}.*mtp_coef=0, or --drop_mtp'):
    load(path)
  load(path, mtp=False)
  tensors[AT + copy] = np.ones((2, 2), BF16)
  with pytest.raises(ModelDirError, match=rf'{AT}{copy} has shape \[2, 2\], not \[40, 16\]'):
    load(write(tmp_path / 'm', DEEPSEEK, tensors, **DECLARED))


def test_copies_may_be_left_out_and_are_written(tmp_path):
  """vLLM takes the layer's unembedding from its copy."""
  tensors = {k: v for k, v in with_layer(DEEPSEEK).items() if k.removeprefix(AT) not in COPIES}
  source, params = load(write(tmp_path / 'm', DEEPSEEK, tensors, **DECLARED))
  saved(tmp_path / 'out', source, params)
  same(read_back(tmp_path / 'out'), with_layer(DEEPSEEK))


def test_a_tied_models_copies_are_both_of_the_embedding(tmp_path):
  cfg = dataclasses.replace(DEEPSEEK, tied=True)
  tensors = with_layer(DEEPSEEK)
  del tensors['lm_head.weight']
  tensors[AT + 'shared_head.head.weight'] = tensors['model.embed_tokens.weight']
  source, params = load(write(tmp_path / 'm', cfg, tensors, **DECLARED))
  saved(tmp_path / 'out', source, params)
  same(read_back(tmp_path / 'out'), tensors)


def test_fp8_is_dequantised_as_in_other_layers(tmp_path):
  tensors = quantised(with_layer(FP8))
  assert tensors[AT + 'eh_proj.weight'].dtype.itemsize == 1
  path = write(
    tmp_path / 'm', FP8, tensors, shards=2, quantization_config={'weight_block_size': [128, 128]}, **DECLARED
  )
  source, params = load(path)
  saved(tmp_path / 'out', source, params)
  want = {
    name: dequantised(tensors, name) if name + '_scale_inv' in tensors else x
    for name, x in tensors.items()
    if not name.endswith('_scale_inv')
  }
  same(read_back(tmp_path / 'out'), want)


@pytest.mark.parametrize('count', [-1, 1.5, True, 'x', 10**9, 10**30])
def test_an_impossible_number_of_layers_is_refused(tmp_path, count):
  path = write(tmp_path / 'm', DEEPSEEK, with_layer(DEEPSEEK), num_nextn_predict_layers=count)
  with pytest.raises(ModelDirError, match="'num_nextn_predict_layers' is|tensors, over"):
    load(path)


def test_several_layers_are_kept_too(tmp_path):
  tensors = with_layer(DEEPSEEK)
  tensors |= {name.replace(AT, 'model.layers.4.'): x for name, x in tensors.items() if AT in name}
  source, params = load(write(tmp_path / 'm', DEEPSEEK, tensors, num_mtp_layers=2, num_nextn_predict_layers=None))
  assert source.cfg.mtp == 2 and saved(tmp_path / 'out', source, params)['num_mtp_layers'] == 2
  same(read_back(tmp_path / 'out'), tensors)
