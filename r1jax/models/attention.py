"""Grouped-query attention over parts: a prompt shared by its group, a cache, the tokens themselves.

P prompts, G continuations of each; a plain batch has G = 1. Inside, heads come before continuations and keys
lie transposed, so that every product here is one of plain matrices, nothing moved: the prompt's keys meet the
queries of all G continuations at once.
"""

import flax.struct
import jax
import jax.numpy as jnp
import qwix

from r1jax.models.layers import linear, product, rms_norm, rope
from r1jax.params import Spec

MASKED = -1e30  # not -inf: a row with nothing to see must stay finite
# The largest magnitude of a key is 127 steps of its grid. With the library's 127.5 it would lie halfway between two of
# its values, and the last bit of a sum, which meshes and batches change, would round every other key elsewhere.
_PEAK = f'absmax,{127.5 / 127}'


class KV(flax.struct.PyTreeNode):
  """Keys [P, kv_heads, head_dim, T] and values [P, kv_heads, T, head_dim] (shared by the group), or
  [P, kv_heads, G, head_dim, T] and [P, kv_heads, G, T, head_dim] (own).

  With MLA: one latent key for all heads, kv_rank + rope_dim long, whose first kv_rank entries are also the value;
  `v` is None.

  Of 8 bits, keys and values have a scale for each token and head: f32, like them with head_dim 1.
  """

  k: jax.Array
  v: jax.Array | None
  k_scale: jax.Array | None = None
  v_scale: jax.Array | None = None

  def map(self, keys, values, *others):
    """The KV with functions of this and other KVs: of keys and their scales, and of values and theirs."""
    of = lambda f, name: None if getattr(self, name) is None else f(*(getattr(kv, name) for kv in (self, *others)))
    return self.replace(k=of(keys, 'k'), v=of(values, 'v'), k_scale=of(keys, 'k_scale'), v_scale=of(values, 'v_scale'))


def empty_cache(cfg, prompts, group, tokens, dtype):
  """Own KV of one layer with room for `tokens` tokens of each row; dtype 'int8' is of 8 bits."""
  heads, size = (1, cfg.mla.kv_rank + cfg.mla.rope_dim) if cfg.mla else (cfg.kv_heads, cfg.head_dim)
  keys = jnp.zeros((prompts, heads, group, size, tokens), dtype)
  kv = KV(keys, None if cfg.mla else keys.swapaxes(3, 4))
  if keys.dtype != jnp.int8:
    return kv
  scale = jnp.zeros((prompts, heads, group, 1, tokens), jnp.float32)
  return kv.replace(k_scale=scale, v_scale=None if cfg.mla else scale.swapaxes(3, 4))


def quantize_cache(kv):
  """A KV of 8 bits, or one that is so already."""
  if kv.k.dtype == jnp.int8:
    return kv
  by_token = lambda x, axis: qwix.quantize(
    x.astype(jnp.float32),
    jnp.int8,
    channelwise_axes=[i for i in range(x.ndim) if i != x.ndim + axis],
    calibration_method=_PEAK,
  )
  k, v = by_token(kv.k, -2), None if kv.v is None else by_token(kv.v, -1)
  return KV(k.qvalue, v and v.qvalue, k.scale, v and v.scale)


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
  return linear(x, w.reshape(w.shape[0], -1)).reshape(*x.shape[:-1], *w.shape[1:])


def extend(cache, new, at):
  """The own KV `cache`, of 8 bits or not, with the keys and values of T more tokens written from position `at` on."""
  new = quantize_cache(new) if cache.k.dtype == jnp.int8 else new
  write = jax.lax.dynamic_update_slice_in_dim
  return cache.map(lambda x, y: write(x, y, at, axis=4), lambda x, y: write(x, y, at, axis=3), new)


def attend(p, cfg, q, parts, mix=None):
  """The attention of q, as `project` gives it, over the keys of all parts together. Returns [P, G, T, embed].

  Args:
    mix: in the place of `softmax_attention`, with parts that it understands.
  """
  out = (mix or softmax_attention)(q, parts, cfg.head_dim**-0.5)
  return linear(out.reshape(*out.shape[:3], -1), p['o'].reshape(-1, p['o'].shape[-1]))


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
    k = kv.k.astype(q.dtype)
    s = product('pkgrtd,pkds->pkgrts' if k.ndim == 4 else 'pkgrtd,pkgds->pkgrts', q, k) * scale
    s = s if kv.k_scale is None else s * _by_key(kv.k_scale)
    scores.append(jnp.where(mask[:, None, :, None], s, MASKED))
  # One softmax over the parts without joining them: keys of different layouts are never copied together.
  top = jax.lax.stop_gradient(jnp.max(jnp.stack([s.max(axis=-1) for s in scores]), axis=0))[..., None]
  weights = [jnp.exp(s - top) for s in scores]
  total = sum(w.sum(axis=-1, keepdims=True) for w in weights)
  out = 0.0
  for w, (kv, _) in zip(weights, parts):
    v, v_scale = (kv.k.swapaxes(-1, -2), kv.k_scale) if kv.v is None else (kv.v, kv.v_scale)
    if v_scale is not None:
      w, v = w * _by_key(v_scale if kv.v is None else v_scale.swapaxes(-1, -2)), v.astype(q.dtype)
    out += product('pkgrts,pksd->pkgrtd' if v.ndim == 4 else 'pkgrts,pkgsd->pkgrtd', w.astype(q.dtype), v)
  out = jnp.divide(out, total).astype(q.dtype)
  out = out.transpose(0, 2, 4, 1, 3, 5)  # [P, G, T, K, R, D]
  return out.reshape(*out.shape[:3], -1, out.shape[-1])


def _by_key(scale):
  """[P, K, (G,) 1, S], of a KV's keys, as [P, K, G or 1, 1, 1, S], to multiply scores or weights with."""
  return scale[:, :, None, None] if scale.ndim == 4 else scale[:, :, :, None]
