"""Layers as pure functions, each beside the specs of its parameters."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.models import remat
from r1jax.params import Spec


def product(spec, a, b):
  """jnp.einsum with float32 sums and result, whatever the operands' dtype."""
  exact = lambda a, b: jnp.einsum(spec, a, b, preferred_element_type=jnp.float32)
  if a.dtype == b.dtype == jnp.float32:
    return exact(a, b)
  # XLA's CPU backend lacks some bfloat16 products with a float32 result.
  wide = lambda a, b: exact(a.astype(jnp.float32), b.astype(jnp.float32))
  return jax.lax.platform_dependent(a, b, cpu=wide, default=exact)


@jax.custom_vjp
def linear(x, w):
  """x [..., k] @ w [k, n], whose gradient XLA's CPU backend computes with fewer copies than that of `@`."""
  return x @ w


def _linear_backward(saved, g):
  x, w = saved
  # Apart from what computes x and g: fused into the transposes that these products need, it would not be vectorized.
  x, g = jax.lax.platform_dependent(x, g, cpu=lambda *a: jax.lax.optimization_barrier(a), default=lambda *a: a)
  rows = tuple(range(x.ndim - 1))
  return g @ w.T, jax.lax.dot_general(x, g, ((rows, rows), ((), ())))


linear.defvjp(lambda x, w: (x @ w, (x, w)), _linear_backward)


def rms_norm(scale, x, eps):
  """x: [..., d]. Computed in float32; returns x's dtype."""
  h = x.astype(jnp.float32)
  h = h * jax.lax.rsqrt(jnp.mean(h * h, axis=-1, keepdims=True) + eps)
  return (h * scale).astype(x.dtype)


def rope_frequencies(cfg):
  """Radians a token of each rotated pair, f64[rope_dim / 2], and the factor of cosines and sines.

  Llama 3.1's stretching divides the slow frequencies, YaRN's (arXiv:2309.00071, section 3) those that turn less than
  beta_slow times within the original context; both blend towards the fast ones, which stay.
  """
  d, s = cfg.rope_dim, cfg.rope
  freqs = cfg.rope_theta ** (-np.arange(0, d, 2) / d)
  if s is None:
    return freqs, 1.0
  if s.kind == 'linear':
    return freqs / s.factor, 1.0
  if s.kind == 'llama3':
    turns = s.original_context * freqs / (2 * np.pi)
    keep = np.clip((turns - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor), 0, 1)
    return freqs * (keep + (1 - keep) / s.factor), 1.0
  pair = lambda turns: d * math.log(s.original_context / (turns * 2 * math.pi)) / (2 * math.log(cfg.rope_theta))
  low, high = pair(s.beta_fast), pair(s.beta_slow)
  if s.truncate:
    low, high = math.floor(low), math.ceil(high)
  low, high = max(low, 0), min(high, d - 1)
  keep = 1 - np.clip((np.arange(d // 2) - low) / max(high - low, 0.001), 0, 1)
  factor = yarn_mscale(s.factor, 1)
  if s.mscale and s.mscale_all_dim:
    factor = yarn_mscale(s.factor, s.mscale) / yarn_mscale(s.factor, s.mscale_all_dim)
  factor = (s.attention_factor or factor) * s.attn_factor
  return freqs * (keep + (1 - keep) / s.factor), factor


def yarn_mscale(factor, mscale):
  """How much sharper attention is made for a context `factor` times as long; 1 where mscale is 0."""
  return 0.1 * mscale * math.log(factor) + 1 if factor > 1 else 1.0


def rope_tables(positions, cfg):
  """Cosines and sines f32[..., rope_dim / 2] for integer positions [...]."""
  freqs, factor = rope_frequencies(cfg)
  angles = positions[..., None].astype(jnp.float32) * jnp.asarray(freqs, jnp.float32)
  cos, sin = jnp.cos(angles), jnp.sin(angles)
  return (cos, sin) if factor == 1 else (cos * factor, sin * factor)


def rope(x, tables, interleaved=False):
  """Rotates pairs of the last axis: its two halves (Llama, Qwen), or neighbours (DeepSeek).

  Neighbours come out as halves: a fixed order of the dimensions, the same for queries and keys.

  x: [P, G, T, heads, rope_dim]; tables: f32[P, G, T, rope_dim / 2] each.
  """
  cos, sin = (t[:, :, :, None, :].astype(x.dtype) for t in tables)
  a, b = (x[..., ::2], x[..., 1::2]) if interleaved else jnp.split(x, 2, axis=-1)
  return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def mlp_specs(embed, mlp):
  return {
    'gate': Spec((embed, mlp), ('embed', 'mlp')),
    'up': Spec((embed, mlp), ('embed', 'mlp')),
    'down': Spec((mlp, embed), ('mlp', 'embed')),
  }


def mlp(p, x):
  """SwiGLU. x: [..., embed]; returns the same shape."""
  gate, up = remat.name((linear(x, p['gate']), linear(x, p['up'])), 'mlp')
  return linear(jax.nn.silu(gate) * up, p['down'])
