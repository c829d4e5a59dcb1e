"""The loss of steps against arithmetic by hand, and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np

from r1jax import losses

SCORES = np.array([[2.0, -1.0, np.nan, 0.5], [0.1, -3.0, 1e30, np.inf]], np.float32)
LABELS = np.array([[1.0, 0.0, -1.0, 0.25], [0.625, 1.0, -1.0, -1.0]], np.float32)  # soft ones are shares of roll-outs
KNOWN = LABELS >= 0


def by_hand(scores):
  s, y = scores[KNOWN].astype(np.float64), LABELS[KNOWN].astype(np.float64)
  p = 1 / (1 + np.exp(-s))
  return -(y * np.log(p) + (1 - y) * np.log1p(-p)).sum() / 5


def test_the_mean_over_labelled_steps_and_nothing_else():
  loss, metrics = losses.step_loss(SCORES, LABELS, 5.0)
  np.testing.assert_allclose(loss, by_hand(SCORES), rtol=1e-6)
  np.testing.assert_allclose(metrics['accuracy'], 3 / 5)  # wrong: 0.5 for 0.25, and -3 for 1


def test_steps_without_a_label_have_no_gradient():
  grad = np.asarray(jax.grad(lambda x: losses.step_loss(x, LABELS, 5.0)[0])(jnp.asarray(SCORES)))
  assert (grad[~KNOWN] == 0).all()
  for at in zip(*np.nonzero(KNOWN)):
    there, back = SCORES.astype(np.float64), SCORES.astype(np.float64)
    there[at] += 1e-5
    back[at] -= 1e-5
    np.testing.assert_allclose(grad[at], (by_hand(there) - by_hand(back)) / 2e-5, rtol=1e-4)


def test_a_soft_label_is_met_by_its_own_odds():
  share = 0.25
  at = np.log(share / (1 - share))
  grad = jax.grad(lambda x: losses.step_loss(x, jnp.array([[share]]), 1.0)[0])(jnp.array([[at]]))
  np.testing.assert_allclose(grad, 0, atol=1e-7)


def test_parts_of_a_batch_add_up_to_it():
  whole, parts = (
    losses.step_loss(SCORES, LABELS, 5.0),
    [losses.step_loss(SCORES[i : i + 1], LABELS[i : i + 1], 5.0) for i in (0, 1)],
  )
  np.testing.assert_allclose(whole[0], parts[0][0] + parts[1][0], rtol=1e-6)
