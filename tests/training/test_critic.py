"""A value network's gradient: cut into microbatches or not, recomputed or not, by hand or not."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from r1jax import config, losses, models, parallel
from r1jax import params as params_lib
from r1jax.batch import RolloutBatch
from r1jax.training import accumulate, critic, policy
from r1jax.training import state as state_lib

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
  found = critic.values_program(params, whole, fn=loss_of('none'))
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


def test_a_rollout_gives_values_and_updates_as_for_the_policy(params):
  mesh = parallel.make_mesh(config.Mesh(), jax.devices()[:1])
  fn = critic.ValueLoss(MODEL, models.ForwardOptions(mesh=mesh), clip=0.0)
  cfg = config.RL(
    seed=0,
    steps=3,
    model=config.Model('none'),
    data=config.Data('jsonl'),
    rollout=config.Rollout(prompts=P, samples=G, max_prompt=8, max_response=T),
    reward=config.Reward({'x': 1.0}, 'x'),
    loss=config.Loss('grpo', kl_coef=0.0),
    optimizer=config.Optimizer(1e-2),
    eval=config.Evaluation(1, 1, 1),
    train=config.Train(microbatch=4),
    checkpoint=config.Checkpoint(1),
  )
  rollout = jax.device_get(batch().replace(sampler_logp=batch().values))
  values = policy.per_token(critic.values_program, params, rollout, cfg, fn)
  want = critic.values_program(params, batch(), fn=fn)
  np.testing.assert_allclose(values[rollout.loss_mask], want[rollout.loss_mask], atol=1e-5)

  optimizer = optax.sgd(0.05)
  trainer = accumulate.Trainer(fn, optimizer, prefix='value/')
  like = state_lib.abstract_state(models.specs(MODEL), optimizer, mesh)
  state, errors = state_lib.new_state(params, optimizer, like), []
  for step in range(3):
    state, metrics = policy.update(trainer, state, rollout, cfg, step)
    errors.append(metrics['value/loss'])
  error = 0.5 * np.mean((values - rollout.returns)[rollout.loss_mask] ** 2)
  assert errors[0] == pytest.approx(error, rel=1e-5) and errors[0] > errors[1] > errors[2]
