"""The decoder: one forward for training, prefill and decoding.

Tokens lie as [P, G, T]: P prompts, G continuations of each (G = 1 for a plain batch). A continuation
attends to its prompt's keys and values, computed once for the group, and to itself.

Layers are stored stacked, in one or two runs: 'dense_layers' where a mixture of experts begins later, and 'layers'.
Keys and values are kept likewise: {run: KV stacked over its layers}, or, with `unstack`, {run: one KV a layer}.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from r1jax import params as params_lib
from r1jax.models import attention as attention_lib
from r1jax.models import layout, mla
from r1jax.models import remat as remat_lib
from r1jax.models.attention import extend
from r1jax.models.causal import Attention, cached_attention, causal_attention, seen
from r1jax.models.layers import mlp, mlp_specs, rms_norm, rope_tables
from r1jax.models.moe import FLOAT32_PARAMS, moe, moe_specs
from r1jax.params import Spec

SCAN_CHUNK = 16  # layers of a loop, where they are stored apart


class Output(NamedTuple):
  """What a pass over tokens gives.

  Attributes:
    hidden: final hidden states, normalised, in the computation's dtype: [P, G, T, embed].
    kv: the tokens' own keys and values, {layer group: KV}; with a cache, the cache with the tokens written to it.
    expert_load: f32[MoE layers, experts], tokens sent to each expert; None without experts.
    params: the parameters, unchanged, to hand on to the next pass (see `remat.scan`).
  """

  hidden: jax.Array
  kv: dict | None
  expert_load: jax.Array | None
  params: dict


def layer_groups(cfg):
  """{run: number of layers}, in order."""
  if not cfg.moe:
    return {'layers': cfg.layers}
  dense = {'dense_layers': cfg.dense_layers} if cfg.dense_layers else {}
  return dense | {'layers': cfg.layers - cfg.dense_layers}


def specs(cfg, stacked=True):
  """Parameter specs; layers stacked on a leading axis, or in lists as `unstack` gives them."""
  layer = {
    'attention_norm': Spec((cfg.embed,), ('norm',), 'ones'),
    'attention': mla.mla_specs(cfg) if cfg.mla else attention_lib.attention_specs(cfg),
    'mlp_norm': Spec((cfg.embed,), ('norm',), 'ones'),
  }
  dense = {'mlp': mlp_specs(cfg.embed, cfg.mlp)}
  tree = {'embed': Spec((cfg.vocab, cfg.embed), ('vocab', 'embed'), 'embedding')}
  for run, layers in layer_groups(cfg).items():
    mixed = cfg.moe and run == 'layers'
    one = layer | ({'moe': moe_specs(cfg)} if mixed else dense)
    tree[run] = params_lib.stack(one, layers) if stacked else [one] * layers
  tree['norm'] = Spec((cfg.embed,), ('norm',), 'ones')
  if cfg.head == 'score':
    tree['score'] = Spec((cfg.embed, 1), ('embed', 'norm'))
  elif not cfg.tied:
    tree['unembed'] = Spec((cfg.embed, cfg.vocab), ('embed', 'vocab'))
  return tree


def unstack(params):
  """The same parameters with each layer's on its own, for a forward without scan.

  XLA on CPU copies a layer's slice out of the stack on every pass; a decode loop would copy the
  whole model for every token.
  """
  split = lambda run: [jax.tree.map(lambda x, i=i: x[i], run) for i in range(len(run['mlp_norm']))]
  return params | {run: split(params[run]) for run in ('dense_layers', 'layers') if run in params}


def unembedding(params):
  """[embed, vocab]."""
  return params['unembed'] if 'unembed' in params else params['embed'].T


def forward(
  params,
  cfg,
  tokens,
  positions,
  *,
  prefix=None,
  prefix_length=None,
  cache=None,
  cache_length=None,
  real=None,
  segments=None,
  dtype=jnp.float32,
  remat='none',
  attention='auto',
  mesh=None,
):
  """One pass over tokens.

  Args:
    params: as `specs`, or as `unstack` returns; prefix and cache are then lists of one KV a layer.
    tokens: i32[P, G, T].
    positions: i32[P, G, T].
    prefix: {run: shared KV} (see `attention.KV`), as `prefill` returns it; or None.
    prefix_length: i32[P], how many of the prefix's keys are real.
    cache: {run: own KV} of S tokens with the tokens decoded before and room for these; or None.
    cache_length: i32[], how many of the cache's keys are real.
    real: bool[P, G, T], which tokens count in the experts' load; all where None.
    segments: i32[P, G, T], equal for tokens of one text: those of another are not seen (see `data.packing`). Without
      prefix and cache; None where each row is one text.
    dtype: of the computation.
    remat: a key of `remat.POLICIES`, what is kept of each layer for the backward pass.
    attention: a key of `causal.IMPLEMENTATIONS` for attention without a cache, or 'auto'.
    mesh: the devices that the work is laid out over; None leaves it to the compiler.

  Returns:
    Output. Tokens after a row's end cannot influence those before it, so padding needs no mask.
  """
  decoding = cache is not None
  x = _embed(params['embed'], tokens, dtype, mesh)
  x = x if decoding else layout.residual(x, mesh)
  how = Attention(attention, mesh)
  block = functools.partial(_block, cfg, specs(cfg), dtype, how)
  parts = _seen(how, tokens.shape[2], prefix, prefix_length, cache, cache_length, dtype, segments)
  shared = (rope_tables(positions, cfg), parts, cache_length, real)
  kvs, load = {}, None
  for run in layer_groups(cfg):
    before, own = (None if kv is None else kv[run] for kv in (prefix, cache))
    if isinstance(params[run], list):
      x, out = (_run_unrolled if decoding else _scan_in_chunks)(block, params[run], x, (before, own), shared)
      kvs[run] = [kv for kv, _ in out]
      load = jnp.stack([load for _, load in out]) if out[0][1] is not None else None
    else:
      weights, x, (kvs[run], load) = remat_lib.scan(block, remat, params[run], x, (before, own), shared)
      params = params | {run: weights}
  x = layout.stationary(x, mesh) if decoding else layout.whole(x, mesh)
  return Output(rms_norm(params['norm'], x, cfg.norm_eps), kvs, load, params)


def _run_unrolled(block, layers, x, more, shared):
  """Runs x through layers that lie apart. more: tuple of lists or None. Returns x and what each layer gives."""
  out = []
  for layer in zip(layers, *(of or [None] * len(layers) for of in more)):
    x, found = block(x, layer, shared)
    out.append(found)
  return x, out


def _scan_in_chunks(block, layers, x, more, shared):
  """`_run_unrolled` by scans over SCAN_CHUNK layers, stacked for it: unrolled, XLA compiles a prefill for minutes."""
  out = []
  for at in range(0, len(layers), SCAN_CHUNK):
    # Copied when the loop's turn comes, not before.
    x, some = jax.lax.optimization_barrier((x, [of and of[at : at + SCAN_CHUNK] for of in (layers, *more)]))
    some = [of and jax.tree.map(lambda *xs: jnp.stack(xs), *of) for of in some]
    x, found = jax.lax.scan(lambda x, layer: block(x, layer, shared), x, tuple(some))
    out += [jax.tree.map(lambda x, i=i: x[i], found) for i in range(len(layers[at : at + SCAN_CHUNK]))]
  return x, out


def _seen(how, t, prefix, prefix_length, cache, cache_length, dtype, segments):
  """What goes with the prefix's KV, and with the own one, in the parts for attention; see `_block`."""
  keys = 0 if prefix is None else _keys(prefix)
  if cache is None:
    return seen(how, t, keys, prefix_length if keys else None, dtype, segments)
  own = (jnp.arange(_keys(cache)) <= cache_length + jnp.arange(t)[:, None])[None, None]
  return (jnp.arange(keys) < prefix_length[:, None])[:, None, None] if keys else None, own


def _block(cfg, tree, dtype, how, x, layer, shared):
  """One layer. layer: (weights, prefix, cache); shared: what all layers see."""
  p, prefix, cache = layer
  tables, (seen_prefix, seen_own), cache_length, real = shared
  mesh = how.mesh
  if cache is None:
    p = layout.one_layer(p, p['attention_norm'], dtype, mesh)
  p = jax.tree_util.tree_map_with_path(lambda at, w: w if at[-1].key in FLOAT32_PARAMS else w.astype(dtype), p)
  mixer, options = (mla, {'absorbed': cache is not None}) if cfg.mla else (attention_lib, {})
  if cache is None:
    whole, residual = (functools.partial(f, mesh=mesh) for f in (layout.whole, layout.residual))
    p = layout.gather(p, tree['layers' if 'moe' in p or 'dense_layers' not in tree else 'dense_layers'], mesh)
    options['mix'] = functools.partial(causal_attention, how=how)
  else:
    whole = residual = functools.partial(layout.stationary, mesh=mesh)
    options['mix'] = functools.partial(cached_attention, mesh=mesh)
  q, kv = mixer.project(p['attention'], cfg, whole(rms_norm(p['attention_norm'], x, cfg.norm_eps)), tables)
  q, kv = remat_lib.name((q, kv), 'qkv')
  parts = [(prefix, seen_prefix)] if prefix is not None else []
  kv = kv if cache is None else extend(cache, kv, cache_length)
  x = residual(x + mixer.attend(p['attention'], cfg, q, [*parts, (kv, seen_own)], **options))
  h = whole(rms_norm(p['mlp_norm'], x, cfg.norm_eps))
  y, load = moe(p['moe'], cfg.moe, h, real, mesh, cache is not None) if 'moe' in p else (mlp(p['mlp'], h), None)
  return residual(x + y), (kv, load)


def _embed(table, tokens, dtype, mesh):
  """Rows of the table, in `dtype`. On a mesh every device looks all tokens up in its own part of the table.

  Returns:
    [P, G, T, embed], as `layout.stationary` has it.
  """
  if mesh is None or mesh.size == 1:
    return table[tokens].astype(dtype)
  tokens = layout.constrain(tokens, mesh, layout.DATA)
  return layout.stationary(table[tokens].astype(dtype), mesh)


def _keys(kv):
  """Number of key positions of a {run: KV}."""
  return jax.tree.leaves(kv['layers'])[0].shape[-1]


def prefill(params, cfg, tokens, lengths, **options):
  """Runs prompts once, for the groups that continue them.

  Args:
    tokens: i32[P, Tp], right-padded.
    lengths: i32[P], at least 1.
    options: as of `forward`.

  Returns:
    Output whose `hidden` is that of each prompt's last token, [P, embed], and whose `kv` is the `prefix` of `forward`.
  """
  positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
  real = (positions < lengths[:, None])[:, None]
  out = forward(params, cfg, tokens[:, None], positions[:, None], real=real, **options)
  last = jnp.take_along_axis(out.hidden[:, 0], (lengths - 1)[:, None, None], axis=1)[:, 0]
  return out._replace(hidden=last, kv=jax.tree.map(lambda x: x.squeeze(-3), out.kv))


def response_hidden(params, cfg, prompts, prompt_lengths, responses, lengths=None, **options):
  """Hidden states that predict each response token, the prompt run once for its group.

  Args:
    prompts: i32[P, Tp], prompt_lengths: i32[P], responses: i32[P, G, T].
    lengths: i32[P, G], tokens of each response that count in the experts' load; all where None.
    options: as of `forward`.

  Returns:
    Output without `kv`; position t of `hidden` predicts responses[..., t].
  """
  p, g, t = responses.shape
  prompt = prefill(params, cfg, prompts, prompt_lengths, **options)
  last = jnp.broadcast_to(prompt.hidden[:, None, None], (p, g, 1, prompt.hidden.shape[-1]))
  positions = jnp.broadcast_to(prompt_lengths[:, None, None] + jnp.arange(t - 1), (p, g, t - 1))
  real = None if lengths is None else jnp.arange(t - 1) < lengths[..., None]
  out = forward(
    prompt.params,
    cfg,
    responses[:, :, :-1],
    positions,
    prefix=prompt.kv,
    prefix_length=prompt_lengths,
    real=real,
    **options,
  )
  load = None if out.expert_load is None else prompt.expert_load + out.expert_load
  return Output(jnp.concatenate([last, out.hidden], axis=2), None, load, out.params)
