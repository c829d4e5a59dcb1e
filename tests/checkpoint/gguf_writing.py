"""Small random GGUF files, written with the gguf library by its own names, and the same tensors as Hugging Face's."""

import re

import gguf
import numpy as np
import pytest

from r1jax import gguf_files
from r1jax.checkpoint import ModelDirError, gguf_models

Kind = gguf_files.Kind
NAMES = {
  'token_embd': 'model.embed_tokens',
  'output_norm': 'model.norm',
  'output': 'lm_head',
  'attn_norm': 'input_layernorm',
  'ffn_norm': 'post_attention_layernorm',
  'attn_output': 'self_attn.o_proj',
  **{f'attn_{x}': f'self_attn.{x}_proj' for x in 'qkv'},
  **{f'attn_{x}_norm': f'self_attn.{x}_norm' for x in 'qk'},
  **{f'ffn_{x}': f'mlp.{x}_proj' for x in ('gate', 'up', 'down')},
  'ffn_gate_inp': 'mlp.gate',
  **{f'ffn_{x}_exps': f'mlp.experts.{{}}.{x}_proj' for x in ('gate', 'up', 'down')},
}
# Where the half-precision scales of a block of these types lie.
SCALES = {
  **dict.fromkeys(('Q8_0', 'Q4_0', 'Q5_0'), (0,)),
  **dict.fromkeys(('Q4_1', 'Q5_1', 'Q4_K', 'Q5_K'), (0, 2)),
  'Q2_K': (80, 82),
  'Q3_K': (108,),
  'Q6_K': (208,),
}
ARCHITECTURES = {'llama': 'llama', 'qwen2': 'qwen2', 'qwen3': 'qwen3', 'qwen3_moe': 'qwen3moe'}


def shapes(cfg):
  """{name in the file: shape}, spelled out."""
  q, kv = cfg.heads * cfg.head_dim, cfg.kv_heads * cfg.head_dim
  layer = {
    'attn_norm.weight': (cfg.embed,),
    'ffn_norm.weight': (cfg.embed,),
    'attn_q.weight': (q, cfg.embed),
    'attn_k.weight': (kv, cfg.embed),
    'attn_v.weight': (kv, cfg.embed),
    'attn_output.weight': (cfg.embed, q),
  }
  if cfg.qkv_bias:
    layer |= {'attn_q.bias': (q,), 'attn_k.bias': (kv,), 'attn_v.bias': (kv,)}
  if cfg.qk_norm:
    layer |= {'attn_q_norm.weight': (cfg.head_dim,), 'attn_k_norm.weight': (cfg.head_dim,)}
  width, stacked, suffix = (cfg.moe.mlp, (cfg.moe.experts,), '_exps') if cfg.moe else (cfg.mlp, (), '')
  layer |= {f'ffn_{x}{suffix}.weight': (*stacked, width, cfg.embed) for x in ('gate', 'up')}
  layer[f'ffn_down{suffix}.weight'] = (*stacked, cfg.embed, width)
  if cfg.moe:
    layer['ffn_gate_inp.weight'] = (cfg.moe.experts, cfg.embed)
  out = {'token_embd.weight': (cfg.vocab, cfg.embed), 'output_norm.weight': (cfg.embed,)}
  out |= {} if cfg.tied else {'output.weight': (cfg.vocab, cfg.embed)}
  return out | {f'blk.{n}.{name}': shape for n in range(cfg.layers) for name, shape in layer.items()}


def metadata(cfg):
  """{key: value} without the architecture, as llama.cpp's converters write it."""
  out = {
    'context_length': cfg.context,
    'embedding_length': cfg.embed,
    'block_count': cfg.layers,
    'feed_forward_length': cfg.mlp,
    'attention.head_count': cfg.heads,
    'attention.head_count_kv': cfg.kv_heads,
    'attention.key_length': cfg.head_dim,
    'attention.value_length': cfg.head_dim,
    'attention.layer_norm_rms_epsilon': cfg.norm_eps,
    'rope.freq_base': cfg.rope_theta,
    'vocab_size': cfg.vocab,
  }
  if cfg.moe:
    out |= {'expert_count': cfg.moe.experts, 'expert_used_count': cfg.moe.top_k}
    out['expert_feed_forward_length'] = cfg.moe.mlp
  return out


def random_data(rng, shape, kind):
  """(array as it lies in the file, its values in float32 or as stored): random bits, with finite scales."""
  if kind in (Kind.F32, Kind.F16):
    x = rng.normal(size=shape).astype(np.float32 if kind == Kind.F32 else np.float16)
    return x, x
  if kind == Kind.BF16:
    bits = (rng.normal(size=shape).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return bits, (bits.astype(np.uint32) << 16).view(np.float32)
  block, size = gguf.GGML_QUANT_SIZES[kind]
  data = rng.integers(0, 256, (*shape[:-1], shape[-1] // block, size), np.uint8)
  for at in SCALES[kind.name]:
    data[..., at : at + 2] = rng.normal(size=data.shape[:-1]).astype(np.float16)[..., None].view(np.uint8)
  data = data.reshape(*shape[:-1], -1)
  return data, gguf.quants.dequantize(data, kind)


def write(path, cfg, kind=Kind.F32, change=lambda fields, tensors: None):
  """Writes a random model.

  Args:
    path: the file.
    kind: of the matrices; all else is F32.
    change: function that edits {key: value} of the architecture's metadata, and {name: (array, Kind)}.

  Returns:
    {name as Hugging Face: values}.
  """
  rng, tensors, values = np.random.default_rng(0), {}, {}
  for name, shape in shapes(cfg).items():
    own = kind if len(shape) > 1 and 'gate_inp' not in name else Kind.F32
    data, values[name] = random_data(rng, shape, own)
    tensors[name] = data, own
  fields = metadata(cfg)
  change(fields, tensors)
  write_file(path, ARCHITECTURES[cfg.family], fields, tensors)
  return as_hf(cfg, values)


def write_file(path, architecture, fields, tensors, general=None):
  """Writes {key: value} of the architecture's metadata, {name: (array, Kind)}, and {key: value} of other metadata."""
  writer = gguf.GGUFWriter(path, architecture)
  named = {f'{architecture}.{key}': value for key, value in fields.items()} | (general or {})
  types = {bool: 'BOOL', int: 'UINT32', float: 'FLOAT32', str: 'STRING', list: 'ARRAY'}
  for key, value in named.items():
    writer.add_key_value(key, value, gguf.GGUFValueType[types[type(value)]])
  for name, (x, kind) in tensors.items():
    writer.add_tensor(name, x, raw_dtype=kind)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()


def as_hf(cfg, values):
  """{name as Hugging Face: values} for {name in a GGUF file: values}."""
  out = {}
  for name, x in values.items():
    layer = re.match(r'blk\.(\d+)\.', name)
    stem, suffix = name[layer.end() if layer else 0 :].rsplit('.', 1)
    if cfg.family == 'llama' and stem in ('attn_q', 'attn_k'):
      x = unpermute(x, cfg.heads if stem == 'attn_q' else cfg.kv_heads)
    target = (f'model.layers.{layer[1]}.' if layer else '') + f'{NAMES[stem]}.{suffix}'
    out |= {target.format(i): part for i, part in enumerate(x)} if '{}' in target else {target: x}
  return out


def unpermute(w, heads):
  """GGUF lays the two halves of a rotary pair side by side; Hugging Face keeps them apart."""
  rows, columns = w.shape
  return np.ascontiguousarray(w.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2)).reshape(rows, columns)


def refusal(path):
  """The one line with which opening the file fails."""
  with pytest.raises(ModelDirError) as error:
    gguf_models.open_file(path)
  message = str(error.value)
  assert '\n' not in message and message.startswith(str(path))
  return message
