"""Model families as Hugging Face files describe them: config.json to ModelConfig and back, and tensor names.

One table of names serves all families: they differ in which tensors their specs declare.
"""

import dataclasses
import logging
import math

import jax
import numpy as np

from r1jax import models
from r1jax.checkpoint.model_dir import ModelDirError
from r1jax.config import ConfigError
from r1jax.models.config import MLA, MoE, RopeScaling
from r1jax.params import is_spec

log = logging.getLogger('r1jax')

MOST_TENSORS = 1 << 18  # of a model's files; DeepSeek-V3 has 46 thousand
FAMILIES = {'llama': 'Llama', 'qwen2': 'Qwen2', 'qwen3': 'Qwen3', 'qwen3_moe': 'Qwen3Moe', 'deepseek_v3': 'DeepseekV3'}
HEADS = {'tokens': 'ForCausalLM', 'score': 'ForSequenceClassification'}
ARCHITECTURES = {
  prefix + suffix: (family, head) for family, prefix in FAMILIES.items() for head, suffix in HEADS.items()
}

# Options of these architectures that no published model of theirs uses, and the value that leaves them off.
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

# Keys that transformers 5 writes under another name.
RENAMED = {
  'num_experts': 'num_local_experts',
  'n_routed_experts': 'num_local_experts',
  'num_nextn_predict_layers': 'num_mtp_layers',
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
}


@dataclasses.dataclass(frozen=True)
class Tensor:
  """One tensor of a file and its place among our parameters.

  Attributes:
    name: in the file.
    shape: in the file: matrices lie as [out, in].
    leaf: dotted name of ours; at: index on its stacked dimensions, (layer, expert), (layer,) or ().
    transposed: whether ours is [in, out].
  """

  name: str
  shape: tuple[int, ...]
  leaf: str
  at: tuple[int, ...]
  transposed: bool


def tensors(cfg):
  """{dotted name of ours: {index on its stacked dimensions: Tensor}}, in our order."""
  first = {'dense_layers': 0, 'layers': cfg.layers - models.layer_groups(cfg)['layers']}
  out = {}
  for path, spec in jax.tree_util.tree_leaves_with_path(models.specs(cfg), is_leaf=is_spec):
    leaf = jax.tree_util.keystr(path, simple=True, separator='.')
    run, _, rest = leaf.partition('.')
    inner = spec.shape[spec.stacked :]
    transposed = spec.init == 'normal'
    shape = inner if spec.init == 'embedding' else (math.prod(inner),)
    if transposed:
      shape = math.prod(inner[spec.fan_in :]), math.prod(inner[: spec.fan_in])
    out[leaf] = {}
    for at in np.ndindex(spec.shape[: spec.stacked]):
      name = f'model.layers.{first[run] + at[0]}.' + LAYER[rest].format(expert=at[-1]) if at else TOP[leaf]
      out[leaf][at] = Tensor(name, shape, leaf, at, transposed)
  return out


def from_hf(config, where):
  """ModelConfig from the contents of a config.json.

  Args:
    config: dict. where: its path, for messages.

  Raises:
    ModelDirError: an architecture, rope type or option that is not supported, or a key that is missing or bad.
  """
  try:
    return _from_hf(config, where)
  except ConfigError as error:
    raise ModelDirError(f'{where}: {error}') from error
  except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
    if isinstance(error, ModelDirError):
      raise
    raise ModelDirError(f"{where}: is damaged ({error!r}); copy the model's own config.json.") from error


def _from_hf(config, where):
  def fail(message):
    raise ModelDirError(f'{where}: {message}')

  named = config.get('architectures')
  named = named[0] if isinstance(named, list) and named else named
  if not named and config.get('model_type') in FAMILIES:
    named = FAMILIES[config['model_type']] + HEADS['tokens']
  named = named or 'none'
  if named not in ARCHITECTURES:
    fail(f'architecture {named!r} is not supported; known: {", ".join(ARCHITECTURES)}.')
  family, head = ARCHITECTURES[named]
  for key, off in OFF.items():
    if config.get(key) not in (None, off):
      fail(f'{key} = {config[key]!r} is not supported, only {off!r}.')
  if set(config.get('layer_types') or []) - {'full_attention'}:
    fail('layer_types other than full_attention are not supported.')
  size = lambda key, *default, least=1: _number(config, key, fail, *default, kinds=(int,), least=least)
  flag = lambda key, default: _number(config, key, fail, default, kinds=(bool,), least=0)
  shape = dict(
    vocab=size('vocab_size'),
    embed=size('hidden_size'),
    layers=size('num_hidden_layers'),
    heads=size('num_attention_heads'),
    mlp=size('intermediate_size'),
    context=size('max_position_embeddings'),
    norm_eps=float(_number(config, 'rms_norm_eps', fail, 1e-6, most=1)),
    tied=flag('tie_word_embeddings', False),
    family=family,
    head=head,
    qkv_bias=family == 'qwen2',
    qk_norm=family in ('qwen3', 'qwen3_moe'),
  )
  if family == 'deepseek_v3':
    mla = MLA(
      size('q_lora_rank', 0),
      size('kv_lora_rank'),
      size('qk_nope_head_dim'),
      size('qk_rope_head_dim'),
      size('v_head_dim'),
    )
    shape |= dict(mla=mla, kv_heads=shape['heads'], head_dim=mla.nope_dim + mla.rope_dim)
    shape['moe'] = MoE(
      size('n_routed_experts'),
      size('num_experts_per_tok'),
      size('moe_intermediate_size'),
      shared=size('n_shared_experts', 0, least=0),
      first_dense=size('first_k_dense_replace', 0, least=0),
      score='sigmoid',
      groups=size('n_group'),
      top_groups=size('topk_group'),
      normalise=flag('norm_topk_prob', True),
      scale=float(_number(config, 'routed_scaling_factor', fail, 1.0)),
    )
  else:
    shape |= dict(
      kv_heads=size('num_key_value_heads', shape['heads']), head_dim=size('head_dim', shape['embed'] // shape['heads'])
    )
  if family == 'qwen3_moe':
    shape['moe'] = MoE(
      size('num_experts'),
      size('num_experts_per_tok'),
      size('moe_intermediate_size'),
      normalise=flag('norm_topk_prob', False),
    )
  cfg = models.ModelConfig(**shape, **_rope(config, shape['context'], fail, where))
  specs = jax.tree_util.tree_leaves(models.specs(cfg), is_leaf=is_spec)
  count = sum(math.prod(spec.shape[: spec.stacked]) for spec in specs)
  if count > MOST_TENSORS:
    fail(
      f'{cfg.layers} layers{f" of {cfg.moe.experts} experts" if cfg.moe else ""} have {count} tensors, over '
      f"{MOST_TENSORS}; copy the model's own config.json."
    )
  return cfg


def named(config, cfg):
  """The contents of a config.json with the architecture in it, which it may lack. cfg: its ModelConfig."""
  return {'model_type': cfg.family} | config | {'architectures': [FAMILIES[cfg.family] + HEADS[cfg.head]]}


def _number(config, key, fail, *default, kinds=(int, float), least=0, most=math.inf):
  """config[key], or the default where it is absent or null: finite, of one of `kinds` and from `least` to `most`."""
  value = config.get(key)
  value = config.get(RENAMED.get(key)) if value is None else value
  if value is None:
    return default[0] if default else fail(f"'{key}' is missing; copy the model's own config.json.")
  most = min(most, (1 << 31) - 1) if kinds == (int,) else most
  if type(value) not in kinds or not least <= value <= most or not math.isfinite(value):
    fail(
      f"'{key}' is {repr(value)[:100]}, which is no {kinds[-1].__name__} of at least {least}"
      f"{'' if most == math.inf else f' and at most {most}'}; copy the model's own config.json."
    )
  return value


def prediction_layers(config):
  """How many layers for multi-token prediction follow the decoder's in the files."""
  key = 'num_nextn_predict_layers'
  found = config.get(key) or config.get(RENAMED[key])
  return found if type(found) is int else 0


def _rope(config, context, fail, where):
  """rope_theta and rope of a ModelConfig, from the older form of config.json or the newer (`rope_parameters`)."""
  found = config.get('rope_parameters') or config.get('rope_scaling') or {}
  kind = found.get('rope_type') or found.get('type') or 'default'
  theta = _number(found, 'rope_theta', fail, _number(config, 'rope_theta', fail, 10_000.0, least=1), least=1)
  if found.get('partial_rotary_factor') not in (None, 1.0):
    fail(f'partial_rotary_factor = {found["partial_rotary_factor"]} is not supported, only 1.0.')
  if kind == 'default':
    return dict(rope_theta=float(theta))
  needed = {'linear': ('factor',), 'llama3': ('factor', 'low_freq_factor', 'high_freq_factor'), 'yarn': ()}
  if kind not in needed:
    fail(f'rope type {kind!r} is not supported; known: default, {", ".join(needed)}.')
  number = lambda key, *default: _number(found, key, fail, *default)
  original = number(
    'original_max_position_embeddings', _number(config, 'original_max_position_embeddings', fail, context)
  )
  optional = (
    'low_freq_factor',
    'high_freq_factor',
    'beta_fast',
    'beta_slow',
    'attention_factor',
    'mscale',
    'mscale_all_dim',
  )
  more = {key: float(number(key)) for key in optional if found.get(key) is not None or key in needed[kind]}
  unknown = found.keys() - {
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
    *optional,
  }
  if unknown:
    log.warning(
      '%s: rope scaling has %s, which is not known and counts for nothing.', where, ', '.join(sorted(unknown))
    )
  if kind == 'yarn':
    more['attn_factor'] = float(number('attn_factor', 1.0))
    if number('extrapolation_factor', 1.0) != 1:
      fail(f'extrapolation_factor = {found["extrapolation_factor"]} is not supported, only 1.')
  if found.get('truncate') is not None:
    more['truncate'] = _number(found, 'truncate', fail, kinds=(bool,))
  factor = number('factor') if 'factor' in needed[kind] else number('factor', context / original)
  return dict(
    rope_theta=float(theta), rope=RopeScaling(kind, float(factor), 0 if kind == 'linear' else int(original), **more)
  )


def to_hf(cfg):
  """The contents of config.json for a ModelConfig, in the older form, which all readers know."""
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
    fields = {k: v for k, v in dataclasses.asdict(cfg.rope).items() if k not in ('kind', 'original_context')}
    unset = {f.name: f.default for f in dataclasses.fields(RopeScaling)}
    own = {'llama3': ('low_freq_factor', 'high_freq_factor')}.get(cfg.rope.kind, ())
    fields = {k: v for k, v in fields.items() if v != unset[k] or k in own}
    if cfg.rope.original_context:
      fields['original_max_position_embeddings'] = cfg.rope.original_context
    out['rope_scaling'] = {'rope_type': cfg.rope.kind, **fields}
  if cfg.mla:
    m = cfg.mla
    del out['head_dim']
    out |= {
      'q_lora_rank': m.q_rank or None,
      'kv_lora_rank': m.kv_rank,
      'qk_nope_head_dim': m.nope_dim,
      'qk_rope_head_dim': m.rope_dim,
      'v_head_dim': m.v_dim,
    }
  if cfg.moe:
    m = cfg.moe
    out |= {'num_experts_per_tok': m.top_k, 'moe_intermediate_size': m.mlp, 'norm_topk_prob': m.normalise}
    if cfg.family == 'deepseek_v3':
      out |= {
        'n_routed_experts': m.experts,
        'n_shared_experts': m.shared,
        'first_k_dense_replace': m.first_dense,
        'n_group': m.groups,
        'topk_group': m.top_groups,
        'routed_scaling_factor': m.scale,
        'scoring_func': 'sigmoid',
        'topk_method': 'noaux_tc',
        'moe_layer_freq': 1,
        'num_nextn_predict_layers': 0,
      }
    else:
      out |= {'num_experts': m.experts, 'decoder_sparse_step': 1, 'mlp_only_layers': []}
  return out


def for_export(config, dtype):
  """config.json of a model written here: in `dtype` (its name), not quantised, no layers for multi-token prediction.

  config: the contents of the config.json it came from, or what `to_hf` gives.
  """
  gone = {'quantization_config', 'dtype', 'torch_dtype'}
  config = {key: value for key, value in config.items() if key not in gone}
  prediction = {key: 0 for key in config.keys() & {'num_nextn_predict_layers', 'num_mtp_layers'}}
  return config | prediction | {'torch_dtype': dtype}
