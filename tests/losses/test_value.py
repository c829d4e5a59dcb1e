"""The value loss against arithmetic by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax import losses
from r1jax.batch import RolloutBatch

VALUES = np.array([[0.5, 1.0, 9.0], [2.0, -1.0, 0.0]], np.float32)
OLD = np.array([[0.0, 1.5, 9.0], [2.0, 1.0, 0.0]], np.float32)
RETURNS = np.array([[1.0, 1.0, np.nan], [0.0, 0.0, 1.0]], np.float32)
MASK = np.array([[True, True, False], [True, True, True]])
TOTALS = losses.Totals(np.float32(2), np.float32(10), 3)


def batch():
  f = lambda x: x[:, None]  # one response to each of two prompts
  return RolloutBatch(None, None, None, None, f(MASK), None, values=f(OLD), returns=f(RETURNS))


@pytest.mark.parametrize(
  ('clip', 'errors'),
  [
    (0.0, [0.25, 0.0, 4.0, 1.0, 1.0]),
    # 0.5 is held at 0.2, 1.0 at 1.3, -1.0 at 0.8: worse where that is farther from the return.
    (0.2, [0.64, 0.09, 4.0, 1.0, 1.0]),
  ],
)
def test_a_mean_over_the_minibatch_of_half_squared_errors(clip, errors):
  got, metrics = losses.value_loss(VALUES[:, None], batch(), TOTALS, clip)
  np.testing.assert_allclose(got, 0.5 * sum(errors) / 10, rtol=1e-6)
  assert metrics['value/loss'] == got
  np.testing.assert_allclose(metrics['value/clip_fraction'], 0.2 if clip else 0.0)


def test_the_gradient_stops_where_a_value_is_held():
  grad, _ = jax.grad(losses.value_loss, has_aux=True)(jnp.asarray(VALUES[:, None]), batch(), TOTALS, 0.2)
  np.testing.assert_allclose(grad[:, 0], [[0.0, 0.0, 0.0], [0.2, -0.1, -0.1]], atol=1e-7)
