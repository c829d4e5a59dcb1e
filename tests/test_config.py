"""Configs: every file converts, and what cannot work is refused in one line that holds the numbers."""
import importlib
import subprocess
import sys

from ml_collections import ConfigDict
import pytest

from r1jax import config
from r1jax.config import ConfigError

VARIANTS = {'r1_zero': ['toy', 'toy_chain', 'gsm8k', 'qwen2_5_1_5b', 'qwen2_5_7b', 'qwen2_5_32b', 'llama3_1_8b',
                        'llama3_3_70b', 'deepseek_v3'], 'toy_base': ['trial', 'chain', 'r1', 'r1_student'],
            'r1_rl': ['reasoning', 'all_scenarios', 'small'],
            'generate': ['toy', 'stage3', 'endpoint'],
            'cold_start': ['toy', 'deepseek_v3', 'special_token', 'traces'],
            'reward_model': ['helpful', 'safety', 'process', 'toy_preference', 'toy_safety', 'toy_process',
                             'small_preference', 'small_process'],
            'sft': ['toy', 'gsm8k', 'traces', 'cold_start', 'stage3'],
            'distill': ['qwen2_5_math_1_5b', 'qwen2_5_math_7b', 'qwen2_5_14b', 'qwen2_5_32b', 'llama_3_1_8b',
                        'llama_3_3_70b'],
            'curate': ['stage3', 'toy', 'planted']}
CLASSES = {'r1_zero': config.RL, 'r1_rl': config.RL, 'generate': config.Generate, 'cold_start': config.ColdStart,
           'toy_base': config.Pretrain, 'reward_model': config.RewardModel, 'sft': config.SFT, 'distill': config.SFT,
           'curate': config.Curate}


def load(name, *variant):
  return importlib.import_module(f'configs.{name}').get_config(*variant)


def changed(**settings):
  """A config of known numbers with some settings replaced; a__b=1 sets a.b."""
  c = load('r1_zero', 'toy').to_dict()                  # a ConfigDict would refuse a changed type itself
  c['rollout'] |= dict(prompts=16, samples=16, max_response=160, chunk=16)
  c['train'] |= dict(minibatches=1, microbatch=0, length_slices=4)
  for path, value in settings.items():
    at = c
    *folders, last = path.split('__')
    for folder in folders:
      at = at[folder]
    at[last] = value
  return c


def refused(match, **settings):
  with pytest.raises(ConfigError, match=match) as error:
    config.convert(changed(**settings), config.RL)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('name, variant', [(n, v) for n, vs in VARIANTS.items() for v in vs])
def test_every_variant_converts_and_survives_json(name, variant):
  cfg = config.convert(load(name, variant), CLASSES[name])
  again = config.convert(config.to_dict(cfg), CLASSES[name])
  assert again == cfg and getattr(cfg, 'seed', 0) == 0


@pytest.mark.parametrize('name', VARIANTS)
def test_the_list_above_has_every_variant_and_the_default_is_one(name):
  with pytest.raises(ValueError) as error:
    load(name, 'nope')
  assert str(error.value) == f"unknown variant 'nope'; known: {', '.join(VARIANTS[name])}."
  assert any(load(name).to_json() == load(name, v).to_json() for v in VARIANTS[name])


@pytest.mark.parametrize('settings, match', [
    (dict(rollout__sample=3), "unknown key 'rollout.sample'; the nearest known one is 'rollout.samples'"),
    (dict(lr=1.0), "unknown key 'lr'; the nearest known one is"),
    (dict(loss__klcoef=0.1), "'loss.kl_coef'"),
    (dict(model__dtype=16), r"'model.dtype' is 16 \(int\); it must be of type str"),
    (dict(steps=1.5), r"'steps' is 1.5 \(float\); it must be of type int"),
    (dict(steps=True), r"'steps' is True \(bool\)"),
    (dict(model__remat=1), "'model.remat' is 1 .*str"),
    (dict(model__remat='some'), "model.remat is 'some'; known: none, full, attention, qkv"),
    (dict(model__attention='flash'), "model.attention is 'flash'; known: auto, xla, chunked, splash, cudnn"),
    (dict(rollout__stop='x'), "'rollout.stop' is 'x'; it must be a list of strs"),
    (dict(rollout=3), "'rollout' is 3; it must hold the keys of Rollout"),
    (dict(reward__parts='math'), "'reward.parts' is 'math'; it must map names to floats"),
    (dict(reward__parts=dict(signs='1')), "'reward.parts.signs' is '1'"),
])
def test_names_and_types_are_checked(settings, match):
  refused(match, **settings)


def test_a_missing_key_is_named():
  c = load('r1_zero', 'toy')
  del c.rollout.prompts
  with pytest.raises(ConfigError, match="'rollout.prompts' is missing"):
    config.convert(c, config.RL)


@pytest.mark.parametrize('settings, numbers', [
    (dict(rollout__prompts=6, rollout__chunk=0, train__minibatches=4),
     ['96 samples', '6 prompts x 16', '4 minibatches']),
    (dict(rollout__samples=1, train__length_slices=1), ['rollout.samples is 1', "'group'", '2 or more']),
    (dict(train__length_slices=5), ['16 samples', '5 length slices']),
    (dict(train__length_slices=0), ['length_slices 0']),
    (dict(train__logit_chunk=0), ['logit_chunk 0']),
    (dict(train__microbatch=48), ['256 samples', 'microbatches of 48', 'divisor of 256']),
    (dict(train__microbatch=-4), ['microbatch is -4']),
    (dict(rollout__samples=12, rollout__prompts=4, rollout__chunk=0, train__microbatch=8, train__length_slices=1),
     ['microbatch 8', '12 samples of a prompt', 'rollout.samples 12', 'train.length_slices 1']),
    (dict(rollout__chunk=3), ['16', 'chunks of 3']),
    (dict(rollout__temperature=0.0), ['0.0', 'positive']),
    (dict(rollout__top_p=1.5), ['1.5', '(0, 1]']),
    (dict(reward__overlong_buffer=160), ['overlong_buffer 160', 'max_response 160']),
    (dict(reward__accuracy='math'), ["'math'", 'signs', 'format']),
    (dict(loss__dual_clip=0.5), ['0.5', 'exceed 1']),
    (dict(loss__kl_place='both'), ["'both'", "'loss' or 'reward'"]),
    (dict(optimizer__learning_rate=float('nan')), ['nan', 'positive']),
    (dict(checkpoint__keep=1), ['keep 1', 'at least 2']),
    (dict(eval__every=0), ['eval.every 0']),
])
def test_impossible_combinations_are_refused_with_their_numbers(settings, numbers):
  with pytest.raises(ConfigError) as error:
    config.convert(changed(**settings), config.RL)
  for number in numbers:
    assert number in str(error.value)
  assert '\n' not in str(error.value)


def test_a_group_of_one_is_allowed_without_a_baseline():
  cfg = config.convert(changed(rollout__samples=1, train__length_slices=1, loss__advantage='none'), config.RL)
  assert cfg.rollout.samples == 1


@pytest.mark.parametrize('microbatch', [16, 64, 4, 2])
def test_microbatches_of_whole_or_parts_of_slices_are_allowed(microbatch):
  config.convert(changed(train__microbatch=microbatch), config.RL)    # 16 prompts x 16 samples in 4 slices


def test_prompt_and_response_must_fit_the_context():
  rollout = config.Rollout(prompts=1, samples=2, max_prompt=40, max_response=70)
  config.check_context(rollout, 110)
  with pytest.raises(ConfigError) as error:
    config.check_context(rollout, 100)
  for part in ('40', '70', '= 110', 'context of 100', 'lower rollout.max_response by 10'):
    assert part in str(error.value)


def test_numbers_become_what_the_class_declares():
  cfg = config.convert(changed(loss__clip_low=0, rollout__stop=['a', 'b']), config.RL)
  assert cfg.loss.clip_low == 0.0 and isinstance(cfg.loss.clip_low, float) and cfg.rollout.stop == ('a', 'b')
  with pytest.raises(TypeError):
    cfg.reward.parts['signs'] = 2.0                     # frozen, the mapping included


def test_a_dict_is_as_good_as_a_config_dict():
  c = load('r1_zero', 'toy')
  assert config.convert(c.to_dict(), config.RL) == config.convert(ConfigDict(c.to_dict()), config.RL)


@pytest.mark.slow
@pytest.mark.parametrize('arguments, said', [
    (['--config', 'configs/r1_zero.py:toy', '--config.rollout.sample=3'],
     "error: unknown key 'rollout.sample'; the nearest known one is 'rollout.samples'."),
    (['--config', 'configs/r1_zero.py:nope'],
     f"error: unknown variant 'nope'; known: {', '.join(VARIANTS['r1_zero'])}."),
    (['--config', 'configs/r1_zero.py:toy', '--config.rollout.samples=x'],
     "error: flag --config.rollout.samples=x: invalid literal for int() with base 10: 'x'"),
    (['--config', 'configs/none.py'], "error: [Errno 2] No such file or directory: 'configs/none.py'"),
    (['--config', 'configs/r1_zero.py:toy', '--config.rollout.prompts=12', '--config.rollout.chunk=5'],
     'error: rollout.prompts 12 does not divide into chunks of 5; set rollout.chunk to a divisor.'),
])
def test_a_mistake_on_the_command_line_costs_one_line(arguments, said, tmp_path, pytestconfig):
  out = subprocess.run([sys.executable, '-m', 'experiments.rl', *arguments, '--workdir', str(tmp_path / 'run')],
                       cwd=pytestconfig.rootpath, capture_output=True, text=True, timeout=120)
  assert out.returncode == 1
  assert out.stderr.strip() == said and out.stdout == ''
  assert not (tmp_path / 'run').exists()
