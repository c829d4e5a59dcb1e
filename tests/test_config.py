"""Configs: every file converts, and settings that cannot work are refused in one line with the numbers."""

import dataclasses
import importlib
import subprocess
import sys
import typing

from ml_collections import ConfigDict
import pytest

from r1jax import config
from r1jax.config import ConfigError, ranges
from r1jax.recipes import settings as recipe_settings
from r1jax.runs.settings import drop_added

VARIANTS = {
  'r1_zero': [
    'toy',
    'toy_chain',
    'toy_nested',
    'smollm2',
    'gsm8k',
    'qwen2_5_1_5b',
    'qwen2_5_7b',
    'qwen2_5_32b',
    'llama3_1_8b',
    'llama3_3_70b',
    'deepseek_v3',
    'scale_rl',
    'simplerl_0_5b',
    'simplerl_1_5b',
    'verl_gsm8k',
    'maxtext_gsm8k',
    'tinyzero',
  ],
  'toy_base': ['trial', 'chain', 'nested', 'r1', 'r1_student'],
  'r1_rl': ['reasoning', 'all_scenarios', 'small'],
  'evaluation': ['small', 'paper'],
  'reflection': ['toy', 'gsm8k', 'math'],
  'generate': ['toy', 'stage3', 'endpoint'],
  'cold_start': ['toy', 'deepseek_v3', 'special_token', 'traces'],
  'reward_model': [
    'helpful',
    'safety',
    'process',
    'toy_preference',
    'toy_safety',
    'toy_process',
    'small_preference',
    'small_process',
  ],
  'sft': ['toy', 'smollm2', 'gsm8k', 'traces', 'cold_start', 'stage3'],
  'distill': [
    'qwen2_5_math_1_5b',
    'qwen2_5_math_7b',
    'qwen2_5_14b',
    'qwen2_5_32b',
    'llama_3_1_8b',
    'llama_3_3_70b',
    'toy_on_policy',
    'r1_distill_qwen_1_5b_on_policy',
  ],
  'curate': ['stage3', 'toy', 'planted'],
  'label_steps': ['math', 'toy'],
  'search': ['toy', 'math'],
}
CLASSES = {
  'r1_zero': config.RL,
  'r1_rl': config.RL,
  'evaluation': config.Evaluate,
  'reflection': config.Reflection,
  'generate': config.Generate,
  'cold_start': config.ColdStart,
  'toy_base': config.Pretrain,
  'reward_model': config.RewardModel,
  'sft': config.SFT,
  'distill': config.SFT,
  'curate': config.Curate,
  'label_steps': config.LabelSteps,
  'search': config.Search,
}


def load(name, *variant):
  return importlib.import_module(f'configs.{name}').get_config(*variant)


def changed(**settings):
  """A config with known numbers and some settings replaced; a__b=1 sets a.b."""
  c = load('r1_zero', 'toy').to_dict()  # a ConfigDict would itself refuse another type
  c['rollout'] |= dict(prompts=16, samples=16, max_response=160, chunk=16)
  c['train'] |= dict(minibatches=1, microbatch=0, length_slices=4)
  for path, value in settings.items():
    section = c
    *sections, key = path.split('__')
    for name in sections:
      section = section[name]
    section[key] = value
  return c


def refused(match, **settings):
  with pytest.raises(ConfigError, match=match) as error:
    config.convert(changed(**settings), config.RL)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(('name', 'variant'), [(n, v) for n, vs in VARIANTS.items() for v in vs])
def test_every_variant_converts_and_survives_json(name, variant):
  cls = config.RL if variant.endswith('_on_policy') else CLASSES[name]
  cfg = config.convert(load(name, variant), cls)
  again = config.convert(config.to_dict(cfg), cls)
  assert again == cfg and getattr(cfg, 'seed', 0) == 0


@pytest.mark.parametrize('name', VARIANTS)
def test_the_list_has_every_variant_and_the_default_is_one(name):
  with pytest.raises(ValueError) as error:
    load(name, 'nope')
  assert str(error.value) == f"unknown variant 'nope'; known: {', '.join(VARIANTS[name])}."
  assert any(load(name).to_json() == load(name, v).to_json() for v in VARIANTS[name])


@pytest.mark.parametrize(
  ('settings', 'match'),
  [
    (dict(rollout__sample=3), "unknown key 'rollout.sample'; the nearest known one is 'rollout.samples'"),
    (dict(lr=1.0), "unknown key 'lr'; the nearest known one is"),
    (dict(loss__klcoef=0.1), "'loss.kl_coef'"),
    (dict(model__dtype=16), r"'model.dtype' is 16 \(int\); it must be of type str"),
    (dict(steps=1.5), r"'steps' is 1.5 \(float\); it must be of type int"),
    (dict(steps=True), r"'steps' is True \(bool\)"),
    (dict(model__remat=1), "'model.remat' is 1 .*str"),
    (dict(model__remat='some'), "model.remat is 'some'; known: none, full, attention, qkv, products"),
    (dict(model__attention='flash'), "model.attention is 'flash'; known: auto, xla, chunked, splash, cudnn"),
    (dict(rollout__stop='x'), "'rollout.stop' is 'x'; it must be a list of strs"),
    (dict(rollout=3), "'rollout' is 3; it must be a mapping with the keys of Rollout"),
    (dict(reward__parts='math'), "'reward.parts' is 'math'; it must be a mapping of names to floats"),
    (dict(reward__parts=dict(signs='1')), "'reward.parts.signs' is '1'"),
  ],
)
def test_names_and_types_are_checked(settings, match):
  refused(match, **settings)


def test_a_missing_key_is_named():
  c = load('r1_zero', 'toy')
  del c.rollout.prompts
  with pytest.raises(ConfigError, match="'rollout.prompts' is missing"):
    config.convert(c, config.RL)


@pytest.mark.parametrize(
  ('settings', 'numbers'),
  [
    (
      dict(rollout__prompts=6, rollout__chunk=0, train__minibatches=4),
      ['96 samples', '6 prompts x 16', '4 minibatches'],
    ),
    (dict(rollout__samples=1, train__length_slices=1), ['rollout.samples is 1', "'group'", '2 or more']),
    (dict(train__length_slices=5), ['16 samples', '5 length slices']),
    (dict(train__microbatch=48), ['256 samples', 'microbatches of 48', 'divisor of 256']),
    (
      dict(rollout__samples=12, rollout__prompts=4, rollout__chunk=0, train__microbatch=8, train__length_slices=1),
      ['microbatch 8', '12 samples in a length slice', 'rollout.samples 12', 'train.length_slices 1'],
    ),
    (dict(rollout__chunk=3), ['16', 'chunks of 3']),
    (dict(rollout__slots=-1), ['rollout.slots', '-1', '[0, 1,000,000]']),
    (dict(reward__overlong_buffer=160), ['overlong_buffer 160', 'max_response 160']),
    (dict(reward__accuracy='math'), ["'math'", 'signs', 'format']),
    (dict(loss__kl_place='both'), ["'both'", "'loss', 'reward'"]),
    (dict(rollout__prompts=10**6, rollout__samples=16, rollout__chunk=0), ['1,000,000', '16', '10,000,000']),
    (dict(rollout__stop=('a', '')), ['rollout.stop', "('a', '')", 'not empty']),
    (dict(rollout__weight_dtype='int2'), ['rollout.weight_dtype', "'int2'", "'int4'"]),
    (dict(rollout__cache_dtype='int4'), ['rollout.cache_dtype', "'int4'", "'int8'"]),
  ],
)
def test_impossible_combinations_are_refused_with_their_numbers(settings, numbers):
  with pytest.raises(ConfigError) as error:
    config.convert(changed(**settings), config.RL)
  for number in numbers:
    assert number in str(error.value)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  ('settings', 'range_'),
  [
    (dict(train__length_slices=0), '[1, 1,000,000]'),
    (dict(train__logit_chunk=0), '[1, 10,000,000]'),
    (dict(train__microbatch=-4), '[0, 1,000,000]'),
    (dict(rollout__temperature=0.0), '(0, 100]'),
    (dict(rollout__temperature=float('inf')), '(0, 100]'),
    (dict(rollout__top_p=1.5), '(0, 1]'),
    (dict(rollout__min_p=1.0), '[0, 1)'),
    (dict(rollout__prompts=10**12), '[1, 1,000,000]'),
    (dict(loss__dual_clip=0.5), '(1, 1,000,000], or be 0'),
    (dict(loss__dual_clip=1.0), '(1, 1,000,000], or be 0'),
    (dict(loss__tis_cap=-1.0), '[0, 1,000,000]'),
    (dict(loss__kl_coef=float('nan')), '[0, 1,000,000]'),
    (dict(optimizer__learning_rate=float('nan')), '(0, 1e+38]'),
    (dict(optimizer__b1=2.0), '[0, 1)'),
    (dict(optimizer__b2=1.0), '[0, 1)'),
    (dict(optimizer__eps=-1.0), '(0, 1]'),
    (dict(optimizer__eps=0.0), '(0, 1]'),
    (dict(optimizer__grad_clip=-1.0), '[0, 1,000,000]'),
    (dict(optimizer__warmup=-5), '[0, 1,000,000,000]'),
    (dict(optimizer__final_fraction=1.5), '[0, 1]'),
    (dict(checkpoint__keep=1), '[2, 1,000,000]'),
    (dict(eval__every=0), '[1, 1,000,000,000]'),
    (dict(eval__temperature=float('nan')), '[0, 100]'),
    (dict(eval__temperature=-1.0), '[0, 100]'),
    (dict(eval__top_p=5.0), '(0, 1]'),
    (dict(eval__final_problems=-1), '[0, 1,000,000]'),
    (dict(reward__workers=100_000), '[1, 1,024]'),
    (dict(reward__timeout=float('inf')), '(0, 1,000,000]'),
    (dict(reward__parts__signs=float('nan')), '[-1,000,000, '),
    (dict(seed=-1), '[0, 2,147,483,647]'),
    (dict(seed=10**20), '[0, 2,147,483,647]'),
    (dict(steps=10**20), '[1, 1,000,000,000]'),
    (dict(mesh__tp=-2), '[-1, 1,000,000]'),
  ],
)
def test_a_number_out_of_its_range_is_refused_with_the_range(settings, range_):
  ((key, value),) = settings.items()
  with pytest.raises(ConfigError) as error:
    config.convert(changed(**settings), config.RL)
  assert str(error.value).startswith(f'{key.replace("__", ".")} is {value}; it must lie in {range_}'), error.value
  assert '\n' not in str(error.value)


def settings_classes():
  """All classes of settings, of runs and of recipes: {name: class}."""
  return {
    name: cls
    for module in (config, recipe_settings)
    for name, cls in vars(module).items()
    if isinstance(cls, type) and dataclasses.is_dataclass(cls)
  }


def number_fields(cls):
  """The fields of a class that are numbers, or dicts of numbers."""
  leaf = lambda kind: leaf(typing.get_args(kind)[1]) if typing.get_origin(kind) is dict else kind
  return {name for name, kind in typing.get_type_hints(cls).items() if leaf(kind) in (int, float)}


def test_every_number_has_a_range_and_nothing_else_has():
  classes = settings_classes()
  assert {name: number_fields(cls) for name, cls in classes.items() if number_fields(cls)} == {
    name: set(table) for name, table in ranges.RANGES.items()
  }


@pytest.mark.parametrize(('name', 'key'), [(name, key) for name, table in ranges.RANGES.items() for key in table])
def test_a_number_out_of_its_range_is_found_at_any_depth(name, key):
  allowed = ranges.RANGES[name][key]
  bad = [
    float('nan'),
    float('inf'),
    -float('inf'),
    10 * allowed.high + 1,
    allowed.low - 1,
    *([allowed.low] if allowed.exclude_low else []),
    *([allowed.high] if allowed.exclude_high else []),
  ]
  for value in (b for b in bad if b != allowed.also):
    assert list(ranges.out_of_range(name, {key: value}, 'a.')) == [
      (f'a.{key}', pytest.approx(value, nan_ok=True), allowed)
    ]
    ((path, _, _),) = ranges.out_of_range(name, {key: {'x': {'y': value}}}, '')
    assert path == f'{key}.x.y'
  good = [allowed.high] if not allowed.exclude_high else [(allowed.low + allowed.high) / 2]
  also = [] if allowed.also is None else [allowed.also]
  for value in good + also + [allowed.low] * (not allowed.exclude_low):
    assert not list(ranges.out_of_range(name, {key: value}, ''))


def test_records_of_runs_from_before_a_setting_existed_agree_with_its_off_value():
  settings = dict(rollout=dict(weight_dtype='', cache_dtype='int8', prompts=4), loss=dict(mis_low=0.0, mis_high=0.0))
  drop_added(settings)
  assert settings == dict(rollout=dict(cache_dtype='int8', prompts=4), loss={})
  sft, rl = (config.convert(load(name, 'toy'), cls) for name, cls in (('sft', config.SFT), ('r1_zero', config.RL)))
  settings = config.to_dict(sft) | config.to_dict(rl)
  for name, off in config.ADDED.items():
    section, _, key = name.rpartition('.')
    assert (settings[section] if section else settings)[key] == off


@pytest.mark.parametrize('microbatch', [16, 64, 4, 2])
def test_microbatches_may_be_multiples_or_divisors_of_a_slice(microbatch):
  config.convert(changed(train__microbatch=microbatch), config.RL)  # 16 prompts x 16 samples in 4 slices


def test_prompt_and_response_must_fit_the_context():
  rollout = config.Rollout(prompts=1, samples=2, max_prompt=40, max_response=70)
  config.check_context(rollout, 110)
  with pytest.raises(ConfigError) as error:
    config.check_context(rollout, 100)
  for words in ('40', '70', '= 110', 'context of 100', 'rollout.max_response by 10'):
    assert words in str(error.value)


def test_numbers_get_the_declared_type():
  cfg = config.convert(changed(loss__clip_low=0, rollout__stop=['a', 'b']), config.RL)
  assert cfg.loss.clip_low == 0.0 and isinstance(cfg.loss.clip_low, float) and cfg.rollout.stop == ('a', 'b')
  with pytest.raises(TypeError):
    cfg.reward.parts['signs'] = 2.0  # frozen, the mapping included


def test_a_dict_converts_like_a_config_dict():
  c = load('r1_zero', 'toy')
  assert config.convert(c.to_dict(), config.RL) == config.convert(ConfigDict(c.to_dict()), config.RL)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (
      ['--config', 'configs/r1_zero.py:toy', '--config.rollout.sample=3'],
      "error: unknown key 'rollout.sample'; the nearest known one is 'rollout.samples'.",
    ),
    (
      ['--config', 'configs/r1_zero.py:nope'],
      f"error: unknown variant 'nope'; known: {', '.join(VARIANTS['r1_zero'])}.",
    ),
    (
      ['--config', 'configs/r1_zero.py:toy', '--config.rollout.samples=x'],
      "error: flag --config.rollout.samples=x: invalid literal for int() with base 10: 'x'",
    ),
    (['--config', 'configs/none.py'], "error: [Errno 2] No such file or directory: 'configs/none.py'"),
    (
      ['--config', 'configs/r1_zero.py:toy', '--config.rollout.prompts=12', '--config.rollout.chunk=5'],
      'error: rollout.prompts 12 does not divide into chunks of 5; set rollout.chunk to a divisor.',
    ),
  ],
)
def test_a_mistake_on_the_command_line_is_reported_in_one_line(arguments, message, tmp_path, pytestconfig):
  out = subprocess.run(
    [sys.executable, '-m', 'experiments.rl', *arguments, '--workdir', str(tmp_path / 'run')],
    cwd=pytestconfig.rootpath,
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert out.returncode == 1
  assert out.stderr.strip() == message and out.stdout == ''
  assert not (tmp_path / 'run').exists()
