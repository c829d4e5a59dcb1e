"""Low-rank adapters: what they compute, what is trained, and against which arithmetic."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax import config, losses, models, parallel
from r1jax import params as params_lib
from r1jax.config import ConfigError
from r1jax.models import lora
from r1jax.sampling import weights
from r1jax.training import accumulate, critic, lowering, policy
from r1jax.training import lora as training
from r1jax.training import state as state_lib
from tests.training.test_update import MIXED, MODEL, SGD, assert_close, config_of, rollout

RANK = 3


def make(cfg, opt=SGD, model=MODEL, filled=True):
  """Trainer and state of a LoRA run; `filled`: with a B that is not zero."""
  mesh = parallel.make_mesh(config.Mesh(), jax.devices()[:1])
  like = training.abstract_state(cfg.lora, model, opt, mesh, cfg.train.param_dtype)
  specs = training.specs(cfg.lora, model)
  adapter = params_lib.init(specs, jax.random.key(1))
  if filled:
    adapter = jax.tree.map(
      lambda x: x if x.any() else 0.1 * jax.random.normal(jax.random.key(x.size), x.shape), adapter
    )
  base = params_lib.init(models.specs(model), jax.random.key(0), cfg.train.param_dtype)
  base = jax.tree.map(lambda x, to: x.astype(to.dtype), base, like.base.params)
  state = state_lib.new_state(adapter, opt, like.saved())
  trainer = policy.make_trainer(cfg, model, opt, mesh)
  return trainer, state.replace(frozen={'base': like.base.replace(params=base)})


def lora_config(train=None, loss=None, **settings):
  cfg = config_of(train, **loss or {})
  return dataclasses.replace(cfg, lora=config.LoRA(**dict(rank=RANK, alpha=6.0) | settings))


def entry(tree, name):
  """What a dotted name stands for."""
  return functools.reduce(lambda node, key: node[key], name.split('.'), tree)


def merged(state):
  """The whole model's parameters, by NumPy in float64: W + scale * A B."""

  def one(w):
    if not lora.is_adapted(w):
      return np.asarray(w)
    stacked = w.a.ndim + w.b.ndim - w.weight.ndim - 2
    lead, rank, of = w.weight.shape[:stacked], w.a.shape[-1], lambda x: np.asarray(x, np.float64)
    product = of(w.a).reshape(*lead, -1, rank) @ of(w.b).reshape(*lead, rank, -1)
    return of(w.weight) + w.scale * product.reshape(w.weight.shape)

  return jax.tree.map(one, state.model(), is_leaf=lora.is_adapted)


@pytest.mark.parametrize('model', [MODEL, pytest.param(MIXED, marks=pytest.mark.slow)])
def test_a_new_adapter_changes_no_log_prob(model):
  cfg = lora_config(dict(microbatch=8))
  trainer, state = make(cfg, model=model, filled=False)
  fn = training.whole(trainer.loss_fn).logprobs
  logp = policy.logprobs(state.model(), rollout(), cfg, fn)
  np.testing.assert_array_equal(logp, policy.logprobs(state.reference_policy(), rollout(), cfg, fn))
  assert np.isfinite(logp).all() and state.params['layers']['attention']['o']['a'].any()
  _, state = make(cfg, model=model)
  assert np.abs(logp - policy.logprobs(state.model(), rollout(), cfg, fn)).max() > 1e-3


@pytest.mark.parametrize('model', [MODEL, pytest.param(MIXED, marks=pytest.mark.slow)])
def test_gradients_of_a_and_b_follow_from_that_of_the_matrix(model):
  """dA = scale * dW B^T and dB = scale * A^T dW in float64, dW from training the merged model whole."""
  cfg = lora_config()
  trainer, state = make(cfg, model=model)
  whole_cfg = config_of()
  like = state_lib.abstract_state(models.specs(model), SGD, trainer.mesh)
  before, whole_params = jax.device_get(state.params), jax.tree.map(lambda x: x.astype(np.float32), merged(state))
  whole = state_lib.new_state(whole_params, SGD, like)
  whole, _ = policy.update(policy.make_trainer(whole_cfg, model, SGD, trainer.mesh), whole, rollout(), whole_cfg, 0)
  base = jax.device_get(state.base.params)
  state, metrics = policy.update(trainer, state, rollout(), cfg, 0)
  assert metrics['policy/grad_norm'] > 0
  assert ('moe/load_max' in metrics) == bool(model.moe)
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(state.base.params), base)

  def compare(name, spec):
    at = functools.partial(entry, name=name)
    flat = lambda x, rows: np.asarray(x, np.float64).reshape(*spec.shape[: spec.stacked], rows, -1)
    inputs = int(np.prod(spec.shape[spec.stacked : spec.stacked + spec.fan_in]))
    dw = flat(at(whole_params) - np.asarray(at(whole.params)), inputs)
    old, new, scale = at(before), at(jax.device_get(state.params)), 6.0 / RANK
    a, b = flat(old['a'], inputs), flat(old['b'], RANK)
    da, db = scale * dw @ np.swapaxes(b, -1, -2), scale * np.swapaxes(a, -1, -2) @ dw
    assert_close(flat(old['a'] - new['a'], inputs), da, atol=1e-5)
    assert_close(flat(old['b'] - new['b'], RANK), db, atol=1e-5)
    return np.abs(da).max() > 1e-4 and np.abs(db).max() > 1e-4

  names = lora.matrices(models.specs(model))
  assert len(names) == (7 if model is MODEL else 2 * 5 + 3 + 6)  # attention twice, an MLP, experts with shared ones
  assert all([compare(name, spec) for name, spec in names.items()])


def test_a_full_rank_adapter_can_be_any_change():
  rank = 16  # of all matrices: no more than the smaller one of their sides
  _, state = make(lora_config(rank=rank, alpha=24.0), model=MIXED)
  adapter, rng = jax.device_get(state.params), np.random.default_rng(0)
  want = jax.device_get(state.base.params)
  for name, spec in lora.matrices(models.specs(MIXED)).items():
    change = rng.normal(size=spec.shape)
    inputs = int(np.prod(spec.shape[spec.stacked : spec.stacked + spec.fan_in]))
    u, s, v = np.linalg.svd(change.reshape(*spec.shape[: spec.stacked], inputs, -1), full_matrices=False)
    pair, n = entry(adapter, name), s.shape[-1]
    a, b = np.zeros((*u.shape[:-1], rank)), np.zeros((*v.shape[:-2], rank, v.shape[-1]))
    a[..., :n], b[..., :n, :] = u * s[..., None, :] / 1.5, v
    pair['a'], pair['b'] = (x.astype(np.float32).reshape(pair[key].shape) for x, key in ((a, 'a'), (b, 'b')))
    outer, _, last = name.rpartition('.')
    entry(want, outer)[last] = entry(want, name) + change
  assert_close(jax.device_get(lora.merge(state.base.attach(adapter))), want, atol=1e-5)


@pytest.mark.parametrize('remat', ['full', *(pytest.param(x, marks=pytest.mark.slow) for x in ('none', 'products'))])
def test_microbatches_give_the_gradient_of_the_whole(remat):
  step = lambda cfg: policy.update(*make(cfg), rollout(), cfg, 0)
  (want, metrics), start = step(lora_config()), jax.device_get(make(lora_config())[1].params)
  parts = dict(microbatch=4, length_slices=4)
  cfg = dataclasses.replace(lora_config(parts), model=config.Model('none', remat=remat))
  got, same = step(cfg)
  assert_close(jax.device_get(got.params), jax.device_get(want.params))
  assert same == pytest.approx(metrics, rel=1e-4, abs=1e-6)
  jax.tree.map(lambda x, y: np.abs(x - y).max() > 1e-4 or pytest.fail('nothing learned'), want.params, start)


def test_no_gradient_of_the_base_is_kept():
  """With layers recomputed, a microbatch's temporaries are smaller than the base; its gradient would be as large."""
  model = dataclasses.replace(MODEL, layers=24, embed=128, heads=8, kv_heads=8, head_dim=16, mlp=256)
  cfg = dataclasses.replace(lora_config(rank=2), model=config.Model('none', remat='full'))
  mesh = parallel.make_mesh(config.Mesh(), jax.devices()[:1])
  state = training.abstract_state(cfg.lora, model, SGD, mesh, 'float32')
  batch, scalar = lowering.rollout_microbatch(cfg, mesh), jax.ShapeDtypeStruct((), jnp.float32)
  totals = losses.Totals(scalar, scalar, cfg.rollout.max_response)
  lowered = lowering.lower_accumulate(policy.make_trainer(cfg, model, SGD, mesh), state, batch, totals)
  memory, base = lowered.compile().memory_analysis(), 4 * params_lib.count(models.specs(model))
  assert memory.temp_size_in_bytes < 0.8 * base
  assert memory.argument_size_in_bytes < 1.1 * base


def test_what_else_is_frozen_goes_to_the_inner_loss():
  @dataclasses.dataclass(frozen=True)
  class Inner:
    options = models.ForwardOptions()

    def __call__(self, params, batch, totals, frozen=None):
      loss = (params['layers']['attention']['q'].merged() ** 2).sum() * (1 if frozen is None else frozen['teacher'])
      return loss, {'loss': loss}, params

  _, state = make(lora_config(targets=('attention.q',)))
  norms = {}
  for more in ({}, {'teacher': 3.0}):
    trainer = accumulate.Trainer(training.wrap(config.LoRA(1), Inner()), SGD)
    metrics = accumulate.metrics_of(state.params, None, None, state.frozen | more, loss_fn=trainer.loss_fn)
    norms[len(more)] = float(metrics['loss'])
  assert norms[1] == pytest.approx(3 * norms[0]) and norms[0] > 0


def test_a_mixture_may_be_adapted_in_its_dense_layers_alone():
  trainer, state = make(lora_config(targets=('mlp.up',)), model=MIXED)
  before = jax.device_get(state.params)
  assert set(before) == {'dense_layers'}
  state, _ = policy.update(trainer, state, rollout(), lora_config(targets=('mlp.up',)), 0)
  assert np.abs(state.params['dense_layers']['mlp']['up']['a'] - before['dense_layers']['mlp']['up']['a']).max() > 0


def test_a_critic_beside_adapters_is_float32():
  cfg = lora_config(dict(param_dtype='bfloat16'), loss=dict(advantage='gae', kl_coef=0.0))
  _, state = critic.make(cfg, MODEL, parallel.make_mesh(config.Mesh(), jax.devices()[:1]))
  assert {x.dtype for x in jax.tree.leaves(state.params)} == {jnp.dtype('float32')}


@pytest.mark.parametrize('precision', [weights.Precision('bfloat16'), weights.Precision('float32', weights='int8')])
def test_the_sampler_gets_merged_weights(precision):
  _, state = make(lora_config(dict(param_dtype='bfloat16')), model=MIXED)
  assert (
    state.base.params['embed'].dtype == jnp.bfloat16 and state.params['layers']['attention']['q_a']['a'].dtype == 'f4'
  )
  got = weights.cast_weights(state.model(), MIXED, precision)
  whole = jax.tree.map(lambda x: x.astype(jnp.float32), jax.device_get(lora.merge(state.model())))
  want = weights.cast_weights(whole, MIXED, precision)
  exact = lambda x, y: np.testing.assert_array_equal(np.asarray(x, np.float32), np.asarray(y, np.float32))
  jax.tree.map(exact, got, want)
  assert not any(map(lora.is_adapted, jax.tree.leaves(got, is_leaf=lora.is_adapted)))
  exact_merge = jax.device_get(lora.merge(state.model()))['layers']['moe']['down']
  np.testing.assert_allclose(exact_merge, merged(state)['layers']['moe']['down'], rtol=1e-5, atol=1e-6)


def test_targets_are_names_of_matrices():
  names = lambda *targets: set(lora.matrices(models.specs(MIXED), targets))
  assert names('attention.q_a') == {'dense_layers.attention.q_a', 'layers.attention.q_a'}
  assert names('moe.shared.up', 'mlp.up') == {'dense_layers.mlp.up', 'layers.moe.shared.up'}
  with pytest.raises(ConfigError, match=r'moe.router, embed; .* attention.q_a, .* moe.shared.up'):
    names('moe.router', 'attention.q_a', 'embed')
  with_mtp = dataclasses.replace(MIXED, mtp=1)
  assert set(lora.matrices(models.specs(with_mtp))) == names()  # that layer has none
  tree = lora.adapter_specs(models.specs(MIXED), 4, ('moe.down',))
  assert jax.tree.leaves(tree, is_leaf=params_lib.is_spec) == [
    params_lib.Spec((2, 8, 12, 4), ('layers', 'experts', 'mlp', 'rank')),
    params_lib.Spec((2, 8, 4, 16), ('layers', 'experts', 'rank', 'embed'), 'zeros'),
  ]
