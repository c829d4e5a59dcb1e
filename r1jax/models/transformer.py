"""The decoder: one forward for training, prefill and decoding.

Tokens lie as [P, G, T]: P prompts, G continuations of each (G = 1 for a plain batch). A continuation
attends to its prompt's keys and values, computed once for the group, and to itself.

Layers are stored stacked, in one or two groups: 'layers', and before them 'dense_layers' where only later layers have
experts. Keys and values are kept likewise: {group: KV stacked over layers}, or, unstacked, {group: list of KV}. A layer
for multi-token prediction is a group of its own, 'mtp', which only `predict_ahead` runs.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from r1jax import params as params_lib
from r1jax.models import attention as attention_lib
from r1jax.models import layout, lora, mla, quantized
from r1jax.models import remat as remat_lib
from r1jax.models.attention import extend
from r1jax.models.causal import Attention, attention_masks, cached_attention, causal_attention
from r1jax.models.config import ModelConfig
from r1jax.models.layers import linear, mlp, mlp_specs, rms_norm, rope_tables
from r1jax.models.moe import FLOAT32_PARAMS, moe, moe_specs
from r1jax.models.options import DEFAULTS, ForwardOptions
from r1jax.params import Spec
from r1jax.typed import Array, Bool, Float, Int, UInt, typed

SCAN_CHUNK = 16  # layers of one scan, where they are stored unstacked


class Output(NamedTuple):
  """What a pass over tokens gives.

  Attributes:
    hidden: final hidden states, normalised, in the computation's dtype: [P, G, T, embed].
    kv: the tokens' own keys and values, {layer group: KV}; with a cache, the cache with the tokens written to it.
    expert_load: f32[MoE layers, experts], tokens sent to each expert; None without experts.
    params: the parameters, unchanged, to hand on to the next pass (see `remat.scan`).
    experts: uint[P, G, MoE layers, top_k, T] in MoE.index_dtype, those that each token was sent to; None without
      ForwardOptions.return_experts. Tokens come last, as devices pad an array's last dimensions.
  """

  hidden: Float[Array, '...']
  kv: dict
  expert_load: Float[Array, 'layers experts'] | None
  params: dict
  experts: UInt[Array, '...'] | None = None


class Cached(NamedTuple):
  """Keys and values to attend to, and how many of their positions are real.

  Attributes:
    kv: {layer group: KV}. length: i32[P] of a prompt's, shared by its group; i32[] of a cache.
    begin: i32[P], the first real position of a cache; 0 where None.
  """

  kv: dict
  length: Array
  begin: Array | None = None


def layer_groups(cfg):
  """{layer group: number of layers}, in order."""
  if not cfg.moe:
    return {'layers': cfg.layers}
  dense = {'dense_layers': cfg.dense_layers} if cfg.dense_layers else {}
  return dense | {'layers': cfg.layers - cfg.dense_layers}


def specs(cfg, stacked=True):
  """Parameter specs; layers stacked on a leading axis, or in lists as `unstack` gives them (without 'mtp')."""
  layer = {
    'attention_norm': Spec((cfg.embed,), ('norm',), 'ones'),
    'attention': mla.mla_specs(cfg) if cfg.mla else attention_lib.attention_specs(cfg),
    'mlp_norm': Spec((cfg.embed,), ('norm',), 'ones'),
  }
  dense = {'mlp': mlp_specs(cfg.embed, cfg.mlp)}
  tree = {'embed': Spec((cfg.vocab, cfg.embed), ('vocab', 'embed'), 'embedding')}
  for group, layers in layer_groups(cfg).items():
    one = layer | ({'moe': moe_specs(cfg)} if cfg.moe and group == 'layers' else dense)
    tree[group] = params_lib.stack(one, layers) if stacked else [one] * layers
  if cfg.mtp and stacked:
    norms = {name: layer['mlp_norm'] for name in ('enorm', 'hnorm', 'head_norm')}
    project = {'eh_proj': Spec((2 * cfg.embed, cfg.embed), ('embed', 'mlp'))}
    tree['mtp'] = params_lib.stack(one | norms | project, cfg.mtp)  # otherwise as the last of the other layers
  tree['norm'] = Spec((cfg.embed,), ('norm',), 'ones')
  if cfg.head == 'score':
    tree['score'] = Spec((cfg.embed, 1), ('embed', 'norm'))
  elif not cfg.tied:
    tree['unembed'] = Spec((cfg.embed, cfg.vocab), ('embed', 'vocab'))
  return tree


def unstack(params):
  """The same parameters with the layers in lists, for a forward without scan, and without 'mtp'.

  XLA on CPU copies a layer's slice out of the stack on every pass; a decode loop would copy the
  whole model for every token.
  """
  split = lambda group: [jax.tree.map(lambda x, i=i: x[i], group) for i in range(len(group['mlp_norm']))]
  groups = {name: split(params[name]) for name in ('dense_layers', 'layers') if name in params}
  return {name: x for name, x in params.items() if name != 'mtp'} | groups


def unembedding(params):
  """[vocab, embed]: a tied table as it lies, since a transposed copy would cost as much memory again."""
  return params['unembed'].T if 'unembed' in params else params['embed']


@typed
def forward(
  params: dict,
  cfg: ModelConfig,
  tokens: Int[Array, 'p g t'],
  positions: Int[Array, 'p g t'],
  *,
  prefix: Cached | None = None,
  cache: Cached | None = None,
  real: Bool[Array, 'p g t'] | None = None,
  segments: Int[Array, 'p g t'] | None = None,
  experts: UInt[Array, 'p g l k t'] | None = None,
  options: ForwardOptions = DEFAULTS,
) -> Output:
  """One pass over tokens.

  Args:
    params: as `specs`, or as `unstack` returns; the KV of prefix and cache are then lists of one KV a layer.
    tokens: i32[P, G, T].
    positions: i32[P, G, T].
    prefix: Cached of the prompts, as `prefill` returns their KV, and lengths i32[P]; or None.
    cache: Cached of own KV of S tokens, those decoded before with room for these, and length i32[]; or None.
    real: bool[P, G, T], which tokens count in the experts' load; all where None.
    segments: i32[P, G, T], equal for tokens of one text, which attend to each other only (see `data.packing`); not
      with prefix or cache. None where each row is one text.
    experts: as in Output, those that each token is sent to (see `moe.route`); None: each router chooses.
    options: ForwardOptions.

  Returns:
    Output. Tokens after a row's end cannot influence those before it, so padding needs no mask.
  """
  decoding, dtype, mesh = cache is not None, jnp.dtype(options.dtype), options.mesh
  x = _embed(params['embed'], tokens, dtype, mesh)
  x = x if decoding else layout.residual(x, mesh)
  attention = Attention(options.attention, mesh)
  block = functools.partial(_block, cfg, specs(cfg), dtype, attention, options.return_experts)
  masks = _masks(attention, tokens.shape[2], prefix, cache, dtype, segments)
  shared = (rope_tables(positions, cfg), masks, None if cache is None else cache.length, real)
  kvs, routed = {}, (None, None)
  for group in layer_groups(cfg):
    before, own = (None if cached is None else cached.kv[group] for cached in (prefix, cache))
    replayed = None if experts is None or group != 'layers' else jnp.moveaxis(experts, 2, 0)
    if isinstance(params[group], list):
      more = before, own, None if replayed is None else list(replayed)
      x, out = (_run_unrolled if decoding else _scan_in_chunks)(block, params[group], x, more, shared)
      kvs[group] = [kv for kv, _ in out]
      routed = jax.tree.map(lambda *xs: jnp.stack(xs), *[routed for _, routed in out])
    else:
      layers = before, own, replayed
      weights, x, (kvs[group], routed) = remat_lib.scan(block, options.remat, params[group], x, layers, shared)
      params = params | {group: weights}
  x = layout.weight_stationary(x, mesh) if decoding else layout.gather_features(x, mesh)
  load, chosen = routed
  chosen = None if chosen is None else jnp.moveaxis(chosen, 0, 2)
  return Output(rms_norm(params['norm'], x, cfg.norm_eps), kvs, load, params, chosen)


@typed
def predict_ahead(
  params: dict,
  cfg: ModelConfig,
  hidden: Float[Array, 'p g t embed'],
  tokens: Int[Array, 'p g t'],
  positions: Int[Array, 'p g t'],
  *,
  real: Bool[Array, 'p g t'] | None = None,
  segments: Int[Array, 'p g t'] | None = None,
  options: ForwardOptions = DEFAULTS,
) -> Output:
  """Runs the layer for multi-token prediction behind the others (DeepSeek-V3, section 2.2, equations 21 to 23).

  Position t joins its hidden state with the embedding of the token at t + 1, to predict the token at t + 2 by the
  model's own unembedding. As in published files and what runs them, the embedding comes first, and the hidden state
  is that after the last norm (equation 21 has them the other way round).

  Args:
    params: as `forward` returned them; of a model with cfg.mtp == 1.
    hidden: as `forward` gives it for these tokens.
    tokens, positions, segments, options: as for `forward`. What a row's last position gives is undefined.
    real: bool[P, G, T], which positions count in the experts' load; all where None.

  Returns:
    Output, whose `kv` is empty and whose `expert_load` has one row.
  """
  dtype, mesh = jnp.dtype(options.dtype), options.mesh
  tree: dict = specs(cfg)
  attention = Attention(options.attention, mesh)
  own = ('enorm', 'hnorm', 'eh_proj', 'head_norm')

  def block(x, layer, shared):
    p, embedded = layer
    normed = [rms_norm(p['enorm'], embedded, cfg.norm_eps), rms_norm(p['hnorm'], x, cfg.norm_eps)]
    eh_proj = layout.gather(p['eh_proj'].astype(dtype), tree['mtp']['eh_proj'], mesh)
    x = layout.residual(linear(jnp.concatenate(normed, axis=-1), eh_proj), mesh)
    weights = {name: w for name, w in p.items() if name not in own}
    x, (_, (load, _)) = _block(cfg, tree, dtype, attention, False, x, (weights, None, None, None), shared)
    return x, load

  embedded = _embed(params['embed'], jnp.roll(tokens, -1, axis=-1), dtype, mesh)
  masks = _masks(attention, tokens.shape[2], None, None, dtype, segments)
  shared = (rope_tables(positions, cfg), masks, None, real)
  more = (layout.gather_features(embedded, mesh)[None],)
  weights, x, load = remat_lib.scan(block, options.remat, params['mtp'], hidden, more, shared)
  x = rms_norm(weights['head_norm'][0], layout.gather_features(x, mesh), cfg.norm_eps)
  return Output(x, {}, load, params | {'mtp': weights})


def _run_unrolled(block, layers, x, more, shared):
  """Runs x through unstacked layers, one after the other.

  Args:
    more: tuple of lists, of something for each layer, or None.

  Returns:
    x, and a list of what each layer gives.
  """
  outs = []
  for layer in zip(layers, *(each or [None] * len(layers) for each in more)):
    x, out = block(x, layer, shared)
    outs.append(out)
  return x, outs


def _scan_in_chunks(block, layers, x, more, shared):
  """`_run_unrolled` by scans over SCAN_CHUNK layers, stacked for it: unrolled, XLA compiles a prefill for minutes."""
  outs = []
  for first in range(0, len(layers), SCAN_CHUNK):
    # The barrier keeps a chunk from being stacked before its turn.
    chunk = [each and each[first : first + SCAN_CHUNK] for each in (layers, *more)]
    x, chunk = jax.lax.optimization_barrier((x, chunk))
    stacked = [each and jax.tree.map(lambda *xs: jnp.stack(xs), *each) for each in chunk]
    x, out = jax.lax.scan(lambda x, layer: block(x, layer, shared), x, tuple(stacked))
    outs += [jax.tree.map(lambda x, i=i: x[i], out) for i in range(len(layers[first : first + SCAN_CHUNK]))]
  return x, outs


def _masks(attention, t, prefix, cache, dtype, segments):
  """The attention masks of the prefix's keys and of the own ones; see `causal.attention_masks`."""
  keys, length = (0, None) if prefix is None else (_keys(prefix.kv), prefix.length)
  if cache is None:
    return attention_masks(attention, t, keys, length, dtype, segments)
  places = jnp.arange(_keys(cache.kv))
  own = (places <= cache.length + jnp.arange(t)[:, None])[None, None]
  if cache.begin is not None:
    own &= (places >= cache.begin[:, None])[:, None, None]
  return None if length is None else (jnp.arange(keys) < length[:, None])[:, None, None], own


def _block(cfg, tree, dtype, attention, return_experts, x, layer, shared):
  """One layer. layer: (weights, prefix, cache, replayed experts); shared: what all layers are given."""
  p, prefix, cache, replayed = layer
  tables, (prefix_mask, own_mask), cache_length, real = shared
  mesh = attention.mesh
  p = lora.merge(quantized.multiply_out(p, dtype))
  if cache is None:
    p = layout.prevent_cast_hoisting(p, p['attention_norm'], dtype, mesh)
  p = jax.tree_util.tree_map_with_path(lambda at, w: w if at[-1].key in FLOAT32_PARAMS else w.astype(dtype), p)
  if cache is None:
    whole, residual = (functools.partial(f, mesh=mesh) for f in (layout.gather_features, layout.residual))
    p = layout.gather(p, tree['layers' if 'moe' in p or 'dense_layers' not in tree else 'dense_layers'], mesh)
    mix = functools.partial(causal_attention, attention=attention)
  else:
    whole = residual = functools.partial(layout.weight_stationary, mesh=mesh)
    mix = functools.partial(cached_attention, mesh=mesh)
  mixer, options = (mla, {'absorbed': cache is not None}) if cfg.mla else (attention_lib, {})
  q, kv = mixer.project(p['attention'], cfg, whole(rms_norm(p['attention_norm'], x, cfg.norm_eps)), tables)
  q, kv = remat_lib.name((q, kv), 'qkv')
  parts = [(prefix, prefix_mask)] if prefix is not None else []
  kv = kv if cache is None else extend(cache, kv, cache_length)
  x = residual(x + mixer.attend(p['attention'], cfg, q, [*parts, (kv, own_mask)], mix, **options))
  x = remat_lib.name(x, 'residual')
  h = whole(rms_norm(p['mlp_norm'], x, cfg.norm_eps))
  if 'moe' not in p:
    return residual(x + mlp(p['mlp'], h)), (kv, (None, None))
  replayed = None if replayed is None else replayed.swapaxes(-1, -2)
  y, load, experts = moe(p['moe'], cfg.moe, h, real, mesh, cache is not None, replayed)
  chosen = experts.swapaxes(-1, -2).astype(cfg.moe.index_dtype) if return_experts else None
  return residual(x + y), (kv, (load, chosen))


def _embed(table, tokens, dtype, mesh):
  """Token embeddings, in `dtype`. On a mesh every device looks all tokens up in its own shard of the table.

  Returns:
    [P, G, T, embed], as `layout.weight_stationary` has it.
  """
  if mesh is None or mesh.size == 1:
    return table[tokens].astype(dtype)
  tokens = layout.constrain(tokens, mesh, layout.DATA)
  return layout.weight_stationary(table[tokens].astype(dtype), mesh)


def _keys(kv):
  """Number of key positions of a {layer group: KV}."""
  return jax.tree.leaves(kv['layers'])[0].shape[-1]


@typed
def prefill(
  params: dict,
  cfg: ModelConfig,
  tokens: Int[Array, 'p t'],
  lengths: Int[Array, ' p'],
  options: ForwardOptions = DEFAULTS,
  experts: UInt[Array, 'p l k t'] | None = None,
) -> Output:
  """Runs prompts once, for the groups that continue them.

  Args:
    tokens: i32[P, Tp], right-padded.
    lengths: i32[P], at least 1.
    options: ForwardOptions.
    experts: those that each token is sent to, as in `forward`, but for G; or None.

  Returns:
    Output whose `hidden` is that of each prompt's last token, [P, embed], and whose `kv` is the `prefix` of `forward`;
    `experts` is without G.
  """
  positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
  real = (positions < lengths[:, None])[:, None]
  experts = None if experts is None else experts[:, None]
  out = forward(params, cfg, tokens[:, None], positions[:, None], real=real, experts=experts, options=options)
  last = jnp.take_along_axis(out.hidden[:, 0], (lengths - 1)[:, None, None], axis=1)[:, 0]
  chosen = None if out.experts is None else out.experts[:, 0]
  return out._replace(hidden=last, kv=jax.tree.map(lambda x: x.squeeze(-3), out.kv), experts=chosen)


@typed
def response_hidden(
  params: dict,
  cfg: ModelConfig,
  prompts: Int[Array, 'p tp'],
  prompt_lengths: Int[Array, ' p'],
  responses: Int[Array, 'p g t'],
  lengths: Int[Array, 'p g'] | None = None,
  options: ForwardOptions = DEFAULTS,
  experts: tuple | None = None,
) -> Output:
  """Hidden states that predict each response token, the prompt run once for its group.

  Args:
    prompts: i32[P, Tp], prompt_lengths: i32[P], responses: i32[P, G, T].
    lengths: i32[P, G], tokens of each response that count in the experts' load; all where None.
    options: ForwardOptions.
    experts: those that the tokens of prompts, uint[P, MoE layers, top_k, Tp], and of responses, uint[P, G, MoE layers,
      top_k, T], are sent to, except a response's last token, of which they mean nothing; or None.

  Returns:
    Output whose `kv` is empty; position t of `hidden` predicts responses[..., t], and `experts` are those of the
    responses' first T - 1 tokens.
  """
  p, g, t = responses.shape
  of_prompts, of_responses = experts or (None, None)
  prompt = prefill(params, cfg, prompts, prompt_lengths, options, of_prompts)
  last = jnp.broadcast_to(prompt.hidden[:, None, None], (p, g, 1, prompt.hidden.shape[-1]))
  positions = jnp.broadcast_to(prompt_lengths[:, None, None] + jnp.arange(t - 1), (p, g, t - 1))
  # The sampler has not run a response's last token: where its experts are replayed, it has none.
  ends = lengths if lengths is None or experts is None else lengths - 1
  real = None if ends is None else jnp.arange(t - 1) < ends[..., None]
  out = forward(
    prompt.params,
    cfg,
    responses[:, :, :-1],
    positions,
    prefix=Cached(prompt.kv, prompt_lengths),
    real=real,
    experts=None if of_responses is None else of_responses[..., :-1],
    options=options,
  )
  load = None
  if prompt.expert_load is not None and out.expert_load is not None:
    load = prompt.expert_load + out.expert_load
  return Output(jnp.concatenate([last, out.hidden], axis=2), {}, load, out.params, out.experts)
