"""Policy losses against an objective written again in plain float64 Python, one token at a time."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax import config
from r1jax.batch import RolloutBatch
from r1jax.losses import ADVANTAGES, LOSSES, Totals, policy_loss

ROWS, LENGTH, MAX_LENGTH = 8, 7, 10
GROUP = 2  # rows of a prompt
CFG = config.Loss(name='grpo', clip_low=0.2, clip_high=0.28)
METRICS = {
  'policy/kl',
  'policy/ratio_max',
  'policy/clip_fraction_low',
  'policy/clip_fraction_high',
  'sampling/logp_difference_mean',
  'sampling/logp_difference_max',
  'sampling/masked_fraction',
}


def toy(seed=1):
  """logp f32[4, 2, 7] and RolloutBatch: rows and tokens on both sides of every clip, with both signs of advantage."""
  rng = np.random.default_rng(seed)
  old = -rng.exponential(size=(ROWS, LENGTH)) - 0.1
  shift = np.repeat([-0.6, -0.1, 0.1, 0.6], 2)[:, None]  # so that GSPO's mean ratios spread too
  logp = old + shift + rng.normal(scale=0.4, size=old.shape)
  sampler = old + shift[::-1] / 2 + rng.normal(scale=0.4, size=old.shape)
  lengths = np.array([7, 3, 5, 1, 7, 2, 6, 4])
  mask = np.arange(LENGTH) < lengths[:, None]
  f32 = lambda x: np.asarray(x, np.float32).reshape(-1, GROUP, np.shape(x)[1])
  return f32(logp), RolloutBatch(
    prompts=None,
    prompt_lengths=None,
    tokens=None,
    lengths=lengths.reshape(-1, GROUP),
    loss_mask=mask.reshape(-1, GROUP, LENGTH),
    advantage=f32(np.array([1.3, -0.7, -1.1, 0.4, 0.9, -1.6, 0.8, -0.5])[:, None]),
    old_logp=f32(old),
    ref_logp=f32(logp + rng.normal(scale=0.5, size=old.shape)),
    sampler_logp=f32(sampler),
  )


TOTALS = Totals(np.float32(ROWS), np.float32(toy()[1].loss_mask.sum()), MAX_LENGTH)


def reference(logp, batch, cfg):
  """(loss, metrics), all rows at once; nothing shared with the code under test."""
  flat = lambda x: np.asarray(x, np.float64).reshape(ROWS, -1)
  logp, old, ref, sampler = (flat(x) for x in (logp, batch.old_logp, batch.ref_logp, batch.sampler_logp))
  lengths, advantage = flat(batch.loss_mask).sum(axis=1).astype(int), flat(batch.advantage)[:, 0]
  rows, tokens = len(lengths), int(lengths.sum())
  beta = cfg.kl_coef if cfg.kl_place == 'loss' else 0
  loss, kls, ratios, low, high, gaps, masked = 0.0, [], [], 0, 0, [], 0
  for i, n in enumerate(lengths):
    a = float(advantage[i])
    d = [ref[i, t] - logp[i, t] for t in range(n)]
    kl = [{'k1': -x, 'k2': x * x / 2, 'k3': math.exp(x) - x - 1}[cfg.kl_estimator] for x in d]
    change = [logp[i, t] - old[i, t] for t in range(n)]
    gap = [old[i, t] - sampler[i, t] for t in range(n)]
    kls, gaps = kls + kl, gaps + [abs(x) for x in gap]
    if cfg.name == 'gspo':
      change, gap = [sum(change) / n], [sum(gap) / n]
    gains = []
    for t, (x, g) in enumerate(zip(change, gap)):
      r = math.exp(x)
      ratios.append(r)
      if cfg.name == 'reinforce':
        gain = a * logp[i, t]
      elif a >= 0:
        gain = a * min(r, 1 + cfg.clip_high)
        high += r > 1 + cfg.clip_high
      else:
        gain = a * max(r, 1 - cfg.clip_low)
        low += r < 1 - cfg.clip_low
        if cfg.dual_clip:
          gain = max(gain, cfg.dual_clip * a)
      weight = math.exp(g) if cfg.tis_cap or cfg.mis_high else 1
      if cfg.mis_high and not cfg.mis_low <= weight <= cfg.mis_high:
        weight = 0
        masked += n if cfg.name == 'gspo' else 1
      gains.append(gain * (min(weight, cfg.tis_cap) if cfg.tis_cap else weight))
    loss += {
      'grpo': (beta * sum(kl) - sum(gains)) / n / rows,
      'gspo': (beta * sum(kl) / n - gains[0]) / rows,
      'dr_grpo': (beta * sum(kl) - sum(gains)) / (rows * MAX_LENGTH),
      'dapo': (beta * sum(kl) - sum(gains)) / tokens,
      'reinforce': (beta * sum(kl) - sum(gains)) / rows,
    }[cfg.name]
  count = rows if cfg.name == 'gspo' else tokens
  return loss, {
    'policy/kl': sum(kls) / tokens,
    'policy/ratio_max': max(ratios),
    'policy/clip_fraction_low': low / count,
    'policy/clip_fraction_high': high / count,
    'sampling/logp_difference_mean': sum(gaps) / tokens,
    'sampling/logp_difference_max': max(gaps),
    'sampling/masked_fraction': masked / tokens,
  }


def finite_difference(logp, batch, cfg, step=1e-6):
  logp = logp.astype(np.float64)
  gradient = np.zeros_like(logp)
  for index in np.ndindex(logp.shape):
    up, down = logp.copy(), logp.copy()
    up[index] += step
    down[index] -= step
    gradient[index] = (reference(up, batch, cfg)[0] - reference(down, batch, cfg)[0]) / (2 * step)
  return gradient


def run(logp, batch, cfg):
  """((loss, metrics), gradient) of the code under test."""
  return jax.value_and_grad(policy_loss, has_aux=True)(logp, batch, TOTALS, cfg)


@pytest.mark.parametrize('name', LOSSES)
def test_toy_data_lie_on_both_sides_of_every_clip(name):
  logp, batch = toy()
  cfg = dataclasses.replace(CFG, name=name, dual_clip=1.5)
  change = logp.astype(np.float64) - batch.old_logp
  if name == 'gspo':
    ratio = np.exp(np.where(batch.loss_mask, change, 0).sum(axis=2) / batch.lengths).reshape(-1)
    positive = batch.advantage.reshape(-1) > 0
  else:
    ratio = np.exp(change)[batch.loss_mask]
    positive = np.broadcast_to(batch.advantage > 0, change.shape)[batch.loss_mask]
  for side in (positive, ~positive):
    assert (ratio[side] < 0.8).any() and (ratio[side] > 1.28).any() and ((ratio > 0.8) & (ratio < 1.28))[side].any()
  assert (ratio[~positive] > cfg.dual_clip).any()
  for kink in (0.8, 1.28, 1.5):
    assert np.abs(ratio - kink).min() > 1e-4  # far from where a difference quotient breaks


CORRECTIONS = [(0.0, 0.0, 0.0), (1.3, 0.0, 0.0), (0.0, 0.9, 1.1), (1.05, 0.9, 1.1)]  # tis_cap, mis_low, mis_high


@pytest.mark.parametrize('kl', ['none', 'k1', 'k2', 'k3', 'reward'])
@pytest.mark.parametrize('name', LOSSES)
def test_gradients_match_finite_differences(name, kl):
  logp, batch = toy()
  for (tis_cap, mis_low, mis_high), dual_clip in itertools.product(CORRECTIONS, (0.0, 1.5)):
    cfg = dataclasses.replace(
      CFG,
      name=name,
      tis_cap=tis_cap,
      mis_low=mis_low,
      mis_high=mis_high,
      dual_clip=dual_clip,
      kl_coef=0.0 if kl == 'none' else 0.3,
      kl_place='reward' if kl == 'reward' else 'loss',
      kl_estimator=kl if kl in ('k1', 'k2') else 'k3',
    )
    (loss, metrics), gradient = run(logp, batch, cfg)
    expected, expected_metrics = reference(logp.astype(np.float64), batch, cfg)
    np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradient, finite_difference(logp, batch, cfg), rtol=1e-4, atol=1e-7)
    assert set(metrics) == METRICS
    for key, value in expected_metrics.items():
      np.testing.assert_allclose(metrics[key], value, rtol=1e-4, atol=1e-7, err_msg=key)


@pytest.mark.parametrize('name', LOSSES)
def test_options_change_the_gradient(name):
  """So that the comparison above could have failed: TIS and masking always act, dual clip only where A < 0."""
  logp, batch = toy()
  cfg = dataclasses.replace(CFG, name=name)
  plain = np.asarray(run(logp, batch, cfg)[1])
  assert (plain != run(logp, batch, dataclasses.replace(cfg, tis_cap=1.3))[1]).any()
  (_, metrics), masked = run(logp, batch, dataclasses.replace(cfg, mis_low=0.9, mis_high=1.1))
  assert (plain != masked).any() and 0 < metrics['sampling/masked_fraction'] < 1
  changed = plain != np.asarray(run(logp, batch, dataclasses.replace(cfg, dual_clip=1.5))[1])
  assert changed.any() == (name != 'reinforce')
  assert not changed[batch.advantage[..., 0] > 0].any()


def test_dual_clip_bounds_an_exploded_ratio():
  batch = dataclasses.replace(toy()[1], advantage=np.tile(np.float32([[-1], [1]]), (4, 1, 1)))
  logp = batch.old_logp + 60.0
  (loss, _), gradient = run(logp, batch, dataclasses.replace(CFG, dual_clip=3.0))
  np.testing.assert_allclose(loss, (3.0 - 1.28) / 2, rtol=1e-5)  # half the rows cost 3, half gain 1.28
  assert (np.asarray(gradient) == 0).all()


@pytest.mark.parametrize('name', LOSSES)
@pytest.mark.parametrize('poison', [np.nan, np.inf, -np.inf, 1e9, -1e9])
def test_padding_never_reaches_value_or_gradient(name, poison):
  logp, batch = toy()
  cfg = dataclasses.replace(CFG, name=name, kl_coef=0.3, tis_cap=1.3, dual_clip=1.5)
  (loss, metrics), gradient = run(logp, batch, cfg)
  spoil = lambda x: np.where(batch.loss_mask, x, np.float32(poison))
  bad = dataclasses.replace(batch, **{k: spoil(getattr(batch, k)) for k in ('old_logp', 'ref_logp', 'sampler_logp')})
  for terms in (batch, bad):
    (bad_loss, bad_metrics), bad_gradient = run(spoil(logp), terms, cfg)
    assert bad_loss == loss and bad_metrics == metrics
    np.testing.assert_array_equal(bad_gradient, gradient)
  assert (np.asarray(gradient)[~batch.loss_mask] == 0).all() and (np.asarray(gradient)[batch.loss_mask] != 0).any()


@pytest.mark.parametrize('size', [1, 2])
@pytest.mark.parametrize('name', LOSSES)
def test_microbatches_add_up(name, size):
  logp, batch = toy()
  cfg = dataclasses.replace(CFG, name=name, kl_coef=0.3, tis_cap=1.3, dual_clip=1.5)
  (loss, metrics), gradient = run(logp, batch, cfg)
  parts = []
  for start in range(0, ROWS // GROUP, size):
    groups = slice(start, start + size)
    parts.append(run(logp[groups], jax.tree.map(lambda x, g=groups: x[g], batch), cfg))
  np.testing.assert_allclose(sum(p[0][0] for p in parts), loss, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(np.concatenate([p[1] for p in parts]), gradient, rtol=1e-5, atol=1e-8)
  for key, value in metrics.items():
    combine = max if key.endswith('_max') else sum
    np.testing.assert_allclose(combine(p[0][1][key] for p in parts), value, rtol=1e-5, err_msg=key)


@pytest.mark.parametrize('advantage', ['group', 'group_centred', 'rloo'])
@pytest.mark.parametrize('name', LOSSES)
def test_all_equal_rewards_give_a_zero_gradient(name, advantage):
  logp, batch = toy()
  batch = dataclasses.replace(batch, advantage=ADVANTAGES[advantage](np.full((ROWS // GROUP, GROUP), 1.1, np.float32)))
  (loss, _), gradient = run(logp, batch, dataclasses.replace(CFG, name=name, tis_cap=2.0, dual_clip=3.0))
  assert loss == 0 and (np.asarray(gradient) == 0).all()


@pytest.mark.parametrize('name', LOSSES)
@pytest.mark.parametrize('shift', [-200.0, 200.0])
def test_extreme_ratios_stay_finite(name, shift):
  logp, batch = toy()
  for field in ('old_logp', 'ref_logp', 'sampler_logp'):
    far = dataclasses.replace(batch, **{field: getattr(batch, field) + np.float32(shift)})
    (loss, metrics), gradient = run(logp, far, dataclasses.replace(CFG, name=name, kl_coef=0.3, tis_cap=2.0))
    assert np.isfinite(loss) and np.isfinite(gradient).all() and np.isfinite(list(metrics.values())).all()


@pytest.mark.parametrize('name', ['grpo', 'dr_grpo', 'dapo', 'gspo'])
def test_first_step_is_the_plain_policy_gradient(name):
  """Where logp == old_logp no clip binds and the gradient is -advantage over the loss's own divisor."""
  _, batch = toy()
  (_, metrics), gradient = run(batch.old_logp, batch, dataclasses.replace(CFG, name=name))
  length = batch.loss_mask.sum(axis=2, keepdims=True)
  divisor = {'grpo': ROWS * length, 'gspo': ROWS * length, 'dr_grpo': ROWS * MAX_LENGTH, 'dapo': length.sum()}[name]
  np.testing.assert_allclose(gradient, -batch.advantage * batch.loss_mask / divisor, rtol=1e-5)
  assert metrics['policy/ratio_max'] == 1
  assert metrics['policy/clip_fraction_low'] == metrics['policy/clip_fraction_high'] == 0


@pytest.mark.parametrize('name', LOSSES)
def test_tokens_outside_the_loss_mask_do_not_count(name):
  """A gap in the middle of a response, as of a tool's output, is as if those tokens were not there."""
  logp, batch = toy()
  cfg = dataclasses.replace(CFG, name=name, kl_coef=0.3, tis_cap=1.3)
  gap = np.array(batch.loss_mask)
  gap[0, 0, 2:4] = False  # of seven tokens
  keep = np.r_[0:2, 4:LENGTH, 2:4]  # the gap's tokens moved behind the end
  moved = {k: np.array(getattr(batch, k)) for k in ('old_logp', 'ref_logp', 'sampler_logp')}
  for x in (moved_logp := np.array(logp), *moved.values()):
    x[0, 0] = x[0, 0, keep]
  ends = np.array(batch.loss_mask)
  ends[0, 0, 5:] = False
  (loss, _), gradient = run(logp, dataclasses.replace(batch, loss_mask=gap), cfg)
  (want, _), other = run(moved_logp, dataclasses.replace(batch, loss_mask=ends, **moved), cfg)
  np.testing.assert_allclose(loss, want, rtol=1e-6)
  np.testing.assert_allclose(gradient[0, 0, keep], other[0, 0], rtol=1e-5, atol=1e-7)
  assert (np.asarray(gradient)[0, 0, 2:4] == 0).all()


def test_losses_compile_under_jit():
  logp, batch = toy()
  for name in LOSSES:
    cfg = dataclasses.replace(CFG, name=name, kl_coef=0.3, tis_cap=1.3)
    compiled = jax.jit(policy_loss, static_argnums=3)(jnp.asarray(logp), batch, TOTALS, cfg)
    np.testing.assert_allclose(compiled[0], policy_loss(logp, batch, TOTALS, cfg)[0], rtol=1e-5)


@pytest.mark.parametrize('name', ['grpo', 'dr_grpo', 'dapo', 'reinforce'])
def test_an_advantage_for_each_token(name):
  """Equal along a row it is the row's; and a token's own acts on its gradient alone."""
  logp, batch = toy()
  cfg = dataclasses.replace(CFG, name=name)
  spread = dataclasses.replace(batch, advantage=np.repeat(batch.advantage, LENGTH, axis=2))
  one, many = (run(logp, b, cfg) for b in (batch, spread))
  np.testing.assert_allclose(one[0][0], many[0][0], rtol=1e-6)
  np.testing.assert_allclose(one[1], many[1], rtol=1e-6)
  changed = np.array(spread.advantage)
  changed[0, 0, 3] = -changed[0, 0, 3]
  _, other = run(logp, dataclasses.replace(batch, advantage=changed), cfg)
  assert np.argwhere(np.asarray(other) != np.asarray(many[1])).tolist() == [[0, 0, 3]]
