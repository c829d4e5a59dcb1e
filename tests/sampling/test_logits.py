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


def kept(restriction=EVERYTHING, temperature=1.0):
  p = np.exp(np.asarray(logits_lib.restrict(LOGITS, temperature, restriction))[0])
  np.testing.assert_allclose(p.sum(), 1, atol=1e-6)
  return p


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


@pytest.mark.parametrize('vocab', [1, 2, 5, 37, 640])
def test_draws_follow_the_distribution(vocab):
  p = np.random.default_rng(vocab).dirichlet(np.full(vocab, 0.3))
  n = 40_000
  keys = jax.random.split(jax.random.key(vocab), n)
  logp = jnp.broadcast_to(jnp.log(jnp.asarray(p, jnp.float32)), (n, vocab))
  counts = np.bincount(np.asarray(jax.jit(logits_lib.draw)(keys, logp)), minlength=vocab)
  # Six standard deviations of each count: a chance of about 1e-6 over all.
  assert (np.abs(counts - n * p) <= 6 * np.sqrt(n * p * (1 - p)) + 1).all()


def test_a_token_of_no_mass_is_never_drawn():
  logp = jnp.broadcast_to(jnp.log(jnp.asarray([0, 0.5, 0, 0.5, 0, 0, 0.0])), (5000, 7))
  drawn = np.asarray(logits_lib.draw(jax.random.split(jax.random.key(0), 5000), logp))
  assert set(drawn) == {1, 3}
