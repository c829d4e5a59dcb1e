"""The table of the sampler's mismatch with the trainer."""

import functools
import types

import jax
import numpy as np
import pytest

from experiments import mismatch
from r1jax import config, models, parallel
from r1jax import params as params_lib


def random_params(model):
  params = jax.jit(functools.partial(params_lib.init, models.specs(model)))(jax.random.key(0))
  return params | {'embed': 20 * params['embed']}  # else all tokens would be about equally likely


def test_a_float32_sampler_agrees_and_four_bits_do_not():
  model = models.PRESETS['toy_student']
  params = random_params(model)
  mesh = parallel.make_mesh(config.Mesh(), jax.devices()[:1])
  settings = types.SimpleNamespace(samples=4, new_tokens=8, temperature=1.0, dtype='float32')
  rows = [
    mismatch.measure(model, params, [[5, 6, 7], [8, 9]], (), mesh, mismatch.PRECISIONS[name], settings)[0]
    for name in ('float32', 'int4 weights')
  ]
  (mean, largest, kl, outside), coarse = rows
  assert mean <= largest < 1e-4 and abs(kl) < 1e-6 and outside == 0
  assert coarse[0] > 100 * mean and coarse[2] > 0 and coarse[1] >= coarse[0]
  assert np.isfinite(rows).all()


@pytest.mark.slow
def test_replay_leaves_the_differences_of_rounding_alone():
  """In bfloat16 a mixture sends some tokens elsewhere, and these differ most; with the sampler's experts none do."""
  model = models.PRESETS['toy_deepseek']
  mesh = parallel.make_mesh(config.Mesh(), jax.devices()[:1])
  settings = types.SimpleNamespace(samples=4, new_tokens=32, temperature=1.0, dtype='float32')
  prompts = np.random.default_rng(0).integers(3, model.vocab, (4, 16)).tolist()
  own, replay = mismatch.measure(
    model, random_params(model), prompts, (), mesh, mismatch.PRECISIONS['bfloat16'], settings
  )
  assert 0 < own[4] < 0.5
  assert replay[1] < own[1] / 3 and replay[0] < own[0]
