"""The optimiser: schedules against hand arithmetic, clipping, and Muon on stacked layers."""

import jax
import numpy as np
import optax
import pytest

from r1jax import config
from r1jax import params as params_lib
from r1jax.params import Spec
from r1jax.training import optimizer

SPECS = {
  'embed': Spec((40, 16), ('vocab', 'embed'), 'embedding'),
  'layers': {
    'o': Spec((2, 4, 8, 16), ('layers', 'heads', 'head_dim', 'embed'), fan_in=2),
    'up': Spec((2, 16, 24), ('layers', 'embed', 'mlp')),
    'norm': Spec((2, 16), ('layers', 'norm'), 'ones'),
  },
  'norm': Spec((16,), ('norm',), 'ones'),
}


@pytest.mark.parametrize(
  ('name', 'want'),
  [
    # Steps 0, 3, 4, 9 and 14 of 14, warm-up 4: a quarter, all of it, then the decay over 10 steps.
    ('constant', [0.5, 2.0, 2.0, 2.0, 2.0]),
    ('linear', [0.5, 2.0, 2.0, 2.0 - 0.5 * 1.8, 0.2]),
    ('cosine', [0.5, 2.0, 2.0, 0.2 + 1.8 * 0.5, 0.2]),
  ],
)
def test_schedules_at_known_steps(name, want):
  rate = optimizer.schedule(config.Optimizer(2.0, schedule=name, warmup=4, final_fraction=0.1), 14)
  np.testing.assert_allclose([rate(s) for s in (0, 3, 4, 9, 14)], want, rtol=1e-6)


def test_without_warm_up_the_first_step_has_the_whole_rate():
  rate = optimizer.schedule(config.Optimizer(2.0, schedule='linear'), 10)
  np.testing.assert_allclose([rate(0), rate(5), rate(10)], [2.0, 1.0, 0.0])


def test_a_warm_up_of_one_step_is_none():
  rate = optimizer.schedule(config.Optimizer(2.0, warmup=1), 10)
  np.testing.assert_allclose([rate(0), rate(1), rate(9)], 2.0)


def step(cfg, params, grads, count=1):
  opt = optimizer.make(cfg, 10, SPECS)
  state, update = opt.init(params), jax.jit(opt.update)
  for _ in range(count):
    updates, state = update(grads, state, params)
  return updates, state


def random_like(seed):
  keys = iter(jax.random.split(jax.random.key(seed), 40))
  return jax.tree.map(lambda s: jax.random.normal(next(keys), s.shape), SPECS, is_leaf=params_lib.is_spec)


def moments(state):
  return optax.tree.get(state, 'mu')


@pytest.mark.parametrize('limit', [0.5, 1e6, 0.0])
def test_the_gradient_is_clipped_by_its_global_norm(limit):
  params, grads = random_like(0), random_like(1)
  norm = np.sqrt(sum(float((np.asarray(g, np.float64) ** 2).sum()) for g in jax.tree.leaves(grads)))
  _, state = step(config.Optimizer(1e-3, grad_clip=limit), params, grads)
  scale = min(1.0, limit / norm) if limit else 1.0
  jax.tree.map(lambda m, g: np.testing.assert_allclose(m, 0.1 * scale * g, rtol=1e-4), moments(state), grads)


def test_adam_against_arithmetic():
  cfg = config.Optimizer(1e-2, b1=0.8, b2=0.9, eps=1e-3, weight_decay=0.1, grad_clip=0.0)
  params, grads = random_like(0), random_like(1)
  updates, _ = step(cfg, params, grads, count=2)
  # Equal gradients: bias-corrected moments are g and g^2 at every step.
  want = jax.tree.map(lambda p, g: -1e-2 * (g / (np.abs(g) + 1e-3) + 0.1 * p), params, grads)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-7), updates, want)


def test_muon_orthogonalises_the_matrix_of_each_layer():
  """Heads and head_dim of one layer make one side of a matrix; layers whose gradients differ in scale do not mix."""
  cfg = config.Optimizer(1e-2, name='muon', grad_clip=0.0)
  params, grads = random_like(0), random_like(1)
  grads['layers'] = jax.tree.map(lambda g: g.at[0].multiply(1e-3), grads['layers'])
  updates, _ = step(cfg, params, grads)
  for name, shape in (('o', (32, 16)), ('up', (16, 24))):
    for layer in range(2):
      update, grad = (np.asarray(t['layers'][name][layer]).reshape(shape) for t in (updates, grads))
      values = lambda x: np.linalg.svd(x, compute_uv=False)
      # Newton-Schulz in five steps leaves singular values within about 0.7 to 1.2 of one number.
      assert values(grad).max() / values(grad).min() > 3 > 2 > values(update).max() / values(update).min()
      # consistent_rms: the entries of an update are 0.2 of the rate in the root mean square.
      np.testing.assert_allclose(np.sqrt((update**2).mean()), 0.2 * 1e-2, rtol=0.25)
      assert (update * grad).sum() < 0  # downhill


def test_muon_leaves_embeddings_and_scales_to_adam():
  """Their first update has the rate in every entry, with the sign of the gradient; a matrix's has not."""
  params, grads = random_like(0), random_like(1)
  updates, _ = step(config.Optimizer(1e-2, name='muon', grad_clip=0.0), params, grads)
  for update, grad in [
    (updates['embed'], grads['embed']),
    (updates['norm'], grads['norm']),
    (updates['layers']['norm'], grads['layers']['norm']),
  ]:
    # Nesterov's look-ahead: (b1 m / (1 - b1^2) + (1 - b1) g / (1 - b1)) with m = (1 - b1) g and b1 = 0.9.
    np.testing.assert_allclose(update, -1e-2 * np.sign(grad) * (0.09 / 0.19 + 1), rtol=1e-3)
  assert np.abs(updates['layers']['up']).std() > 1e-4
