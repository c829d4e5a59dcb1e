"""On-policy distillation: the term in the loss, and how a rollout is cut must not show in its gradient."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from r1jax import config, models, parallel
from r1jax import params as params_lib
from r1jax.batch import RolloutBatch
from r1jax.config import ConfigError
from r1jax.models.lora import Base
from r1jax.training import accumulate, distill, lora, policy
from r1jax.training import state as state_lib

MODEL = models.ModelConfig(vocab=40, embed=16, layers=2, heads=2, kv_heads=1, head_dim=8, mlp=24, context=64)
WIDE = dataclasses.replace(MODEL, vocab=48, embed=24, layers=1, tied=True)  # a teacher with more rows
P, G, T = 4, 2, 8
TEACHER = np.array([1, -1, 0, 1], np.int32)  # of each prompt
MESH = parallel.make_mesh(config.Mesh(), jax.devices()[:1])


def config_of(train=None, coef=0.7, temperature=1.0, remat='none', **loss):
  return config.RL(
    seed=0,
    steps=3,
    model=config.Model('none', remat=remat),
    data=config.Data('jsonl'),
    rollout=config.Rollout(prompts=P, samples=G, max_prompt=8, max_response=T, temperature=temperature),
    reward=config.Reward({'x': 1.0}, 'x'),
    loss=config.Loss(**{'name': 'dapo', 'advantage': 'zero'} | loss),
    optimizer=config.Optimizer(1e-2),
    eval=config.Evaluation(1, 1, 1),
    train=config.Train(**{'logit_chunk': 16} | (train or {})),
    checkpoint=config.Checkpoint(1),
    distill=config.Distill(coef),
  )


def rollout(teacher=TEACHER):
  rng = np.random.default_rng(0)
  lengths = rng.integers(1, T + 1, (P, G)).astype(np.int32)
  return RolloutBatch(
    prompts=rng.integers(0, 40, (P, 8)).astype(np.int32),
    prompt_lengths=rng.integers(1, 9, P).astype(np.int32),
    tokens=rng.integers(0, 40, (P, G, T)).astype(np.int32),
    lengths=lengths,
    loss_mask=np.arange(T) < lengths[..., None],
    advantage=np.zeros((P, G, 1), np.float32),
    sampler_logp=rng.normal(size=(P, G, T)).astype(np.float32),
    teacher=np.array(teacher, np.int32),
  )


def params_of(model, seed):
  return params_lib.init(models.specs(model), jax.random.key(seed))


def source(model, seed):
  return types.SimpleNamespace(cfg=model, load=lambda abstract: params_of(model, seed))


TEACHERS = [(MODEL, 1), (WIDE, 2)]


def make(cfg, teachers=TEACHERS):
  """Trainer and a fresh state; gradient descent at rate 1: its step is the gradient."""
  sgd = optax.sgd(1.0)
  trainer = policy.make_trainer(cfg, MODEL, sgd, MESH)
  trainer = distill.with_teachers(trainer, cfg, MODEL, [model for model, _ in teachers], 'ab'[: len(teachers)])
  state = state_lib.new_state(params_of(MODEL, 0), sgd, state_lib.abstract_state(models.specs(MODEL), sgd, MESH))
  loaded = [distill.load(source(*teacher), MODEL, cfg, MESH) for teacher in teachers]
  return trainer, state.replace(frozen={'teachers': loaded})


def stepped(cfg, batch, teachers=TEACHERS):
  """Host copies of the gradient and the metrics of one update."""
  trainer, state = make(cfg, teachers)
  before = jax.device_get(state.params)
  state, metrics = policy.update(trainer, state, batch, cfg, 0)
  return jax.tree.map(lambda a, b: a - b, before, jax.device_get(state.params)), metrics


def assert_close(a, b):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=2e-6 * max(1, np.abs(y).max())), a, b)


def logits(params, model, batch, temperature):
  """[P, G, T, 40], all in memory."""
  tokens = (batch.prompts, batch.prompt_lengths, batch.tokens)
  hidden = models.response_hidden(params, model, *tokens).hidden
  return (hidden @ models.unembedding(params).T)[..., :40] / temperature


def test_the_term_is_the_mean_divergence_of_tokens_that_have_a_teacher():
  """Value and gradient of whole distributions at a temperature, every teacher run on all prompts."""
  batch = rollout()
  targets = [jax.nn.log_softmax(logits(params_of(*teacher), teacher[0], batch, 0.8)) for teacher in TEACHERS]
  logq = jnp.where((TEACHER == 0)[:, None, None, None], *targets)
  taught = batch.loss_mask & (TEACHER >= 0)[:, None, None]

  def by_hand(params):
    logp = jax.nn.log_softmax(logits(params, MODEL, batch, 0.8))
    kl = jnp.where(taught, (jnp.exp(logp) * (logp - logq)).sum(axis=-1), 0)
    return 0.7 * kl.sum() / batch.loss_mask.sum(), kl

  (value, kl), want = jax.value_and_grad(by_hand, has_aux=True)(params_of(MODEL, 0))
  got, metrics = stepped(config_of(temperature=0.8), batch)
  assert max(np.abs(x).max() for x in jax.tree.leaves(got)) > 1e-3
  assert_close(got, want)
  assert metrics['policy/loss'] == pytest.approx(float(value), rel=1e-5)
  found = distill.by_token(metrics)
  assert found['distill/kl'] == pytest.approx(float(kl.sum() / taught.sum()), rel=1e-5)
  for k, name in enumerate('ab'):
    mine = taught & (TEACHER == k)[:, None, None]
    assert found[f'distill/kl/{name}'] == pytest.approx(float(kl[mine].mean()), rel=1e-5)
  assert not [name for name in found if 'share' in name] and found['policy/entropy'] == metrics['policy/entropy']


def test_microbatches_and_recomputation_give_the_gradient_of_the_whole():
  """Beside a reward, a KL term and an entropy bonus."""
  loss = dict(name='grpo', advantage='group', kl_coef=0.0, entropy_coef=0.2)
  batch = rollout().replace(advantage=np.random.default_rng(1).normal(size=(P, G, 1)).astype(np.float32))
  want, metrics = stepped(config_of(**loss), batch)
  assert abs(metrics['policy/loss'] - 0.7 * sum(metrics[f'distill/kl/{name}'] for name in 'ab')) > 1e-2  # the reward's
  got, same = stepped(config_of(dict(microbatch=2, length_slices=2), remat='full', **loss), batch)
  assert_close(got, want)
  assert same == pytest.approx(metrics, rel=1e-4, abs=1e-6)


def test_what_pads_a_rollout_changes_nothing():
  clean, cfg = rollout(), config_of()
  after = np.arange(T) >= clean.lengths[..., None]
  dirty = clean.replace(
    tokens=np.where(after, 39, clean.tokens), sampler_logp=np.where(after, np.nan, clean.sampler_logp)
  )
  (want, metrics), (got, same) = stepped(cfg, clean), stepped(cfg, dirty)
  assert_close(got, want)
  assert same == pytest.approx(metrics, rel=1e-5)


def test_a_teacher_like_the_policy_teaches_nothing():
  _, metrics = stepped(config_of(), rollout([0] * P), [(MODEL, 0)])
  assert abs(metrics['distill/kl/a']) < 1e-6 and metrics['policy/grad_norm'] < 1e-5
  assert distill.by_token(metrics).keys() & {'distill/kl', 'distill/kl/a'} == {'distill/kl'}


def test_prompts_of_one_teacher_lie_together_and_without_one_nothing_is_taught():
  batches = []

  class Spy(accumulate.Trainer):
    def step(self, state, parts, totals):
      parts = list(parts)
      batches.extend(parts)
      return super().step(state, parts, totals)

  cfg = config_of(dict(microbatch=4))
  trainer, state = make(cfg)
  trainer = Spy(**{field.name: getattr(trainer, field.name) for field in dataclasses.fields(trainer)})
  policy.update(trainer, state, rollout([1, 0, 1, 0]), cfg, 0)
  assert [part.teacher.tolist() for part in batches] == [[0, 0], [1, 1]]
  trainer, state = make(cfg)
  _, metrics = policy.update(trainer, state, rollout([-1] * P), cfg, 0)
  assert metrics['policy/grad_norm'] == metrics['policy/loss'] == 0 and 'distill/kl' not in distill.by_token(metrics)


def test_tables_are_cut_or_filled_up_to_the_policys_rows():
  for model in (WIDE, dataclasses.replace(WIDE, vocab=32, tied=False)):
    want, got = params_of(model, 3), distill.load(source(model, 3), MODEL, config_of(), MESH)
    rows = min(model.vocab, 40)
    assert got['embed'].shape == (40, 24)
    np.testing.assert_array_equal(got['embed'][:rows], want['embed'][:rows])
    assert not got['embed'][rows:].any()
    if not model.tied:
      np.testing.assert_array_equal(got['unembed'], np.pad(want['unembed'], ((0, 0), (0, 8))))
    np.testing.assert_array_equal(got['norm'], want['norm'])


def test_settings_without_effect_are_refused():
  with pytest.raises(ConfigError, match="loss.advantage 'zero' learns nothing from rewards, and distill.coef is 0"):
    config_of(coef=0.0)
  with pytest.raises(ConfigError, match='distill has the teacher T, but distill.coef is 0'):
    config.Distill(path_by_kind={'math': 'T'})
  with pytest.raises(ConfigError, match="distill.objective is 'kl'; known: reverse_kl, forward_kl, jsd"):
    config.Distill(1.0, 'kl')
  with pytest.raises(ConfigError, match='reward.step_credit is 0.5, but loss.advantage'):
    reward = config.Reward({'process': 1.0}, 'process', step_credit=0.5)
    dataclasses.replace(config_of(), reward=reward)


def test_an_adapter_learns_from_teachers_as_its_matrix_would():
  """B begins at zero, so its gradient is scale * A^T dW, with dW the gradient of the whole model."""
  cfg, batch = dataclasses.replace(config_of(), lora=config.LoRA(rank=2, alpha=4.0)), rollout()
  whole, metrics = stepped(config_of(), batch)
  trainer, state = make(cfg)
  adapter = params_lib.init(lora.specs(cfg.lora, MODEL), jax.random.key(3))
  like = lora.abstract_state(cfg.lora, MODEL, trainer.optimizer, MESH, 'float32').saved()
  a = np.asarray(adapter['layers']['mlp']['up']['a'])
  frozen = state.frozen | {'base': Base(state.params, 2.0)}
  state = state_lib.new_state(adapter, trainer.optimizer, like).replace(frozen=frozen)
  state, found = policy.update(trainer, state, batch, cfg, 0)
  want = -2.0 * np.einsum('lik,lio->lko', a, whole['layers']['mlp']['up'])
  np.testing.assert_allclose(state.params['layers']['mlp']['up']['b'], want, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(found['policy/loss'], metrics['policy/loss'], rtol=1e-5)
