"""Run by test_refill.py in a process with two or eight CPU devices: slots on a mesh give the tokens of one device.

python slots_on_devices.py MODEL     a key of MODELS
"""

import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax import config, models, parallel
from r1jax import params as params_lib
from r1jax.config import ConfigError
from r1jax.models import layout
from r1jax.sampling import Engine, Precision, SamplingParams, decode, row_keys, slots
from r1jax.sampling.logits import Restriction
from tests.parallel.on_many_devices import MODELS, ONE, same_samples

MESHES = {
  2: {'dense': [dict(fsdp=2)]},
  8: {
    'dense': [dict(data=2, fsdp=2, tp=2), dict(fsdp=2, tp=4), dict(fsdp=2, tp=2, seq=2)],
    'qwen3_moe': [dict(fsdp=2, expert=2, tp=2)],
    'deepseek_v3': [dict(data=2, expert=2, tp=2)],  # latents lie split by tokens
  },
}
EXACT = Precision()
P, G, T = 5, 3, 16  # five prompts need not divide over the devices


def sample(model, mesh, params, count, precision=EXACT):
  engine = Engine(
    model,
    types.SimpleNamespace(eos=(1, 2)),
    mesh,
    max_prompt=8,
    max_response=T,
    slots=count,
    prefill=2 * bool(count),
    precision=precision,
  )
  keys = jax.device_put(row_keys(jax.random.key(3), P, G), parallel.replicated(mesh))
  specs = parallel.shardings(models.specs(model), mesh)
  params = jax.tree.map(lambda x, s: jax.device_put(np.asarray(x), s), params, specs)
  with jax.transfer_guard('disallow'):
    return engine.sample(
      params, [[3, 4, 5 + i, *range(i)] for i in range(P)], keys, SamplingParams(experts=bool(model.moe))
    )


def check_layout(model, mesh):
  """The programs leave slots where `decode.constrain` says, which a plan relies on, and gather no history."""
  specs, count = models.specs(model, stacked=False), 8
  of = lambda shape, dtype: jax.ShapeDtypeStruct(shape, dtype, sharding=parallel.batch_sharding(mesh))
  scalar = lambda dtype: jax.ShapeDtypeStruct((), dtype, sharding=parallel.replicated(mesh))
  place = lambda x, mesh, *axes: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout.sharding(x.shape, mesh, *axes))
  options = decode.DecodeOptions(model, Restriction(), (1,), models.ForwardOptions(mesh=mesh))
  keys = of((count, 1), jax.eval_shape(lambda: jax.random.key(0)).dtype)
  empty = slots.empty.eval_shape(keys, options=options, capacity=1024, recent=T)
  state = decode.constrain(empty, mesh, place)
  params = params_lib.abstract(specs, jnp.float32, parallel.shardings(specs, mesh))
  args = params, state, scalar(jnp.int32), scalar(jnp.int32), scalar(jnp.int32), scalar(jnp.float32)
  decoding = slots.advance.lower(*args, options=options).compile()
  merging = slots.merge.lower(state, mesh=mesh).compile()
  for program, outputs in ((decoding, decoding.output_shardings[0]), (merging, merging.output_shardings)):
    for x, found in zip(jax.tree.leaves(state), jax.tree.leaves(outputs), strict=True):
      assert found.is_equivalent_to(x.sharding, len(x.shape)), (x, found)
    moved = [row for row in program.as_text().splitlines() if 'all-gather(' in row and '1024' in row.split(' = ')[1]]
    assert not moved, moved


def check_low_precision(model, params, shape):
  """With weights and a cache of 8 bits, slots on a mesh give the tokens of lock step on one device."""
  one, precision = parallel.make_mesh(config.Mesh(**ONE), jax.devices()[:1]), Precision(weights='int8', cache='int8')
  alone = sample(model, one, params, 0, precision)
  wide = sample(model, parallel.make_mesh(config.Mesh(**ONE | shape)), params, 8, precision)
  same_samples(wide, alone, precision, f'slots {precision} {shape}')


def main(name):
  model = MODELS[name]
  params = params_lib.init(models.specs(model), jax.random.key(0))
  alone = sample(model, parallel.make_mesh(config.Mesh(**ONE), jax.devices()[:1]), params, 0)
  assert len(set(alone.lengths.flat)) > 3
  for shape in MESHES[jax.device_count()][name]:
    mesh = parallel.make_mesh(config.Mesh(**ONE | shape))
    for count in (parallel.batch_shards(mesh), 8):
      wide = sample(model, mesh, params, count)
      np.testing.assert_array_equal(wide.tokens, alone.tokens, err_msg=f'{shape} {count}')
      np.testing.assert_allclose(wide.sampler_logp, alone.sampler_logp, atol=1e-5, err_msg=f'{shape} {count}')
      if model.moe:
        np.testing.assert_array_equal(wide.experts, alone.experts, err_msg=f'{shape} {count}')
    with pytest.raises(ConfigError, match='rollout.slots is 7, .*set it to a multiple of'):
      sample(model, mesh, params, 7)
    check_layout(model, mesh)
  if jax.device_count() == 8:
    check_low_precision(model, params, MESHES[8][name][0])


if __name__ == '__main__':
  main(sys.argv[1])
