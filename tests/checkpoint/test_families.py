"""config.json to ModelConfig and back, or refused in one line that names the key."""

import json
import math

import numpy as np
import pytest

from r1jax import checkpoint
from r1jax.checkpoint import families
from r1jax.checkpoint.model_dir import ModelDirError
from r1jax.models import layers
from tests.checkpoint.model_dirs import MODELS, random_tensors, write


@pytest.mark.parametrize(
  ('name', 'change', 'words'),
  [
    ('llama', {'architectures': ['FooForCausalLM']}, "'FooForCausalLM' is not supported; known: Llama"),
    ('llama', {'architectures': None, 'model_type': 'mistral'}, "architecture 'none' is not supported"),
    ('llama', {'architectures': [], 'model_type': None}, "architecture 'none' is not supported"),
    ('llama', {'architectures': None, 'model_type': ['llama']}, 'm/config.json'),
    ('llama', {'rms_norm_eps': math.nan}, "'rms_norm_eps' is nan, which is not a float of at least 0 and at most 1"),
    ('llama', {'rms_norm_eps': math.inf}, "'rms_norm_eps' is inf"),
    ('llama', {'rms_norm_eps': 2}, "'rms_norm_eps' is 2"),
    ('llama', {'rope_theta': math.inf}, "'rope_theta' is inf, which is not a float of at least 1"),
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
    ('llama', {'num_hidden_layers': 10**12}, "'num_hidden_layers' is 1000000000000"),
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
    ('llama', {'hidden_size': '16'}, "'hidden_size' is '16', which is not an int of at least 1"),
    ('llama', {'num_hidden_layers': True}, "'num_hidden_layers' is True"),
    ('llama', {'tie_word_embeddings': 1}, "'tie_word_embeddings' is 1, which is not a bool"),
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
    ('llama', {'rope_theta': 0}, "'rope_theta' is 0, which is not a float of at least 1"),
    ('llama', {'rope_scaling': {'type': 'linear'}}, "'factor' is missing"),
    ('llama', {'rope_scaling': {'type': 'yarn', 'factor': -1}}, "'factor' is -1, which is not a float of at least 0"),
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
def test_an_unsupported_config_is_refused(name, change, words):
  config = families.to_hf(MODELS[name])
  families.from_hf(config, 'm/config.json')
  with pytest.raises(ModelDirError) as error:
    families.from_hf(config | change, 'm/config.json')
  assert str(error.value).startswith('m/config.json: ') and words in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize('name', [name for name, cfg in MODELS.items() if cfg.head == 'tokens'])
@pytest.mark.parametrize('fields', [{'architectures': None}, {'architectures': []}, {}])
def test_a_missing_architecture_follows_from_the_model_type(tmp_path, name, fields):
  path, cfg = tmp_path / 'm', MODELS[name]
  config = {key: value for key, value in families.to_hf(cfg).items() if key != 'architectures'} | fields
  write(path, cfg, random_tensors(cfg, np.float32))
  (path / 'config.json').write_text(json.dumps(config))
  source = checkpoint.open_model(path)
  assert source.cfg == cfg
  assert source.config['architectures'] == families.to_hf(cfg)['architectures']  # and an export writes it


def test_yarns_attn_factor_is_used():
  """It scales cosines and sines, on top of what follows from the factor (0.1 ln 4 + 1) or attention_factor."""
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


def test_unknown_keys_of_rope_are_logged(caplog):
  config = families.to_hf(MODELS['llama'])
  families.from_hf(config | {'rope_scaling': {'type': 'linear', 'factor': 2.0, 'finetuned': True}}, 'm/config.json')
  assert not caplog.records
  families.from_hf(config | {'rope_scaling': {'type': 'linear', 'factor': 2.0, 'alpha': 8}}, 'm/config.json')
  assert 'm/config.json' in caplog.text and 'alpha' in caplog.text
