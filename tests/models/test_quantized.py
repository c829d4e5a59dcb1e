"""Quantized weights against their definition, and the model that computes with them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import qwix

from r1jax import models
from r1jax import params as params_lib
from r1jax.models import attention, quantized
from r1jax.sampling.weights import Precision, cast_weights

DENSE = dataclasses.replace(models.PRESETS['toy'], layers=2, vocab=64, qkv_bias=True, qk_norm=True)
LATENT = dataclasses.replace(models.PRESETS['toy_deepseek'], layers=2, vocab=64)


def weights(cfg, weight_dtype):
  params = params_lib.init(models.specs(cfg), jax.random.key(0))
  return params, cast_weights(params, cfg, Precision(weights=weight_dtype))


def by_name(tree):
  leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=quantized.is_quantized)
  return {jax.tree_util.keystr(path, simple=True, separator='.'): leaf for path, leaf in leaves}


@pytest.mark.parametrize(('weight_dtype', 'largest'), [('int8', 127), ('int4', 7)])
def test_weights_lie_within_half_a_step_of_their_grid(weight_dtype, largest):
  """A step is the largest magnitude of an output channel, or of 32 of its inputs, over the largest integer."""
  params, sampled = weights(DENSE, weight_dtype)
  exact = by_name(models.unstack(params))
  inputs = {'mlp.gate': 64, 'mlp.down': 176, 'attention.q': 64, 'attention.k': 64, 'attention.o': 64}  # of the product
  for name, n in inputs.items():
    w, q = np.asarray(exact[f'layers.1.{name}']), by_name(sampled)[f'layers.1.{name}']
    whole_tiles = name not in ('mlp.down', 'attention.o')  # 176 inputs; heads of 16
    tile = 32 if weight_dtype == 'int4' and whole_tiles else n
    tiles = w.reshape(-1, tile, w.size // n)
    step = np.abs(tiles).max(axis=1, keepdims=True) / largest
    off = np.abs(np.asarray(qwix.dequantize(q)).reshape(tiles.shape) - tiles)
    assert (off <= 0.51 * step).all() and off.max() > 0.3 * step.max(), name
    assert q.qvalue.dtype == weight_dtype


@pytest.mark.parametrize('weight_dtype', ['int8', 'int4'])
def test_parameters_kept_in_bfloat16_are_rounded_as_the_same_numbers_in_float32(weight_dtype):
  params, _ = weights(DENSE, weight_dtype)
  coarse = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
  same_numbers = jax.tree.map(lambda x: x.astype(jnp.float32), coarse)
  got, want = (cast_weights(p, DENSE, Precision('bfloat16', weight_dtype)) for p in (coarse, same_numbers))
  for name, w in by_name(want).items():
    if quantized.is_quantized(w):
      np.testing.assert_array_equal(by_name(got)[name].qvalue, w.qvalue, name)
      np.testing.assert_array_equal(by_name(got)[name].scale, w.scale, name)


def test_only_the_matrices_of_layers_are_quantized():
  for cfg in (DENSE, LATENT):
    params, sampled = weights(cfg, 'int8')
    exact, sampled = by_name(models.unstack(params)), by_name(sampled)
    names = {name.split('.')[-1] for name, w in sampled.items() if quantized.is_quantized(w)}
    assert names == ({'q', 'k', 'v', 'o'} if cfg is DENSE else {'q_a', 'q_b', 'kv_a', 'kv_b', 'o'}) | {
      'gate',
      'up',
      'down',
    }
    for name, w in sampled.items():
      if not quantized.is_quantized(w):
        np.testing.assert_array_equal(w, exact[name], name)


@pytest.mark.parametrize('cfg', [DENSE, LATENT], ids=['dense', 'latent'])
def test_a_cache_of_8_bits_holds_each_token_to_half_a_step_and_attention_reads_it(cfg):
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  size = 1 if cfg.mla else cfg.kv_heads
  depth = cfg.mla.kv_rank + cfg.mla.rope_dim if cfg.mla else cfg.head_dim
  exact = models.KV(draw(2, size, 3, depth, 5), None if cfg.mla else draw(2, size, 3, 5, depth))
  empty = models.empty_cache(cfg, 2, 3, 8, 'int8')
  cache = attention.extend(empty, exact, 2)
  assert cache.k.dtype == jnp.int8 and (np.asarray(cache.k[..., :2]) == 0).all()
  times = lambda x, scale: None if x is None else x * scale
  dequantized = models.KV(times(cache.k, cache.k_scale), times(cache.v, cache.v_scale))
  step = np.abs(exact.k).max(axis=3, keepdims=True) / 127
  off = np.abs(dequantized.k[..., 2:7] - exact.k)
  assert (off <= 0.501 * step).all() and off.max() > 0.3 * step.max()
  q, mask = draw(2, size, 3, 2, 1, depth), jnp.broadcast_to(jnp.arange(8) >= 2, (2, 3, 1, 8))
  got, want = (attention.softmax_attention(q, [(kv, mask)], 0.3) for kv in (cache, dequantized))
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
  shared = jax.tree.map(lambda x: x[:, :, 0], (cache, dequantized))
  got, want = (attention.softmax_attention(q, [(kv, mask[:, :1])], 0.3) for kv in shared)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_the_last_bit_of_a_key_does_not_decide_how_it_is_rounded():
  """Other meshes and batches sum in another order; the largest of a token's entries must not be a tie."""
  rng = np.random.default_rng(1)
  keys = rng.normal(size=(2, 3, 16, 200)).astype(np.float32)
  beside = np.nextafter(keys, rng.choice([-9, 9], keys.shape).astype(np.float32))
  a, b = (np.asarray(attention.quantize_cache(models.KV(jnp.asarray(k), None)).k, np.int32) for k in (keys, beside))
  assert (np.abs(a).max(axis=2) == 127).all() and a.min() == -127
  assert (a != b).mean() < 1e-3


@pytest.mark.parametrize('cfg', [DENSE, LATENT], ids=['dense', 'latent'])
def test_a_forward_computes_with_the_multiplied_out_weights(cfg):
  _, sampled = weights(cfg, 'int4')
  plain = quantized.multiply_out(sampled, jnp.float32)
  assert not any(map(quantized.is_quantized, jax.tree.leaves(plain, is_leaf=quantized.is_quantized)))
  tokens, lengths = jnp.arange(12).reshape(2, 6) % cfg.vocab, jnp.array([6, 4])
  run = jax.jit(lambda params: models.prefill(params, cfg, tokens, lengths).hidden)
  np.testing.assert_allclose(run(sampled), run(plain), rtol=2e-5, atol=2e-5)
