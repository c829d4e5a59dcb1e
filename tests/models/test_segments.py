"""Rows packed of several texts: each is computed as if it were alone, by every implementation of attention."""

import dataclasses
import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax import models
from r1jax import params as params_lib
from r1jax.config import ConfigError
from r1jax.models import causal
from r1jax.models.attention import KV
from r1jax.models.causal import Attention, causal_attention
from r1jax.models.config import MLA

IMPLEMENTATIONS = ['xla', 'chunked', 'splash']
MODEL = models.ModelConfig(vocab=37, embed=16, layers=2, heads=4, kv_heads=2, head_dim=8, mlp=24, context=64)
LATENT = dataclasses.replace(
  MODEL, kv_heads=4, head_dim=12, mla=MLA(q_rank=10, kv_rank=9, nope_dim=8, rope_dim=4, v_dim=6)
)


def attention(name, q, own, segments):
  return causal_attention(q, [(own, segments)], q.shape[-1] ** -0.5, Attention(name))


def by_hand(q, keys, values):
  """Causal attention of one head: q, keys f64[t, d], values f64[t, v]."""
  scores = np.where(np.tril(np.ones((len(q), len(q)))), q @ keys.T / np.sqrt(q.shape[-1]), -np.inf)
  weights = np.exp(scores - scores.max(axis=1, keepdims=True))
  return weights @ values / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize('name', IMPLEMENTATIONS)
@pytest.mark.parametrize(('t', 'block'), [(20, 8), (300, 128)])
def test_texts_of_a_row_do_not_meet(name, t, block, monkeypatch):
  """Against each text run alone; two rows, two continuations of each, cut at different places."""
  monkeypatch.setattr(causal, 'BLOCK', max(block, 128) if name == 'splash' else block)
  rng = np.random.default_rng(0)
  normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
  q, own = normal(2, 1, 2, 2, t, 8), KV(normal(2, 1, 2, 8, t), normal(2, 1, 2, t, 8))
  ends = np.sort(rng.choice(np.arange(1, t), size=(2, 2, 3)), axis=-1)
  segments = (np.arange(t) >= ends[..., None]).sum(axis=2).astype(np.int32)
  out = jax.jit(attention, static_argnums=0)(name, q, own, segments)
  for row, group, head in np.ndindex(2, 2, 2):
    for first, last in zip([0, *ends[row, group]], [*ends[row, group], t]):
      want = by_hand(
        *(
          np.float64(x)
          for x in (
            q[row, 0, group, head, first:last],
            own.k[row, 0, group, :, first:last].T,
            own.v[row, 0, group, first:last],
          )
        )
      )
      np.testing.assert_allclose(out[row, group, first:last, head], want, atol=2e-5)


@pytest.mark.parametrize('name', IMPLEMENTATIONS)
def test_no_gradient_crosses_from_one_text_into_another(name, monkeypatch):
  monkeypatch.setattr(causal, 'BLOCK', 128 if name == 'splash' else 8)
  rng = np.random.default_rng(1)
  normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  q, own = normal(1, 1, 1, 1, 20, 8), KV(normal(1, 1, 1, 8, 20), normal(1, 1, 1, 20, 8))
  segments = jnp.asarray((np.arange(20) >= 7) + 1)[None, None]
  of_second = lambda q, own: jnp.sin(attention(name, q, own, segments)[:, :, 7:]).sum()
  dq, down = jax.jit(jax.grad(of_second, argnums=(0, 1)))(q, own)
  for first, second in (
    (dq[..., :7, :], dq[..., 7:, :]),
    (down.k[..., :7], down.k[..., 7:]),
    (down.v[..., :7, :], down.v[..., 7:, :]),
  ):
    assert (first == 0).all() and (abs(second).max() > 1e-3)


@pytest.mark.parametrize('cfg', [MODEL, LATENT], ids=['gqa', 'mla'])
@pytest.mark.parametrize('name', IMPLEMENTATIONS)
def test_a_packed_row_is_its_texts_run_alone(cfg, name, monkeypatch):
  monkeypatch.setattr(causal, 'BLOCK', 128 if name == 'splash' else 8)
  params = jax.jit(functools.partial(params_lib.init, models.specs(cfg)))(jax.random.key(0))
  tokens = np.random.default_rng(0).integers(0, 37, 24)
  lengths = (9, 1, 11, 3)  # the last is padding
  segments = np.repeat([1, 2, 3, 0], lengths)
  positions = np.concatenate([np.arange(n) for n in lengths])
  lift = lambda x: jnp.asarray(x)[None, None]
  run = jax.jit(
    lambda tokens, positions, segments: (
      models.forward(
        params, cfg, tokens, positions, segments=segments, options=models.ForwardOptions(attention=name)
      ).hidden
    )
  )
  out = run(lift(tokens), lift(positions), lift(segments))[0, 0]
  starts = np.cumsum((0, *lengths))
  # Each in a row of its own; what fills it up comes after, where no text's token looks.
  rows = np.stack([np.resize(tokens[at : at + n], 11) for at, n in zip(starts, lengths[:3])])[:, None]
  forward = jax.jit(functools.partial(models.forward, cfg=cfg, options=models.ForwardOptions(attention='xla')))
  alone = forward(params, tokens=rows, positions=np.broadcast_to(np.arange(11), rows.shape)).hidden
  for i, (at, n) in enumerate(zip(starts, lengths[:3])):
    np.testing.assert_allclose(out[at : at + n], alone[i, 0, :n], atol=2e-5)


def test_cudnn_has_no_segments():
  class Gpu:
    platform = 'gpu'

  mesh = type('Mesh', (), {'devices': np.array([Gpu()])})()
  assert Attention('auto', mesh).choose(4096, 4096, 'bfloat16') == 'cudnn'
  assert Attention('auto', mesh).choose(4096, 4096, 'bfloat16', segments=True) == 'chunked'
  with pytest.raises(ConfigError, match="'cudnn', which cannot keep the texts of a packed row apart; use 'auto'"):
    Attention('cudnn', mesh).choose(64, 64, 'bfloat16', segments=True)


SPLASH = """
import jax, jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec
from r1jax import config, parallel
from r1jax.models.attention import KV
from r1jax.models.causal import Attention, causal_attention
devices = topologies.get_topology_desc(platform='tpu', topology_name='v5e:2x2').devices
mesh = parallel.make_mesh(config.Mesh(fsdp=2, tp=2), devices)
def like(*shape, dtype=jnp.bfloat16, over=('fsdp', 'tp')):
  return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, PartitionSpec(*over)))
p, k, r, t, d = 2, 2, 2, 2048, 128
f = lambda q, own, segments: causal_attention(q, [(own, segments)], 1.0, Attention('auto', mesh)).astype(
    jnp.float32).sum()
grad = jax.jit(jax.grad(f, argnums=(0, 1))).lower(
    like(p, k, 1, r, t, d), KV(like(p, k, 1, d, t), like(p, k, 1, t, d)),
    like(p, 1, t, dtype=jnp.int32, over=('fsdp',)))
assert grad.as_text().count('tpu_custom_call') >= 3
print(grad.compile().memory_analysis().temp_size_in_bytes)
"""


@pytest.mark.slow
def test_splash_with_segments_compiles_for_a_tpu_with_gradients():
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
  assert int(done.stdout) < 5 * 2 * 2048 * 2048 * 4  # of a device's rows and heads, whose scores are never whole
