"""The decoder: one forward for training, prefill and decoding.

Tokens lie as [P, G, T]: P prompts, G continuations of each (G = 1 for a plain batch). A continuation
attends to its prompt's keys and values, computed once for the group, and to itself.

Layers are stored stacked, in one or two runs: 'dense_layers' where a mixture of experts begins later, and 'layers'.
Keys and values are kept likewise: {run: KV stacked over its layers}, or, with `unstack`, {run: one KV a layer}.
"""
import jax
import jax.numpy as jnp

from r1jax import params as params_lib
from r1jax.models import attention, mla
from r1jax.models.attention import extend
from r1jax.models.layers import mlp, mlp_specs, rms_norm, rope_tables
from r1jax.models.moe import EXACT, moe, moe_specs
from r1jax.params import Spec


def runs(cfg):
  """{run: number of layers}, in order."""
  if not cfg.moe:
    return {'layers': cfg.layers}
  dense = {'dense_layers': cfg.dense_layers} if cfg.dense_layers else {}
  return dense | {'layers': cfg.layers - cfg.dense_layers}


def specs(cfg):
  """Parameter specs; layers stacked on a leading axis."""
  layer = {'attention_norm': Spec((cfg.embed,), ('norm',), 'ones'),
           'attention': mla.mla_specs(cfg) if cfg.mla else attention.attention_specs(cfg),
           'mlp_norm': Spec((cfg.embed,), ('norm',), 'ones')}
  dense = {'mlp': mlp_specs(cfg.embed, cfg.mlp)}
  tree = {'embed': Spec((cfg.vocab, cfg.embed), ('vocab', 'embed'), 'embedding')}
  for run, layers in runs(cfg).items():
    mixed = cfg.moe and run == 'layers'
    tree[run] = params_lib.stack(layer | ({'moe': moe_specs(cfg)} if mixed else dense), layers)
  tree['norm'] = Spec((cfg.embed,), ('norm',), 'ones')
  if cfg.head == 'score':
    tree['score'] = Spec((cfg.embed, 1), ('embed', 'norm'))
  elif not cfg.tied:
    tree['unembed'] = Spec((cfg.embed, cfg.vocab), ('embed', 'vocab'))
  return tree


def active(cfg):
  """How many parameters a token meets: all but the experts that it does not visit."""
  m = cfg.moe
  idle = (m.experts - m.top_k) * 3 * cfg.embed * m.mlp * (cfg.layers - cfg.dense_layers) if m else 0
  return params_lib.count(specs(cfg)) - idle


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


def forward(params, cfg, tokens, positions, *, prefix=None, prefix_length=None, cache=None, cache_length=None,
            real=None, dtype=jnp.float32, remat=False):
  """Final hidden states and the keys and values of `tokens`.

  Args:
    params: as `specs`, or as `unstack` returns; prefix and cache are then lists of one KV a layer.
    tokens: i32[P, G, T].
    positions: i32[P, G, T].
    prefix: {run: shared KV} (see `attention.KV`), as `prefill` returns it; or None.
    prefix_length: i32[P], how many of the prefix's keys are real.
    cache: {run: own KV} of S tokens with the tokens decoded before and room for these; or None.
    cache_length: i32[], how many of the cache's keys are real.
    real: bool[P, G, T], which tokens count in the load of experts; all where None.
    dtype: of the computation.
    remat: recompute each layer in the backward pass.

  Returns:
    hidden [P, G, T, embed], normalised, in `dtype`; the tokens' own KV, {run: KV} (with a cache: the cache with the
    tokens written to it); and the load of experts f32[layers with a mixture, experts], None where there are none.
    Tokens after a row's end cannot influence those before it, so padding needs no mask.
  """
  t = tokens.shape[2]
  if cache is None:
    seen = jnp.tril(jnp.ones((t, t), bool))[None, None]
  else:
    seen = (jnp.arange(_keys(cache)) <= cache_length + jnp.arange(t)[:, None])[None, None]
  seen_prefix = None if prefix is None else (jnp.arange(_keys(prefix)) < prefix_length[:, None])[:, None, None]
  tables = rope_tables(positions, cfg)
  mixer, options = (mla, {'absorbed': cache is not None}) if cfg.mla else (attention, {})

  def block(x, layer):
    p, prefix, cache = layer
    p = jax.tree_util.tree_map_with_path(lambda at, w: w if at[-1].key in EXACT else w.astype(dtype), p)
    q, kv = mixer.project(p['attention'], cfg, rms_norm(p['attention_norm'], x, cfg.norm_eps), tables)
    kv = kv if cache is None else extend(cache, kv, cache_length)
    parts = [(prefix, seen_prefix)] if prefix is not None else []
    x = x + mixer.attend(p['attention'], cfg, q, [*parts, (kv, seen)], **options)
    h = rms_norm(p['mlp_norm'], x, cfg.norm_eps)
    y, load = moe(p['moe'], cfg.moe, h, real) if 'moe' in p else (mlp(p['mlp'], h), None)
    return x + y, (kv, load)

  block = jax.checkpoint(block) if remat else block
  x = params['embed'][tokens].astype(dtype)
  kvs, load = {}, None
  for run, layers in runs(cfg).items():
    before, own = (None if kv is None else kv[run] for kv in (prefix, cache))
    if isinstance(params[run], list):
      none = [None] * layers
      out = []
      for layer in zip(params[run], before or none, own or none):
        x, found = block(x, layer)
        out.append(found)
      kvs[run] = [kv for kv, _ in out]
      load = jnp.stack([load for _, load in out]) if out[0][1] is not None else None
    else:
      x, (kvs[run], load) = jax.lax.scan(block, x, (params[run], before, own))
  return rms_norm(params['norm'], x, cfg.norm_eps), kvs, load


def _keys(kv):
  """Number of key positions of a {run: KV}."""
  return jax.tree.leaves(kv['layers'])[0].shape[-1]


def prefill(params, cfg, tokens, lengths, **options):
  """Runs prompts once.

  Args:
    tokens: i32[P, Tp], right-padded.
    lengths: i32[P], at least 1.

  Returns:
    hidden state of each prompt's last token [P, embed], its KV to pass on as `prefix`, and the load of experts.
  """
  positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
  real = (positions < lengths[:, None])[:, None]
  hidden, kv, load = forward(params, cfg, tokens[:, None], positions[:, None], real=real, **options)
  last = jnp.take_along_axis(hidden[:, 0], (lengths - 1)[:, None, None], axis=1)[:, 0]
  return last, jax.tree.map(lambda x: x.squeeze(-3), kv), load


def response_hidden(params, cfg, prompts, prompt_lengths, responses, lengths=None, **options):
  """Hidden states that predict each response token, the prompt run once for its group.

  Args:
    prompts: i32[P, Tp], prompt_lengths: i32[P], responses: i32[P, G, T].
    lengths: i32[P, G], tokens of each response that count in the load of experts; all where None.

  Returns:
    [P, G, T, embed], whose position t predicts responses[..., t]; and the load of experts (see `forward`).
  """
  p, g, t = responses.shape
  last, prefix, load = prefill(params, cfg, prompts, prompt_lengths, **options)
  last = jnp.broadcast_to(last[:, None, None], (p, g, 1, last.shape[-1]))
  positions = jnp.broadcast_to(prompt_lengths[:, None, None] + jnp.arange(t - 1), (p, g, t - 1))
  real = None if lengths is None else jnp.arange(t - 1) < lengths[..., None]
  hidden, _, more = forward(params, cfg, responses[:, :, :-1], positions, prefix=prefix, prefix_length=prompt_lengths,
                            real=real, **options)
  return jnp.concatenate([last, hidden], axis=2), load if load is None else load + more

