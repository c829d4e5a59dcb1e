"""Multi-head latent attention (DeepSeek-V2, section 2.1; DeepSeek-V3, section 2.1.1), in two forms.

What is kept of a token is its latent vector and one rotated key, whatever the number of heads. Training and prefill
expand it to keys and values of every head; decoding leaves it as it is and maps queries and results instead
(weights absorbed), which for one query a row is far less work. Both give the same result.
"""

import jax.numpy as jnp

from r1jax.models.attention import KV, softmax_attention
from r1jax.models.layers import product, rms_norm, rope, yarn_mscale
from r1jax.params import Spec

NORM_EPS = 1e-6  # of the latents' norms, whatever the other norms'


def mla_specs(cfg):
  m, heads = cfg.mla, cfg.heads
  head_dims = {'q': m.nope_dim + m.rope_dim, 'kv_b': m.nope_dim + m.v_dim}
  specs = {
    'kv_a': Spec((cfg.embed, m.kv_rank + m.rope_dim), ('embed', 'latent')),
    'kv_a_norm': Spec((m.kv_rank,), ('norm',), 'ones'),
    'kv_b': Spec((m.kv_rank, heads, head_dims['kv_b']), ('latent_in', 'heads', 'head_dim')),
    'o': Spec((heads, m.v_dim, cfg.embed), ('heads', 'head_dim', 'embed'), fan_in=2),
  }
  if not m.q_rank:
    return specs | {'q': Spec((cfg.embed, heads, head_dims['q']), ('embed', 'heads', 'head_dim'))}
  return specs | {
    'q_a': Spec((cfg.embed, m.q_rank), ('embed', 'latent')),
    'q_a_norm': Spec((m.q_rank,), ('norm',), 'ones'),
    'q_b': Spec((m.q_rank, heads, head_dims['q']), ('latent_in', 'heads', 'head_dim')),
  }


def project(p, cfg, x, tables):
  """Queries [P, G, T, heads, nope_dim + rope_dim], the last rope_dim of each rotated, and the tokens' latent KV."""
  m = cfg.mla
  if m.q_rank:
    q = jnp.einsum('pgtc,chd->pgthd', rms_norm(p['q_a_norm'], x @ p['q_a'], NORM_EPS), p['q_b'])
  else:
    q = jnp.einsum('pgtc,chd->pgthd', x, p['q'])
  q = jnp.concatenate([q[..., : m.nope_dim], rope(q[..., m.nope_dim :], tables, interleaved=True)], axis=-1)
  latent = x @ p['kv_a']
  key = rope(latent[..., None, m.kv_rank :], tables, interleaved=True)[..., 0, :]
  latent = jnp.concatenate([rms_norm(p['kv_a_norm'], latent[..., : m.kv_rank], NORM_EPS), key], axis=-1)
  return q, KV(latent.swapaxes(-1, -2)[:, None], None)


def attend(p, cfg, q, parts, mix=None, absorbed=False):
  """As `attention.attend`, over latent KVs.

  Args:
    absorbed: map queries into the latent space rather than the latents to keys.
  """
  mix = mix or softmax_attention
  m = cfg.mla
  to_key, to_value = p['kv_b'][..., : m.nope_dim], p['kv_b'][..., m.nope_dim :]  # [kv_rank, heads, ...]
  if absorbed:
    nope = product('pgthd,chd->pgthc', q[..., : m.nope_dim], to_key).astype(q.dtype)
    q = jnp.concatenate([nope, q[..., m.nope_dim :]], axis=-1)
    out = mix(q.transpose(0, 1, 3, 2, 4)[:, None], parts, _scale(cfg))[..., : m.kv_rank]
    out = product('pgthc,chv->pgthv', out, to_value).astype(q.dtype)
  else:
    parts = [(_expand(kv.k, m, to_key, to_value), mask) for kv, mask in parts]
    out = mix(q.transpose(0, 3, 1, 2, 4)[:, :, :, None], parts, _scale(cfg))
  return out.reshape(*out.shape[:3], -1) @ p['o'].reshape(-1, p['o'].shape[-1])


def _expand(latent, m, to_key, to_value):
  """Keys and values of every head from latents [P, 1, (G,) kv_rank + rope_dim, S]."""
  c, key = latent[:, 0, ..., : m.kv_rank, :], latent[..., m.kv_rank :, :]
  rows = 'pgcs' if c.ndim == 4 else 'pcs'
  k = product(f'{rows},chd->ph{rows[1:].replace("c", "d")}', c, to_key).astype(c.dtype)
  v = product(f'{rows},chd->ph{rows[1:-2]}sd', c, to_value).astype(c.dtype)
  return KV(jnp.concatenate([k, jnp.broadcast_to(key, (*k.shape[:-2], *key.shape[-2:]))], axis=-2), v)


def _scale(cfg):
  scale = cfg.head_dim**-0.5
  return scale * yarn_mscale(cfg.rope.factor, cfg.rope.mscale_all_dim) ** 2 if cfg.rope else scale
