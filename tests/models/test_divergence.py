"""The divergence from teachers in chunks: that of whole distributions in float64, with the gradient of one chunk."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax import models

P, N, ROWS, VOCAB, TEMPERATURE = 3, 7, 11, 9, 0.7
TEACHER = np.array([1, 0, 1], np.int32)  # of each prompt
WANT = {
  'reverse_kl': lambda p, q: p * np.log(p / q),
  'forward_kl': lambda p, q: q * np.log(q / p),
  'jsd': lambda p, q: (p * np.log(2 * p / (p + q)) + q * np.log(2 * q / (p + q))) / 2,
}


def model(embed, seed):
  """Hidden states [P, N, embed] and a table [ROWS, embed], whose rows behind VOCAB would dominate."""
  rng = np.random.default_rng(seed)
  table = rng.normal(size=(ROWS, embed)).astype(np.float32)
  table[VOCAB:] *= 9
  return rng.normal(size=(P, N, embed)).astype(np.float32), table


POLICY, TEACHERS = model(5, 0), (model(4, 1), model(6, 2))


def found(objective, chunk, policy=POLICY, teachers=TEACHERS):
  taught, tables = zip(*teachers)
  return models.divergence(*policy, taught, tables, TEACHER, objective, VOCAB, chunk, None, TEMPERATURE)


def distribution(hidden, table):
  """float64[N, VOCAB]."""
  scores = np.exp(hidden.astype(np.float64) @ table.astype(np.float64).T / TEMPERATURE)[:, :VOCAB]
  return scores / scores.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize('objective', WANT)
def test_it_is_that_of_the_whole_distributions(objective):
  for p, k in enumerate(TEACHER):
    ours, its = (distribution(hidden[p], table) for hidden, table in (POLICY, TEACHERS[k]))
    want = WANT[objective](ours, its).sum(axis=-1)
    assert want.min() > 1e-3
    for chunk in (1, 4, 1000):
      np.testing.assert_allclose(found(objective, chunk)[p], want, rtol=2e-5)


def unchunked(policy, k):
  """Reverse KL of all positions from teacher k, [P, N], with all logits in memory."""
  hidden, table = policy
  logp = jax.nn.log_softmax((hidden @ table.T)[..., :VOCAB] / TEMPERATURE)
  logq = jax.nn.log_softmax((TEACHERS[k][0] @ TEACHERS[k][1].T)[..., :VOCAB] / TEMPERATURE)
  return (jnp.exp(logp) * (logp - logq)).sum(axis=-1)


@pytest.mark.parametrize('chunk', [4, 1000])
def test_the_gradient_is_that_of_all_logits_at_once(chunk):
  weight = np.random.default_rng(3).normal(size=(P, N)).astype(np.float32)
  whole = lambda policy: (weight * jnp.where(TEACHER[:, None] == 0, unchunked(policy, 0), unchunked(policy, 1))).sum()
  want = jax.grad(whole)(POLICY)
  got = jax.grad(lambda policy: (weight * found('reverse_kl', chunk, policy)).sum())(POLICY)
  assert all(np.abs(x).max() > 0.1 for x in want) and not np.any(want[1][VOCAB:])
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, want)


def test_a_teacher_that_is_the_policy_teaches_nothing():
  policy = model(4, 5)
  value, gradient = jax.value_and_grad(lambda x: found('reverse_kl', 4, x, (policy, policy)).sum())(policy)
  assert value == 0
  assert max(np.abs(x).max() for x in jax.tree.leaves(gradient)) < 1e-5


def test_no_logits_of_all_positions_exist():
  n, rows = 64, 512
  hidden, table = jnp.zeros((1, n, 4)), jnp.zeros((rows, 4))

  def compiled(chunk):
    loss = lambda h, u: models.divergence(h, u, (hidden,), (table,), jnp.zeros(1, jnp.int32), 'jsd', rows, chunk).sum()
    return jax.jit(jax.grad(loss, (0, 1))).lower(hidden, table).compile().as_text()

  assert f'{n},{rows}]' in compiled(n)
  assert f'{n},{rows}]' not in (text := compiled(4)) and f'4,{rows}]' in text and f'16,1,4,{rows}]' not in text
