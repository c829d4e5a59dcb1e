"""Log-likelihoods of continuations, against one plain forward of each pair."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax import config, models, parallel
from r1jax import params as params_lib
from r1jax.evaluation import likelihood

CFG = models.ModelConfig(vocab=29, embed=16, layers=2, heads=2, kv_heads=1, head_dim=8, mlp=24, context=64)
LIMIT = 40


@pytest.fixture(scope='module')
def params():
  tree = params_lib.init(models.specs(CFG), jax.random.key(0))
  noise = jax.random.normal(jax.random.key(1), tree['embed'].shape)
  return tree | {'embed': noise, 'unembed': 1.5 * tree['unembed']}  # tokens differ in probability


@jax.jit
def log_softmax(params, tokens):
  hidden = models.forward(params, CFG, tokens[None, None], jnp.arange(LIMIT)[None, None]).hidden
  return jax.nn.log_softmax(hidden[0, 0] @ models.unembedding(params).T)


def by_hand(params, context, continuation):
  """Sum of log-probs, and whether each token is the likeliest, of a pair that fits."""
  ids = [*context, *continuation]
  logp = np.asarray(log_softmax(params, jnp.asarray(ids[:-1] + [0] * (LIMIT + 1 - len(ids)))))[: len(ids) - 1]
  rows = logp[len(context) - 1 :]
  return rows[np.arange(len(continuation)), continuation].sum(), (rows.argmax(axis=1) == continuation).all()


def test_batches_agree_with_one_forward_a_pair(params):
  rng = np.random.default_rng(0)
  ids = lambda n: rng.integers(2, CFG.vocab, n).tolist()
  contexts = [ids(n) for n in (1, 3, 17, 30, 5)]
  pairs = [(c, ids(n)) for c in contexts for n in (1, 2, 4)]
  pairs += [(contexts[1], ids(1)) for _ in range(9)] + pairs[:2]  # over 8 of one context; and some twice
  best = lambda c: int(log_softmax(params, jnp.asarray(c + [0] * (LIMIT - len(c))))[len(c) - 1].argmax())
  pairs += [(c, [best(c)]) for c in contexts]
  long = ids(60)
  pairs += [(long, [3, 4])]  # only its last tokens are read
  options = models.ForwardOptions(mesh=parallel.make_mesh(config.Mesh(), jax.devices()[:1]))
  seen = []
  found = likelihood.Scorer(CFG, params, options, LIMIT, rows=8)(pairs, seen.append)
  pairs[-1] = (long[-(LIMIT - 1) :], [3, 4])
  expected = [by_hand(params, *pair) for pair in pairs]
  np.testing.assert_allclose([f.total for f in found], [total for total, _ in expected], rtol=1e-4, atol=1e-4)
  assert [f.greedy for f in found] == [greedy for _, greedy in expected]
  assert any(f.greedy for f in found) and not all(f.greedy for f in found)
  assert seen[-1] == len({(tuple(a), tuple(b)) for a, b in pairs})
  assert likelihood.likelihood_program._cache_size() <= 5
  with pytest.raises(config.ConfigError, match=r'41 tokens.*40'):
    likelihood.Scorer(CFG, params, options, LIMIT, rows=8)([([1], [2] * 41)])


def test_batches_hold_each_pair_once_in_few_shapes():
  rng = np.random.default_rng(1)
  pairs = [(tuple([c] * rng.integers(1, 300)), (int(d),)) for c in range(50) for d in range(rng.integers(1, 5))]
  batches = list(likelihood.batches(pairs * 2, rows=16, shards=4))
  rows = [pair for batch in batches for row in batch.rows for pair in row]
  assert sorted(rows) == sorted(set(pairs))
  assert all(len(batch.contexts) % 4 == 0 and batch.lengths.size <= 16 for batch in batches)
  assert len({(b.contexts.shape, b.tokens.shape) for b in batches}) <= 12
  for batch in batches:
    for p, row in enumerate(batch.rows):
      for g, (context, continuation) in enumerate(row):
        assert batch.contexts[p, : batch.context_lengths[p]].tolist() == list(context)
        assert batch.tokens[p, g, : batch.lengths[p, g]].tolist() == list(continuation)


@pytest.mark.parametrize(('length', 'limit'), list(itertools.product([1, 2, 7, 8, 9, 16, 17], [1, 2, 8])))
def test_windows_predict_each_token_once_from_as_many_as_fit(length, limit):
  tokens = list(range(100, 100 + length))
  parts = likelihood.windows(tokens, 7, limit)
  assert [t for _, continuation in parts for t in continuation] == tokens
  place = 0
  for context, continuation in parts:
    before = [7, *tokens[:place]]
    assert len(continuation) == min(limit, length - place)  # as long as possible
    place += len(continuation)
    assert context == before[-(limit + 1 - len(continuation)) :]  # what is left for it, and the last token unread


def test_windows_of_the_documentation_of_lm_eval():
  assert likelihood.windows([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], 99, 4) == [
    ([99], [0, 1, 2, 3]),
    ([3], [4, 5, 6, 7]),
    ([5, 6, 7], [8, 9]),
  ]
