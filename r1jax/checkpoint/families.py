"""Model families as Hugging Face files describe them: config.json to ModelConfig and back, and tensor names.

One table of names serves all families: they differ in which tensors their specs declare.
"""
import dataclasses
import math

import jax
import numpy as np

from r1jax import models
from r1jax.checkpoint.model_dir import ModelDirError
from r1jax.config import ConfigError
from r1jax.models.config import MLA, MoE, RopeScaling
from r1jax.params import is_spec

FAMILIES = {'llama': 'Llama', 'qwen2': 'Qwen2', 'qwen3': 'Qwen3', 'qwen3_moe': 'Qwen3Moe', 'deepseek_v3': 'DeepseekV3'}
HEADS = {'tokens': 'ForCausalLM', 'score': 'ForSequenceClassification'}
ARCHITECTURES = {prefix + suffix: (family, head)
                 for family, prefix in FAMILIES.items() for head, suffix in HEADS.items()}

# Options of these architectures that no published model of theirs uses, and the value that leaves them off.
OFF = {'hidden_act': 'silu', 'attention_bias': False, 'mlp_bias': False, 'use_sliding_window': False,
       'decoder_sparse_step': 1, 'mlp_only_layers': [], 'moe_layer_freq': 1, 'rope_interleave': True,
       'scoring_func': 'sigmoid', 'partial_rotary_factor': 1.0}

# Keys that transformers 5 writes under another name.
RENAMED = {'num_experts': 'num_local_experts', 'n_routed_experts': 'num_local_experts',
           'num_nextn_predict_layers': 'num_mtp_layers'}

TOP = {'embed': 'model.embed_tokens.weight', 'norm': 'model.norm.weight', 'unembed': 'lm_head.weight',
       'score': 'score.weight'}
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
  first = {'dense_layers': 0, 'layers': cfg.layers - models.runs(cfg)['layers']}
  out = {}
  for path, spec in jax.tree_util.tree_leaves_with_path(models.specs(cfg), is_leaf=is_spec):
    leaf = jax.tree_util.keystr(path, simple=True, separator='.')
    run, _, rest = leaf.partition('.')
    inner = spec.shape[spec.stacked:]
    transposed = spec.init == 'normal'
    shape = inner if spec.init == 'embedding' else (math.prod(inner),)
    if transposed:
      shape = math.prod(inner[spec.fan_in:]), math.prod(inner[:spec.fan_in])
    out[leaf] = {}
    for at in np.ndindex(spec.shape[:spec.stacked]):
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
    raise ModelDirError(f"{where} is damaged ({error!r}); copy the model's own config.json.") from error


def _from_hf(config, where):
  def fail(message):
    raise ModelDirError(f'{where}: {message}')

  def get(key, *default):
    key = key if config.get(key) is not None else RENAMED.get(key, key)
    if config.get(key) is None and not default:
      fail(f"'{key}' is missing; copy the model's own config.json.")
    value = config[key] if config.get(key) is not None else default[0]
    kind = type(default[0]) if default else int
    if not isinstance(value, (int, float) if kind is float else kind) or isinstance(value, bool) != (kind is bool):
      fail(f"'{key}' is {value!r}, which is no {kind.__name__}; copy the model's own config.json.")
    if kind is int and value < (0 if default == (0,) else 1):
      fail(f"'{key}' is {value}, which is too small; copy the model's own config.json.")
    return value

  named = (config.get('architectures') or ['none'])[0]
  if named not in ARCHITECTURES:
    fail(f'architecture {named!r} is not supported; known: {", ".join(ARCHITECTURES)}.')
  family, head = ARCHITECTURES[named]
  for key, off in OFF.items():
    if config.get(key) not in (None, off):
      fail(f'{key} = {config[key]!r} is not supported, only {off!r}.')
  if set(config.get('layer_types') or []) - {'full_attention'}:
    fail('layer_types other than full_attention are not supported.')
  shape = dict(
      vocab=get('vocab_size'), embed=get('hidden_size'), layers=get('num_hidden_layers'),
      heads=get('num_attention_heads'), mlp=get('intermediate_size'), context=get('max_position_embeddings'),
      norm_eps=float(get('rms_norm_eps', 1e-6)), tied=get('tie_word_embeddings', False), family=family, head=head,
      qkv_bias=family == 'qwen2', qk_norm=family in ('qwen3', 'qwen3_moe'))
  if family == 'deepseek_v3':
    mla = MLA(get('q_lora_rank', 0), get('kv_lora_rank'), get('qk_nope_head_dim'), get('qk_rope_head_dim'),
              get('v_head_dim'))
    shape |= dict(mla=mla, kv_heads=shape['heads'], head_dim=mla.nope_dim + mla.rope_dim)
    shape['moe'] = MoE(
        get('n_routed_experts'), get('num_experts_per_tok'), get('moe_intermediate_size'),
        shared=get('n_shared_experts', 0), first_dense=get('first_k_dense_replace', 0), score='sigmoid',
        groups=get('n_group'), top_groups=get('topk_group'), normalise=get('norm_topk_prob', True),
        scale=float(get('routed_scaling_factor', 1.0)))
  else:
    shape |= dict(kv_heads=get('num_key_value_heads', shape['heads']),
                  head_dim=get('head_dim', shape['embed'] // shape['heads']))
  if family == 'qwen3_moe':
    shape['moe'] = MoE(get('num_experts'), get('num_experts_per_tok'), get('moe_intermediate_size'),
                       normalise=get('norm_topk_prob', False))
  return models.ModelConfig(**shape, **_rope(config, shape['context'], fail))


def prediction_layers(config):
  """How many layers for multi-token prediction follow the decoder's in the files."""
  key = 'num_nextn_predict_layers'
  found = config.get(key) or config.get(RENAMED[key])
  return found if type(found) is int else 0


def _rope(config, context, fail):
  """rope_theta and rope of a ModelConfig, from the older form of config.json or the newer (`rope_parameters`)."""
  found = config.get('rope_parameters') or config.get('rope_scaling') or {}
  kind = found.get('rope_type') or found.get('type') or 'default'
  theta = float(found.get('rope_theta') or config.get('rope_theta') or 10_000.0)
  if found.get('partial_rotary_factor') not in (None, 1.0):
    fail(f'partial_rotary_factor = {found["partial_rotary_factor"]} is not supported, only 1.0.')
  if kind == 'default':
    return dict(rope_theta=theta)
  if kind not in ('linear', 'llama3', 'yarn'):
    fail(f'rope type {kind!r} is not supported; known: default, linear, llama3, yarn.')
  original = found.get('original_max_position_embeddings') or config.get('original_max_position_embeddings') or context
  known = {'low_freq_factor', 'high_freq_factor', 'beta_fast', 'beta_slow', 'truncate', 'attention_factor', 'mscale',
           'mscale_all_dim'}
  more = {key: found[key] for key in known if found.get(key) is not None}
  return dict(rope_theta=theta, rope=RopeScaling(kind, float(found.get('factor') or context / original),
                                                 0 if kind == 'linear' else int(original), **more))


def to_hf(cfg):
  """The contents of config.json for a ModelConfig, in the older form, which all readers know."""
  out = {
      'architectures': [FAMILIES[cfg.family] + HEADS[cfg.head]], 'model_type': cfg.family, 'vocab_size': cfg.vocab,
      'hidden_size': cfg.embed, 'num_hidden_layers': cfg.layers, 'num_attention_heads': cfg.heads,
      'num_key_value_heads': cfg.kv_heads, 'head_dim': cfg.head_dim, 'intermediate_size': cfg.mlp,
      'max_position_embeddings': cfg.context, 'rms_norm_eps': cfg.norm_eps, 'tie_word_embeddings': cfg.tied,
      'rope_theta': cfg.rope_theta, 'rope_scaling': None, 'hidden_act': 'silu', 'attention_bias': False,
      'attention_dropout': 0.0, 'initializer_range': 0.02, 'use_cache': True}
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
    out |= {'q_lora_rank': m.q_rank or None, 'kv_lora_rank': m.kv_rank, 'qk_nope_head_dim': m.nope_dim,
            'qk_rope_head_dim': m.rope_dim, 'v_head_dim': m.v_dim}
  if cfg.moe:
    m = cfg.moe
    out |= {'num_experts_per_tok': m.top_k, 'moe_intermediate_size': m.mlp, 'norm_topk_prob': m.normalise}
    if cfg.family == 'deepseek_v3':
      out |= {'n_routed_experts': m.experts, 'n_shared_experts': m.shared, 'first_k_dense_replace': m.first_dense,
              'n_group': m.groups, 'topk_group': m.top_groups, 'routed_scaling_factor': m.scale,
              'scoring_func': 'sigmoid', 'topk_method': 'noaux_tc', 'moe_layer_freq': 1, 'num_nextn_predict_layers': 0}
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
