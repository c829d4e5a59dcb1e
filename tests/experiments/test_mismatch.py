"""The table of the sampler's mismatch with the trainer."""

import functools
import types

import jax
import numpy as np

from experiments import mismatch
from r1jax import config, models, parallel
from r1jax import params as params_lib


def test_a_float32_sampler_agrees_and_four_bits_do_not():
  model = models.PRESETS['toy_student']
  params = jax.jit(functools.partial(params_lib.init, models.specs(model)))(jax.random.key(0))
  params |= {'embed': 20 * params['embed']}  # else all tokens would be about equally likely
  mesh = parallel.make_mesh(config.Mesh(), jax.devices()[:1])
  settings = types.SimpleNamespace(samples=4, new_tokens=8, temperature=1.0, dtype='float32')
  rows = [
    mismatch.measure(model, params, [[5, 6, 7], [8, 9]], (), mesh, mismatch.PRECISIONS[name], settings)
    for name in ('float32', 'int4 weights')
  ]
  (mean, largest, kl, outside), coarse = rows
  assert mean <= largest < 1e-4 and abs(kl) < 1e-6 and outside == 0
  assert coarse[0] > 100 * mean and coarse[2] > 0 and coarse[1] >= coarse[0]
  assert np.isfinite(rows).all()
