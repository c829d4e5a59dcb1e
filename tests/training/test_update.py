"""The update: how a rollout is cut into batches must not show in the gradient."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from r1jax import config, losses, models, parallel
from r1jax import params as params_lib
from r1jax.batch import RolloutBatch
from r1jax.config import ConfigError
from r1jax.models.config import MLA, MoE
from r1jax.training import accumulate, optimizer, policy
from r1jax.training import state as state_lib
from r1jax.training.finite import NonFiniteError

MODEL = models.ModelConfig(vocab=40, embed=16, layers=2, heads=2, kv_heads=1, head_dim=8, mlp=24, context=64)
SPECS = models.specs(MODEL)
MIXED = dataclasses.replace(
  MODEL,
  layers=3,
  kv_heads=2,
  mla=MLA(q_rank=8, kv_rank=8, nope_dim=4, rope_dim=4, v_dim=6),
  moe=MoE(8, 2, 12, shared=1, first_dense=1, score='sigmoid', groups=4, top_groups=2, scale=2.5),
)
P, G, T = 4, 4, 24


BOUNDS = dict(cispo=dict(ratio_cap=1.1), reinforce={})  # of the ratio, where a loss does not clip it


def config_of(train=None, **loss):
  return config.RL(
    seed=0,
    steps=3,
    model=config.Model('none'),
    data=config.Data('jsonl'),
    rollout=config.Rollout(prompts=P, samples=G, max_prompt=8, max_response=T),
    reward=config.Reward({'x': 1.0}, 'x'),
    loss=config.Loss(**{'name': 'grpo', 'kl_coef': 0.0} | loss),
    optimizer=config.Optimizer(1e-2),
    eval=config.Evaluation(1, 1, 1),
    train=config.Train(**{'logit_chunk': 64} | (train or {})),
    checkpoint=config.Checkpoint(1),
  )


def rollout(old=True, ref=True, seed=0):
  """Random log-probs near the model's (log 40 = 3.7), lengths from 1 to T."""
  rng = np.random.default_rng(seed)
  near = lambda: (-3.7 + 0.3 * rng.normal(size=(P, G, T))).astype(np.float32)
  lengths = rng.integers(1, T + 1, (P, G)).astype(np.int32)
  lengths[0] = [1, T, 2, 9]
  return RolloutBatch(
    prompts=rng.integers(0, 40, (P, 8)).astype(np.int32),
    prompt_lengths=rng.integers(1, 9, P).astype(np.int32),
    tokens=rng.integers(0, 40, (P, G, T)).astype(np.int32),
    lengths=lengths,
    loss_mask=np.arange(T) < lengths[..., None],
    advantage=rng.normal(size=(P, G, 1)).astype(np.float32),
    sampler_logp=near(),
    old_logp=near() if old else None,
    ref_logp=near() if ref else None,
  )


def make(cfg, opt=None, model=MODEL):
  """Trainer and a fresh state, one device; gradient descent at rate 1 unless told: its step is the gradient."""
  mesh = parallel.make_mesh(config.Mesh(), jax.devices()[:1])
  opt, specs = opt or SGD, models.specs(model)
  like = state_lib.abstract_state(specs, opt, mesh)
  params = params_lib.init(specs, jax.random.key(0))
  return policy.make_trainer(cfg, model, opt, mesh), state_lib.new_state(params, opt, like)


SGD = optax.sgd(1.0)


def stepped(cfg, batch, opt=None, step=0, model=MODEL):
  """Host copies of the parameters before and after one update, and the metrics."""
  trainer, state = make(cfg, opt, model)
  before = jax.device_get(state.params)
  state, metrics = policy.update(trainer, state, batch, cfg, step)
  return before, jax.device_get(state.params), metrics


def assert_close(a, b, atol=2e-6):
  # An array's small entries carry the rounding of its large ones.
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=atol * max(1, np.abs(y).max())), a, b)


@pytest.mark.parametrize(
  ('name', 'average'),
  [('grpo', ''), ('grpo', 'prompt')]
  + [pytest.param(name, '', marks=pytest.mark.slow) for name in losses.LOSSES if name != 'grpo'],
)
def test_microbatches_and_length_slices_give_the_gradient_of_the_whole(name, average):
  # Tight clipping, so that both clip fractions are at work; KL, entropy and the sampler's weight too.
  bounds = BOUNDS.get(name, dict(clip_low=0.05, clip_high=0.1))
  loss = dict(name=name, kl_coef=0.3, tis_cap=1.5, entropy_coef=0.2, average=average) | bounds
  before, want, metrics = stepped(config_of(**loss), rollout())
  moved = max(np.abs(a - b).max() for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(want)))
  assert moved > 1e-3
  for train in (dict(microbatch=2), dict(microbatch=4, length_slices=4)):
    _, got, same = stepped(config_of(train, **loss), rollout())
    assert_close(got, want)
    assert same.keys() == metrics.keys()
    for key in metrics:
      assert same[key] == pytest.approx(metrics[key], rel=1e-4, abs=1e-6), key


def test_experts_are_trained_and_balanced_alike_in_microbatches():
  before, want, metrics = stepped(config_of(dict(balance_rate=0.25)), rollout(), model=MIXED)
  bias = want['layers']['moe']['router_bias']
  assert set(np.unique(bias)) <= {-0.25, 0.0, 0.25} and bias.any()  # the rate, up or down; it has no gradient
  assert np.abs(want['layers']['moe']['gate'] - before['layers']['moe']['gate']).max() > 1e-4
  # Visits of real tokens only: each prompt once and each response's tokens but the last, 2 experts each.
  assert np.mean([metrics[f'moe/load/{i:03d}'] for i in range(8)]) == pytest.approx(1)
  assert metrics['moe/load_min'] <= 1 <= metrics['moe/load_max']
  for train in (dict(microbatch=4, length_slices=4), dict(microbatch=8)):
    _, got, same = stepped(config_of(train | dict(balance_rate=0.25)), rollout(), model=MIXED)
    if 'length_slices' in train:  # they run a prompt several times, and count it so
      got['layers']['moe']['router_bias'] = bias
    assert_close(got, want)
    if 'length_slices' not in train:
      assert {k: v for k, v in same.items() if 'moe' in k} == pytest.approx(
        {k: v for k, v in metrics.items() if 'moe' in k}
      )


def test_frozen_biases_stay_though_weights_decay():
  before, after, _ = stepped(config_of(), rollout(), optax.adamw(0.1, weight_decay=0.5), model=MIXED)
  assert (after['layers']['moe']['router_bias'] == before['layers']['moe']['router_bias']).all()
  assert (after['norm'] != before['norm']).any()


def test_length_slices_pad_less():
  seen = lambda train: [b.tokens.shape for _, b in policy.microbatches(rollout(), config_of(train))]
  assert seen(dict(microbatch=8)) == [(2, 4, 24)] * 2
  sliced = seen(dict(length_slices=4, microbatch=4))
  assert len(sliced) == 4 and {s[:2] for s in sliced} == {(4, 1)} and sliced[0][2] < sliced[-1][2] == 24


def test_a_log_prob_pass_has_the_microbatches_of_the_update():
  cfg = config_of(dict(minibatches=2))  # microbatch 0: the whole minibatch
  assert [batch.lengths.shape for _, batch in policy.microbatches(rollout(), cfg)] == [(P // 2, G)] * 2


def test_every_response_is_in_one_microbatch():
  for train in (dict(microbatch=2), dict(length_slices=2, microbatch=4), dict(length_slices=4)):
    seen = np.zeros((P, G), int)
    for (groups, rows), batch in policy.microbatches(rollout(), config_of(train)):
      seen[groups, rows] += 1
      np.testing.assert_array_equal(batch.lengths, rollout().lengths[groups, rows])
      assert batch.lengths.max() <= batch.tokens.shape[2]
    assert (seen == 1).all()


@pytest.mark.parametrize(
  ('length', 'limit', 'want'), [(1, 24, 8), (8, 24, 8), (9, 24, 16), (24, 24, 24), (41, 160, 80), (3, 5, 5)]
)
def test_padded_length(length, limit, want):
  assert policy.padded_length(length, limit) == want


@pytest.mark.parametrize('train', [{}, dict(length_slices=2)])
def test_what_pads_a_rollout_changes_nothing(train):
  clean, cfg = rollout(), config_of(train, kl_coef=0.3, tis_cap=2.0)
  after = np.arange(T) >= clean.lengths[..., None]
  beyond = np.arange(8) >= clean.prompt_lengths[:, None]
  dirty = dataclasses.replace(
    clean,
    prompts=np.where(beyond, 39, clean.prompts),
    tokens=np.where(after, 39, clean.tokens),
    **{n: np.where(after, np.nan, getattr(clean, n)) for n in ('sampler_logp', 'old_logp', 'ref_logp')},
  )
  _, want, metrics = stepped(cfg, clean)
  _, got, same = stepped(cfg, dirty)
  assert_close(got, want)
  assert same == pytest.approx(metrics, rel=1e-5)


def test_logprobs_are_the_models_in_any_cut():
  batch = rollout()
  found = []
  for train in ({}, dict(microbatch=2), dict(length_slices=4, microbatch=4)):
    trainer, state = make(config_of(train))
    fn = trainer.loss_fn.logprobs
    found.append(policy.logprobs(state.params, batch, config_of(train), fn))
  mask = np.arange(T) < batch.lengths[..., None]
  for other in found[1:]:
    np.testing.assert_allclose(np.where(mask, other, 0), np.where(mask, found[0], 0), atol=1e-5)
  assert (found[0][mask] < 0).all()


class Spy(accumulate.Trainer):
  """Keeps what each optimizer step is given and gives."""

  def step(self, state, batches, totals):
    batches = list(batches)
    state, metrics = super().step(state, batches, totals)
    seen.append((batches, metrics))
    return state, metrics


seen = []


def spied(trainer):
  seen.clear()
  return Spy(**{field.name: getattr(trainer, field.name) for field in dataclasses.fields(trainer)})


def test_later_minibatches_are_compared_with_the_old_policy():
  """Old log-probs as the trainer computes them before the update: ratio 1 in the first minibatch, not in the second."""
  cfg = config_of(dict(minibatches=2))
  trainer, state = make(cfg)
  assert 'old' in policy.logprob_passes(cfg) and policy.logprob_passes(config_of()) == []
  batch = rollout(ref=False)
  old = policy.logprobs(state.params, batch, cfg, trainer.loss_fn.logprobs)
  state, metrics = policy.update(spied(trainer), state, batch.replace(old_logp=old), cfg, 0)
  assert [part.lengths.shape for parts, _ in seen for part in parts] == [(P // 2, G)] * 2
  ratios = [found['policy/ratio_max'] for _, found in seen]
  assert ratios[0] == pytest.approx(1, abs=1e-4) and ratios[1] > 1.01
  assert metrics['policy/ratio_max'] == ratios[1] and int(state.opt_step) == 2


def test_minibatches_cover_the_rollout_once_an_epoch_in_an_order_of_the_step():
  cfg = config_of(dict(minibatches=2, epochs=2))
  batch = dataclasses.replace(rollout(), prompts=np.arange(P, dtype=np.int32)[:, None] * np.ones((1, 8), np.int32))
  trainer, state = make(cfg)
  orders = []
  for step in (0, 1, 2, 0):
    state, _ = policy.update(spied(trainer), state, batch, cfg, step)
    order = [part.prompts[:, 0].tolist() for parts, _ in seen for part in parts]
    assert sorted(order[0] + order[1]) == sorted(order[2] + order[3]) == list(range(P))
    orders.append(str(order))
  assert orders[0] == orders[3] and len(set(orders)) > 1


def test_a_microbatch_knows_the_mean_length_of_its_whole_groups():
  cfg, batch = config_of(dict(minibatches=2, length_slices=4, microbatch=2)), rollout()
  trainer, state = make(cfg)
  policy.update(spied(trainer), state, batch, cfg, 0)
  want = {tuple(prompt): lengths.mean() for prompt, lengths in zip(batch.prompts, batch.lengths)}
  found = [
    (tuple(prompt), x) for parts, _ in seen for part in parts for prompt, x in zip(part.prompts, part.mean_length)
  ]
  assert len(found) == P * G and all(x == pytest.approx(want[prompt]) for prompt, x in found)


def test_equal_rewards_teach_nothing():
  batch = rollout(old=False, ref=False)
  adam = optimizer.make(config.Optimizer(1e-2, weight_decay=0.0), 3, SPECS)
  equal = np.asarray(losses.ADVANTAGES['group'](np.full((P, G), 1.1, np.float32)))
  before, after, metrics = stepped(config_of(), dataclasses.replace(batch, advantage=equal), adam)
  assert metrics['policy/grad_norm'] == 0
  jax.tree.map(np.testing.assert_array_equal, before, after)
  before, after, _ = stepped(config_of(), batch, adam)  # and the same with rewards that differ
  assert not np.array_equal(before['embed'], after['embed'])


def without(groups):
  """The rollout with the loss mask of some groups empty, as rollout.assign_advantage leaves what it drops."""
  batch = rollout()
  mask = batch.loss_mask.copy()
  mask[groups] = False
  return batch.replace(loss_mask=mask)


@pytest.mark.parametrize(
  'name', [name if name == 'grpo' else pytest.param(name, marks=pytest.mark.slow) for name in losses.LOSSES]
)
def test_dropped_groups_leave_the_gradient_of_the_others_alone(name):
  loss = dict(name=name, kl_coef=0.3, tis_cap=1.5, entropy_coef=0.2)
  loss |= BOUNDS.get(name, dict(clip_low=0.05, clip_high=0.1)) | (dict(average='prompt') if name == 'cispo' else {})
  others = jax.tree.map(lambda x: x[[0, 3]], rollout())
  cfg = config_of(**loss)
  half = dataclasses.replace(cfg, rollout=dataclasses.replace(cfg.rollout, prompts=2))
  before, want, metrics = stepped(half, others)
  assert max(np.abs(a - b).max() for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(want))) > 1e-3
  for train in ({}, dict(microbatch=4, length_slices=4)):
    _, got, same = stepped(config_of(train, **loss), without([1, 2]))
    assert_close(got, want)
    assert same == pytest.approx(metrics, rel=1e-4, abs=1e-6)


def test_a_minibatch_without_groups_is_no_step():
  cfg = config_of(dict(minibatches=2), entropy_coef=0.2)
  adam = optimizer.make(config.Optimizer(1e-2, weight_decay=0.1), 6, SPECS)
  trainer, state = make(cfg, adam)
  state, _ = policy.update(trainer, state, rollout(), cfg, 0)  # moments that would go on moving the parameters
  before = jax.device_get(state)
  state, metrics = policy.update(trainer, state, without([0, 1, 2, 3]), cfg, 1)
  assert metrics == {}
  jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(state))
  first = np.random.default_rng([0, 2, 0]).permutation(P)[:2]
  state, metrics = policy.update(trainer, state, without(first), cfg, 2)
  assert int(state.opt_step) == int(before.opt_step) + 1 and all(map(np.isfinite, metrics.values()))


@pytest.mark.parametrize('minibatches', [1, 2])
def test_a_number_that_is_none_stops_the_run_and_says_where(minibatches):
  cfg = config_of(dict(minibatches=minibatches))
  trainer, state = make(cfg)
  bad = dataclasses.replace(rollout(), advantage=np.full((P, G, 1), np.nan, np.float32))
  with pytest.raises(NonFiniteError, match='policy/loss and policy/grad_norm not finite at step 7, epoch 0, mini.* 0'):
    policy.update(trainer, state, bad, cfg, 7)
  if minibatches == 2:
    trainer, state = make(cfg)
    second = np.random.default_rng([0, 7, 0]).permutation(P)[2:]
    one = rollout()
    one.advantage[second] = np.inf
    with pytest.raises(NonFiniteError, match='step 7, epoch 0, minibatch 1'):
      policy.update(trainer, state, one, cfg, 7)


def test_parameters_that_hold_nan_stop_the_run():
  trainer, state = make(config_of())
  broken = state.params | {'norm': state.params['norm'].at[0].set(np.nan)}
  with pytest.raises(NonFiniteError, match='step 3, epoch 0, minibatch 0'):
    policy.update(trainer, state.replace(params=broken), rollout(), config_of(), 3)


def test_the_entropy_bonus_raises_entropy():
  """With no advantage the bonus alone moves the policy, in its own direction, and metrics do not contain it."""
  batch = dataclasses.replace(rollout(old=False, ref=False), advantage=np.zeros((P, G, 1), np.float32))
  cfg = config_of(entropy_coef=0.5)
  trainer, state = make(cfg, optax.sgd(0.5))
  state, first = policy.update(trainer, state, batch, cfg, 0)
  state, second = policy.update(trainer, state, batch, cfg, 1)
  assert second['policy/entropy'] > first['policy/entropy'] and first['policy/loss'] == 0
  assert first['policy/grad_norm'] > 0


def test_entropy_is_the_mean_over_response_tokens():
  batch = rollout(ref=False)
  trainer, state = make(config_of())
  params = jax.device_get(state.params)
  _, metrics = policy.update(trainer, state, batch, config_of(), 0)
  total = 0.0
  for p in range(P):
    hidden = models.response_hidden(
      params, MODEL, batch.prompts[p : p + 1], batch.prompt_lengths[p : p + 1], batch.tokens[p : p + 1]
    ).hidden
    every = np.asarray(jax.nn.log_softmax(hidden[0] @ models.unembedding(params).T), np.float64)
    entropy = -(np.exp(every) * every).sum(axis=-1)
    total += sum(entropy[g, : batch.lengths[p, g]].sum() for g in range(G))
  assert metrics['policy/entropy'] == pytest.approx(total / batch.lengths.sum(), rel=1e-5)
  assert 'policy/kl' not in metrics  # there is no reference


def test_metrics_combine_by_their_names():
  got = accumulate.combine([{'a': 1.0, 'b_max': 3.0, 'c_min': 2.0}, {'a': 2.0, 'b_max': 1.0, 'c_min': -1.0}])
  assert got == {'a': 3.0, 'b_max': 3.0, 'c_min': -1.0}


def test_unknown_losses_and_advantages_are_refused_before_anything_is_sampled():
  with pytest.raises(ConfigError, match="loss.name is 'ppo'; known: grpo, "):
    make(config_of(name='ppo'))
  with pytest.raises(ConfigError, match="loss.advantage is 'grop'; known: group, "):
    make(config_of(advantage='grop'))
