"""Refilling slots changes which rows are decoded together, and nothing of what is sampled."""

import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from r1jax import config, models, parallel
from r1jax import params as params_lib
from r1jax.config import ConfigError
from r1jax.models.config import MLA, MoE
from r1jax.sampling import Engine, Precision, SamplingParams, decode, row_keys

MAX_PROMPT, MAX_RESPONSE = 20, 24
SHAPE = dict(vocab=29, embed=16, layers=1, heads=2, kv_heads=1, head_dim=8, mlp=24, context=MAX_PROMPT + MAX_RESPONSE)
DENSE = models.ModelConfig(**SHAPE)
LATENT = models.ModelConfig(
  **SHAPE | dict(layers=2, kv_heads=2, head_dim=12),
  mla=MLA(q_rank=10, kv_rank=9, nope_dim=8, rope_dim=4, v_dim=6),
  moe=MoE(4, 2, 16, shared=1, first_dense=1, score='sigmoid', groups=2, top_groups=1, scale=2.5),
)
# One fills the prompt's limit; three batches of two, the last half empty.
PROMPTS = [[5, 6, 7], list(range(3, 23)), [9], [3, 4, 5, 6, 7, 8, 9, 10, 11, 12], [8, 8]]
KEYS = row_keys(jax.random.key(3), 5, 4)


class Letters:
  """Token i is a letter."""

  eos = (1,)

  def decode(self, ids):
    return ''.join(chr(96 + int(i)) for i in ids if i > 1)


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch):
  """The host looks often, and the histories grow."""
  monkeypatch.setattr(decode, 'CHUNK', 8)


def random_params(cfg):
  tree = params_lib.init(models.specs(cfg), jax.random.key(0))
  return tree | {'embed': jax.random.normal(jax.random.key(1), tree['embed'].shape), 'unembed': 1.5 * tree['unembed']}


PARAMS, PLAIN = random_params(DENSE), SamplingParams()


def sample(slots, cfg=DENSE, params=PARAMS, keys=KEYS, sampling=PLAIN, max_response=MAX_RESPONSE, **options):
  """RolloutBatch, and the Engine."""
  engine = Engine(
    cfg,
    Letters(),
    parallel.make_mesh(config.Mesh(), jax.devices()[:1]),
    max_prompt=MAX_PROMPT,
    max_response=max_response,
    slots=slots,
    prefill=2 if slots else 0,
    stop=options.get('stop', ()),
    precision=options.get('precision', Precision()),
  )
  engine.watch = options.get('watch')
  return engine.sample(params, PROMPTS[: keys.shape[0]], keys, sampling), engine


def require_same(refilled, lock_step):
  for name in ('prompts', 'prompt_lengths', 'tokens', 'lengths', 'loss_mask', 'stop'):
    np.testing.assert_array_equal(getattr(refilled, name), getattr(lock_step, name), err_msg=name)
  np.testing.assert_allclose(refilled.sampler_logp, lock_step.sampler_logp, atol=1e-5)
  if lock_step.experts is not None:
    np.testing.assert_array_equal(refilled.experts, lock_step.experts)
    np.testing.assert_array_equal(refilled.prompt_experts, lock_step.prompt_experts)


@pytest.fixture(scope='module')
def lock_step():
  return sample(0)


@pytest.mark.parametrize('slots', [1, 6, 8, 16, 40])
def test_tokens_are_those_of_lock_step(slots, lock_step):
  batch, engine = lock_step
  assert {'eos', 'length'} == set(batch.stop.flat) and len(set(batch.lengths.flat)) > 6
  assert (batch.lengths[1] == MAX_RESPONSE).any()  # prompt and response fill the context
  refilled, other = sample(slots)
  require_same(refilled, batch)
  # Slots that have ended are not carried along for long; one at a time, never.
  assert slots > 8 or other.row_steps < engine.row_steps
  assert slots > 1 or other.row_steps == (batch.lengths - 1).sum()


def test_latent_caches_and_experts():
  params, sampling = random_params(LATENT), SamplingParams(experts=True)
  lock_step = sample(0, LATENT, params, KEYS[:3], sampling)[0]
  require_same(sample(4, LATENT, params, KEYS[:3], sampling)[0], lock_step)
  assert len(np.unique(lock_step.experts)) == 4


def test_greedy():
  require_same(sample(4, sampling=SamplingParams(0.0))[0], sample(0, sampling=SamplingParams(0.0))[0])


def test_a_first_token_that_ends_the_response_frees_its_slot(lock_step):
  """The first prompt's samples, and only these, begin with one of several end tokens."""
  first = set(lock_step[0].tokens[0, :2, 0].tolist())
  ends = type('Ends', (Letters,), {'eos': (1, *first)})
  engine = lambda slots: Engine(
    DENSE, ends(), parallel.make_mesh(config.Mesh(), jax.devices()[:1]), max_prompt=20, max_response=24, slots=slots
  )
  refilled, plain = (engine(slots).sample(PARAMS, PROMPTS, KEYS, SamplingParams()) for slots in (4, 0))
  require_same(refilled, plain)
  assert (plain.lengths[0, :2] == 1).all() and (plain.lengths > 1).any()


def test_responses_of_one_token(lock_step):
  refilled, engine = sample(4, max_response=1)
  np.testing.assert_array_equal(refilled.tokens, lock_step[0].tokens[..., :1])
  assert engine.row_steps == 0 and refilled.tokens.shape == (5, 4, 1)


def test_stop_strings(lock_step):
  texts = [Letters().decode(t[:n]) for t, n in zip(lock_step[0].tokens[2], lock_step[0].lengths[2])]
  stop = (max(texts, key=len)[4:6],)
  refilled, plain = sample(4, stop=stop)[0], sample(0, stop=stop)[0]
  require_same(refilled, plain)
  assert 'stop' in plain.stop


def test_progress_is_the_share_of_rows_that_have_ended():
  told = []
  sample(4, watch=told.append)
  assert told == sorted(told) and told[-1] == 1 and len(set(told)) > 4


def test_slots_that_cannot_be_are_refused():
  with pytest.raises(ConfigError, match='rollout.slots is -1'):
    sample(-1)


def on_devices(devices, model, pytestconfig):
  env = os.environ | {
    'JAX_PLATFORMS': 'cpu',
    'JAX_NUM_CPU_DEVICES': str(devices),
    'PYTHONPATH': str(pytestconfig.rootpath),
  }
  script = pathlib.Path(__file__).with_name('slots_on_devices.py')
  out = subprocess.run([sys.executable, str(script), model], env=env, capture_output=True, text=True, timeout=1200)
  assert out.returncode == 0, out.stdout + out.stderr[-3000:]


def test_slots_on_two_devices(pytestconfig):
  on_devices(2, 'dense', pytestconfig)


@pytest.mark.slow
@pytest.mark.parametrize('model', ['dense', 'qwen3_moe', 'deepseek_v3'])
def test_slots_on_eight_devices(model, pytestconfig):
  on_devices(8, model, pytestconfig)


def test_weights_and_a_cache_of_8_bits_give_the_same_tokens_with_slots():
  precision = Precision(weights='int8', cache='int8')
  require_same(sample(8, precision=precision)[0], sample(0, precision=precision)[0])
