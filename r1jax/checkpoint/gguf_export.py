"""Writes models as GGUF files, for llama.cpp and what is built on it."""

import contextlib
import math
import os
import pathlib
from typing import Any

import gguf
import jax
import numpy as np

from r1jax.checkpoint import gguf_models
from r1jax.checkpoint.gguf_models import LLAMA3, ROPE_FACTORS
from r1jax.checkpoint.model_dir import ModelDirError
from r1jax.gguf_files import SUFFIX, Kind
from r1jax.models.config import RopeScaling
from r1jax.tokenizers import gguf as gguf_tokenizers

QUANTIZE = {'none': None, 'q8_0': Kind.Q8_0, 'q4_0': Kind.Q4_0}
_ARCHITECTURES = {family: name for name, family in gguf_models.ARCHITECTURES.items()}
_KINDS = {'float32': Kind.F32, 'float16': Kind.F16, 'bfloat16': Kind.BF16}
_FILE_TYPE = gguf.LlamaFileType
_FILE_TYPES = {
  Kind.F32: _FILE_TYPE.ALL_F32,
  Kind.F16: _FILE_TYPE.MOSTLY_F16,
  Kind.BF16: _FILE_TYPE.MOSTLY_BF16,
  Kind.Q8_0: _FILE_TYPE.MOSTLY_Q8_0,
  Kind.Q4_0: _FILE_TYPE.MOSTLY_Q4_0,
}
_DEFAULT = RopeScaling('yarn', 1.0, 1)


def check_target(path):
  """Raises ModelDirError unless a GGUF file can be made at `path`."""
  if not str(path).endswith(SUFFIX):
    raise ModelDirError(f'{path} does not end with {SUFFIX}, by which such a file is known; choose another --output.')
  if os.path.lexists(path):
    raise ModelDirError(f'{path} already exists; remove it or choose another --output.')


def metadata(cfg, tokenizer):
  """The metadata of a GGUF file for a model and its tokenizer, {key: value}.

  Raises:
    ModelDirError, TokenizerError: GGUF, as we read it, cannot express one of them; one line.
  """
  if cfg.family not in _ARCHITECTURES or cfg.head != 'tokens':
    what = f'family {cfg.family!r}' if cfg.head == 'tokens' else 'a model that gives scores'
    raise ModelDirError(f'{what} is not written as GGUF, only language models of {", ".join(_ARCHITECTURES)}.')
  if cfg.moe and not cfg.moe.normalise:
    raise ModelDirError('norm_topk_prob = false is not written as GGUF, where the weights of the experts sum to 1.')
  out: dict[str, Any] = {
    'vocab_size': cfg.vocab,
    'context_length': cfg.context,
    'embedding_length': cfg.embed,
    'block_count': cfg.layers,
    'feed_forward_length': cfg.mlp,
    'attention.head_count': cfg.heads,
    'attention.head_count_kv': cfg.kv_heads,
    'attention.key_length': cfg.head_dim,
    'attention.value_length': cfg.head_dim,
    'attention.layer_norm_rms_epsilon': float(cfg.norm_eps),
    'rope.dimension_count': cfg.head_dim,
    'rope.freq_base': float(cfg.rope_theta),
    **(_rope(cfg.rope, cfg.family) if cfg.rope else {}),
  }
  if cfg.moe:
    out |= {'expert_count': cfg.moe.experts, 'expert_used_count': cfg.moe.top_k}
    out['expert_feed_forward_length'] = cfg.moe.mlp
  own = {f'{_ARCHITECTURES[cfg.family]}.{key}': value for key, value in out.items()}
  return own | gguf_tokenizers.fields(tokenizer, cfg.vocab)


def _rope(rope, family):
  """The metadata of a RopeScaling."""
  original = {'rope.scaling.original_context_length': rope.original_context}
  if rope.kind == 'llama3':
    if family != 'llama' or {key: getattr(rope, key) for key in LLAMA3} != LLAMA3:
      raise ModelDirError(f'Llama 3 RoPE scaling is written as GGUF only for llama, and with {LLAMA3}.')
    return original  # the rest is in a tensor
  out = {'rope.scaling.type': rope.kind, 'rope.scaling.factor': float(rope.factor)}
  if rope.kind == 'linear':
    return out
  for key in ('truncate', 'attention_factor', 'attn_factor', 'mscale', 'mscale_all_dim'):
    if getattr(rope, key) != getattr(_DEFAULT, key):
      raise ModelDirError(
        f'{key} = {getattr(rope, key)} of YaRN is not written as GGUF, only {getattr(_DEFAULT, key)}.'
      )
  betas = {f'rope.scaling.yarn_{key}': float(getattr(rope, key)) for key in ('beta_fast', 'beta_slow')}
  return out | original | betas


def save(path, cfg, params, fields, quantize='none', progress=lambda done, total: None):
  """Writes a GGUF file, under a temporary name until it is complete.

  Matrices get the type that `quantize` names, or their own dtype; what is added or multiplied elementwise, and routers,
  are F32, as llama.cpp computes with them.

  Args:
    path: the file to write.
    cfg: ModelConfig.
    params: its parameters, all addressable by this process.
    fields: what `metadata` returns.
    quantize: a key of QUANTIZE.
    progress: called with the bytes of tensors written and their total.

  Returns:
    list of the names of matrices that keep their dtype, as their rows are no whole blocks.

  Raises:
    ModelDirError: the disk is full, or the path cannot be written; nothing is left there.
  """
  check_target(path)
  path = pathlib.Path(path)
  flat = {
    jax.tree_util.keystr(key, simple=True, separator='.'): x for key, x in jax.tree_util.tree_leaves_with_path(params)
  }
  tensors = gguf_models.tensors(cfg)
  kinds = {name: _kind(parts[0], flat, QUANTIZE[quantize]) for name, parts in tensors.items()}
  writing = path.with_name(path.name + '.writing')
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(gguf.GGUFWriter(writing, _ARCHITECTURES[cfg.family])) as writer:
      _write(writer, cfg, flat, tensors, kinds, fields, progress)
    os.rename(writing, path)
  except OSError as error:
    raise ModelDirError(
      f'{path} could not be written ({error}); free some space or fix the cause, then run the same command again.'
    ) from error
  finally:
    writing.unlink(missing_ok=True)
  matrices = [name for name, parts in tensors.items() if _is_matrix(parts[0])]
  return [name for name in matrices if QUANTIZE[quantize] not in (None, kinds[name])]


def _is_matrix(part):
  """Whether a families.Tensor is multiplied with activations, and not a router."""
  return len(part.shape) == 2 and not part.leaf.endswith('.router')


def _kind(part, flat, quantized):
  """The type that a families.Tensor gets in the file."""
  if not _is_matrix(part):
    return Kind.F32
  if quantized and part.shape[-1] % gguf.GGML_QUANT_SIZES[quantized][0] == 0:
    return quantized
  return _KINDS[flat[part.leaf].dtype.name]


def _write(writer, cfg, flat, tensors, kinds, fields, progress):
  most = max(kinds.values(), key=lambda kind: sum(k == kind and _is_matrix(tensors[n][0]) for n, k in kinds.items()))
  for key, value in (fields | {'general.file_type': int(_FILE_TYPES[most])}).items():
    _add(writer, key, value)
  writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
  sizes = {}
  for name, parts in tensors.items():
    *rows, columns = gguf_models.shape_of(parts)
    block, size = gguf.GGML_QUANT_SIZES[kinds[name]]
    sizes[name] = math.prod(rows) * columns // block * size
    # The writer takes an array of bytes for one of blocks, and its shape for that of the bytes.
    shape, dtype = ((*rows, columns // block * size), np.uint8) if block > 1 else ((*rows, columns), np.float32)
    writer.add_tensor_info(name, shape, np.dtype(dtype), sizes[name], raw_dtype=kinds[name])
  factors = np.zeros(0, np.float32)
  if cfg.rope and cfg.rope.kind == 'llama3':
    factors = gguf_models.llama3_factors(cfg, cfg.rope).astype(np.float32)
    writer.add_tensor_info(ROPE_FACTORS, factors.shape, factors.dtype, factors.nbytes)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_ti_data_to_file()
  done, total = 0, sum(sizes.values())
  for name, parts in tensors.items():
    writer.write_tensor_data(_encode(_values(cfg, flat, parts), kinds[name]))
    done += sizes[name]
    progress(done, total)
  if factors.size:
    writer.write_tensor_data(factors)


def _add(writer, key, value):
  kinds = {bool: 'BOOL', int: 'UINT32', float: 'FLOAT32', str: 'STRING', list: 'ARRAY'}
  writer.add_key_value(key, value, gguf.GGUFValueType[kinds[type(value)]])


def _values(cfg, flat, parts):
  """A tensor of the file in its parameter's dtype."""
  arrays = []
  for part in parts:
    with jax.transfer_guard('allow'):
      x = np.asarray(flat[part.leaf][part.index])
    arrays.append(x.reshape(part.shape[::-1]).T if part.transposed else x.reshape(part.shape))
  x = arrays[0].reshape(gguf_models.shape_of(parts)) if len(parts) == 1 else np.stack(arrays)
  order = gguf_models.permutation(cfg, parts[0].leaf)
  return x if order is None else x[np.argsort(order)]


def _encode(x, kind):
  """The array whose bytes are the tensor's data."""
  if kind in (Kind.F16, Kind.BF16):
    return np.ascontiguousarray(x).view(np.uint16)
  x = np.ascontiguousarray(x, np.float32)
  return x if kind == Kind.F32 else gguf.quants.quantize(x, kind)
