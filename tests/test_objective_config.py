"""Settings of objectives: losses and their own numbers, critics, teachers and adapters, and what rules what out."""

import pytest

from r1jax import config
from r1jax.config import ConfigError
from r1jax.runs.settings import drop_added
from tests.test_config import changed, load, refused


@pytest.mark.parametrize('settings', [dict(mis_high=0.5), dict(mis_low=0.5), dict(mis_low=0.5, mis_high=0.9)])
def test_bounds_that_mask_every_token_are_refused(settings):
  with pytest.raises(ConfigError, match='mis_high'):
    config.convert(changed(**{f'loss__{key}': value for key, value in settings.items()}), config.RL)


def test_zero_variance_needs_a_baseline():
  with pytest.raises(ConfigError, match="drop_zero_variance .* 'none'"):
    config.convert(changed(loss__drop_zero_variance=True, loss__advantage='none'), config.RL)


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    (dict(loss__advantage='group', loss__drop_zero_variance=True), 'a teacher scores these groups too'),
    (dict(loss__resample_limit=2), 'loss.resample_limit is 2, but loss.advantage'),
    (dict(loss__kl_coef=0.1, loss__kl_place='reward', loss__kl_estimator='k1'), "'reward'.* is 0.1, but loss.adv"),
    (dict(reward__step_credit=1.0, reward__parts=dict(process=1.0, signs=1.0)), 'reward.step_credit is 1.0'),
    (dict(distill__coef=0.0), 'distill.coef is 0; set distill.coef and a teacher'),
  ],
)
def test_what_learns_from_rewards_is_refused_where_only_a_teacher_teaches(settings, message):
  only = dict(loss__advantage='zero', loss__kl_coef=0.0, distill__coef=1.0)
  config.convert(changed(**only), config.RL)
  with pytest.raises(ConfigError, match=message):
    config.convert(changed(**only | settings), config.RL)


@pytest.mark.parametrize('name', config.LOSS_DEFAULTS)
def test_a_loss_has_its_own_numbers_where_none_are_set(name):
  own = config.LOSS_DEFAULTS[name]
  c = changed(loss__name=name)
  loss = config.convert(c, config.RL).loss
  assert loss == config.Loss(name)
  assert {key: getattr(loss, 'averaged_over' if key == 'average' else key) for key in own} == own
  # Set by hand they are the same, and a recipe's record has them.
  assert config.Loss(name, **own) == loss
  assert config.resolve_loss(c['loss']) == c['loss'] | own | {'average': ''}
  assert config.resolve_loss(config.to_dict(loss)) == config.to_dict(loss)


def test_numbers_that_are_set_stay():
  numbers = dict(advantage='rloo', clip_low=0.0, clip_high=9.0, kl_coef=0.0)
  loss = config.convert(changed(**{f'loss__{key}': value for key, value in numbers.items()}), config.RL).loss
  assert {key: getattr(loss, key) for key in numbers} == numbers
  assert (loss.average, loss.averaged_over) == ('', 'response')
  assert config.Loss('grpo', average='token').average == config.Loss('grpo', average='token').averaged_over == 'token'


def test_the_papers_grpo_is_as_it_was():
  """What fingerprints and records of runs hold, from before a loss had numbers of its own."""
  loss = config.to_dict(config.convert(load('r1_zero', 'qwen2_5_7b'), config.RL).loss)
  drop_added(settings := {'loss': loss})
  assert settings['loss'] == dict(
    name='grpo',
    advantage='group',
    clip_low=0.2,
    clip_high=0.2,
    dual_clip=0.0,
    kl_coef=1e-3,
    kl_estimator='k3',
    kl_place='loss',
    tis_cap=0.0,
    entropy_coef=0.0,
    resample_limit=0,
  )


@pytest.mark.parametrize(
  ('settings', 'match'),
  [
    (dict(name='ppo'), "loss.name is 'ppo'; known: grpo, dr_grpo, "),
    (dict(average='rows'), "loss.average is 'rows'; use '', 'response', 'token', "),
    (dict(kl_estimator='k4'), "loss.kl_estimator is 'k4'; use 'k1', 'k2', 'k3', 'k3_weighted'."),
    (dict(mis_level='row'), "loss.mis_level is 'row'; use 'token', 'sequence'."),
    (dict(mis_level='sequence'), 'loss.mis_level .* does nothing without loss.mis_low and loss.mis_high'),
    (dict(kl_estimator='k3_weighted', kl_place='reward'), "loss.kl_estimator .* use 'k1' there"),
    (dict(ratio_cap=3.0), 'loss.ratio_cap is 3.0, .* leave it at -1.0'),
    (dict(name='cispo', clip_high=0.2), 'loss.clip_high is 0.2, .* set it to 0.0, and loss.ratio_cap instead.'),
    (dict(name='reinforce', dual_clip=3.0), 'loss.dual_clip is 3.0, .* clips no ratio; set it to 0.0.'),
    (dict(name='gspo', average='token'), "loss.average is 'token', but .* leave it at ''"),
    (dict(name='gspo', tv_mask=0.2), 'loss.tv_mask is 0.2, but .* set it to 0.0'),
  ],
)
def test_settings_of_a_loss_that_mean_nothing_are_refused(settings, match):
  refused(match, **{f'loss__{key}': value for key, value in settings.items()})


def test_the_documentation_has_the_table_of_what_a_loss_has_of_its_own(pytestconfig):
  text = (pytestconfig.rootpath / 'docs' / 'settings.md').read_text()
  rows = [[cell.strip(' `') for cell in line.strip('|').split('|')] for line in text.splitlines() if line[:1] == '|']
  header = next(i for i, row in enumerate(rows) if row[:2] == ['loss.name', 'advantage'])
  keys, found = rows[header][1:], rows[header + 2 : header + 2 + len(config.LOSS_DEFAULTS)]
  shown = lambda key, value: '-' if key not in ('kl_coef',) and value == 0.0 else f'{value}'
  assert {row[0]: dict(zip(keys, row[1:])) for row in found} == {
    name: {key: shown(key, value) for key, value in own.items()} for name, own in config.LOSS_DEFAULTS.items()
  }


def test_a_group_of_one_is_allowed_without_a_baseline():
  cfg = config.convert(changed(rollout__samples=1, train__length_slices=1, loss__advantage='none'), config.RL)
  assert cfg.rollout.samples == 1


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    (dict(critic__path='DIR'), "critic.path is set, but loss.advantage 'group' has no critic"),
    (dict(loss__advantage='gae', loss__name='gspo'), "'gspo' has one ratio per response"),
    (dict(loss__advantage='gae', reward__step_credit=0.5), 'step_credit is 0.5'),
    (dict(loss__advantage='gae', critic__warmup=1_000_000), 'critic.warmup 1000000 leaves none of the'),
    (dict(critic__gae_lambda=1.5), r'critic.gae_lambda is 1.5; it must lie in \[0, 1\]'),
  ],
)
def test_settings_of_a_critic_that_mean_nothing_are_refused(settings, message):
  with pytest.raises(ConfigError, match=message):
    config.convert(changed(**settings), config.RL)


def test_with_a_critic_a_group_may_be_one():
  cfg = config.convert(changed(rollout__samples=1, train__length_slices=1, loss__advantage='gae'), config.RL)
  assert cfg.has_critic and cfg.rollout.samples == 1


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    (dict(lora__rank=-1), r'lora.rank is -1; it must lie in \[0, 1,000,000\]'),
    (dict(lora__rank=4, lora__alpha=0.0), 'lora.alpha is 0.0'),
    (dict(lora__targets=('attention.q',)), 'lora.targets is set, but lora.rank is 0'),
    (dict(lora__path='DIR'), 'lora.path is set, but lora.rank is 0'),
    (dict(lora__rank=4, optimizer__name='muon'), "optimizer.name is 'muon', .* use 'adam'"),
    (dict(lora__rank=4, train__balance_rate=0.1), 'train.balance_rate is 0.1, .* set it to 0'),
    (dict(lora__rank=4, train__reference_refresh=2), 'train.reference_refresh is 2, .* never changes'),
    (dict(lora__rank=4, train__reference_memory='host'), "train.reference_memory is 'host', .* use 'device'"),
    (dict(lora__rank=4, train__reference_dtype='bfloat16'), "param_dtype 'float32'; set that to 'bfloat16' too"),
  ],
)
def test_settings_that_adapters_rule_out_are_refused(settings, message):
  with pytest.raises(ConfigError, match=message):
    config.convert(changed(**dict(loss__kl_coef=0.1, train__reference_refresh=0) | settings), config.RL)


def test_adapters_are_summed_in_float32_whatever_the_dtype_of_their_model():
  settings = dict(train__param_dtype='bfloat16', model__remat='full', train__reference_refresh=0, loss__kl_coef=0.1)
  refused('train.grad_dtype', **settings)
  settings |= dict(lora__rank=4, train__reference_dtype='bfloat16')
  for advantage in ('group', 'gae'):  # a critic is float32 too
    config.convert(changed(loss__advantage=advantage, **settings), config.RL)
