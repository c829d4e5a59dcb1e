"""Layers as pure functions, each beside the specs of its parameters."""
import jax
import jax.numpy as jnp

from r1jax.params import Spec


def product(spec, a, b):
  """jnp.einsum with float32 sums and result, whatever the operands' dtype."""
  exact = lambda a, b: jnp.einsum(spec, a, b, preferred_element_type=jnp.float32)
  if a.dtype == b.dtype == jnp.float32:
    return exact(a, b)
  # XLA's CPU backend lacks some bfloat16 products with a float32 result.
  wide = lambda a, b: exact(a.astype(jnp.float32), b.astype(jnp.float32))
  return jax.lax.platform_dependent(a, b, cpu=wide, default=exact)


def rms_norm(scale, x, eps):
  """x: [..., d]. Computed in float32; returns x's dtype."""
  h = x.astype(jnp.float32)
  h = h * jax.lax.rsqrt(jnp.mean(h * h, axis=-1, keepdims=True) + eps)
  return (h * scale).astype(x.dtype)


def rope_tables(positions, head_dim, theta):
  """Cosines and sines f32[..., head_dim / 2] for integer positions [...]."""
  freqs = theta ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
  angles = positions[..., None].astype(jnp.float32) * freqs
  return jnp.cos(angles), jnp.sin(angles)


def rope(x, tables):
  """Rotates the halves of the last axis (Llama's and Qwen's convention).

  x: [P, G, T, heads, head_dim]; tables: f32[P, G, T, head_dim / 2] each.
  """
  cos, sin = (t[:, :, :, None, :].astype(x.dtype) for t in tables)
  a, b = jnp.split(x, 2, axis=-1)
  return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def mlp_specs(cfg):
  return {'gate': Spec((cfg.embed, cfg.mlp), ('embed', 'mlp')),
          'up': Spec((cfg.embed, cfg.mlp), ('embed', 'mlp')),
          'down': Spec((cfg.mlp, cfg.embed), ('mlp', 'embed'))}


def mlp(p, x):
  """SwiGLU. x: [..., embed]; returns the same shape."""
  return (jax.nn.silu(x @ p['gate']) * (x @ p['up'])) @ p['down']
