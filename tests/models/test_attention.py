"""Implementations of attention against each other, and what they hold in memory."""

import dataclasses
import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax import config, models
from r1jax import params as params_lib
from r1jax.models import causal
from r1jax.models.attention import KV
from r1jax.models.causal import Attention, causal_attention
from r1jax.models.config import MLA

# P, KV heads, G, queries a KV head, T, size of queries and keys, size of values, keys of the prompt.
SHAPES = {
  'gqa': (2, 2, 3, 2, 20, 16, 16, 0),
  'gqa_prompt': (2, 2, 3, 2, 20, 16, 16, 9),
  'mla_prompt': (2, 3, 2, 1, 13, 192, 128, 7),
  'one_token': (1, 1, 2, 2, 1, 8, 8, 3),
}


def inputs(p, k, g, r, t, d, v, s, seed=0):
  rng = np.random.default_rng(seed)
  normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  prompt = KV(normal(p, k, d, s), normal(p, k, s, v)) if s else None
  return normal(p, k, g, r, t, d), KV(normal(p, k, g, d, t), normal(p, k, g, t, v)), prompt, normal(p, g, t, k * r, v)


def run(name, q, own, prompt, weight, lengths):
  """Result and gradients of one implementation."""

  def f(q, own, prompt):
    parts = [(own, None)] if prompt is None else [(prompt, lengths), (own, None)]
    out = causal_attention(q, parts, q.shape[-1] ** -0.5, Attention(name))
    return (out * weight).sum(), out

  return jax.jit(jax.value_and_grad(f, argnums=(0, 1) if prompt is None else (0, 1, 2), has_aux=True))(q, own, prompt)


def by_hand(q, own, prompt, lengths):
  """One query, one head at a time."""
  p, k, g, r, t, d = q.shape
  out = np.zeros((p, g, t, k * r, own.v.shape[-1]))
  q, own, prompt = jax.tree.map(lambda x: np.asarray(x, np.float64), (q, own, prompt))
  for at in np.ndindex(p, k, g, r, t):
    i, h, j, n, time = at
    keys, values = own.k[i, h, j, :, : time + 1], own.v[i, h, j, : time + 1]
    if prompt is not None:
      keys = np.concatenate([prompt.k[i, h, :, : lengths[i]], keys], axis=1)
      values = np.concatenate([prompt.v[i, h, : lengths[i]], values])
    scores = q[at] @ keys / np.sqrt(d)
    weights = np.exp(scores - scores.max())
    out[i, j, time, h * r + n] = weights @ values / weights.sum()
  return out


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('name', ['xla', 'chunked', 'splash'])
def test_implementations_agree_in_values_and_gradients(name, shape, monkeypatch):
  monkeypatch.setattr(causal, 'BLOCK', 8 if name == 'chunked' else 128)
  size = SHAPES[shape]
  q, own, prompt, weight = inputs(*size)
  lengths = jnp.asarray(np.random.default_rng(1).integers(1, max(size[-1], 2), size[0]))
  (_, out), grads = run(name, q, own, prompt, weight, lengths)
  np.testing.assert_allclose(out, by_hand(q, own, prompt, lengths), atol=2e-5)
  _, want = run('xla', q, own, prompt, weight, lengths)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-5), grads, want)


def test_splash_crosses_blocks(monkeypatch):
  """More queries and keys than one block of each, whole blocks of padding among them."""
  monkeypatch.setattr(causal, 'BLOCK', 128)
  q, own, prompt, weight = inputs(1, 1, 1, 2, 150, 8, 8, 280)
  lengths = jnp.array([3])
  (_, out), grads = run('splash', q, own, prompt, weight, lengths)
  (_, want), wanted = run('xla', q, own, prompt, weight, lengths)
  np.testing.assert_allclose(out, want, atol=2e-5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), grads, wanted)


@pytest.mark.parametrize(('shards', 'want'), [(1, (2, 6)), (2, (2, 6)), (4, (4, 3)), (12, (12, 1))])
def test_kv_heads_are_repeated_only_as_devices_need(shards, want):
  q, own, prompt, _ = inputs(1, 2, 1, 6, 3, 4, 4, 2)
  assert causal._fit(q, shards) and not causal._fit(q, 5)
  split, kv, before = causal._split_heads(q, own, prompt, shards)
  assert (split.shape[1], split.shape[3]) == want and len(kv.k[0]) == len(before.v[0]) == want[0]
  parts = lambda own, prompt: [(prompt, jnp.array([2])), (own, None)]
  attend = jax.jit(lambda q, own, prompt: causal_attention(q, parts(own, prompt), 0.5, Attention('xla')))
  got, plain = attend(split, kv, before), attend(q, own, prompt)
  np.testing.assert_allclose(got, plain, atol=1e-6)


def test_configs_know_the_names():
  assert config.ATTENTION == ('auto', *causal.IMPLEMENTATIONS) and config.REMAT == tuple(models.POLICIES)


def test_the_platform_is_the_devices_own():
  """Not this process's: a plan compiles on a CPU for devices of another kind."""

  class Device:
    def __init__(self, platform):
      self.platform = platform

  mesh = lambda platform: type('Mesh', (), {'devices': np.array([Device(platform)])})()
  choose = lambda platform, t, dtype='bfloat16', name='auto': Attention(name, mesh(platform)).choose(t, t, dtype)
  assert [choose(p, 4096) for p in ('cpu', 'gpu', 'tpu')] == ['chunked', 'cudnn', 'splash']
  assert choose('gpu', 4096, 'float32') == 'chunked'  # cuDNN has no float32
  assert {choose(p, 512) for p in ('cpu', 'gpu', 'tpu')} == {'xla'}
  assert choose('tpu', 4096, name='xla') == 'xla' and Attention().choose(64, 64, 'float32') == 'xla'


def test_memory_of_chunks_grows_with_length_and_not_its_square():
  def temporaries(name, t):
    like = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    f = lambda q, k, v: causal_attention(q, [(KV(k, v), None)], 1.0, Attention(name)).sum()
    grad = jax.jit(jax.grad(f, argnums=(0, 1, 2)))
    compiled = grad.lower(like(1, 1, 1, 1, t, 8), like(1, 1, 1, 8, t), like(1, 1, 1, t, 8)).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  assert temporaries('chunked', 8192) < 2.5 * temporaries('chunked', 4096)
  assert temporaries('xla', 8192) > 3.5 * temporaries('xla', 4096) > 3.5 * temporaries('chunked', 4096)


@functools.cache
def tiny(remat, attention, mla):
  """Loss and gradient of a small model through `response_hidden`, and the parameters' gradient added to ones."""
  cfg = models.ModelConfig(vocab=37, embed=16, layers=3, heads=4, kv_heads=2, head_dim=8, mlp=24, context=64)
  if mla:
    cfg = dataclasses.replace(
      cfg, kv_heads=4, head_dim=12, mla=MLA(q_rank=10, kv_rank=9, nope_dim=8, rope_dim=4, v_dim=6)
    )
  params = params_lib.init(models.specs(cfg), jax.random.key(0))
  rng = np.random.default_rng(0)
  prompts, responses = (jnp.asarray(rng.integers(0, 37, s)) for s in ((2, 6), (2, 3, 11)))

  options = models.ForwardOptions(remat=remat, attention=attention)

  def loss(params):
    out = models.response_hidden(params, cfg, prompts, jnp.array([6, 2]), responses, options=options)
    return jnp.sin(out.hidden @ models.unembedding(out.params).T).sum(), out.params

  @jax.jit
  def gradients(params):
    (value, _), back = jax.vjp(loss, params)
    (plain,) = back((jnp.ones(()), jax.tree.map(jnp.zeros_like, params)))
    (onto,) = back((jnp.ones(()), jax.tree.map(jnp.ones_like, params)))
    return value, plain, onto

  return gradients(params)


@pytest.mark.parametrize('mla', [False, True])
@pytest.mark.parametrize('remat', ['full', 'attention', 'qkv', 'products'])
def test_what_is_kept_of_a_layer_does_not_change_the_gradient(remat, mla):
  # Entries are sums of far larger terms, some thousand.
  near = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6 * np.abs(y).max() + 1e-5)
  close = lambda a, b: jax.tree.map(near, a, b)
  want, got = tiny('none', 'auto', mla), tiny(remat, 'chunked', mla)
  close(got[:2], want[:2])
  close(got[2], jax.tree.map(lambda x: x + 1, got[1]))  # added to what came in


SPLASH = """
import jax, jax.numpy as jnp, numpy as np
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec
from r1jax import config, parallel
from r1jax.models.attention import KV
from r1jax.models.causal import Attention, causal_attention
devices = topologies.get_topology_desc(platform='tpu', topology_name='v5e:2x2').devices
mesh = parallel.make_mesh(config.Mesh(fsdp=2, tp=2), devices)
def like(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=NamedSharding(mesh, PartitionSpec('fsdp', 'tp')))
for p, k, g, r, t, d, v, s in ((2, 2, 2, 2, 1100, 128, 128, 300), (2, 4, 1, 1, 1100, 192, 128, 300)):
  def f(q, own, prompt):
    parts = [(prompt, jnp.array([300, 200])), (own, None)]
    return causal_attention(q, parts, 1.0, Attention('auto', mesh)).astype(jnp.float32).sum()
  grad = jax.jit(jax.grad(f, argnums=(0, 1, 2))).lower(
      like(p, k, g, r, t, d), KV(like(p, k, g, d, t), like(p, k, g, t, v)), KV(like(p, k, d, s), like(p, k, s, v)))
  assert grad.as_text().count('tpu_custom_call') >= 3
  print(grad.compile().memory_analysis().temp_size_in_bytes)
"""


@pytest.mark.slow
def test_splash_compiles_for_a_tpu_with_gradients():
  pytest.importorskip('libtpu')
  env = os.environ | dict(
    JAX_PLATFORMS='cpu',
    TPU_SKIP_MDS_QUERY='1',
    TPU_WORKER_HOSTNAMES='localhost',
    TPU_ACCELERATOR_TYPE='v5p-128',
    ALLOW_MULTIPLE_LIBTPU_LOAD='1',
  )
  done = subprocess.run([sys.executable, '-c', SPLASH], env=env, capture_output=True, text=True, timeout=600)
  assert done.returncode == 0, done.stderr[-2000:]
  scores = 2 * 2 * 1100 * 1400 * 4  # of a device's rows and heads, which are never whole
  assert all(int(x) < 5 * scores for x in done.stdout.split())
