"""What the KL estimators measure and where their gradients point, by exact enumeration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.losses import ESTIMATORS, kl_penalty, token_kl
from r1jax.losses.kl import MAX_LOG_RATIO

VOCABULARY = 5
THETA = np.array([0.3, -1.2, 0.9, 0.1, -0.4])
REF = np.array([-0.5, 0.9, 0.7, -0.9, 2.1])


def probabilities(theta):
  p = np.exp(theta - theta.max())
  return p / p.sum()


PI, PI_REF = probabilities(THETA), probabilities(REF)


def finite_difference(function, theta, step=1e-5):
  return np.array([(function(theta + step * e) - function(theta - step * e)) / (2 * step) for e in np.eye(theta.size)])


def true_gradients():
  """Gradients with respect to pi's logits of KL(pi||ref) and KL(ref||pi)."""

  def reverse(theta):
    p = probabilities(theta)
    return (p * np.log(p / PI_REF)).sum()

  return (
    finite_difference(reverse, THETA),
    finite_difference(lambda theta: (PI_REF * np.log(PI_REF / probabilities(theta))).sum(), THETA),
  )


def estimates(name, theta):
  """The estimator at every token of the vocabulary, f32[V]: the samples fixed, pi a function of theta."""
  return ESTIMATORS[name](jax.nn.log_softmax(theta), jnp.log(PI_REF))


def expected_loss_gradient(name):
  """E_pi[grad estimator(x)]."""
  return PI @ np.asarray(jax.jacobian(lambda theta: estimates(name, theta))(jnp.asarray(THETA)))


def expected_reward_gradient(name):
  """E_pi[estimator(x) * grad log pi(x)], what the policy gradient makes of the estimator in the reward."""
  score = np.asarray(jax.jacobian(jax.nn.log_softmax)(jnp.asarray(THETA)))
  return (PI * np.asarray(estimates(name, jnp.asarray(THETA)))) @ score


def test_k1_and_k3_have_the_right_mean_and_k2_has_not():
  kl = (PI * np.log(PI / PI_REF)).sum()
  mean = {name: PI @ np.asarray(estimates(name, jnp.asarray(THETA))) for name in ESTIMATORS}
  np.testing.assert_allclose([mean['k1'], mean['k3'], mean['k3_weighted']], kl, rtol=1e-5)
  assert abs(mean['k2'] - kl) > 0.01 * kl


def test_expected_gradients_as_a_loss():
  reverse, forward = true_gradients()
  assert np.abs(reverse - forward).max() > 0.05  # or the test could not tell them apart
  np.testing.assert_allclose(expected_loss_gradient('k1'), 0, atol=1e-6)
  np.testing.assert_allclose(expected_loss_gradient('k2'), reverse, atol=1e-6)
  np.testing.assert_allclose(expected_loss_gradient('k3'), forward, atol=1e-6)


def expected_off_policy(name):
  """(E_old[estimator], E_old[grad estimator]) for samples of a policy that is not pi, in float64."""
  old = probabilities(THETA + np.array([0.5, -0.4, 0.2, 0.9, -0.3]))
  with jax.enable_x64(True):
    logp = jax.nn.log_softmax
    value = lambda theta: old @ ESTIMATORS[name](logp(theta), jnp.log(PI_REF), jnp.log(old))
    return value(jnp.asarray(THETA)), np.asarray(jax.grad(value)(jnp.asarray(THETA)))


def test_the_weighted_estimate_is_unbiased_whatever_policy_sampled():
  reverse, forward = true_gradients()
  value, gradient = expected_off_policy('k3_weighted')
  np.testing.assert_allclose(value, (PI * np.log(PI / PI_REF)).sum(), rtol=1e-12)
  np.testing.assert_allclose(gradient, reverse, atol=1e-9)
  np.testing.assert_allclose(expected_loss_gradient('k3_weighted'), reverse, atol=1e-6)  # and for samples of pi
  for name in ('k1', 'k2', 'k3'):
    assert np.abs(expected_off_policy(name)[1] - reverse).max() > 0.02, name
    assert np.abs(expected_off_policy(name)[1] - forward).max() > 0.02, name


def test_expected_gradients_in_the_reward():
  reverse, forward = true_gradients()
  np.testing.assert_allclose(expected_reward_gradient('k1'), reverse, atol=1e-6)
  np.testing.assert_allclose(expected_reward_gradient('k3'), reverse - forward, atol=1e-6)


def test_only_k1_in_the_reward_sees_the_effect_of_a_token_on_later_ones():
  """Two tokens of 3, the second's distribution depending on the first: all 9 sequences enumerated."""
  rng = np.random.default_rng(0)
  theta, ref = rng.normal(size=(2, 4, 3))  # row 0: first token; 1 + a: second after a
  first, second = np.divmod(np.arange(9), 3)

  def token_logp(logits):
    logp = jax.nn.log_softmax(jnp.asarray(logits), axis=-1)
    return jnp.stack([logp[0, first], logp[1 + first, second]], axis=1)  # [9, 2]

  def true_kl(flat):
    p, q = np.apply_along_axis(probabilities, 1, flat.reshape(4, 3)), np.apply_along_axis(probabilities, 1, ref)
    joint, joint_ref = p[0, first] * p[1 + first, second], q[0, first] * q[1 + first, second]
    return (joint * np.log(joint / joint_ref)).sum()

  exact = finite_difference(true_kl, theta.ravel()).reshape(4, 3)
  pi = np.exp(np.asarray(token_logp(theta)).sum(axis=1))
  mask = np.ones((9, 2), bool)
  penalty = np.asarray(kl_penalty(token_logp(theta), token_logp(ref), mask, 'k1'))
  in_reward = jax.grad(lambda x: (pi * penalty * token_logp(x).sum(axis=1)).sum())(jnp.asarray(theta))
  as_loss = jax.grad(lambda x: (pi * kl_penalty(token_logp(x), token_logp(ref), mask, 'k2')).sum())(jnp.asarray(theta))
  np.testing.assert_allclose(in_reward, exact, atol=1e-6)
  assert np.abs(as_loss - exact).max() > 0.01


@pytest.mark.parametrize('name', ESTIMATORS)
@pytest.mark.parametrize('poison', [np.nan, np.inf, -np.inf, 1e9])
def test_padding_never_reaches_the_penalty(name, poison):
  rng = np.random.default_rng(1)
  logp, ref = -rng.exponential(size=(2, 3, 4)).astype(np.float32)
  mask = np.arange(4) < np.array([[1], [4], [2]])
  clean = kl_penalty(logp, ref, mask, name)
  bad = [np.where(mask, x, np.float32(poison)) for x in (logp, ref)]
  np.testing.assert_array_equal(kl_penalty(*bad, mask, name), clean)
  d = (logp - ref).astype(np.float64)
  value = {'k1': d, 'k2': d**2 / 2}.get(name, np.exp(-d) - 1 + d)
  np.testing.assert_allclose(clean, (value * mask).sum(axis=1), rtol=1e-4)
  gradient = jax.grad(lambda x: kl_penalty(x, bad[1], mask, name).sum())(bad[0])
  assert np.isfinite(gradient).all() and (np.asarray(gradient)[~mask] == 0).all()


def test_k3_is_held_where_it_would_overflow():
  ref, mask = jnp.zeros((1, 1)), jnp.ones((1, 1), bool)
  value, gradient = jax.value_and_grad(lambda x: token_kl(x, ref, mask, 'k3').sum())(jnp.array([[-300.0]]))
  np.testing.assert_allclose(value, np.exp(MAX_LOG_RATIO) - 1 - MAX_LOG_RATIO, rtol=1e-5)
  assert gradient == 0
