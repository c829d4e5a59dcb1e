"""Routing replay: the sampler says which experts it sent each token to, and the policy's passes send it there again."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import rl
from r1jax import config, models, parallel
from r1jax import params as params_lib
from r1jax.config import ConfigError
from r1jax.models.config import MoE
from r1jax.planning import programs
from r1jax.runs.settings import fingerprint
from r1jax.sampling import Engine, SamplingParams, decode, engine, row_keys
from r1jax.training import policy
from r1jax.training import state as state_lib

MODEL = models.ModelConfig(
  vocab=29,
  embed=16,
  layers=3,
  heads=2,
  kv_heads=1,
  head_dim=8,
  mlp=24,
  context=64,
  moe=MoE(8, 2, 12, shared=1, first_dense=1, score='sigmoid', groups=4, top_groups=2, scale=2.5),
)
DENSE = dataclasses.replace(MODEL, moe=None)
PROMPTS, G, T = [[5, 6, 7], list(range(3, 15)), [9], [8, 8]], 4, 32
P, TOKENS = len(PROMPTS), 16 + T  # prompts are padded to 16


def mesh():
  return parallel.make_mesh(config.Mesh(), jax.devices()[:1])


def config_of(remat='none', loss=(), **train):
  return config.RL(
    seed=0,
    steps=3,
    model=config.Model('none', remat=remat),
    data=config.Data('jsonl'),
    rollout=config.Rollout(prompts=P, samples=G, max_prompt=16, max_response=T),
    reward=config.Reward({'x': 1.0}, 'x'),
    loss=config.Loss('grpo', **{'kl_coef': 0.0} | dict(loss)),
    optimizer=config.Optimizer(1e-2),
    train=config.Train(**{'routing_replay': True, 'logit_chunk': 64} | train),
    eval=config.Evaluation(1, 1, 1),
    checkpoint=config.Checkpoint(1),
  )


@pytest.fixture(scope='module')
def params():
  tree = params_lib.init(models.specs(MODEL), jax.random.key(0))
  return tree | {'embed': jax.random.normal(jax.random.key(1), tree['embed'].shape), 'unembed': 1.5 * tree['unembed']}


def sample(params, slots=0):
  """RolloutBatch with advantages, and the Engine. The host looks often: rows are dropped, and the cache grows."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(engine, 'CHUNK', 8)
    patch.setattr(decode, 'CHUNK', 8)
    tokenizer = types.SimpleNamespace(eos=(1, 2))
    sampler = Engine(MODEL, tokenizer, mesh(), max_prompt=16, max_response=T, slots=slots, prefill=3)
    batch = sampler.sample(params, PROMPTS, row_keys(jax.random.key(3), P, G), SamplingParams(experts=True))
  advantage = np.random.default_rng(0).normal(size=(P, G, 1)).astype(np.float32)
  return batch.replace(advantage=advantage, stop=None, policy_version=None), sampler


@pytest.fixture(scope='module')
def sampled(params):
  return sample(params)


@pytest.mark.parametrize('slots', [0, pytest.param(6, marks=pytest.mark.slow)])
def test_the_samplers_experts_are_those_of_a_pass_over_prompt_and_response(params, sampled, slots):
  """Of all tokens but each response's last, with rows dropped and prompts padded; a set for each layer and token."""
  batch, sampler = sample(params, slots) if slots else sampled
  assert sampler.row_steps < P * G * (T - 1) and (batch.lengths == T).any() and (batch.lengths < 8).any()
  assert batch.experts.shape == (P, G, 2, 2, T) and batch.prompt_experts.shape == (P, 2, 2, 16)
  assert batch.experts.dtype == batch.prompt_experts.dtype == np.uint8
  options, positions = models.ForwardOptions(return_experts=True), jnp.arange(TOKENS)[None, None]
  whole = jax.jit(lambda tokens: models.forward(params, MODEL, tokens[None, None], positions, options=options).experts)
  compared = 0
  for (p, g), n in np.ndenumerate(batch.lengths):
    begin, row = len(PROMPTS[p]), [*PROMPTS[p], *batch.tokens[p, g, :n]]
    want = np.sort(whole(jnp.asarray(np.pad(row, (0, TOKENS - len(row)))))[0, 0], axis=1)
    np.testing.assert_array_equal(np.sort(batch.prompt_experts[p, :, :, :begin], axis=1), want[..., :begin])
    ran = batch.experts[p, g, :, :, : n - 1]
    np.testing.assert_array_equal(np.sort(ran, axis=1), want[..., begin : begin + n - 1])
    assert not batch.experts[p, g, :, :, n - 1 :].any()
    compared += n - 1
  assert compared > 100 and len(np.unique(batch.experts[0, 0])) == 8


def logprobs(params, batch):
  fn = policy.LogProbFn(MODEL, models.ForwardOptions(), logit_chunk=64)
  return np.asarray(policy.logprobs_program(params, batch.replace(advantage=None), fn=fn))


def other_experts(batch, seed=0):
  """The batch with random experts, distinct ones for each token."""
  rng = np.random.default_rng(seed)
  draw = lambda x: np.argsort(rng.random((*x.shape, 8)), axis=-1)[..., :2].astype(np.uint8)
  of = lambda x: np.moveaxis(draw(x[..., 0, :]), -1, -2)  # [..., layers, top_k, tokens]
  return batch.replace(prompt_experts=of(batch.prompt_experts), experts=of(batch.experts))


def test_replay_of_the_same_choice_changes_no_logprob_and_of_another_one_does(params, sampled):
  batch, real = sampled[0], sampled[0].loss_mask
  own = logprobs(params, batch.without_experts())
  np.testing.assert_allclose(logprobs(params, batch)[real], own[real], atol=1e-6)
  np.testing.assert_allclose(own[real], batch.sampler_logp[real], atol=2e-5)
  other = other_experts(batch)
  assert np.abs(logprobs(params, other) - own)[real].max() > 0.1
  # Experts of padding, and of the last token of a response, which no other token follows, do not matter.
  ran, prompt = np.arange(T) < batch.lengths[..., None] - 1, np.arange(16) < batch.prompt_lengths[:, None]
  pick = lambda mask, a, b: np.where(np.expand_dims(mask, (-3, -2)), a, b)
  padded = batch.replace(
    experts=pick(ran, batch.experts, other.experts),
    prompt_experts=pick(prompt, batch.prompt_experts, other.prompt_experts),
  )
  np.testing.assert_allclose(logprobs(params, padded)[real], own[real], atol=1e-6)


def stepped(params, batch, cfg):
  """The gradient, as a step of gradient descent at rate 1, and the metrics."""
  opt, specs = optax.sgd(1.0), models.specs(MODEL)
  state = state_lib.new_state(params, opt, state_lib.abstract_state(specs, opt, mesh()))
  before = jax.device_get(params)
  state, metrics = policy.update(policy.make_trainer(cfg, MODEL, opt, mesh()), state, batch, cfg, 0)
  return jax.tree.map(np.subtract, before, jax.device_get(state.params)), metrics


def copied(params):
  return jax.tree.map(jnp.copy, params)  # an update takes its parameters away


def assert_close(got, want):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6 * max(1, np.abs(b).max())), got, want)


@pytest.mark.parametrize('remat', [pytest.param('none', marks=pytest.mark.slow), 'full'])
def test_replay_of_the_same_choice_changes_no_gradient(params, sampled, remat):
  """That of the router neither, which is not zero. The load counts the tokens whose experts the sampler knows."""
  batch, cfg = sampled[0], config_of(remat)
  got, metrics = stepped(copied(params), batch, cfg)
  assert_close(got, stepped(copied(params), batch.without_experts(), cfg)[0])
  assert np.abs(got['layers']['moe']['router']).max(axis=(1, 2)).min() > 1e-4
  loads = []
  for layer in range(2):
    ran = [x[layer, :, :n].ravel() for x, n in zip(batch.prompt_experts, batch.prompt_lengths)]
    ran += [batch.experts[at][layer, :, : n - 1].ravel() for at, n in np.ndenumerate(batch.lengths)]
    loads.append(np.bincount(np.concatenate(ran), minlength=8))
  want = np.mean([load / load.mean() for load in loads], axis=0)
  np.testing.assert_allclose([metrics[f'moe/load/{i:03d}'] for i in range(8)], want, rtol=1e-5)


def test_experts_follow_their_tokens_into_microbatches(sampled):
  batch, cfg = other_experts(sampled[0]), config_of(microbatch=2, length_slices=4)
  seen = 0
  for (groups, rows), part in policy.microbatches(batch, cfg):
    for i, (group,) in enumerate(groups):
      np.testing.assert_array_equal(part.prompt_experts[i], batch.prompt_experts[group])
      for j, row in enumerate(rows[i]):
        np.testing.assert_array_equal(part.tokens[i, j], batch.tokens[group, row, : part.tokens.shape[2]])
        np.testing.assert_array_equal(part.experts[i, j], batch.experts[group, row, :, :, : part.tokens.shape[2]])
        seen += 1
  assert seen == P * G


@pytest.mark.slow
def test_replay_in_microbatches_gives_the_gradient_of_the_whole(params, sampled):
  batch = other_experts(sampled[0])
  want, _ = stepped(copied(params), batch, config_of())
  assert np.abs(want['layers']['moe']['router']).max() > 1e-4
  got, _ = stepped(copied(params), batch, config_of(microbatch=2, length_slices=4))
  assert_close(got, want)


def test_the_old_policy_replays_and_the_reference_does_not(params, sampled):
  batch, cfg = other_experts(sampled[0]), config_of(loss=dict(kl_coef=0.1), minibatches=2)
  trainer = policy.make_trainer(cfg, MODEL, optax.sgd(1.0), mesh())
  run = types.SimpleNamespace(cfg=cfg, trainer=trainer, critic=None)
  state = state_lib.TrainState(params, (), np.int32(0), reference=params)
  full = rl.with_logprobs(run, state, batch)
  real = batch.loss_mask
  np.testing.assert_allclose(full.old_logp[real], logprobs(params, batch)[real], atol=1e-5)
  np.testing.assert_allclose(full.ref_logp[real], logprobs(params, batch.without_experts())[real], atol=1e-5)
  np.testing.assert_array_equal(full.experts, batch.experts)


@pytest.mark.parametrize(
  ('model', 'message'),
  [
    (DENSE, 'train.routing_replay is set, but the model has no experts; set it to False'),
    (dataclasses.replace(MODEL, moe=MoE(4, 4, 12)), 'each token is sent to all 4 experts; set it to False'),
  ],
)
def test_replay_without_a_choice_is_refused(model, message):
  with pytest.raises(ConfigError, match=message):
    policy.make_trainer(config_of(), model, None, mesh())
  policy.make_trainer(config_of(routing_replay=False), model, None, mesh())


def test_checkpoints_from_before_the_setting_existed_match_it_when_off():
  source = types.SimpleNamespace(config={}, digest='x')
  on, off = (fingerprint(config_of(routing_replay=value), source)['train'] for value in (True, False))
  assert on.pop('routing_replay') and on == off


def test_a_plan_counts_the_experts_of_tokens():
  """In the update and while sampling; not in a pass of the reference policy alone."""
  v3 = models.PRESETS['deepseek_v3']
  assert np.prod(v3.routes) == 58 * 8 == 464 and v3.moe.index_dtype == 'uint8'
  assert dataclasses.replace(v3.moe, experts=512).index_dtype == 'uint16'
  replay, without = (
    programs.setting(config_of(loss=dict(kl_coef=0.1), routing_replay=on), MODEL, jax.devices()[:1])
    for on in (True, False)
  )
  size = lambda setting: sum(programs.device_bytes(x) for x in jax.tree.leaves(setting.microbatch))
  assert size(replay) - size(without) == 2 * 2 * P * (16 + G * T)
  holds_experts = lambda name, setting: 'ui8' in programs.lower(name, setting)[0].as_text()
  assert holds_experts('update/accumulate', replay) and not holds_experts('logprobs', replay)
  assert holds_experts('sample/decode', replay) and not holds_experts('sample/decode', without)
