"""Models as GGUF files (llama.cpp): their metadata as a config.json, and their tensors as parameters.

The names and shapes are those of llama.cpp's converters. `families` describes the same tensors as Hugging Face names
them, and `hf` reads them into sharded arrays.
"""

import contextlib
import dataclasses
import logging
import math
import os
import re
import threading
from typing import Any

import gguf
import numpy as np

from r1jax import gguf_files
from r1jax.checkpoint import families, hf, safetensors_files
from r1jax.checkpoint.model_dir import ModelDirError
from r1jax.models.config import RopeScaling

log = logging.getLogger('r1jax')

ARCHITECTURES = {'llama': 'llama', 'qwen2': 'qwen2', 'qwen3': 'qwen3', 'qwen3moe': 'qwen3_moe'}  # to a family
TOP = {'embed': 'token_embd.weight', 'norm': 'output_norm.weight', 'unembed': 'output.weight'}
LAYER = {
  'attention_norm': 'attn_norm.weight',
  'mlp_norm': 'ffn_norm.weight',
  **{f'attention.{x}': f'attn_{x}.weight' for x in 'qkv'},
  **{f'attention.{x}_bias': f'attn_{x}.bias' for x in 'qkv'},
  **{f'attention.{x}_norm': f'attn_{x}_norm.weight' for x in 'qk'},
  'attention.o': 'attn_output.weight',
  **{f'mlp.{x}': f'ffn_{x}.weight' for x in ('gate', 'up', 'down')},
  'moe.router': 'ffn_gate_inp.weight',
  **{f'moe.{x}': f'ffn_{x}_exps.weight' for x in ('gate', 'up', 'down')},
}
ROPE_FACTORS = 'rope_freqs.weight'  # f32[head_dim / 2]: what Llama 3's RoPE scaling divides each frequency by
# Of every published model. They are not in the file, only what follows from them.
LLAMA3: dict[str, Any] = dict(low_freq_factor=1.0, high_freq_factor=4.0)
LLAMA3_CONTEXT = 8192  # what these were first trained on, where the file does not say

# Metadata of an architecture that are keys of a config.json.
_SIZES = {
  'embedding_length': 'hidden_size',
  'block_count': 'num_hidden_layers',
  'attention.head_count': 'num_attention_heads',
  'attention.head_count_kv': 'num_key_value_heads',
  'attention.key_length': 'head_dim',
  'feed_forward_length': 'intermediate_size',
  'context_length': 'max_position_embeddings',
  'attention.layer_norm_rms_epsilon': 'rms_norm_eps',
  'rope.freq_base': 'rope_theta',
}
_REQUIRED = [key for key in _SIZES if key not in ('attention.head_count_kv', 'attention.key_length', 'rope.freq_base')]
_EXPERTS = {
  'expert_count': 'num_experts',
  'expert_used_count': 'num_experts_per_tok',
  'expert_feed_forward_length': 'moe_intermediate_size',
}
_ROPE = ('type', 'factor', 'original_context_length', 'yarn_beta_fast', 'yarn_beta_slow')
_CHECKED = ('vocab_size', 'rope.dimension_count', 'attention.value_length', 'rope.scale_linear')
# What changes the model in a way that we do not compute, with the value that turns it off.
_OFF = {
  **dict.fromkeys(
    ('attention.scale', 'attention.clamp_kqv', 'attention.max_alibi_bias', 'attention.sliding_window'), 0
  ),
  **dict.fromkeys(('attn_logit_softcapping', 'final_logit_softcapping', 'router_logit_softcapping'), 0),
  **dict.fromkeys(('expert_shared_count', 'leading_dense_block_count', 'rope.scaling.yarn_log_multiplier'), 0),
  **dict.fromkeys(('logit_scale', 'embedding_scale', 'residual_scale', 'expert_weights_scale'), 1),
  **dict.fromkeys((f'rope.scaling.{key}' for key in ('attn_factor', 'yarn_attn_factor', 'yarn_ext_factor')), 1),
  'attention.causal': True,
}
_VALUES = 1 << 20  # dequantised at a time
_STORED = {gguf_files.Kind.F32: 'F32', gguf_files.Kind.F16: 'F16', gguf_files.Kind.BF16: 'BF16'}


def read(path):
  """Reads the header of a GGUF file.

  Returns:
    gguf_files.File; contents of a config.json; ModelConfig.

  Raises:
    ModelDirError: the file is damaged, or its architecture or its metadata is not supported.
  """
  file = gguf_files.read(path, ModelDirError)
  return file, *_config(file)


def open_file(path):
  """Like `read`, and raises ModelDirError with the first problems that `check` finds."""
  file, config, cfg = read(path)
  if problems := check(file, cfg):
    more = f' and {len(problems) - 4} more (scripts/convert import --check lists them)' if len(problems) > 4 else ''
    raise ModelDirError(f'{path} does not match its metadata: {"; ".join(problems[:4])}{more}; fetch it again.')
  return file, config, cfg


def _config(file):
  """(contents of a config.json, ModelConfig) of a GGUF file's metadata."""
  fields, where = file.fields, file.path
  name = fields.get('general.architecture')
  if not isinstance(name, str) or name not in ARCHITECTURES:
    known = ', '.join(ARCHITECTURES)
    raise ModelDirError(f'{where}: architecture {name!r:.100} is not supported; known in GGUF: {known}.')
  if fields.get('split.count') not in (None, 0, 1):
    raise ModelDirError(f'{where} is one of {fields["split.count"]!r:.20} parts; merge them with llama-gguf-split.')
  own = {key.removeprefix(f'{name}.'): value for key, value in fields.items() if key.startswith(f'{name}.')}
  _check_supported(own, where)
  required = [key for key in _REQUIRED if key not in own]
  if required:
    raise ModelDirError(f'{where}: {name}.{required[0]} is missing; fetch it again.')
  family, names = ARCHITECTURES[name], _SIZES | (_EXPERTS if name == 'qwen3moe' else {})
  config = {
    'architectures': [families.FAMILIES[family] + families.HEADS['tokens']],
    'model_type': family,
    **{names[key]: value for key, value in own.items() if key in names},
    'vocab_size': file.tensors[TOP['embed']].shape[0] if TOP['embed'] in file.tensors else own.get('vocab_size'),
    'tie_word_embeddings': TOP['unembed'] not in file.tensors,
    'hidden_act': 'silu',
  }
  if name == 'qwen3moe':
    config['norm_topk_prob'] = True
  for key in ('bos_token_id', 'eos_token_id'):
    if type(value := fields.get(f'tokenizer.ggml.{key}')) is int:
      config[key] = value
  if scaling := _scaling(own):
    config['rope_scaling'] = scaling
  cfg = families.from_hf(config, where)
  for key in ('rope.dimension_count', 'attention.value_length'):
    if own.get(key) not in (None, cfg.head_dim):
      raise ModelDirError(f'{where}: {key} is {own[key]!r:.100}, but heads have {cfg.head_dim}; not supported.')
  if ROPE_FACTORS in file.tensors:
    config['rope_scaling'] = _llama3(file, cfg, own)
    cfg = families.from_hf(config, where)
  return config, cfg


def _check_supported(own, where):
  """Raises ModelDirError for metadata that changes the model in a way we do not compute; warns of unknown keys."""
  window, context = own.get('attention.sliding_window'), own.get('context_length')
  if isinstance(window, int) and isinstance(context, int) and window >= context:
    own = own | {'attention.sliding_window': 0}  # no window at all
  for key, off in _OFF.items():
    if own.get(key, off) != off:
      raise ModelDirError(f'{where}: {key} = {own[key]!r:.100} is not supported, only {off}; use another model.')
  known = {*_SIZES, *_EXPERTS, *_CHECKED, *_OFF, *(f'rope.scaling.{key}' for key in _ROPE)}
  if unknown := own.keys() - known:
    log.warning('%s: ignoring unknown metadata: %s.', where, repr(sorted(unknown))[:500])


def _scaling(own):
  """`rope_scaling` of a config.json, or None. Without a type it is linear, as in llama.cpp."""
  rope = {key: own[f'rope.scaling.{key}'] for key in _ROPE if f'rope.scaling.{key}' in own}
  rope.setdefault('factor', own.get('rope.scale_linear', 1.0))
  kind = rope.get('type', 'linear')
  if kind == 'none' or (kind == 'linear' and rope['factor'] in (0, 1)):
    return None
  if kind == 'linear':
    return {'rope_type': kind, 'factor': rope['factor']}
  names = {
    'factor': 'factor',
    'original_context_length': 'original_max_position_embeddings',
    'yarn_beta_fast': 'beta_fast',
    'yarn_beta_slow': 'beta_slow',
  }
  return {'rope_type': kind} | {names[key]: value for key, value in rope.items() if key in names}


def _llama3(file, cfg, own):
  """`rope_scaling` of Llama 3 from the factors that the file has. Raises ModelDirError if they are others."""
  tensor = file.tensors[ROPE_FACTORS]
  original = own.get('rope.scaling.original_context_length', LLAMA3_CONTEXT)
  where = f'{file.path}: {ROPE_FACTORS}'
  if tensor.kind != gguf_files.Kind.F32 or tensor.shape != (cfg.head_dim // 2,):
    found = f'{tensor.kind.name}{list(tensor.shape)}'
    raise ModelDirError(f'{where} is {found}, not F32[{cfg.head_dim // 2}]; use another model.')
  if cfg.family != 'llama' or cfg.rope or type(original) is not int or original < 1:
    raise ModelDirError(f'{where} is there beside another RoPE scaling, or in another family; not supported.')
  with contextlib.closing(Reader(file)) as reader:
    values = reader.values(tensor, 0, 1)[0]
  factor = float(str(values[-1]))
  if not math.isfinite(factor) or factor < 1:
    raise ModelDirError(f'{where} ends with {factor}, not a factor of at least 1; fetch the file again.')
  if not np.allclose(values, llama3_factors(cfg, RopeScaling('llama3', factor, original, **LLAMA3)), rtol=1e-4, atol=0):
    raise ModelDirError(
      f"{where} holds other factors than Llama 3's ({factor} from {original} tokens on); not supported, use another "
      'model.'
    )
  return {'rope_type': 'llama3', 'factor': factor, **LLAMA3, 'original_max_position_embeddings': original}


def llama3_factors(cfg, rope):
  """f64[head_dim / 2]: what Llama 3's scaling divides each frequency by.

  Args:
    cfg: ModelConfig, for theta and the size of heads.
    rope: RopeScaling of kind 'llama3'.
  """
  rotations = rope.original_context * cfg.rope_theta ** -(np.arange(0, cfg.head_dim, 2) / cfg.head_dim) / (2 * np.pi)
  share = (rotations - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
  share = np.clip(share, 0, 1)  # of the unscaled frequency
  return 1 / ((1 - share) / rope.factor + share)


def tensors(cfg):
  """{name in a GGUF file: [families.Tensor]}: one, or one for each expert."""
  out = {}
  for leaf, by_index in families.tensors(cfg).items():
    for tensor in by_index.values():
      layer = re.match(r'model\.layers\.(\d+)\.', tensor.name)
      name = f'blk.{layer[1]}.{LAYER[leaf.partition(".")[2]]}' if layer else TOP[leaf]
      out.setdefault(name, []).append(tensor)
  return out


def shape_of(parts):
  """Shape in the file of a tensor that `tensors` names."""
  stacked = (len(parts),) if len(parts[0].index) > 1 else ()
  return stacked + parts[0].shape


def check(file, cfg):
  """Compares a file's tensors with those of its metadata; returns a list of problems, one phrase for each tensor."""
  expected = {name: shape_of(parts) for name, parts in tensors(cfg).items()}
  known = expected.keys() | {ROPE_FACTORS}
  return [
    *(f'{name} is missing' for name in sorted(expected.keys() - file.tensors.keys())),
    *(f'{name[:100]!r} is unexpected' for name in sorted(file.tensors.keys() - known)),
    *(
      f'{name} has shape {list(file.tensors[name].shape)}, not {list(expected[name])}'
      for name in sorted(expected.keys() & file.tensors.keys())
      if file.tensors[name].shape != expected[name]
    ),
  ]


def permutation(cfg, leaf):
  """Which row of a GGUF file each row of a Hugging Face file is, or None if they are the same.

  For llama, GGUF lays the two halves of a rotary pair side by side, and Hugging Face keeps them apart.
  """
  heads = {'attention.q': cfg.heads, 'attention.k': cfg.kv_heads}.get(leaf.partition('.')[2])
  if cfg.family != 'llama' or not heads:
    return None
  return np.arange(heads * cfg.head_dim).reshape(heads, cfg.head_dim // 2, 2).swapaxes(1, 2).reshape(-1)


@dataclasses.dataclass(frozen=True, eq=False)
class Entry:
  """Where a tensor of `families` is stored.

  Attributes:
    dtype: in safetensors' notation, F32 for quantised types.
    first: row of `tensor`, as a matrix, where it begins: experts lie one after the other.
    order: see `permutation`.
  """

  tensor: gguf_files.Tensor
  dtype: str
  first: int
  order: np.ndarray | None


def entries(file, cfg):
  """{name, as in `families`: Entry} of a file that `check` found in order."""
  out = {}
  for name, parts in tensors(cfg).items():
    tensor = file.tensors[name]
    for n, part in enumerate(parts):
      rows = part.shape[0] if len(part.shape) > 1 else 1
      out[part.name] = Entry(tensor, _STORED.get(tensor.kind, 'F32'), n * rows, permutation(cfg, part.leaf))
  return out


class Reader:
  """Reads parts of tensors; several threads may share one. Attribute `bytes`: how many were read so far."""

  def __init__(self, file):
    self._path, self._file, self._lock = file.path, os.open(file.path, os.O_RDONLY), threading.Lock()
    self.bytes = 0

  def read(self, entry, rows, parts):
    """Like `safetensors_files.Reader.read`; whole rows are read, as their blocks lie along them."""
    step = max(1, _VALUES // entry.tensor.shape[-1])
    for first in range(rows[0], rows[1], step):
      last = min(first + step, rows[1])
      order = np.arange(first, last) if entry.order is None else entry.order[first:last]
      low, high = int(order.min()), int(order.max()) + 1
      values = self.values(entry.tensor, entry.first + low, entry.first + high)
      values = values if entry.order is None else values[order - low]
      for (start, stop), part in parts:
        safetensors_files.copy(values[:, start:stop], part[first - rows[0] : last - rows[0]])

  def values(self, tensor, first, last):
    """Rows of a tensor, as a matrix, in the dtype it is stored in; float32 for quantised types."""
    buffer = bytearray((last - first) * tensor.row_bytes)
    done = 0
    while done < len(buffer):
      count = os.preadv(self._file, [memoryview(buffer)[done:]], tensor.start + first * tensor.row_bytes + done)
      if not count:
        raise ModelDirError(f'{self._path} ended while tensor {tensor.name} was read; fetch it again.')
      done += count
    with self._lock:
      self.bytes += done
    data = np.frombuffer(buffer, np.uint8).reshape(last - first, tensor.row_bytes)
    if tensor.kind in _STORED:
      return data.view(safetensors_files.DTYPES[_STORED[tensor.kind]])
    return gguf.quants.dequantize(data, tensor.kind)

  def close(self):
    os.close(self._file)


def load(file, cfg, abstract, progress=lambda done, total: None):
  """Reads a file's parameters with the shardings and dtypes of `abstract`, as `hf.load` does."""
  with contextlib.closing(Reader(file)) as reader:
    return hf.read_all(reader, entries(file, cfg), cfg, abstract, progress)
