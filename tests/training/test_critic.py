"""A value network's gradient: cut into microbatches or not, recomputed or not, by hand or not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax import losses, models
from r1jax import params as params_lib
from r1jax.batch import RolloutBatch
from r1jax.training import accumulate, critic

MODEL = models.ModelConfig(
  vocab=40, embed=16, layers=2, heads=2, kv_heads=1, head_dim=8, mlp=24, context=64, head='score'
)
P, G, T = 4, 2, 12


def batch():
  rng = np.random.default_rng(0)
  tokens = lambda *shape: jnp.asarray(rng.integers(0, 40, shape), jnp.int32)
  near = lambda: jnp.asarray(rng.normal(size=(P, G, T)), jnp.float32)
  lengths = jnp.asarray(rng.integers(1, T + 1, (P, G)), jnp.int32)
  return RolloutBatch(
    prompts=tokens(P, 8),
    prompt_lengths=jnp.array([1, 8, 3, 5]),
    tokens=tokens(P, G, T),
    lengths=lengths,
    loss_mask=jnp.arange(T) < lengths[..., None],
    sampler_logp=None,
    returns=near(),
    values=near(),
  )


def loss_of(remat, clip=0.2):
  return critic.ValueLoss(MODEL, models.ForwardOptions(remat=remat), clip)


def gradient(params, whole, size, remat, clip=0.2):
  totals = losses.Totals(jnp.float32(P * G), whole.lengths.sum().astype(jnp.float32), T)
  grads, loss = accumulate.zeros_like(params), 0.0
  for first in range(0, P, size):
    part = jax.tree.map(lambda x, at=slice(first, first + size): x[at], whole)
    grads, metrics = accumulate.accumulate(params, grads, part, totals, loss_fn=loss_of(remat, clip))
    loss += metrics['value/loss']
  return loss, grads


@pytest.fixture(scope='module')
def params():
  return params_lib.init(models.specs(MODEL), jax.random.key(0))


def test_values_are_those_before_each_token(params):
  whole = batch()
  found = critic.values(params, whole, loss_fn=loss_of('none'))
  for p, g in ((0, 0), (3, 1)):
    n = int(whole.prompt_lengths[p])
    row = jnp.concatenate([whole.prompts[p, :n], whole.tokens[p, g]])[None, None]
    hidden = models.forward(params, MODEL, row, jnp.arange(n + T)[None, None]).hidden
    np.testing.assert_allclose(found[p, g], models.scores(params, hidden)[0, 0, n - 1 : -1], atol=1e-5)


def test_microbatches_and_recomputation_give_the_gradient_of_the_whole(params):
  loss, want = gradient(params, batch(), P, 'none')
  for size, remat in ((1, 'none'), (2, 'full'), (P, 'attention')):
    got_loss, got = gradient(params, batch(), size, remat)
    np.testing.assert_allclose(got_loss, loss, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, want)


def test_the_gradient_is_that_of_finite_differences(params):
  _, grads = gradient(params, batch(), P, 'none', clip=0.0)
  way = jax.tree.map(lambda x: jax.random.normal(jax.random.key(1), x.shape), params)
  at = lambda h: gradient(jax.tree.map(lambda x, d: x + h * d, params, way), batch(), P, 'none', clip=0.0)[0]
  slope = sum(jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(way)))
  np.testing.assert_allclose((at(3e-4) - at(-3e-4)) / 6e-4, slope, rtol=1e-2)
