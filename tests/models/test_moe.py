"""Mixtures of experts against plain loops, and what latent attention keeps of a token."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax import models
from r1jax import params as params_lib
from r1jax.config import ConfigError
from r1jax.models import moe
from r1jax.models.config import MLA, MoE
from r1jax.sampling import decode, row_keys
from r1jax.sampling.logits import Restriction

EMBED = 12
KINDS = {
  'softmax': MoE(experts=6, top_k=2, mlp=10),
  'softmax, not normalised': MoE(experts=6, top_k=3, mlp=10, normalise=False, scale=0.5),
  'sigmoid, groups, shared': MoE(
    experts=12, top_k=3, mlp=10, shared=2, score='sigmoid', groups=4, top_groups=2, scale=2.5
  ),
  'all experts': MoE(experts=4, top_k=4, mlp=10, score='sigmoid'),
}
MIXED = models.ModelConfig(
  vocab=31,
  embed=EMBED,
  layers=3,
  heads=2,
  kv_heads=2,
  head_dim=12,
  mlp=20,
  context=64,
  family='deepseek_v3',
  mla=MLA(q_rank=10, kv_rank=9, nope_dim=8, rope_dim=4, v_dim=6),
  moe=dataclasses.replace(KINDS['sigmoid, groups, shared'], first_dense=1),
)


mixture = jax.jit(lambda p, m, x, real=None, replayed=None: moe.moe(p, m, x, real, replayed=replayed), static_argnums=1)
route = jax.jit(moe.route, static_argnums=1)


def random(specs, seed=0):
  """Random values of about the usual size in the place of specs, biases included."""
  rng = np.random.default_rng(seed)
  size = lambda s: 2 * s.shape[-2] ** -0.5 if s.init == 'normal' else 0.1
  return jax.tree.map(
    lambda s: jnp.asarray(size(s) * rng.normal(size=s.shape), jnp.float32), specs, is_leaf=params_lib.is_spec
  )


def make(m):
  """One layer's parameters."""
  return random(moe.moe_specs(dataclasses.replace(MIXED, moe=m)))


def tokens(n=23, seed=5):
  return jnp.asarray(np.random.default_rng(seed).normal(size=(n, EMBED)), jnp.float32)


def visits(p, m, token, chosen=()):
  """{expert: weight} of one token, float64. chosen: experts, if they are not the router's choice."""
  logits = token @ p['router']
  scores = 1 / (1 + np.exp(-logits)) if m.score == 'sigmoid' else np.exp(logits) / np.exp(logits).sum()
  choice = scores + p.get('router_bias', 0)
  size = m.experts // m.groups
  worth = [sum(sorted(choice[g * size : (g + 1) * size])[-2:]) for g in range(m.groups)]
  best = sorted(range(m.groups), key=lambda g: -worth[g])[: m.top_groups]
  allowed = [e for e in range(m.experts) if e // size in best]
  chosen = list(chosen) or sorted(allowed, key=lambda e: -choice[e])[: m.top_k]
  total = sum(scores[e] for e in chosen) if m.normalise else 1
  return {e: m.scale * scores[e] / total for e in chosen}


def by_hand(p, m, x, chosen=None):
  """Results and load, a token and an expert at a time, float64. chosen: experts of each token, or None."""
  p, x = jax.tree.map(lambda w: np.asarray(w, np.float64), (p, x))
  swiglu = lambda gate, up, down, t: ((t @ gate) / (1 + np.exp(-(t @ gate))) * (t @ up)) @ down
  out, load = np.zeros_like(x), np.zeros(m.experts)
  for i, token in enumerate(x):
    for e, weight in visits(p, m, token, () if chosen is None else chosen[i]).items():
      out[i] += weight * swiglu(p['gate'][e], p['up'][e], p['down'][e], token)
      load[e] += 1
    if m.shared:
      out[i] += swiglu(p['shared']['gate'], p['shared']['up'], p['shared']['down'], token)
  return out, load


def others(m, n):
  """Random experts of n tokens, whatever the routers say: i[n, top_k]."""
  return np.argsort(np.random.default_rng(8).random((n, m.experts)), axis=1)[:, : m.top_k]


@pytest.mark.parametrize('replay', [False, True])
@pytest.mark.parametrize('kind', KINDS)
def test_a_mixture_equals_a_loop_over_tokens_and_experts(kind, replay):
  """With the router's choice of experts, and with another one (routing replay)."""
  m = KINDS[kind]
  p, x, chosen = make(m), tokens(24), others(KINDS[kind], 24) if replay else None
  replayed = None if chosen is None else jnp.asarray(chosen.reshape(2, 3, 4, m.top_k), m.index_dtype)
  out, load, experts = mixture(p, m, x.reshape(2, 3, 4, EMBED), None, replayed)
  want, visited = by_hand(p, m, x, chosen)
  assert chosen is None or (experts.reshape(24, m.top_k) == chosen).all()
  assert want.std() > 0.3
  np.testing.assert_allclose(out.reshape(24, EMBED), want, atol=2e-5)
  np.testing.assert_array_equal(load, visited)


def test_no_token_is_dropped_when_all_go_to_one_expert():
  m = KINDS['softmax']
  p, x = make(m), tokens(200)
  x = x.at[:, 0].set(5.0)
  p['router'] = p['router'].at[0].set(0).at[0, 3].set(9.0).at[0, 1].set(6.0)
  out, load, _ = mixture(p, m, x)
  assert load[3] == load[1] == 200 and load.sum() == 400
  np.testing.assert_allclose(out, by_hand(p, m, x)[0], atol=5e-5)


def test_only_real_tokens_count_in_the_load():
  """And padding changes no other token's result."""
  m = KINDS['sigmoid, groups, shared']
  p, x = make(m), tokens(20)
  real = jnp.arange(20) < 13
  out, load, _ = mixture(p, m, jnp.where(real[:, None], x, 7.0), real)
  np.testing.assert_array_equal(load, by_hand(p, m, x[:13])[1])
  np.testing.assert_allclose(out[:13], mixture(p, m, x)[0][:13], atol=1e-6)


def test_a_models_load_is_that_of_its_prompts_and_responses():
  """Each real token but a row's last one passes once, a prompt once for its group."""
  params = random(models.specs(MIXED))
  prompts, lengths = jnp.ones((2, 6), jnp.int32), jnp.array([6, 2])
  responses, ends = jnp.ones((2, 3, 5), jnp.int32), jnp.array([[1, 5, 2], [3, 4, 5]])
  run = jax.jit(models.response_hidden, static_argnums=1)
  load = run(params, MIXED, prompts, lengths, responses, ends).expert_load
  assert load.shape == (2, 12)  # the dense layer has none
  seen = 6 + 2 + sum(min(end, 4) for end in (1, 5, 2, 3, 4, 5))  # token t predicts t + 1: the last is not run
  np.testing.assert_array_equal(load.sum(axis=1), [3 * seen] * 2)


@pytest.mark.parametrize('replay', [False, True])
@pytest.mark.parametrize('kind', KINDS)
def test_the_gradient_is_that_of_all_experts_under_a_mask(kind, replay):
  """The reference runs every expert on every token. The correction bias only chooses, and has no gradient."""
  m = KINDS[kind]
  p, x, along, chosen = make(m), tokens(), tokens(seed=6), others(m, 23) if replay else None

  def masked(p, x):
    logits = x @ p['router']
    scores = jax.nn.sigmoid(logits) if m.score == 'sigmoid' else jax.nn.softmax(logits)
    weights = jnp.where(mask, scores, 0)
    weights = m.scale * (weights / weights.sum(axis=1, keepdims=True) if m.normalise else weights)
    every = jnp.einsum('nd,edf->nef', x, p['gate'])
    every = jnp.einsum('nef,efd->ned', jax.nn.silu(every) * jnp.einsum('nd,edf->nef', x, p['up']), p['down'])
    shared = p['shared'] if m.shared else None
    out = jnp.einsum('ne,ned->nd', weights, every)
    return out + (jax.nn.silu(x @ shared['gate']) * (x @ shared['up'])) @ shared['down'] if shared else out

  exact = jax.tree.map(lambda w: np.asarray(w, np.float64), p)
  found = [visits(exact, m, t, chosen[i] if replay else ()) for i, t in enumerate(np.asarray(x, np.float64))]
  mask = jnp.asarray([[e in experts for e in range(m.experts)] for experts in found])
  want = jax.jit(jax.grad(lambda p, x: (masked(p, x) * along).sum(), argnums=(0, 1)))(p, x)
  run = lambda p, x: moe.moe(p, m, x, replayed=None if chosen is None else jnp.asarray(chosen))[0]
  got = jax.jit(jax.grad(lambda p, x: (run(p, x) * along).sum(), argnums=(0, 1)))(p, x)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * float(jnp.abs(b).max())), got, want)
  if 'router_bias' in p:
    assert not np.any(got[0]['router_bias'])
  assert np.abs(want[0]['router']).max() > 1e-3


def test_balance_moves_biases_towards_experts_visited_less():
  """By exactly the rate; whatever the optimizer did to them is undone, and nothing else is touched."""
  params = random(models.specs(MIXED))
  bias = jnp.asarray(np.random.default_rng(0).normal(size=(2, 12)), jnp.float32)
  put = lambda tree, b: tree | {'layers': tree['layers'] | {'moe': tree['layers']['moe'] | {'router_bias': b}}}
  before, after = put(params, bias), put(jax.tree.map(lambda x: x + 1, params), 0.9 * bias)
  load = jnp.asarray([[4.0] * 12, [9.0, 1.0, 2.0] * 4])  # even: nothing moves; and a mean of 4
  moved = models.balance(after, before, load, 0.001)
  want = np.asarray(bias) + np.float32(0.001) * np.array([[0.0] * 12, [-1.0, 1.0, 1.0] * 4], np.float32)
  np.testing.assert_array_equal(moved['layers']['moe']['router_bias'], want)
  kept = models.balance(after, before, load, 0.0)
  np.testing.assert_array_equal(kept['layers']['moe']['router_bias'], bias)
  jax.tree.map(np.testing.assert_array_equal, put(moved, bias), put(after, bias))


def test_balancing_step_by_step_evens_the_load():
  """Skewed scores: with a bias that follows the load, every expert is visited about as often as any other."""
  m = MoE(experts=8, top_k=2, mlp=4, score='sigmoid')
  x = tokens(512)
  p = make(m) | {'router_bias': jnp.zeros(8)}
  x = x.at[:, 0].set(1.0)
  p['router'] = p['router'].at[0].set(jnp.linspace(-2, 2, 8))
  load = lambda p: np.bincount(np.asarray(route(p, m, x)[1]).ravel(), minlength=8).astype(np.float32)
  first = load(p)
  for _ in range(150):
    tree = {'layers': {'moe': {'router_bias': p['router_bias'][None]}}}
    p['router_bias'] = models.balance(tree, tree, load(p)[None], 0.01)['layers']['moe']['router_bias'][0]
  assert first.max() > 1.9 * first.mean() and np.abs(load(p) / first.mean() - 1).max() < 0.2


def test_impossible_mixtures_are_refused():
  with pytest.raises(ConfigError, match='10 experts do not divide into 4 groups'):
    MoE(experts=10, top_k=2, mlp=4, groups=4, top_groups=2)
  with pytest.raises(ConfigError, match='5 experts a token from 2 groups of 2: too many'):
    MoE(experts=8, top_k=5, mlp=4, groups=4, top_groups=2)


def elements(tree):
  return sum(x.size for x in jax.tree.leaves(tree))


def test_a_token_of_deepseek_v3_leaves_576_numbers_a_layer():
  cfg = models.PRESETS['deepseek_v3']
  cache = jax.eval_shape(lambda: models.empty_cache(cfg, 2, 4, 100, jnp.bfloat16))
  assert elements(cache) == 576 * 2 * 4 * 100
  assert sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(cache)) == 1152 * 2 * 4 * 100


def test_decoding_carries_latents_and_nothing_more():
  """Of prompts and of responses, in the compiled programs' own arguments and results."""
  p, g, prompt, capacity = 2, 4, 7, 16
  options = decode.DecodeOptions(MIXED, Restriction(), (1,), models.ForwardOptions())
  params = params_lib.abstract(models.specs(MIXED, stacked=False))
  i32 = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.int32)
  f32 = jax.ShapeDtypeStruct((), jnp.float32)
  keys = jax.eval_shape(functools.partial(row_keys, prompts=p, samples=g), jax.random.key(0))
  start = functools.partial(decode.prefill, capacity=capacity, options=options)
  prefix, state, _ = jax.eval_shape(start, params, i32(p, prompt), i32(p), keys, f32)
  latent = MIXED.mla.kv_rank + MIXED.mla.rope_dim
  assert elements(prefix) == MIXED.layers * p * prompt * latent
  assert elements(state.cache) == MIXED.layers * p * g * capacity * latent
  chunk = functools.partial(decode.decode_chunk, length=8, options=options)
  after, _, _ = jax.eval_shape(chunk, params, prefix, i32(p), state, i32(), i32(), f32)
  assert jax.tree.map(lambda x: x.shape, after.cache) == jax.tree.map(lambda x: x.shape, state.cache)


@pytest.mark.parametrize(
  'product', [moe.by_group, functools.partial(moe.by_group_kernel, interpret=True)], ids=['anywhere', 'kernel']
)
def test_a_sum_of_products_over_each_group(product):
  rng, sizes = np.random.default_rng(0), [100, 0, 333, 200]
  a, b = rng.normal(size=(700, 48)).astype(np.float32), rng.normal(size=(700, 40)).astype(np.float32)
  got = product(jnp.asarray(a), jnp.asarray(b), jnp.array(sizes, jnp.int32), dtype=jnp.float32)
  ends = np.cumsum(sizes)
  want = [a[end - n : end].T @ b[end - n : end] for n, end in zip(sizes, ends)]
  np.testing.assert_allclose(got, np.stack(want), atol=1e-4)  # the last 67 rows are of no group


def test_tokens_are_visited_a_chunk_at_a_time(monkeypatch):
  m, p = MIXED.moe, params_lib.init(moe.moe_specs(MIXED), jax.random.key(0))
  x = jax.random.normal(jax.random.key(1), (3, 2, 7, MIXED.embed))

  def run(p, x):
    out, load, _ = moe.moe(p, m, x)
    return (out**2).sum(), load

  gradient = lambda: jax.jit(jax.value_and_grad(lambda p, x: run(p, x), (0, 1), has_aux=True))  # traced anew
  (want, load), whole = gradient()(p, x)
  monkeypatch.setattr(moe, 'CHUNK', 8)
  (got, same), parts = gradient()(p, x)
  np.testing.assert_allclose(got, want, rtol=1e-5)
  np.testing.assert_array_equal(load, same)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), parts, whole)
