"""The decoder against an independent NumPy one, and against itself in its other uses."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax import models
from r1jax import params as params_lib
from r1jax.config import ConfigError
from r1jax.models.config import MLA, MoE, RopeScaling

TINY = models.ModelConfig(vocab=37, embed=16, layers=3, heads=4, kv_heads=2, head_dim=8, mlp=24, context=64)
VARIANTS = {
  'llama': TINY,
  'qwen2_5': dataclasses.replace(TINY, qkv_bias=True, tied=True),
  'qwen3': dataclasses.replace(TINY, qk_norm=True, rope_theta=1e6),
}
MIXED = {
  'qwen3_moe': dataclasses.replace(TINY, qk_norm=True, moe=MoE(experts=8, top_k=3, mlp=12)),
  'deepseek_v3': dataclasses.replace(
    TINY,
    kv_heads=4,
    head_dim=12,
    rope=RopeScaling('yarn', 4.0, 16, mscale=1.0, mscale_all_dim=1.0),
    mla=MLA(q_rank=10, kv_rank=9, nope_dim=8, rope_dim=4, v_dim=6),
    moe=MoE(8, 2, 12, shared=2, first_dense=1, score='sigmoid', groups=4, top_groups=2, scale=2.5),
  ),
}
ALL = VARIANTS | MIXED


def make(cfg, seed=0):
  """Random parameters, biases and scales included."""
  params = params_lib.init(models.specs(cfg), jax.random.key(seed))
  leaves, treedef = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
  return jax.tree.unflatten(treedef, [x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys)])


def numpy_logits(params, cfg, tokens):
  """Logits of one sequence, token by token and head by head, float64."""
  p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  norm = lambda scale, x: x / np.sqrt((x * x).mean() + cfg.norm_eps) * scale
  silu = lambda x: x / (1 + np.exp(-x))

  def rotate(x, position):
    half = cfg.head_dim // 2
    angle = position * cfg.rope_theta ** (-np.arange(half) * 2 / cfg.head_dim)
    a, b = x[:half], x[half:]
    return np.concatenate([a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)])

  xs = [p['embed'][t] for t in tokens]
  for i in range(cfg.layers):
    layer = jax.tree.map(lambda w, i=i: w[i], p['layers'])
    att = layer['attention']
    queries, keys, values = [], [], []
    for position, x in enumerate(xs):
      h = norm(layer['attention_norm'], x)
      q, k, v = (np.einsum('d,dhe->he', h, att[n]) for n in 'qkv')
      if cfg.qkv_bias:
        q, k, v = q + att['q_bias'], k + att['k_bias'], v + att['v_bias']
      if cfg.qk_norm:
        q, k = np.stack([norm(att['q_norm'], r) for r in q]), np.stack([norm(att['k_norm'], r) for r in k])
      queries.append([rotate(r, position) for r in q])
      keys.append([rotate(r, position) for r in k])
      values.append(v)
    for position in range(len(xs)):
      out = 0
      for head in range(cfg.heads):
        kv = head * cfg.kv_heads // cfg.heads
        scores = np.array([queries[position][head] @ keys[s][kv] for s in range(position + 1)]) / np.sqrt(cfg.head_dim)
        weights = np.exp(scores - scores.max())
        weights /= weights.sum()
        out = out + sum(w * values[s][kv] for s, w in enumerate(weights)) @ att['o'][head]
      xs[position] = xs[position] + out
    for position, x in enumerate(xs):
      h = norm(layer['mlp_norm'], x)
      xs[position] = x + (silu(h @ layer['mlp']['gate']) * (h @ layer['mlp']['up'])) @ layer['mlp']['down']
  unembed = p['embed'].T if cfg.tied else p['unembed']
  return np.stack([norm(p['norm'], x) @ unembed for x in xs])


prefill = jax.jit(models.prefill, static_argnames='cfg')
forward = jax.jit(models.forward, static_argnames=('cfg', 'options'))
response_hidden = jax.jit(models.response_hidden, static_argnames='cfg')


@functools.partial(jax.jit, static_argnames='cfg')
def logits(params, cfg, tokens):
  tokens = jnp.asarray(tokens)[None, None]
  hidden = models.forward(params, cfg, tokens, jnp.arange(tokens.shape[2])[None, None]).hidden
  return hidden[0, 0] @ models.unembedding(params).T


@pytest.mark.parametrize('name', VARIANTS)
def test_forward_equals_an_independent_one(name):
  cfg, tokens = VARIANTS[name], np.random.default_rng(0).integers(0, 37, 9)
  params = make(cfg)
  np.testing.assert_allclose(logits(params, cfg, tokens), numpy_logits(params, cfg, tokens), atol=2e-4)


@pytest.mark.parametrize('name', ALL)
@pytest.mark.parametrize('unstacked', [False, True])
def test_cached_decode_equals_the_full_forward(name, unstacked):
  cfg = ALL[name]
  params = make(cfg)
  rng = np.random.default_rng(1)
  lengths = np.array([5, 3])
  prompts, responses = rng.integers(0, 37, (2, 6)), rng.integers(0, 37, (2, 3, 4))
  run = models.unstack(params) if unstacked else params
  prompt = prefill(run, cfg, jnp.asarray(prompts), jnp.asarray(lengths))
  seen = [jnp.broadcast_to(prompt.hidden[:, None], (2, 3, cfg.embed))]
  empty = models.empty_cache(cfg, 2, 3, 4, jnp.float32)
  stack = lambda layers: layers if unstacked else jax.tree.map(lambda *x: jnp.stack(x), *layers)
  cache = {run: stack([empty] * layers) for run, layers in models.layer_groups(cfg).items()}
  for first, last in ((0, 1), (1, 3)):  # one token, then two at once
    positions = jnp.broadcast_to(lengths[:, None, None] + np.arange(first, last), (2, 3, last - first))
    out = forward(
      run,
      cfg,
      jnp.asarray(responses[:, :, first:last]),
      positions,
      prefix=models.Cached(prompt.kv, jnp.asarray(lengths)),
      cache=models.Cached(cache, jnp.int32(first)),
    )
    cache = out.kv
    seen += [out.hidden[:, :, i] for i in range(last - first)]
  got = jnp.stack(seen, axis=2) @ models.unembedding(params).T
  for p, n in enumerate(lengths):
    for g in range(3):
      want = logits(params, cfg, np.concatenate([prompts[p][:n], responses[p, g]]))[n - 1 : -1]
      np.testing.assert_allclose(got[p, g], want, atol=2e-5)


@pytest.mark.parametrize('name', ['qwen3', *MIXED])
def test_response_hidden_predicts_each_response_token(name):
  cfg = ALL[name]
  params = make(cfg)
  rng = np.random.default_rng(2)
  prompts, lengths, responses = rng.integers(0, 37, (2, 6)), np.array([6, 2]), rng.integers(0, 37, (2, 3, 5))
  hidden = response_hidden(params, cfg, jnp.asarray(prompts), jnp.asarray(lengths), jnp.asarray(responses)).hidden
  got = hidden @ models.unembedding(params).T
  for p in range(2):
    for g in range(3):
      want = logits(params, cfg, np.concatenate([prompts[p][: lengths[p]], responses[p, g]]))[lengths[p] - 1 : -1]
      np.testing.assert_allclose(got[p, g], want, atol=2e-5)


def test_what_pads_a_prompt_changes_nothing():
  cfg = VARIANTS['llama']
  params = make(cfg)
  prompts = np.random.default_rng(3).integers(0, 37, (1, 4))
  responses = jnp.asarray(np.random.default_rng(4).integers(0, 37, (1, 2, 5)))
  outs = [
    response_hidden(
      params, cfg, jnp.pad(jnp.asarray(prompts), ((0, 0), (0, pad)), constant_values=fill), jnp.array([4]), responses
    ).hidden
    for pad, fill in ((0, 0), (9, 0), (9, 33))
  ]
  np.testing.assert_allclose(outs[1], outs[0], atol=1e-6)
  np.testing.assert_array_equal(outs[2], outs[1])


@pytest.mark.parametrize('tied', [False, True])
def test_remat_and_chunked_logprobs_give_the_plain_gradient(tied):
  cfg = dataclasses.replace(TINY, tied=tied)
  params = make(cfg)
  tokens = jnp.asarray(np.random.default_rng(5).integers(0, 37, (2, 1, 11)))
  weight = jax.random.normal(jax.random.key(9), (20,))

  def loss(params, chunk, remat):
    positions = jnp.broadcast_to(jnp.arange(10), (2, 1, 10))
    hidden = models.forward(params, cfg, tokens[..., :-1], positions, options=models.ForwardOptions(remat=remat)).hidden
    logp, entropy = models.logprobs(hidden[:, 0], models.unembedding(params), tokens[:, 0, 1:], chunk, temperature=0.7)
    return (weight * (logp + 0.3 * entropy).reshape(-1)).sum()

  def plain(params):
    hidden = models.forward(params, cfg, tokens[..., :-1], jnp.broadcast_to(jnp.arange(10), (2, 1, 10))).hidden
    every = jax.nn.log_softmax(hidden.reshape(-1, cfg.embed) @ models.unembedding(params).T / 0.7)
    logp = jnp.take_along_axis(every, tokens[..., 1:].reshape(-1, 1), axis=1)[:, 0]
    return (weight * (logp - 0.3 * (jnp.exp(every) * every).sum(axis=1))).sum()

  want = jax.jit(jax.value_and_grad(plain))(params)
  gradient = jax.jit(jax.value_and_grad(loss), static_argnums=(1, 2))
  for chunk in (3, 20, 100):
    got = gradient(params, chunk, 'full')
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4), got, want)


@pytest.mark.parametrize('chunk', [3, 100])
def test_logprobs_of_the_tokens_above_a_threshold(chunk):
  """Against a softmax over the kept tokens alone; the target is always kept."""
  rng = np.random.default_rng(0)
  hidden, unembed = jnp.asarray(rng.normal(size=(7, 4)), jnp.float32), jnp.asarray(rng.normal(size=(9, 4)), jnp.float32)
  targets, threshold = (
    jnp.asarray(rng.integers(0, 9, 7)),
    jnp.asarray([-1e30, -0.5, -1, -2, -1e-3, -3, -1], jnp.float32),
  )

  def total(hidden):
    logp, entropy = models.logprobs(hidden[None], unembed, targets[None], chunk, None, 0.7, threshold[None])
    return (logp + 0.3 * entropy).sum(), (logp[0], entropy[0])

  def plain(hidden):
    sums, logps, entropies = 0.0, [], []
    for row, target, limit in zip(hidden @ unembed.T / 0.7, targets, threshold):
      kept = [v for v in range(9) if row[v] - row.max() >= limit or v == target]
      logp = jax.nn.log_softmax(row[jnp.asarray(kept)])
      logps.append(logp[kept.index(int(target))])
      entropies.append(-(jnp.exp(logp) * logp).sum())
      sums += logps[-1] + 0.3 * entropies[-1]
    return sums, (jnp.stack(logps), jnp.stack(entropies))

  (_, got), gradient = jax.value_and_grad(total, has_aux=True)(hidden)
  (_, want), want_gradient = jax.value_and_grad(plain, has_aux=True)(hidden)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), (got, gradient), (want, want_gradient))


def test_no_array_as_large_as_all_logits_exists():
  """The compiled gradient's temporaries stay far below one [N, vocab] array."""
  n, d, vocab = 4096, 8, 2048
  f = jax.jit(jax.grad(lambda h, w, y: models.logprobs(h[None], w, y[None], 64)[0].sum(), argnums=(0, 1)))
  compiled = f.lower(jnp.zeros((n, d)), jnp.zeros((vocab, d)), jnp.zeros(n, jnp.int32)).compile()
  assert compiled.memory_analysis().temp_size_in_bytes < n * vocab * 4 / 4


def test_scores_against_numpy():
  rng = np.random.default_rng(0)
  h, w = rng.normal(size=(2, 5, 8)), rng.normal(size=(8, 1))
  every = models.scores({'score': jnp.asarray(w, jnp.float32)}, jnp.asarray(h, jnp.float32))
  want = np.array([[sum(x * y for x, y in zip(token, w[:, 0])) for token in row] for row in h])
  np.testing.assert_allclose(every, want, atol=1e-5)
  marks = np.array([[0, 3, -1], [4, -1, -1]])
  steps = np.array([[want[0, 0], want[0, 3], 0], [want[1, 4], 0, 0]])
  np.testing.assert_allclose(models.score_at(every, jnp.asarray(marks)), steps, atol=1e-5)
  np.testing.assert_allclose(models.score_at(every, jnp.asarray([3, -1])), [want[0, 3], 0], atol=1e-5)


@pytest.mark.parametrize(
  ('name', 'count'),
  [
    ('llama3_1_8b', 8_030_261_248),
    ('llama3_3_70b', 70_553_706_496),
    ('qwen2_5_0_5b', 494_032_768),
    ('qwen2_5_1_5b', 1_543_714_304),
    ('qwen2_5_3b', 3_085_938_688),
    ('qwen2_5_7b', 7_615_616_512),
    ('qwen2_5_14b', 14_770_033_664),
    ('qwen2_5_32b', 32_763_876_352),
    ('qwen2_5_72b', 72_706_203_648),
    ('qwen3_1_7b', 1_720_574_976),
    ('qwen3_8b', 8_190_735_360),
    ('qwen3_30b_a3b', 30_532_122_624),
    ('qwen3_235b_a22b', 235_093_634_560),
    ('deepseek_v3', 671_026_419_200),  # 14 848 of them correction biases: one an expert and layer
    ('r1_distill_qwen_1_5b', 1_777_088_000),
  ],
)
def test_presets_have_the_published_number_of_parameters(name, count):
  assert params_lib.count(models.specs(models.PRESETS[name])) == count


@pytest.mark.parametrize(
  ('name', 'billions'), [('deepseek_v3', 37), ('qwen3_235b_a22b', 22), ('qwen3_30b_a3b', 3), ('llama3_1_8b', 8)]
)
def test_presets_have_the_published_number_of_active_parameters(name, billions):
  cfg = models.PRESETS[name]
  m = cfg.moe
  idle = (m.experts - m.top_k) * 3 * cfg.embed * m.mlp * (cfg.layers - cfg.dense_layers) if m else 0
  assert (params_lib.count(models.specs(cfg)) - idle) // 10**9 == billions


def test_impossible_shapes_are_refused():
  with pytest.raises(ConfigError, match='4 heads do not divide over 3 KV heads'):
    dataclasses.replace(TINY, kv_heads=3)
