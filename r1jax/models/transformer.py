"""The dense decoder: one forward for training, prefill and decoding.

Tokens lie as [P, G, T]: P prompts, G continuations of each (G = 1 for a plain batch). A continuation
attends to its prompt's keys and values, computed once for the group, and to itself.
"""
import jax
import jax.numpy as jnp

from r1jax import params as params_lib
from r1jax.models.attention import KV, attend, attention_specs, extend, project
from r1jax.models.layers import mlp, mlp_specs, rms_norm, rope_tables
from r1jax.params import Spec


def specs(cfg):
  """Parameter specs; layers stacked on a leading axis."""
  layer = {'attention_norm': Spec((cfg.embed,), ('norm',), 'ones'), 'attention': attention_specs(cfg),
           'mlp_norm': Spec((cfg.embed,), ('norm',), 'ones'), 'mlp': mlp_specs(cfg)}
  tree = {'embed': Spec((cfg.vocab, cfg.embed), ('vocab', 'embed'), 'embedding'),
          'layers': params_lib.stack(layer, cfg.layers),
          'norm': Spec((cfg.embed,), ('norm',), 'ones')}
  if not cfg.tied:
    tree['unembed'] = Spec((cfg.embed, cfg.vocab), ('embed', 'vocab'))
  return tree


def unstack(params):
  """The same parameters with each layer's on its own, for a forward without scan.

  XLA on CPU copies a layer's slice out of the stack on every pass; a decode loop would copy the
  whole model for every token.
  """
  layers = params['layers']
  return params | {'layers': [jax.tree.map(lambda x, i=i: x[i], layers) for i in range(len(layers['mlp_norm']))]}


def unembedding(params):
  """[embed, vocab]."""
  return params['unembed'] if 'unembed' in params else params['embed'].T


def forward(params, cfg, tokens, positions, *, prefix=None, prefix_length=None, cache=None, cache_length=None,
            dtype=jnp.float32, remat=False):
  """Final hidden states and the keys and values of `tokens`.

  Args:
    params: as `specs`, or as `unstack` returns; then prefix and cache are lists of one KV a layer.
    tokens: i32[P, G, T].
    positions: i32[P, G, T].
    prefix: shared KV (see `attention.KV`) stacked over layers; or None.
    prefix_length: i32[P], how many of the prefix's keys are real.
    cache: own KV of S tokens, stacked over layers, with the tokens decoded before and room for these; or None.
    cache_length: i32[], how many of the cache's keys are real.
    dtype: of the computation.
    remat: recompute each layer in the backward pass.

  Returns:
    hidden [P, G, T, embed], normalised, in `dtype`; and the tokens' own KV, stacked over layers (with a cache:
    the cache with the tokens written to it).
    Tokens after a row's end cannot influence those before it, so padding needs no mask.
  """
  t = tokens.shape[2]
  if cache is None:
    seen = jnp.tril(jnp.ones((t, t), bool))[None, None]
  else:
    seen = (jnp.arange(_keys(cache)) <= cache_length + jnp.arange(t)[:, None])[None, None]
  seen_prefix = None if prefix is None else (jnp.arange(_keys(prefix)) < prefix_length[:, None])[:, None, None]
  tables = rope_tables(positions, cfg.head_dim, cfg.rope_theta)

  def block(x, layer):
    p, prefix, cache = layer
    p = jax.tree.map(lambda w: w.astype(dtype), p)
    q, kv = project(p['attention'], cfg, rms_norm(p['attention_norm'], x, cfg.norm_eps), tables)
    kv = kv if cache is None else extend(cache, kv, cache_length)
    parts = [(prefix, seen_prefix)] if prefix is not None else []
    x = x + attend(p['attention'], q, [*parts, (kv, seen)])
    return x + mlp(p['mlp'], rms_norm(p['mlp_norm'], x, cfg.norm_eps)), kv

  block = jax.checkpoint(block) if remat else block
  x = params['embed'][tokens].astype(dtype)
  if isinstance(params['layers'], list):
    none = [None] * cfg.layers
    kvs = []
    for layer in zip(params['layers'], prefix or none, cache or none):
      x, kv = block(x, layer)
      kvs.append(kv)
  else:
    x, kvs = jax.lax.scan(block, x, (params['layers'], prefix, cache))
  return rms_norm(params['norm'], x, cfg.norm_eps), kvs


def _keys(kv):
  """Number of key positions of a stacked KV or of a list of them."""
  return (kv[0] if isinstance(kv, list) else kv).k.shape[-1]


def prefill(params, cfg, tokens, lengths, **options):
  """Runs prompts once.

  Args:
    tokens: i32[P, Tp], right-padded.
    lengths: i32[P], at least 1.

  Returns:
    hidden state of each prompt's last token [P, embed], and its KV to pass on as `prefix`.
  """
  positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
  hidden, kv = forward(params, cfg, tokens[:, None], positions[:, None], **options)
  last = jnp.take_along_axis(hidden[:, 0], (lengths - 1)[:, None, None], axis=1)[:, 0]
  return last, jax.tree.map(lambda x: x.squeeze(-3), kv)


def response_hidden(params, cfg, prompts, prompt_lengths, responses, **options):
  """Hidden states that predict each response token, the prompt run once for its group.

  Args:
    prompts: i32[P, Tp], prompt_lengths: i32[P], responses: i32[P, G, T].

  Returns:
    [P, G, T, embed]; position t predicts responses[..., t].
  """
  p, g, t = responses.shape
  last, prefix = prefill(params, cfg, prompts, prompt_lengths, **options)
  last = jnp.broadcast_to(last[:, None, None], (p, g, 1, last.shape[-1]))
  positions = jnp.broadcast_to(prompt_lengths[:, None, None] + jnp.arange(t - 1), (p, g, t - 1))
  hidden, _ = forward(params, cfg, responses[:, :, :-1], positions, prefix=prefix, prefix_length=prompt_lengths,
                      **options)
  return jnp.concatenate([last, hidden], axis=2)


__all__ = ['KV', 'forward', 'prefill', 'response_hidden', 'specs', 'unembedding', 'unstack']
