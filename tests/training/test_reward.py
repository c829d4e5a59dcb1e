"""A score model's update: microbatches, padding, marks, and finite differences."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax import config, models, parallel
from r1jax import params as params_lib
from r1jax.config import ConfigError
from r1jax.data.conversation import Row
from r1jax.data.labelled import Example
from r1jax.training import optimizer as optimizer_lib
from r1jax.training import reward
from r1jax.training import state as state_lib
from r1jax.training.finite import NonFiniteError

MODEL = models.ModelConfig(
  vocab=40, embed=16, layers=2, heads=2, kv_heads=1, head_dim=8, mlp=24, context=256, head='score'
)
N = 8


def examples(objective):
  rng = np.random.default_rng(0)
  out = []
  for n in range(N):
    rows, labels = [], []
    for _ in range(2 if objective == 'pairs' else 1):
      length = int(rng.integers(17, 33))  # one padded shape: few programs to compile
      if objective == 'steps':
        marks = np.sort(rng.choice(length, size=rng.integers(3, 5), replace=False))
      else:
        marks = [length - 1]
      rows.append(Row(rng.integers(0, 40, length).astype(np.int32), np.array(marks, np.int32)))
      labels.append(rng.choice([0.0, 1.0, 0.375, -1.0], size=len(marks)) if objective == 'steps' else [float(n % 2)])
    if max(labels[0]) < 0:
      labels[0][0] = 1.0
    out.append(Example(str(n), tuple(rows), np.array(labels, np.float32)))
  return out


def cfg(objective, microbatch=0, **model):
  return config.RewardModel(
    seed=0,
    objective=objective,
    epochs=1.0,
    batch=N,
    microbatch=microbatch,
    model=config.Model(path='', **model),
    data=config.RewardModelData(source='toy', max_length=64, eval_fraction=0.0),
    optimizer=config.Optimizer(learning_rate=1e-2, grad_clip=0.0),
    eval=config.RewardModelEvaluation(every=1),
    checkpoint=config.Checkpoint(every=1),
  )


def updated(params, objective, some=None, **settings):
  """Parameters and metrics after one step of SGD of rate 1: what is gone from them is the gradient."""
  import optax

  mesh = parallel.make_mesh(config.Mesh())
  c = cfg(objective, **settings)
  trainer = reward.make_trainer(c, MODEL, optax.sgd(1.0), mesh)
  like = state_lib.abstract_state(models.specs(MODEL), optax.sgd(1.0), mesh)
  state = state_lib.new_state(
    jax.device_put(params, jax.tree.map(lambda x: x.sharding, like.params)), optax.sgd(1.0), like
  )
  state, metrics = reward.update(trainer, state, some or examples(objective), c, 0)
  return jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), params, state.params), metrics


@pytest.fixture(scope='module')
def params():
  return params_lib.init(models.specs(MODEL), jax.random.key(0))


@pytest.mark.parametrize('objective', config.OBJECTIVES)
def test_microbatches_and_recomputation_give_the_gradient_of_the_whole(params, objective):
  want, metrics = updated(params, objective)
  for settings in (dict(microbatch=2), dict(microbatch=1, remat='full')):
    got, found = updated(params, objective, **settings)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5), got, want)
    assert found.keys() == metrics.keys()
    for name, value in metrics.items():
      np.testing.assert_allclose(found[name], value, rtol=1e-4, err_msg=name)


@pytest.mark.parametrize('objective', config.OBJECTIVES)
def test_the_gradient_is_that_of_finite_differences(params, objective):
  grads, metrics = updated(params, objective)
  # In proportion to each tensor: the loss bends where an embedding moves by its own size.
  way = jax.tree.map(lambda x: np.asarray(abs(x).mean() * jax.random.normal(jax.random.key(1), x.shape)), params)
  moved = lambda h: updated(jax.tree.map(lambda x, d: x + h * d, params, way), objective)[1]['train/loss']
  slope = sum(np.vdot(a, b) for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(way)))
  np.testing.assert_allclose((moved(1e-3) - moved(-1e-3)) / 2e-3, slope, rtol=1e-2)
  norm = np.sqrt(sum((g**2).sum() for g in jax.tree.leaves(grads)))
  np.testing.assert_allclose(metrics['train/grad_norm'], norm, rtol=1e-4)


def test_scores_are_read_at_marks_and_padding_changes_nothing(params):
  rng = np.random.default_rng(1)
  ids = rng.integers(0, 40, 11)
  hidden = models.forward(params, MODEL, jnp.asarray(ids)[None, None], jnp.arange(11)[None, None]).hidden
  want = models.scores(params, hidden)[0, 0]
  tokens = np.concatenate([ids, rng.integers(0, 40, 21)])[None]
  got = models.marked_scores(params, MODEL, jnp.asarray(tokens), jnp.array([11]), jnp.array([[0, 4, 10, -1]])).scores
  np.testing.assert_allclose(got[0, :3], want[jnp.array([0, 4, 10])], atol=1e-5)
  assert got[0, 3] == 0


def test_a_mixture_counts_real_tokens_only():
  model = dataclasses.replace(models.PRESETS['toy_deepseek'], vocab=64, head='score')
  params = params_lib.init(models.specs(model), jax.random.key(0))
  out = models.marked_scores(params, model, jnp.ones((2, 16), jnp.int32), jnp.array([5, 9]), jnp.array([[4], [8]]))
  np.testing.assert_allclose(out.expert_load.sum(axis=1), (5 + 9) * model.moe.top_k)
  assert out.scores.shape == (2, 1)


def test_a_loss_that_is_no_number_stops_the_run(params):
  broken = jax.tree.map(lambda x: x * np.nan, params)
  with pytest.raises(NonFiniteError, match='train/loss and train/grad_norm not finite at step 0'):
    updated(broken, 'pairs')


def test_what_does_not_divide_is_refused():
  with pytest.raises(ConfigError, match='a batch of 8 examples does not divide into microbatches of 3'):
    cfg('pairs', microbatch=3)


def test_a_few_steps_learn_the_pairs(params):
  mesh, c = parallel.make_mesh(config.Mesh()), cfg('pairs')
  optimizer = optimizer_lib.make(c.optimizer, 30, models.specs(MODEL))
  trainer = reward.make_trainer(c, MODEL, optimizer, mesh)
  like = state_lib.abstract_state(models.specs(MODEL), optimizer, mesh)
  state = state_lib.new_state(jax.device_put(params, jax.tree.map(lambda x: x.sharding, like.params)), optimizer, like)
  losses = []
  for step in range(30):
    state, metrics = reward.update(trainer, state, examples('pairs'), c, step)
    losses.append(metrics['train/loss'])
  assert losses[-1] < 0.1 < 0.5 < losses[0] and metrics['train/accuracy'] == 1
