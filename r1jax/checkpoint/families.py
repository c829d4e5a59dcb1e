"""Model families in Hugging Face format: config.json to ModelConfig and back, and the names of tensors.

One table of names serves all families: they differ only in which tensors their specs declare.
"""

import dataclasses
import logging
import math
from typing import Any

import jax
import numpy as np

from r1jax import models
from r1jax.checkpoint import config_keys
from r1jax.checkpoint.model_dir import ModelDirError
from r1jax.config import ConfigError
from r1jax.models.config import MLA, MoE, RopeScaling
from r1jax.params import is_spec

log = logging.getLogger('r1jax')

MAX_TENSORS = 1 << 18  # in a model's files; DeepSeek-V3 has 46 thousand
FAMILIES = {'llama': 'Llama', 'qwen2': 'Qwen2', 'qwen3': 'Qwen3', 'qwen3_moe': 'Qwen3Moe', 'deepseek_v3': 'DeepseekV3'}
HEADS = {'tokens': 'ForCausalLM', 'score': 'ForSequenceClassification'}
ARCHITECTURES = {
  prefix + suffix: (family, head) for family, prefix in FAMILIES.items() for head, suffix in HEADS.items()
}

# Options of these architectures that no published model uses, with the value that turns them off.
OFF = {
  'hidden_act': 'silu',
  'attention_bias': False,
  'mlp_bias': False,
  'use_sliding_window': False,
  'decoder_sparse_step': 1,
  'mlp_only_layers': [],
  'moe_layer_freq': 1,
  'rope_interleave': True,
  'scoring_func': 'sigmoid',
  'partial_rotary_factor': 1.0,
}

TOP = {
  'embed': 'model.embed_tokens.weight',
  'norm': 'model.norm.weight',
  'unembed': 'lm_head.weight',
  'score': 'score.weight',
}
LAYER = {
  'attention_norm': 'input_layernorm.weight',
  'mlp_norm': 'post_attention_layernorm.weight',
  **{f'attention.{x}': f'self_attn.{x}_proj.weight' for x in 'qkvo'},
  **{f'attention.{x}_bias': f'self_attn.{x}_proj.bias' for x in 'qkv'},
  **{f'attention.{x}_norm': f'self_attn.{x}_norm.weight' for x in 'qk'},
  'attention.q_a': 'self_attn.q_a_proj.weight',
  'attention.q_a_norm': 'self_attn.q_a_layernorm.weight',
  'attention.q_b': 'self_attn.q_b_proj.weight',
  'attention.kv_a': 'self_attn.kv_a_proj_with_mqa.weight',
  'attention.kv_a_norm': 'self_attn.kv_a_layernorm.weight',
  'attention.kv_b': 'self_attn.kv_b_proj.weight',
  **{f'mlp.{x}': f'mlp.{x}_proj.weight' for x in ('gate', 'up', 'down')},
  'moe.router': 'mlp.gate.weight',
  'moe.router_bias': 'mlp.gate.e_score_correction_bias',
  **{f'moe.{x}': f'mlp.experts.{{expert}}.{x}_proj.weight' for x in ('gate', 'up', 'down')},
  **{f'moe.shared.{x}': f'mlp.shared_experts.{x}_proj.weight' for x in ('gate', 'up', 'down')},
  # Of a layer for multi-token prediction:
  **{x: f'{x}.weight' for x in ('enorm', 'hnorm', 'eh_proj')},
  'head_norm': 'shared_head.norm.weight',
}
MTP_COPIES = {'embed_tokens.weight': 'embed', 'shared_head.head.weight': 'unembed'}  # of what it shares


@dataclasses.dataclass(frozen=True)
class Tensor:
  """One tensor of a file and the parameter it belongs to.

  Attributes:
    name: in the file.
    shape: in the file, where matrices are [out, in].
    leaf: dotted name of our parameter.
    index: into the parameter's stacked dimensions: (layer, expert), (layer,) or ().
    transposed: whether our parameter is [in, out].
  """

  name: str
  shape: tuple[int, ...]
  leaf: str
  index: tuple[int, ...]
  transposed: bool


def tensors(cfg):
  """The tensors of a model's files.

  Args:
    cfg: ModelConfig.

  Returns:
    {dotted name of the parameter: {index into its stacked dimensions: Tensor}}, in the order of our parameters.
  """
  first_layer = {'dense_layers': 0, 'layers': cfg.layers - models.layer_groups(cfg)['layers'], 'mtp': cfg.layers}
  out = {}
  for path, spec in jax.tree_util.tree_leaves_with_path(models.specs(cfg), is_leaf=is_spec):
    leaf = jax.tree_util.keystr(path, simple=True, separator='.')
    group, _, rest = leaf.partition('.')
    inner = spec.shape[spec.stacked :]
    transposed = spec.init == 'normal'
    shape = inner if spec.init == 'embedding' else (math.prod(inner),)
    if transposed:
      shape = math.prod(inner[spec.fan_in :]), math.prod(inner[: spec.fan_in])
    out[leaf] = {}
    for index in np.ndindex(spec.shape[: spec.stacked]):
      if index:
        name = f'model.layers.{first_layer[group] + index[0]}.' + LAYER[rest].format(expert=index[-1])
      else:
        name = TOP[leaf]
      out[leaf][index] = Tensor(name, shape, leaf, index, transposed)
  return out


def mtp_copies(cfg):
  """[(Tensor, name of the tensor it is a copy of)]: what layers for multi-token prediction share, as files repeat it.

  Files may lack these copies.
  """
  found = tensors(cfg)
  shared = {name: found['embed' if cfg.tied else leaf][()] for name, leaf in MTP_COPIES.items()} if cfg.mtp else {}
  return [
    (dataclasses.replace(original, name=f'model.layers.{layer}.{name}'), original.name)
    for layer in range(cfg.layers, cfg.layers + cfg.mtp)
    for name, original in shared.items()
  ]


def from_hf(config, where, stored=()):
  """The ModelConfig of a config.json.

  Args:
    config: contents of the file, a dict.
    where: its path, for messages.
    stored: names of the stored tensors, in a file or of ours. If some of these are of layers for multi-token
      prediction, those that the config declares are part of the model; else they are left out.

  Raises:
    ModelDirError: an architecture, rope type or option is not supported, or a key is missing or invalid.
  """
  try:
    return _from_hf(config, where, stored)
  except ConfigError as error:
    raise ModelDirError(f'{where}: {error}') from error
  except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
    if isinstance(error, ModelDirError):
      raise
    raise ModelDirError(f"{where}: is damaged ({error!r}); copy the model's own config.json.") from error


def _from_hf(config, where, stored):
  keys = config_keys.Keys(config, where)
  family, head = _architecture(keys)
  for key, off in OFF.items():
    if config.get(key) not in (None, off):
      keys.fail(f'{key} = {config[key]!r} is not supported, only {off!r}.')
  if set(config.get('layer_types') or []) - {'full_attention'}:
    keys.fail('layer_types other than full_attention are not supported.')
  shape: dict[str, Any] = dict(
    vocab=keys.size('vocab_size'),
    embed=keys.size('hidden_size'),
    layers=keys.size('num_hidden_layers'),
    heads=keys.size('num_attention_heads'),
    mlp=keys.size('intermediate_size'),
    context=keys.size('max_position_embeddings'),
    norm_eps=float(keys.number('rms_norm_eps', 1e-6, most=1)),
    tied=keys.flag('tie_word_embeddings', False),
    family=family,
    head=head,
    qkv_bias=family == 'qwen2',
    qk_norm=family in ('qwen3', 'qwen3_moe'),
  )
  if family == 'deepseek_v3':
    shape |= _deepseek_v3(keys, shape['heads'])
    prefixes = (f'model.layers.{shape["layers"]}.', 'params.mtp.')
    if head == 'tokens' and any(name.startswith(prefixes) for name in stored):
      shape['mtp'] = keys.size('num_nextn_predict_layers', 0, least=0)
  else:
    shape['kv_heads'] = keys.size('num_key_value_heads', shape['heads'])
    shape['head_dim'] = keys.size('head_dim', shape['embed'] // shape['heads'])
  if family == 'qwen3_moe':
    shape['moe'] = MoE(
      keys.size('num_experts'),
      keys.size('num_experts_per_tok'),
      keys.size('moe_intermediate_size'),
      normalise=keys.flag('norm_topk_prob', False),
    )
  cfg = models.ModelConfig(**shape, **_rope(keys, shape['context']))
  specs = jax.tree_util.tree_leaves(models.specs(cfg), is_leaf=is_spec)
  count = sum(math.prod(spec.shape[: spec.stacked]) for spec in specs)
  if count > MAX_TENSORS:
    keys.fail(
      f'{cfg.layers} layers{f" of {cfg.moe.experts} experts" if cfg.moe else ""} have {count} tensors, over '
      f"{MAX_TENSORS}; copy the model's own config.json."
    )
  return cfg


def _architecture(keys):
  """(family, head) of a config.json; without `architectures` they follow from its model_type."""
  config = keys.config
  name = config.get('architectures')
  name = next(iter(name), None) if isinstance(name, list) else name
  if not name and config.get('model_type') in FAMILIES:
    name = FAMILIES[config['model_type']] + HEADS['tokens']
  name = name or 'none'
  if name not in ARCHITECTURES:
    keys.fail(f'architecture {name!r} is not supported; known: {", ".join(ARCHITECTURES)}.')
  return ARCHITECTURES[name]


def _deepseek_v3(keys, heads):
  """The fields of ModelConfig for attention and experts of DeepSeek-V3."""
  mla = MLA(
    keys.size('q_lora_rank', 0),
    keys.size('kv_lora_rank'),
    keys.size('qk_nope_head_dim'),
    keys.size('qk_rope_head_dim'),
    keys.size('v_head_dim'),
  )
  moe = MoE(
    keys.size('n_routed_experts'),
    keys.size('num_experts_per_tok'),
    keys.size('moe_intermediate_size'),
    shared=keys.size('n_shared_experts', 0, least=0),
    first_dense=keys.size('first_k_dense_replace', 0, least=0),
    score='sigmoid',
    groups=keys.size('n_group'),
    top_groups=keys.size('topk_group'),
    normalise=keys.flag('norm_topk_prob', True),
    scale=float(keys.number('routed_scaling_factor', 1.0)),
  )
  return dict(mla=mla, kv_heads=heads, head_dim=mla.nope_dim + mla.rope_dim, moe=moe)


def with_architecture(config, cfg):
  """The contents of a config.json with model_type and architectures filled in. cfg: its ModelConfig."""
  return {'model_type': cfg.family} | config | {'architectures': [FAMILIES[cfg.family] + HEADS[cfg.head]]}


def prediction_layers(config):
  """How many layers for multi-token prediction follow the decoder's layers in the files."""
  key = 'num_nextn_predict_layers'
  count = config.get(key) or config.get(config_keys.RENAMED[key])
  return count if type(count) is int else 0


ROPE_REQUIRED = {'linear': ('factor',), 'llama3': ('factor', 'low_freq_factor', 'high_freq_factor'), 'yarn': ()}
ROPE_OPTIONAL = (
  'low_freq_factor',
  'high_freq_factor',
  'beta_fast',
  'beta_slow',
  'attention_factor',
  'mscale',
  'mscale_all_dim',
)
ROPE_KNOWN = {
  'rope_type',
  'type',
  'rope_theta',
  'partial_rotary_factor',
  'factor',
  'truncate',
  'original_max_position_embeddings',
  'attn_factor',
  'extrapolation_factor',
  'finetuned',
  *ROPE_OPTIONAL,
}


def _rope(keys, context) -> dict[str, Any]:
  """rope_theta and rope of a ModelConfig, from the older form of config.json or the newer (`rope_parameters`)."""
  scaling = keys.config.get('rope_parameters') or keys.config.get('rope_scaling') or {}
  kind = scaling.get('rope_type') or scaling.get('type') or 'default'
  number = keys.within(scaling).number
  theta = number('rope_theta', keys.number('rope_theta', 10_000.0, least=1), least=1)
  if scaling.get('partial_rotary_factor') not in (None, 1.0):
    keys.fail(f'partial_rotary_factor = {scaling["partial_rotary_factor"]} is not supported, only 1.0.')
  if kind == 'default':
    return dict(rope_theta=float(theta))
  if kind not in ROPE_REQUIRED:
    keys.fail(f'rope type {kind!r} is not supported; known: default, {", ".join(ROPE_REQUIRED)}.')
  original = number('original_max_position_embeddings', keys.number('original_max_position_embeddings', context))
  options: dict[str, Any] = {
    key: float(number(key)) for key in ROPE_OPTIONAL if scaling.get(key) is not None or key in ROPE_REQUIRED[kind]
  }
  if unknown := scaling.keys() - ROPE_KNOWN:
    log.warning('%s: ignoring unknown keys of rope scaling: %s.', keys.where, ', '.join(sorted(unknown)))
  if kind == 'yarn':
    options['attn_factor'] = float(number('attn_factor', 1.0))
    if number('extrapolation_factor', 1.0) != 1:
      keys.fail(f'extrapolation_factor = {scaling["extrapolation_factor"]} is not supported, only 1.')
  if scaling.get('truncate') is not None:
    options['truncate'] = number('truncate', kinds=(bool,))
  factor = number('factor') if 'factor' in ROPE_REQUIRED[kind] else number('factor', context / original)
  return dict(
    rope_theta=float(theta), rope=RopeScaling(kind, float(factor), 0 if kind == 'linear' else int(original), **options)
  )


def to_hf(cfg):
  """The contents of config.json for a ModelConfig, in the older form, which every reader understands."""
  out = {
    'architectures': [FAMILIES[cfg.family] + HEADS[cfg.head]],
    'model_type': cfg.family,
    'vocab_size': cfg.vocab,
    'hidden_size': cfg.embed,
    'num_hidden_layers': cfg.layers,
    'num_attention_heads': cfg.heads,
    'num_key_value_heads': cfg.kv_heads,
    'head_dim': cfg.head_dim,
    'intermediate_size': cfg.mlp,
    'max_position_embeddings': cfg.context,
    'rms_norm_eps': cfg.norm_eps,
    'tie_word_embeddings': cfg.tied,
    'rope_theta': cfg.rope_theta,
    'rope_scaling': None,
    'hidden_act': 'silu',
    'attention_bias': False,
    'attention_dropout': 0.0,
    'initializer_range': 0.02,
    'use_cache': True,
  }
  if cfg.family == 'qwen2':
    del out['attention_bias']
    out['use_sliding_window'] = False
  if cfg.head == 'score':
    out |= {'num_labels': 1, 'id2label': {'0': 'LABEL_0'}, 'label2id': {'LABEL_0': 0}}
  if cfg.rope:
    out['rope_scaling'] = _rope_to_hf(cfg.rope)
  if cfg.mla:
    del out['head_dim']
    out |= {
      'q_lora_rank': cfg.mla.q_rank or None,
      'kv_lora_rank': cfg.mla.kv_rank,
      'qk_nope_head_dim': cfg.mla.nope_dim,
      'qk_rope_head_dim': cfg.mla.rope_dim,
      'v_head_dim': cfg.mla.v_dim,
    }
  if cfg.moe:
    out |= _moe_to_hf(cfg.moe, cfg.family)
  if cfg.family == 'deepseek_v3':
    out['num_nextn_predict_layers'] = cfg.mtp
  return out


def _rope_to_hf(rope):
  fields = {k: v for k, v in dataclasses.asdict(rope).items() if k not in ('kind', 'original_context')}
  defaults = {f.name: f.default for f in dataclasses.fields(RopeScaling)}
  required = {'llama3': ('low_freq_factor', 'high_freq_factor')}.get(rope.kind, ())
  fields = {k: v for k, v in fields.items() if v != defaults[k] or k in required}
  if rope.original_context:
    fields['original_max_position_embeddings'] = rope.original_context
  return {'rope_type': rope.kind, **fields}


def _moe_to_hf(moe, family):
  out = {'num_experts_per_tok': moe.top_k, 'moe_intermediate_size': moe.mlp, 'norm_topk_prob': moe.normalise}
  if family != 'deepseek_v3':
    return out | {'num_experts': moe.experts, 'decoder_sparse_step': 1, 'mlp_only_layers': []}
  return out | {
    'n_routed_experts': moe.experts,
    'n_shared_experts': moe.shared,
    'first_k_dense_replace': moe.first_dense,
    'n_group': moe.groups,
    'topk_group': moe.top_groups,
    'routed_scaling_factor': moe.scale,
    'scoring_func': 'sigmoid',
    'topk_method': 'noaux_tc',
    'moe_layer_freq': 1,
  }


def for_export(config, dtype, mtp=0):
  """config.json of a model that is exported: not quantised, with as many layers for multi-token prediction as it has.

  Args:
    config: contents of the config.json that the model came from, or the result of `to_hf`.
    dtype: name of the parameters' dtype.
    mtp: of its ModelConfig.
  """
  dropped = {'quantization_config', 'dtype', 'torch_dtype'}
  config = {key: value for key, value in config.items() if key not in dropped}
  prediction = {key: mtp for key in config.keys() & {'num_nextn_predict_layers', 'num_mtp_layers'}}
  return config | prediction | {'torch_dtype': dtype}
