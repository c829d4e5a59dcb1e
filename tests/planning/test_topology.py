"""Names of slices, and verdicts with remedies."""

import dataclasses
import importlib.util
import re

import pytest

from r1jax import config, models
from r1jax.config import ConfigError
from r1jax.planning import topology, verdict

LARGE = models.PRESETS['qwen2_5_3b']


def config_of(prompts=32, samples=16, slots=0, **train):
  return config.RL(
    seed=0,
    steps=10,
    model=config.Model('none', remat='full'),
    data=config.Data('jsonl'),
    rollout=config.Rollout(prompts=prompts, samples=samples, max_prompt=8, max_response=16, chunk=8, slots=slots),
    reward=config.Reward({'x': 1.0}, 'x'),
    loss=config.Loss('grpo', kl_coef=0.1),
    optimizer=config.Optimizer(1e-2),
    train=config.Train(**train),
    eval=config.Evaluation(1, 1, 1),
    checkpoint=config.Checkpoint(1),
  )


def test_a_slice_by_name():
  slice_ = topology.find('v5p:4x4x8')
  assert (slice_.chips, slice_.chip.limit) == (128, int(95.73 * 2**30))


@pytest.mark.parametrize('name', ['v5p-128', 'v5e:3x4', 'v5e', 'v9:2x2', ''])
def test_an_unknown_slice_is_refused_with_a_list_of_known_ones(name):
  with pytest.raises(ConfigError, match=r'known: v5e:\{1x1,2x2,.*v5p:\{2x2x1,.*v6e:\{') as error:
    topology.find(name)
  assert '\n' not in str(error.value)


def test_without_the_compiler_the_error_says_how_to_install_it(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ConfigError, match='pip install libtpu'):
    topology.require_compiler()


def test_several_slices():
  two = topology.find('2*v5e:4x4')
  assert (two.chips, two.slices) == (32, 2) and topology.larger(two, 1.5).name == 'v5e:8x8'
  for name in ('0*v5e:4x4', '*v5e:4x4', '2*', '2*v5e:4x4x1'):
    with pytest.raises(ConfigError, match=re.escape(repr(name))):
      topology.find(name)


def test_the_next_larger_slice():
  assert topology.larger(topology.find('v5e:2x2'), 1.1).name == 'v5e:2x4'
  assert topology.larger(topology.find('v5e:2x2'), 2.5).name == 'v5e:4x4'
  assert topology.larger(topology.find('v5e:16x16'), 1.1) is None


def test_fits_to_92_per_cent_and_tight_to_all_of_it():
  assert [verdict.judge(n, 1000) for n in (920, 921, 1000, 1001)] == ['fits', 'tight', 'tight', 'does not fit']
  assert verdict.worst(['fits', 'does not fit', 'tight']) == 'does not fit'


@pytest.mark.parametrize(
  ('name', 'cfg', 'shards', 'remedy'),
  [
    ('update/accumulate', config_of(microbatch=128), 2, '--config.train.microbatch=64'),
    ('update/accumulate', config_of(microbatch=32), 2, '--config.train.length_slices=2 --config.train.microbatch=16'),
    ('update/accumulate', config_of(microbatch=2, length_slices=16), 2, 'moment_dtype=bfloat16'),
    ('update/apply', config_of(microbatch=32), 2, 'moment_dtype=bfloat16'),
    ('sample/decode', config_of(), 2, '--config.rollout.chunk=4'),
    ('sample/decode', config_of(slots=10), 2, '--config.rollout.slots=4'),
  ],
)
def test_the_cheapest_remedy(name, cfg, shards, remedy):
  slice_ = topology.find('v5e:2x2')
  assert remedy in verdict.remedy(name, 17 * 2**30, cfg, LARGE, slice_, shards)


def test_if_nothing_else_helps_the_slice_must_grow():
  # Moments of 3.1e9 parameters in bfloat16 save 3.1 GB on each of 4 chips.
  assert 'v5e:2x4' in verdict.remedy(
    'update/apply', 20 * 2**30, config_of(microbatch=2), LARGE, topology.find('v5e:2x2'), 2
  )
  cfg = config_of(microbatch=2, length_slices=16)
  cfg = dataclasses.replace(cfg, optimizer=config.Optimizer(1e-2, moment_dtype='bfloat16'))
  slice_ = topology.find('v5e:2x2')
  assert verdict.remedy('update/apply', 20 * 2**30, cfg, LARGE, slice_, 2) == 'a larger slice: v5e:2x4'
  assert verdict.remedy('update/apply', 2000 * 2**30, cfg, LARGE, slice_, 2) == 'a larger slice: 553 chips or more'
