"""Run by test_mtp.py in a process with eight CPU devices: a mesh must not change what the layer learns."""

import dataclasses

import jax
import numpy as np
import optax

from r1jax import config, models, parallel
from r1jax import params as params_lib
from r1jax.data import packing
from r1jax.training import sft
from r1jax.training import state as state_lib

MODEL = dataclasses.replace(models.PRESETS['toy_deepseek'], vocab=64, mtp=1)
ONE = dict(data=1, fsdp=1, expert=1, tp=1, seq=1)
MESHES = [dict(fsdp=2, expert=2, tp=2), dict(data=2, tp=2, seq=2)]


def run(shape, devices, cfg):
  """What an optimizer step of SGD takes from the parameters, on the host; and its metrics."""
  mesh = parallel.make_mesh(config.Mesh(**ONE | shape), devices)
  like = state_lib.abstract_state(models.specs(MODEL), optax.sgd(1.0), mesh)
  params = jax.tree.map(np.asarray, params_lib.init(models.specs(MODEL), jax.random.key(0)))
  placed = jax.tree.map(lambda x, s: jax.device_put(x, s.sharding), params, like.params)
  state, trainer = state_lib.new_state(placed, optax.sgd(1.0), like), sft.make_trainer(cfg, MODEL, optax.sgd(1.0), mesh)
  rng = np.random.default_rng(0)
  rows = [[(rng.integers(0, 64, n).astype(np.int32), 2) for n in rng.integers(3, 11, 3)] for _ in range(8)]
  state, metrics = sft.update(trainer, state, sft.PackedBatch(*packing.pack(rows, 32)), cfg, 0)
  return jax.tree.map(lambda a, b: a - np.asarray(b), params, state.params), metrics


def main():
  cfg = config.SFT(
    seed=0,
    epochs=1.0,
    batch=8,
    microbatch=4,
    mtp_coef=0.3,
    balance_rate=0.01,
    model=config.Model(path='m', remat='full'),
    data=config.SFTData('jsonl', max_length=32),
    optimizer=config.Optimizer(learning_rate=1.0),
    eval=config.SFTEvaluation(every=1),
    checkpoint=config.Checkpoint(every=1),
  )
  want, expected = run({}, jax.devices()[:1], cfg)
  assert np.abs(want['mtp']['eh_proj']).max() > 1e-3 and expected['train/mtp_loss'] > 1
  for shape in MESHES:
    got, metrics = run(shape, jax.devices(), cfg)
    for at, x in jax.tree_util.tree_leaves_with_path(got):
      other = want
      for key in at:
        other = other[key.key]
      np.testing.assert_allclose(x, other, atol=2e-4 * max(np.abs(other).max(), 1e-2), err_msg=f'{shape} {at}')
    for name, value in expected.items():
      np.testing.assert_allclose(metrics[name], value, rtol=1e-4, err_msg=f'{shape} {name}')


if __name__ == '__main__':
  main()
