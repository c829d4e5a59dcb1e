"""Run by test_mesh.py in a process with eight CPU devices: a mesh must not change what is computed."""
import types

import jax
import numpy as np
import pytest

from r1jax import config, models, parallel
from r1jax import params as params_lib
from r1jax.config import ConfigError
from r1jax.sampling import Engine, Sampling, row_keys
from r1jax.training import optimizer, policy
from r1jax.training import state as state_lib
from r1jax.training.update import Graded, Updater

MODEL = models.ModelConfig(vocab=40, embed=16, layers=2, heads=4, kv_heads=2, head_dim=8, mlp=24, context=64)
SPECS = models.specs(MODEL)
P, G, T = 8, 2, 16


def config_of(microbatch):
  return config.RL(
      seed=0, steps=3, model=config.Model('none'), data=config.Data('jsonl'),
      rollout=config.Rollout(prompts=P, samples=G, max_prompt=8, max_response=T), reward=config.Reward({'x': 1.0}, 'x'),
      loss=config.Loss('grpo', kl_coef=0.1), optimizer=config.Optimizer(1e-2, eps=1e-3),
      train=config.Train(microbatch=microbatch), eval=config.Evaluation(1, 1, 1), checkpoint=config.Checkpoint(1))


def graded():
  rng = np.random.default_rng(0)
  near = lambda: (-3.7 + 0.3 * rng.normal(size=(P, G, T))).astype(np.float32)
  return Graded(rng.integers(0, 40, (P, 8)).astype(np.int32), rng.integers(1, 9, P).astype(np.int32),
                rng.integers(0, 40, (P, G, T)).astype(np.int32), np.full((P, G), T, np.int32),
                rng.normal(size=(P, G)).astype(np.float32), near(), None, near())


def run(mesh):
  """Host copies of samples, log-probs, the updated state and its metrics; the state; programs compiled."""
  cfg = config_of(microbatch=8)
  opt = optimizer.make(cfg.optimizer, 3, SPECS)
  like = state_lib.abstract_state(SPECS, opt, mesh, reference=True)
  params = jax.tree.map(lambda x, s: jax.device_put(np.asarray(x), s.sharding),
                        params_lib.init(SPECS, jax.random.key(0)), like.params)
  state, updater = state_lib.new_state(params, opt, like, reference=True), Updater(cfg, MODEL, opt, mesh)
  engine = Engine(MODEL, types.SimpleNamespace(eos=(1,)), mesh, max_prompt=8, max_response=T)
  keys = jax.device_put(row_keys(jax.random.key(3), P, G), parallel.replicated(mesh))
  with jax.transfer_guard('disallow'):
    samples = engine.sample(state.params, [[3, 4, 5 + i] for i in range(P)], keys, Sampling())
    logp = updater.logprobs(state.params, graded())()
    state, metrics = updater.update(state, graded(), 0)
    compiled = policy._accumulate._cache_size()
    state, _ = updater.update(state, graded(), 1)
  for at, (got, want) in enumerate(zip(jax.tree.leaves(state), jax.tree.leaves(like))):
    assert got.sharding.is_equivalent_to(want.sharding, got.ndim), (at, got.sharding, want.sharding)
  assert policy._accumulate._cache_size() == compiled, 'the second step compiled another program'
  return samples, logp, jax.device_get(state), metrics, state


def main():
  assert jax.device_count() == 8
  alone, wide = (run(parallel.make_mesh(*m)) for m in (
      (config.Mesh(1, 1, 1), jax.devices()[:1]), (config.Mesh(data=2, fsdp=2, tp=2),)))
  np.testing.assert_array_equal(wide[0].tokens, alone[0].tokens)
  assert len({tuple(t) for t in alone[0].tokens}) > P
  np.testing.assert_allclose(wide[0].sampling_logp, alone[0].sampling_logp, atol=1e-5)
  np.testing.assert_allclose(wide[1], alone[1], atol=1e-5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), wide[2], alone[2])
  for name, value in alone[3].items():
    np.testing.assert_allclose(wide[3][name], value, rtol=1e-4, atol=1e-6, err_msg=name)

  whole = lambda x: x.addressable_shards[0].data.size / x.size
  params = wide[4].params
  assert whole(params['layers']['mlp']['up']) == whole(params['embed']) == 1 / 4       # over fsdp and tp
  assert whole(wide[4].opt_state[1][0].mu['layers']['mlp']['up']) == 1 / 4
  assert whole(policy.zeros_like(params)['layers']['mlp']['up']) == 1 / 4              # gradients too
  mesh = parallel.make_mesh(config.Mesh(data=2, fsdp=2, tp=2))
  with pytest.raises(ConfigError, match='1 prompts a microbatch do not divide over 4 devices.*multiple of 8'):
    Updater(config_of(microbatch=2), MODEL, None, mesh)
  engine = Engine(MODEL, types.SimpleNamespace(eos=(1,)), mesh, max_prompt=8, max_response=T)
  with pytest.raises(ConfigError, match='3 prompts do not divide over 4 devices'):
    engine.sample(params, [[3]] * 3, row_keys(jax.random.key(3), 3, G), Sampling())


if __name__ == '__main__':
  main()
