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
from r1jax.config import KL_ESTIMATORS
from r1jax.losses import ADVANTAGES, AVERAGES, LOSSES, Totals, policy_loss

ROWS, LENGTH, MAX_LENGTH = 8, 7, 10
GROUP = 2  # rows of a prompt
CLIPPED = ('grpo', 'dr_grpo', 'dapo', 'gspo')


def settings(name='grpo', dual_clip=0.0, **others):
  """config.Loss without KL, and with bounds of the ratio on both sides of which the toy data lie."""
  own = dict(ratio_cap=1.3) if name == 'cispo' else {}
  own = dict(clip_low=0.2, clip_high=0.28, dual_clip=dual_clip) if name in CLIPPED else own
  return config.Loss(name, **{'kl_coef': 0.0} | own | others)


METRICS = {
  'policy/kl',
  'policy/ratio_max',
  'policy/clip_fraction_low',
  'policy/clip_fraction_high',
  'policy/masked_fraction',
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
    mean_length=lengths.reshape(-1, GROUP).mean(axis=1, dtype=np.float32),
  )


TOTALS = Totals(np.float32(ROWS), np.float32(toy()[1].loss_mask.sum()), MAX_LENGTH)


def averaged(costs, over):
  """The mean of a list of lists of costs, one for each response, the GROUP responses of a prompt adjacent."""
  if over == 'response':
    return sum(sum(row) / len(row) for row in costs) / ROWS
  if over == 'prompt':
    prompts = [sum(costs[i : i + GROUP], []) for i in range(0, ROWS, GROUP)]
    return sum(sum(tokens) / len(tokens) for tokens in prompts) / len(prompts)
  every = sum(costs, [])
  return sum(every) / {'token': len(every), 'constant': ROWS * MAX_LENGTH, 'sequence': ROWS}[over]


OVER = {
  'grpo': 'response',
  'dr_grpo': 'constant',
  'dapo': 'token',
  'cispo': 'token',
  'gspo': 'response',
  'reinforce': 'sequence',
}


def reference(logp, batch, cfg, frozen=None):
  """(loss, metrics), all rows at once; nothing shared with the code under test. frozen: log-probs of weights."""
  flat = lambda x: np.asarray(x, np.float64).reshape(ROWS, -1)
  frozen, logp = flat(logp if frozen is None else frozen), flat(logp)
  old, ref, sampler = (flat(x) for x in (batch.old_logp, batch.ref_logp, batch.sampler_logp))
  lengths, advantage = flat(batch.loss_mask).sum(axis=1).astype(int), flat(batch.advantage)[:, 0]
  tokens, responses = int(lengths.sum()), cfg.name == 'gspo'
  beta = cfg.kl_coef if cfg.kl_place == 'loss' else 0
  costs, kls, ratios, low, high, gaps, masked, left_out = [], [], [], 0, 0, [], 0, 0
  for i, n in enumerate(lengths):
    a = float(advantage[i])
    d = [ref[i, t] - logp[i, t] for t in range(n)]
    k3 = [math.exp(x) - x - 1 for x in d]
    change = [logp[i, t] - old[i, t] for t in range(n)]
    kl = {
      'k1': [-x for x in d],
      'k2': [x * x / 2 for x in d],
      'k3': k3,
      'k3_weighted': [math.exp(x) * k for x, k in zip(change, k3)],
    }[cfg.kl_estimator]
    gap = [old[i, t] - sampler[i, t] for t in range(n)]
    away = sum(sampler[i, t] - logp[i, t] for t in range(n)) / n
    dropped = bool(cfg.sequence_mask) and a < 0 and away > cfg.sequence_mask
    outside = cfg.mis_high and not cfg.mis_low <= math.exp(sum(gap) / n) <= cfg.mis_high
    kls, gaps = kls + kl, gaps + [abs(x) for x in gap]
    if responses:
      change, gap = [sum(change) / n] * n, [sum(gap) / n] * n
    cost = []
    for t, (x, g) in enumerate(zip(change, gap)):
      r = math.exp(x)
      ratios.append(r)
      once = t == 0 or not responses  # what is counted
      if cfg.name == 'reinforce':
        gain = a * logp[i, t]
      elif cfg.name == 'cispo':
        weight = math.exp(frozen[i, t] - old[i, t])
        gain = min(weight, cfg.ratio_cap) * a * logp[i, t]
        high += weight > cfg.ratio_cap
      elif a >= 0:
        gain = a * min(r, 1 + cfg.clip_high)
        high += once and r > 1 + cfg.clip_high
      else:
        gain = a * max(r, 1 - cfg.clip_low)
        low += once and r < 1 - cfg.clip_low
        if cfg.dual_clip:
          gain = max(gain, cfg.dual_clip * a)
      weight = math.exp(g) if cfg.tis_cap or cfg.mis_high else 1
      drop = outside if cfg.mis_level == 'sequence' else cfg.mis_high and not cfg.mis_low <= weight <= cfg.mis_high
      if drop:
        weight = 0
        masked += 1
      moved = math.exp(logp[i, t]) - math.exp(sampler[i, t])
      if dropped or (cfg.tv_mask and abs(moved) > cfg.tv_mask and moved * a > 0):
        gain = 0
        left_out += 1
      cost.append(beta * kl[t] - gain * (min(weight, cfg.tis_cap) if cfg.tis_cap else weight))
    costs.append(cost)
  count = ROWS if responses else tokens
  return averaged(costs, cfg.average or OVER[cfg.name]), {
    'policy/kl': sum(kls) / tokens,
    'policy/ratio_max': max(ratios),
    'policy/clip_fraction_low': low / count,
    'policy/clip_fraction_high': high / count,
    'policy/masked_fraction': left_out / tokens,
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
    gradient[index] = (reference(up, batch, cfg, logp)[0] - reference(down, batch, cfg, logp)[0]) / (2 * step)
  return gradient


def run(logp, batch, cfg):
  """((loss, metrics), gradient) of the code under test."""
  return jax.value_and_grad(policy_loss, has_aux=True)(logp, batch, TOTALS, cfg)


def check(logp, batch, cfg):
  """Value, gradient and metrics against the reference and its difference quotients."""
  (loss, metrics), gradient = run(logp, batch, cfg)
  expected, expected_metrics = reference(logp.astype(np.float64), batch, cfg)
  np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(gradient, finite_difference(logp, batch, cfg), rtol=1e-4, atol=1e-7)
  assert set(metrics) == METRICS
  for key, value in expected_metrics.items():
    np.testing.assert_allclose(metrics[key], value, rtol=1e-4, atol=1e-7, err_msg=key)


@pytest.mark.parametrize('name', LOSSES)
def test_toy_data_lie_on_both_sides_of_every_clip(name):
  logp, batch = toy()
  change = logp.astype(np.float64) - batch.old_logp
  if name == 'gspo':
    ratio = np.exp(np.where(batch.loss_mask, change, 0).sum(axis=2) / batch.lengths).reshape(-1)
    positive = batch.advantage.reshape(-1) > 0
  else:
    ratio = np.exp(change)[batch.loss_mask]
    positive = np.broadcast_to(batch.advantage > 0, change.shape)[batch.loss_mask]
  for side in (positive, ~positive):
    assert (ratio[side] < 0.8).any() and (ratio[side] > 1.3).any() and ((ratio > 0.8) & (ratio < 1.28))[side].any()
  assert (ratio[~positive] > 1.5).any()
  for kink in (0.8, 1.28, 1.3, 1.5):
    assert np.abs(ratio - kink).min() > 1e-4  # far from where a difference quotient breaks


CORRECTIONS = [
  dict(),
  dict(tis_cap=1.3),
  dict(mis_low=0.9, mis_high=1.1),
  dict(tis_cap=1.05, mis_low=0.9, mis_high=1.1),
  dict(mis_low=0.9, mis_high=1.1, mis_level='sequence'),
  dict(sequence_mask=0.02),
  dict(tv_mask=0.3),
]


@pytest.mark.parametrize('kl', ['none', *KL_ESTIMATORS, 'reward'])
@pytest.mark.parametrize('name', LOSSES)
def test_gradients_match_finite_differences(name, kl):
  logp, batch = toy()
  for correction, dual_clip in itertools.product(CORRECTIONS, (0.0, 1.5) if name in CLIPPED else (0.0,)):
    if name == 'gspo' and 'tv_mask' in correction:
      continue
    cfg = settings(
      name,
      dual_clip,
      kl_coef=0.0 if kl == 'none' else 0.3,
      kl_place='reward' if kl == 'reward' else 'loss',
      kl_estimator=kl if kl in KL_ESTIMATORS else 'k3',
      **correction,
    )
    check(logp, batch, cfg)


@pytest.mark.parametrize('average', AVERAGES)
@pytest.mark.parametrize('name', [name for name in LOSSES if name != 'gspo'])
def test_any_loss_can_be_averaged_over_anything(name, average):
  logp, batch = toy()
  check(logp, batch, settings(name, kl_coef=0.3, average=average))


@pytest.mark.parametrize('name', LOSSES)
def test_options_change_the_gradient(name):
  """So that the comparison above could have failed: each option acts, and where it must not it does not."""
  logp, batch = toy()
  gradient = lambda **options: np.asarray(run(logp, batch, settings(name, **options))[1])
  plain, masked = gradient(), gradient(mis_low=0.9, mis_high=1.1)
  assert (plain != gradient(tis_cap=1.3)).any()
  for options in (dict(), dict(mis_level='sequence')):
    metrics = run(logp, batch, settings(name, mis_low=0.9, mis_high=1.1, **options))[0][1]
    assert (plain != masked).any() and 0 < metrics['sampling/masked_fraction'] < 1
  assert (masked != gradient(mis_low=0.9, mis_high=1.1, mis_level='sequence')).any() == (name != 'gspo')
  changed = plain != gradient(dual_clip=1.5)
  assert changed.any() == (name in CLIPPED)
  assert not changed[batch.advantage[..., 0] > 0].any()
  if name == 'gspo':
    return
  gradients = [gradient(average=average) for average in AVERAGES]
  assert all((a != b).any() for a, b in itertools.combinations(gradients, 2))
  assert any((plain == g).all() for g in gradients)


@pytest.mark.parametrize('key', ['clip_low', 'clip_high', 'ratio_cap'])
def test_bounds_of_the_ratio_change_the_gradient(key):
  logp, batch = toy()
  cfg = settings('cispo' if key == 'ratio_cap' else 'grpo')
  other = dataclasses.replace(cfg, **{key: 2 * getattr(cfg, key)})
  assert (run(logp, batch, cfg)[1] != run(logp, batch, other)[1]).any()


def test_a_cap_of_zero_is_none():
  logp, batch = toy()
  none, far = (run(logp, batch, settings('cispo', ratio_cap=cap)) for cap in (0.0, 1e6))
  np.testing.assert_array_equal(none[1], far[1])
  assert none[0][1]['policy/clip_fraction_high'] == 0


@pytest.mark.parametrize('name', LOSSES)
def test_a_sequence_mask_drops_bad_responses_that_the_policy_has_left_but_keeps_their_kl(name):
  logp, batch = toy()
  options = dict(kl_coef=0.3)
  (_, metrics), masked = run(logp, batch, settings(name, sequence_mask=0.02, **options))
  _, plain = run(logp, batch, settings(name, **options))
  _, only_kl = run(logp, batch.replace(advantage=0 * batch.advantage), settings(name, **options))
  away = np.where(batch.loss_mask, batch.sampler_logp - logp, 0).sum(axis=2) / batch.lengths
  dropped = (away > 0.02) & (batch.advantage[..., 0] < 0)
  assert dropped.sum() == 2 and (away > 0.02).sum() > 2 and (batch.advantage < 0).sum() > 2
  np.testing.assert_allclose(masked[dropped], only_kl[dropped], rtol=1e-6)
  np.testing.assert_array_equal(masked[~dropped], plain[~dropped])
  assert (plain[dropped] != only_kl[dropped]).any()
  np.testing.assert_allclose(metrics['policy/masked_fraction'], batch.lengths[dropped].sum() / batch.lengths.sum())


def test_a_sequence_mask_reads_the_advantage_of_each_token():
  logp, batch = toy()
  credit = np.repeat(batch.advantage, LENGTH, axis=2)
  credit[1, 0, 0] = 0.5  # in a response that is left out otherwise
  batch = dataclasses.replace(batch, advantage=credit)
  (_, metrics), gradient = run(logp, batch, settings(sequence_mask=0.02))
  assert gradient[1, 0, 0] != 0 and (np.asarray(gradient)[1, 0, 1:] == 0).all()
  left_out = batch.lengths[0, 1] + batch.lengths[1, 0] - 1
  np.testing.assert_allclose(metrics['policy/masked_fraction'], left_out / batch.lengths.sum())


def test_dual_clip_bounds_an_exploded_ratio():
  batch = dataclasses.replace(toy()[1], advantage=np.tile(np.float32([[-1], [1]]), (4, 1, 1)))
  logp = batch.old_logp + 60.0
  (loss, _), gradient = run(logp, batch, settings(dual_clip=3.0))
  np.testing.assert_allclose(loss, (3.0 - 1.28) / 2, rtol=1e-5)  # half the rows cost 3, half gain 1.28
  assert (np.asarray(gradient) == 0).all()


# Everything that reads log-probs at once.
ALL = dict(kl_coef=0.3, kl_estimator='k3_weighted', tis_cap=1.3, mis_low=0.3, mis_high=1.5, sequence_mask=0.02)


@pytest.mark.parametrize('name', LOSSES)
@pytest.mark.parametrize('poison', [np.nan, np.inf, -np.inf, 1e9, -1e9])
def test_padding_never_reaches_value_or_gradient(name, poison):
  logp, batch = toy()
  options = ALL if name == 'gspo' else ALL | dict(tv_mask=0.3, mis_level='sequence', average='prompt')
  cfg = settings(name, dual_clip=1.5, **options)
  (loss, metrics), gradient = run(logp, batch, cfg)
  spoil = lambda x: np.where(batch.loss_mask, x, np.float32(poison))
  bad = dataclasses.replace(batch, **{k: spoil(getattr(batch, k)) for k in ('old_logp', 'ref_logp', 'sampler_logp')})
  for terms in (batch, bad):
    (bad_loss, bad_metrics), bad_gradient = run(spoil(logp), terms, cfg)
    assert bad_loss == loss and bad_metrics == metrics
    np.testing.assert_array_equal(bad_gradient, gradient)
  assert (np.asarray(gradient)[~batch.loss_mask] == 0).all() and (np.asarray(gradient)[batch.loss_mask] != 0).any()


@pytest.mark.parametrize('cut', [(1, 2), (2, 2), (2, 1)])  # prompts, and rows of each
@pytest.mark.parametrize(
  ('name', 'average'), [(name, '') for name in LOSSES] + [('grpo', average) for average in AVERAGES]
)
def test_microbatches_add_up(name, average, cut):
  logp, batch = toy()
  cfg = settings(name, dual_clip=1.5, average=average, **ALL)
  (loss, metrics), gradient = run(logp, batch, cfg)
  parts, found = [], np.zeros_like(logp)
  for at in itertools.product(range(0, ROWS // GROUP, cut[0]), range(0, GROUP, cut[1])):
    groups, rows = (slice(first, first + size) for first, size in zip(at, cut))
    part = jax.tree.map(lambda x, at=(groups, rows): x[at[: x.ndim]], batch)
    parts.append(run(logp[groups, rows], part, cfg))
    found[groups, rows] = parts[-1][1]
  np.testing.assert_allclose(sum(p[0][0] for p in parts), loss, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(found, gradient, rtol=1e-5, atol=1e-8)
  for key, value in metrics.items():
    combine = max if key.endswith('_max') else sum
    np.testing.assert_allclose(combine(p[0][1][key] for p in parts), value, rtol=1e-5, err_msg=key)


def test_without_old_log_probs_the_weighted_estimate_still_has_the_gradient_of_its_ratio():
  """With one optimizer step the policy is the one that sampled: as with old log-probs equal to its own."""
  logp, batch = toy()
  cfg = settings(kl_coef=0.3, kl_estimator='k3_weighted')
  (value, _), gradient = run(logp, batch.replace(old_logp=None), cfg)
  (same, _), want = run(logp, batch.replace(old_logp=logp), cfg)
  assert value == same
  np.testing.assert_array_equal(gradient, want)
  (plain, _), other = run(logp, batch.replace(old_logp=None), dataclasses.replace(cfg, kl_estimator='k3'))
  assert value == plain and (other != gradient).any()


@pytest.mark.parametrize('advantage', [name for name in ADVANTAGES if name != 'none'])
@pytest.mark.parametrize('name', LOSSES)
def test_all_equal_rewards_give_a_zero_gradient(name, advantage):
  logp, batch = toy()
  batch = dataclasses.replace(batch, advantage=ADVANTAGES[advantage](np.full((ROWS // GROUP, GROUP), 1.1, np.float32)))
  (loss, _), gradient = run(logp, batch, settings(name, tis_cap=2.0, dual_clip=3.0))
  assert loss == 0 and (np.asarray(gradient) == 0).all()


@pytest.mark.parametrize('name', LOSSES)
@pytest.mark.parametrize('shift', [-200.0, 200.0])
def test_extreme_ratios_stay_finite(name, shift):
  logp, batch = toy()
  for field in ('old_logp', 'ref_logp', 'sampler_logp'):
    far = dataclasses.replace(batch, **{field: getattr(batch, field) + np.float32(shift)})
    (loss, metrics), gradient = run(logp, far, settings(name, kl_coef=0.3, tis_cap=2.0))
    assert np.isfinite(loss) and np.isfinite(gradient).all() and np.isfinite(list(metrics.values())).all()


@pytest.mark.parametrize('name', [*CLIPPED, 'cispo'])
def test_first_step_is_the_plain_policy_gradient(name):
  """Where logp == old_logp no clip binds and the gradient is -advantage over the loss's own divisor."""
  _, batch = toy()
  (_, metrics), gradient = run(batch.old_logp, batch, settings(name))
  length = batch.loss_mask.sum(axis=2, keepdims=True)
  divisor = {'grpo': ROWS * length, 'gspo': ROWS * length, 'dr_grpo': ROWS * MAX_LENGTH, 'dapo': length.sum()}.get(
    name, length.sum()
  )
  np.testing.assert_allclose(gradient, -batch.advantage * batch.loss_mask / divisor, rtol=1e-5)
  assert metrics['policy/ratio_max'] == 1
  assert metrics['policy/clip_fraction_low'] == metrics['policy/clip_fraction_high'] == 0


@pytest.mark.parametrize('name', LOSSES)
def test_tokens_outside_the_loss_mask_do_not_count(name):
  """A gap in the middle of a response, as of a tool's output, is as if those tokens were not there."""
  logp, batch = toy()
  cfg = settings(name, kl_coef=0.3, tis_cap=1.3)
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
    cfg = settings(name, kl_coef=0.3, tis_cap=1.3)
    compiled = jax.jit(policy_loss, static_argnums=3)(jnp.asarray(logp), batch, TOTALS, cfg)
    np.testing.assert_allclose(compiled[0], policy_loss(logp, batch, TOTALS, cfg)[0], rtol=1e-5)


@pytest.mark.parametrize('name', [name for name in LOSSES if name != 'gspo'])
def test_an_advantage_for_each_token(name):
  """Equal along a row it is the row's; and a token's own acts on its gradient alone."""
  logp, batch = toy()
  cfg = settings(name)
  spread = dataclasses.replace(batch, advantage=np.repeat(batch.advantage, LENGTH, axis=2))
  one, many = (run(logp, b, cfg) for b in (batch, spread))
  np.testing.assert_allclose(one[0][0], many[0][0], rtol=1e-6)
  np.testing.assert_allclose(one[1], many[1], rtol=1e-6)
  changed = np.array(spread.advantage)
  changed[0, 0, 3] = -changed[0, 0, 3]
  _, other = run(logp, dataclasses.replace(batch, advantage=changed), cfg)
  assert np.argwhere(np.asarray(other) != np.asarray(many[1])).tolist() == [[0, 0, 3]]
