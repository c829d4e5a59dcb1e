"""Losses of pairs and of single responses against arithmetic by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from r1jax import losses

CHOSEN, REJECTED = np.array([1.5, -0.3, 2.0, 0.0]), np.array([0.5, 0.7, 2.0, -80.0])
SCORES = np.stack([CHOSEN, REJECTED], 1).reshape(-1, 1).astype(np.float32)
POINTS, SAFE = np.array([[2.0], [-1.0], [0.3], [-60.0]], np.float32), np.array([[1], [1], [0], [0]], np.float32)


def test_a_pair_costs_the_log_of_its_odds():
  loss, metrics = losses.pair_loss(SCORES, None, 4.0)
  p = 1 / (1 + np.exp(-(CHOSEN - REJECTED)))
  np.testing.assert_allclose(loss, -np.log(p).mean(), rtol=1e-6)
  np.testing.assert_allclose(metrics['accuracy'], (1 + 0 + 0.5 + 1) / 4)
  np.testing.assert_allclose(metrics['margin'], (CHOSEN - REJECTED).mean(), rtol=1e-6)


def test_a_pairs_gradient_is_how_sure_it_was_of_the_other():
  grad = np.asarray(jax.grad(lambda x: losses.pair_loss(x, None, 4.0)[0])(jnp.asarray(SCORES))).reshape(-1, 2)
  p = 1 / (1 + np.exp(-(CHOSEN - REJECTED)))
  np.testing.assert_allclose(grad, np.stack([-(1 - p), 1 - p], 1) / 4, atol=1e-7)


def test_only_differences_count():
  np.testing.assert_allclose(
    losses.pair_loss(SCORES + 3, None, 4.0)[0], losses.pair_loss(SCORES, None, 4.0)[0], rtol=1e-6
  )


def test_a_response_costs_the_log_of_its_labels_probability():
  loss, metrics = losses.point_loss(POINTS, SAFE, 4.0)
  p = 1 / (1 + np.exp(-POINTS.astype(np.float64)))
  np.testing.assert_allclose(loss, -(SAFE * np.log(p) + (1 - SAFE) * np.log1p(-p)).mean(), rtol=1e-6)
  assert metrics['accuracy'] == 0.5
  grad = jax.grad(lambda x: losses.point_loss(x, SAFE, 4.0)[0])(jnp.asarray(POINTS))
  np.testing.assert_allclose(grad, (p - SAFE) / 4, atol=1e-7)


def test_parts_of_a_batch_add_up_to_it():
  for loss, labels in ((losses.pair_loss, SAFE.repeat(2, 0)), (losses.point_loss, SAFE.repeat(2, 0))):
    whole = loss(SCORES, labels, 4.0)
    first, second = loss(SCORES[:2], labels[:2], 4.0), loss(SCORES[2:], labels[2:], 4.0)
    np.testing.assert_allclose(whole[0], first[0] + second[0], rtol=1e-6)
    for name in whole[1]:
      np.testing.assert_allclose(whole[1][name], first[1][name] + second[1][name], rtol=1e-6)
