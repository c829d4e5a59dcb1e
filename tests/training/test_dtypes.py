"""Parameters, moments and the reference in bfloat16: what is kept how, what is computed how, and saving it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax import checkpoint, config, models, parallel
from r1jax import params as params_lib
from r1jax.config import ConfigError
from r1jax.models.config import MoE
from r1jax.training import accumulate, optimizer
from r1jax.training import state as state_lib

MODEL = models.ModelConfig(
  vocab=40, embed=16, layers=2, heads=2, kv_heads=1, head_dim=8, mlp=24, context=64, moe=MoE(4, 2, 12, score='sigmoid')
)
SPECS = models.specs(MODEL)
F32, BF16 = jnp.float32, jnp.bfloat16


def make(name='adam', param='float32', moment='float32', reference='float32', memory='device'):
  opt = optimizer.make(config.Optimizer(1e-2, name=name, moment_dtype=moment), 10, SPECS, param)
  mesh = parallel.make_mesh(config.Mesh(), jax.devices()[:1])
  like = state_lib.abstract_state(SPECS, opt, mesh, param, reference, memory)
  params = jax.tree.map(lambda x, s: x.astype(s.dtype), params_lib.init(SPECS, jax.random.key(0)), like.params)
  return opt, like, state_lib.new_state(params, opt, like)


def gradient(state, dtype='float32'):
  flat = jnp.linspace(0.1, 1.0, 24)
  return jax.tree.map(
    lambda x: (jnp.resize(flat, x.shape) * (-1) ** jnp.arange(x.shape[-1])).astype(x.dtype),
    accumulate.zeros_like(state.params, dtype),
  )


def moments(opt_state):
  leaves = jax.tree_util.tree_leaves_with_path(opt_state)
  return [x for at, x in leaves if {'.mu', '.nu'} & {str(key) for key in at}]


def test_only_what_was_asked_for_is_in_bfloat16():
  _, like, state = make(param='bfloat16', reference='bfloat16')
  named = jax.tree_util.tree_leaves_with_path((state.params, state.reference))
  assert {at[-1].key for at, x in named if x.dtype == F32} == {'router', 'router_bias'}
  assert all(x.dtype in (F32, BF16) for _, x in named)
  assert all(x.dtype == F32 for x in moments(state.opt_state))
  assert jax.tree.map(lambda x: x.dtype, state) == jax.tree.map(lambda x: x.dtype, like)
  _, _, plain = make(moment='bfloat16')
  assert {x.dtype for x in jax.tree.leaves(plain.params)} == {jnp.dtype(F32)}
  assert {x.dtype for x in moments(plain.opt_state)} == {jnp.dtype(BF16)}


@pytest.mark.parametrize('name', ['adam', 'muon'])
def test_bfloat16_moments_give_nearly_the_same_updates(name):
  opt, _, exact = make(name)
  coarse_opt, _, coarse = make(name, moment='bfloat16')
  for at in range(3):
    exact, _ = accumulate.apply(exact, gradient(exact), optimizer=opt)
    coarse, _ = accumulate.apply(coarse, gradient(coarse), optimizer=coarse_opt)
    # The first update is computed before anything is rounded.
    # Muon makes a matrix's small directions as large as its large ones, and their rounding with them.
    tolerance = dict(atol=5e-4 if name == 'adam' else 3e-3) if at else dict(rtol=1e-5, atol=1e-7)
    for a, b in zip(jax.tree.leaves(coarse.params), jax.tree.leaves(exact.params)):
      np.testing.assert_allclose(a, b, **tolerance)
  assert all(x.dtype == BF16 for x in moments(coarse.opt_state))


def test_bfloat16_parameters_move_as_float32_ones_rounded():
  opt, _like, exact = make()
  coarse_opt, coarse_like, coarse = make(param='bfloat16')
  before = jax.device_get(coarse.params)
  exact = exact.replace(params=jax.tree.map(lambda x: x.astype(F32), coarse.params))
  exact, _ = accumulate.apply(exact, gradient(exact), optimizer=opt)
  coarse, _ = accumulate.apply(coarse, gradient(coarse, 'param'), optimizer=coarse_opt)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(np.float32(a), b, rtol=2**-7, atol=1e-4), coarse.params, exact.params
  )
  assert jax.tree.map(lambda x: x.dtype, coarse) == jax.tree.map(lambda x: x.dtype, coarse_like)
  assert (before['embed'] != jax.device_get(coarse.params['embed'])).mean() > 0.9


def test_all_of_it_is_saved_and_restored_to_the_bit(tmp_path):
  opt, like, state = make(param='bfloat16', moment='bfloat16', reference='bfloat16')
  state, _ = accumulate.apply(state, gradient(state), optimizer=opt)
  with checkpoint.Store(tmp_path, config.Checkpoint(every=1), {}) as store:
    store.save(1, state)
    found, _ = store.restore(like)
    with pytest.raises(ConfigError, match='other arrays: .*bfloat16.*float32'):
      store.restore(make()[1])
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(state), strict=True):
    assert a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_a_refreshed_reference_is_the_policy_rounded_and_a_copy():
  _, _, state = make(reference='bfloat16')
  params = jax.tree.map(lambda x: x + 0.125, state.params)
  jax.tree.map(
    lambda a, b: np.testing.assert_array_equal(a, b.astype(a.dtype)), state_lib.refresh(params, state.reference), params
  )
  same = state_lib.refresh(params, params)
  assert all(a is not b for a, b in zip(jax.tree.leaves(same), jax.tree.leaves(params)))


def test_dtypes_that_do_not_go_together_are_refused():
  with pytest.raises(ConfigError, match="moment_dtype is 'float16'"):
    config.Optimizer(1e-3, moment_dtype='float16')
  with pytest.raises(ConfigError, match=r'b2 0.999 must not exceed 0.99'):
    config.Optimizer(1e-3, b2=0.999, moment_dtype='bfloat16')
  with pytest.raises(ConfigError, match="train.param_dtype is 'int8'"):
    config.Train(param_dtype='int8')
  with pytest.raises(ConfigError, match="train.grad_dtype is 'bfloat16'; use 'float32' or 'param'"):
    config.Train(grad_dtype='bfloat16')
  assert dataclasses.replace(config.Train(), grad_dtype='param').param_dtype == 'float32'


def test_a_reference_in_the_hosts_memory():
  """It stays there through an optimizer step and a refresh, and is the same when it is at hand."""
  opt, like, state = make(memory='host')
  _, _, plain = make()
  kinds = lambda tree: {x.sharding.memory_kind for x in jax.tree.leaves(tree)}
  assert kinds(like.reference) == kinds(state.reference) == {'pinned_host'} and kinds(state.params) == {'device'}
  grads = gradient(state)
  state, _ = accumulate.apply(state, grads, optimizer=opt)
  plain, _ = accumulate.apply(plain, gradient(plain), optimizer=opt)
  at_hand = state_lib.move_to_memory(state.reference, 'device')
  assert kinds(at_hand) == {'device'}
  jax.tree.map(np.testing.assert_array_equal, (state.params, at_hand), (plain.params, plain.reference))
  fresh = state_lib.refresh(state.params, state.reference)
  assert kinds(fresh) == {'pinned_host'}
  jax.tree.map(np.testing.assert_array_equal, state_lib.move_to_memory(fresh, 'device'), state.params)
