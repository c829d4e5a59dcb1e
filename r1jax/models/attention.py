"""Grouped-query attention over parts: a prompt shared by its group, a cache, the tokens themselves.

P prompts, G continuations of each; a plain batch has G = 1. Inside, heads come before continuations and keys
lie transposed, so that every product here is one of plain matrices, nothing moved: the prompt's keys meet the
queries of all G continuations at once.
"""

import flax.struct
import jax
import jax.numpy as jnp

from r1jax.models.layers import product, rms_norm, rope
from r1jax.params import Spec

MASKED = -1e30  # not -inf: a row with nothing to see must stay finite


class KV(flax.struct.PyTreeNode):
  """Keys [P, kv_heads, head_dim, T] and values [P, kv_heads, T, head_dim] (shared by the group), or
  [P, kv_heads, G, head_dim, T] and [P, kv_heads, G, T, head_dim] (own).

  With MLA: one latent key for all heads, kv_rank + rope_dim long, whose first kv_rank entries are also the value;
  `v` is None.
  """

  k: jax.Array
  v: jax.Array | None


def empty_cache(cfg, prompts, group, tokens, dtype):
  """Own KV of one layer with room for `tokens` tokens of each row."""
  if cfg.mla:
    return KV(jnp.zeros((prompts, 1, group, cfg.mla.kv_rank + cfg.mla.rope_dim, tokens), dtype), None)
  empty = jnp.zeros((prompts, cfg.kv_heads, group, tokens, cfg.head_dim), dtype)
  return KV(empty.swapaxes(3, 4), empty)


def attention_specs(cfg):
  specs = {
    'q': Spec((cfg.embed, cfg.heads, cfg.head_dim), ('embed', 'heads', 'head_dim')),
    'k': Spec((cfg.embed, cfg.kv_heads, cfg.head_dim), ('embed', 'kv_heads', 'head_dim')),
    'v': Spec((cfg.embed, cfg.kv_heads, cfg.head_dim), ('embed', 'kv_heads', 'head_dim')),
    'o': Spec((cfg.heads, cfg.head_dim, cfg.embed), ('heads', 'head_dim', 'embed'), fan_in=2),
  }
  if cfg.qkv_bias:
    specs |= {
      'q_bias': Spec((cfg.heads, cfg.head_dim), ('heads', 'head_dim'), 'zeros'),
      'k_bias': Spec((cfg.kv_heads, cfg.head_dim), ('kv_heads', 'head_dim'), 'zeros'),
      'v_bias': Spec((cfg.kv_heads, cfg.head_dim), ('kv_heads', 'head_dim'), 'zeros'),
    }
  if cfg.qk_norm:
    specs |= {'q_norm': Spec((cfg.head_dim,), ('norm',), 'ones'), 'k_norm': Spec((cfg.head_dim,), ('norm',), 'ones')}
  return specs


def project(p, cfg, x, tables):
  """Queries, keys and values of x [P, G, T, embed], rotated.

  Returns:
    q [P, kv_heads, G, R, T, head_dim] with R = heads / kv_heads, and the tokens' own KV.
  """
  q, k, v = (_dense(x, p[n]) for n in 'qkv')  # [P, G, T, heads, head_dim]
  if cfg.qkv_bias:
    q, k, v = q + p['q_bias'], k + p['k_bias'], v + p['v_bias']
  if cfg.qk_norm:
    q, k = rms_norm(p['q_norm'], q, cfg.norm_eps), rms_norm(p['k_norm'], k, cfg.norm_eps)
  q, k = rope(q, tables), rope(k, tables)
  q = q.reshape(*q.shape[:3], cfg.kv_heads, -1, cfg.head_dim)
  return q.transpose(0, 3, 1, 4, 2, 5), KV(k.transpose(0, 3, 1, 4, 2), v.transpose(0, 3, 1, 2, 4))


def _dense(x, w):
  """x [..., d] @ w [d, heads, head_dim], as one matrix product."""
  return (x @ w.reshape(w.shape[0], -1)).reshape(*x.shape[:-1], *w.shape[1:])


def extend(cache, new, at):
  """The own KV `cache` with the keys and values of T more tokens written from position `at` on."""
  write = jax.lax.dynamic_update_slice_in_dim
  return KV(write(cache.k, new.k, at, axis=4), None if new.v is None else write(cache.v, new.v, at, axis=3))


def attend(p, cfg, q, parts, mix=None):
  """The attention of q, as `project` gives it, over the keys of all parts together. Returns [P, G, T, embed].

  Args:
    mix: in the place of `softmax_attention`, with parts that it understands.
  """
  out = (mix or softmax_attention)(q, parts, cfg.head_dim**-0.5)
  return out.reshape(*out.shape[:3], -1) @ p['o'].reshape(-1, p['o'].shape[-1])


def softmax_attention(q, parts, scale):
  """One softmax over the keys of all parts.

  Args:
    q: [P, K, G, R, T, D].
    parts: list of (KV, mask). KV is own or shared by the group, S keys;
      mask bool broadcastable to [P, G, T, S], true where a query sees a key.
    scale: of the scores.

  Returns:
    [P, G, T, K * R, Dv]; where a KV has no values, its keys stand for them.
  """
  scores = []
  for kv, mask in parts:
    s = product('pkgrtd,pkds->pkgrts' if kv.k.ndim == 4 else 'pkgrtd,pkgds->pkgrts', q, kv.k) * scale
    scores.append(jnp.where(mask[:, None, :, None], s, MASKED))
  # One softmax over the parts without joining them: keys of different layouts are never copied together.
  top = jax.lax.stop_gradient(jnp.max(jnp.stack([s.max(axis=-1) for s in scores]), axis=0))[..., None]
  weights = [jnp.exp(s - top) for s in scores]
  total = sum(w.sum(axis=-1, keepdims=True) for w in weights)
  out = 0.0
  for w, (kv, _) in zip(weights, parts):
    v = kv.k.swapaxes(-1, -2) if kv.v is None else kv.v
    out += product('pkgrts,pksd->pkgrtd' if v.ndim == 4 else 'pkgrts,pkgsd->pkgrtd', w.astype(q.dtype), v)
  out = jnp.divide(out, total).astype(q.dtype)
  out = out.transpose(0, 2, 4, 1, 3, 5)  # [P, G, T, K, R, D]
  return out.reshape(*out.shape[:3], -1, out.shape[-1])
