"""The sampling distribution against its definition, and draws against the distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.sampling import logits as logits_lib
from r1jax.sampling.logits import Restriction

P = np.array([0.4, 0.3, 0.15, 0.1, 0.05])
EVERYTHING = Restriction()
LOGITS = jnp.log(jnp.asarray(P))[None]

restrict = jax.jit(logits_lib.restrict, static_argnums=2)


def kept(restriction=EVERYTHING, temperature=1.0):
  p = np.exp(np.asarray(logits_lib.restrict(LOGITS, temperature, restriction))[0])
  return p / p.sum()


@pytest.mark.parametrize(
  ('restriction', 'keep'),
  [
    (Restriction(top_k=2), [0, 1]),
    (Restriction(top_p=0.69), [0, 1]),
    (Restriction(top_p=0.71), [0, 1, 2]),
    (Restriction(top_p=0.01), [0]),
    (Restriction(min_p=0.3), [0, 1, 2]),
    (Restriction(top_k=4, top_p=0.8, min_p=0.5), [0, 1]),
  ],
)
def test_restrictions_keep_what_they_say_and_renormalise(restriction, keep):
  want = np.zeros(5)
  want[keep] = P[keep] / P[keep].sum()
  np.testing.assert_allclose(kept(restriction), want, atol=1e-6)


def test_temperature_sharpens_and_zero_is_greedy():
  np.testing.assert_allclose(kept(temperature=0.5), P**2 / (P**2).sum(), atol=1e-6)
  np.testing.assert_array_equal(kept(temperature=0.0), [1, 0, 0, 0, 0])


def kept_by_sorting(p, restriction):
  """The definition of top-k, top-p and min-p in exact arithmetic, for one row of probabilities; ties stay together."""
  ordered = np.sort(p)[::-1].astype(np.float64)
  keep = p >= ordered[min(restriction.top_k or len(p), len(p)) - 1]
  before = np.array([ordered[ordered > x].sum() for x in p])
  keep &= (before < restriction.top_p * p.sum()) | (restriction.top_p == 1)
  return keep & (p >= restriction.min_p * ordered[0])


ADVERSARIAL = {
  'all equal': np.full(64, 1 / 64),
  'ties at every level': np.repeat(2.0 ** -np.arange(2, 10), 8),
  'one token has it all': np.array([1.0, *[0.0] * 63]),
  'a long tail': np.array([0.5, *[2.0**-7] * 63]),
  'the smallest floats': np.array([1.0, *2.0 ** -np.arange(64, 127)]),
  'neighbouring floats': np.nextafter(np.full(64, 0.25, np.float32), 1) * (np.arange(64) % 3 > 0) + 0.25 / 2**20,
}


@pytest.mark.parametrize('p', ADVERSARIAL.values(), ids=ADVERSARIAL)
def test_exactly_the_tokens_that_sorting_keeps_are_kept(p):
  """Powers of two, whose sums are exact in any order, at limits that fall on a token's edge, before and behind it."""
  p = np.random.default_rng(0).permutation(p).astype(np.float32)
  logits = jnp.log(jnp.asarray(p))[None]
  weights = np.exp(np.asarray(logits_lib.restrict(logits, 1.0, EVERYTHING))[0])  # as the sampler sees them
  for restriction in [
    *(Restriction(top_p=x) for x in (1e-6, 0.25, 0.5, 0.51, 0.75, 0.95, 1 - 2**-20)),
    *(Restriction(top_k=k) for k in (1, 2, 8, 9, 63, 64, 1000)),
    Restriction(top_p=0.75, top_k=9, min_p=0.25),
  ]:
    kept = np.asarray(restrict(logits, 1.0, restriction))[0] > logits_lib.NEVER
    possible = weights > 0
    np.testing.assert_array_equal(kept & possible, kept_by_sorting(weights, restriction) & possible, str(restriction))


def test_top_p_of_a_real_vocabulary_is_that_of_sorting_but_for_rounding():
  logits = np.random.default_rng(1).normal(size=(3, 50_000)).astype(np.float32) * 4
  kept = np.asarray(logits_lib.restrict(jnp.asarray(logits), 0.6, Restriction(top_p=0.95))) > logits_lib.NEVER
  p = np.exp(logits.astype(np.float64) / 0.6)
  for row, p_row in zip(kept, p / p.sum(axis=1, keepdims=True)):
    assert row.sum() == (p_row >= p_row[row].min()).sum()  # the likeliest tokens, none left out
    mass, last = p_row[row].sum(), p_row[row].min()
    assert mass > 0.95 - 1e-5 and mass - last < 0.95 + 1e-5  # enough of them, and not one too many


@pytest.mark.parametrize('vocab', [1, 2, 5, 37, 640])
def test_draws_follow_the_distribution(vocab):
  p = np.random.default_rng(vocab).dirichlet(np.full(vocab, 0.3))
  n = 40_000
  keys = jax.random.split(jax.random.key(vocab), n)
  logp = jnp.broadcast_to(jnp.log(jnp.asarray(p, jnp.float32)), (n, vocab))
  tokens, drawn_logp = map(np.asarray, jax.jit(logits_lib.draw)(keys, logp + 3))  # log-weights need not be normalised
  np.testing.assert_allclose(drawn_logp, np.log(p)[tokens], atol=1e-4)
  counts = np.bincount(tokens, minlength=vocab)
  # Six standard deviations of each count: a chance of about 1e-6 over all.
  assert (np.abs(counts - n * p) <= 6 * np.sqrt(n * p * (1 - p)) + 1).all()


def test_a_token_of_no_mass_is_never_drawn():
  logp = jnp.broadcast_to(jnp.log(jnp.asarray([0, 0.5, 0, 0.5, 0, 0, 0.0])), (5000, 7))
  drawn = np.asarray(logits_lib.draw(jax.random.split(jax.random.key(0), 5000), logp)[0])
  assert set(drawn) == {1, 3}
