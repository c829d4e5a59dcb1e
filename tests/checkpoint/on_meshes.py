"""Run by test_hf_processes.py on eight devices of one or two processes: the mesh must not change what is read.

python on_meshes.py DIR              one process
python on_meshes.py DIR RANK PORT    one of two processes
"""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

from r1jax import config, models, parallel
from r1jax import params as params_lib
from r1jax.checkpoint import families, hf

TOKENS = np.random.default_rng(0).integers(0, 64, (1, 8, 16)).astype(np.int32)


def read(path, mesh):
  """(ModelConfig, parameters in float32, bytes read by this process)."""
  config_json = hf.read_config(path)
  cfg = families.from_hf(config_json, path)
  specs = models.specs(cfg)
  abstract = params_lib.abstract(specs, jnp.float32, parallel.shardings(specs, mesh))
  params, count = hf.load(path, cfg, config_json, abstract)
  jax.tree.map(
    lambda x, like: x.sharding.is_equivalent_to(like.sharding, x.ndim) or sys.exit(str(like)), params, abstract
  )
  return cfg, params, count


def logits(cfg, params, mesh):
  def run(params, tokens):
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[-1]), tokens.shape)
    hidden = models.forward(params, cfg, tokens, positions).hidden
    return hidden @ models.unembedding(params).T

  return np.asarray(jax.jit(run, out_shardings=parallel.replicated(mesh))(params, TOKENS))


def main(folder, rank=None, port=None):
  if rank is not None:
    jax.config.update('jax_cpu_collectives_implementation', 'gloo')
    jax.distributed.initialize(f'localhost:{port}', 2, int(rank))
  processes = jax.process_count()
  assert jax.device_count() == 8 and processes == (1 if rank is None else 2)
  layouts = [dict(fsdp=8), dict(fsdp=4, tp=2)] + ([] if processes == 2 else [dict(data=2, fsdp=2, tp=2), dict(data=8)])
  for path in sorted(pathlib.Path(folder).iterdir()):
    one = parallel.make_mesh(config.Mesh(1, 1, 1), jax.local_devices()[:1])
    cfg, unsharded, total = read(path, one)
    want = logits(cfg, unsharded, one)
    assert np.isfinite(want).all() and want.std() > 0.1
    for layout in layouts:
      mesh = parallel.make_mesh(config.Mesh(**dict(data=1, fsdp=1, tp=1) | layout))
      _, params, count = read(path, mesh)
      for (at, x), y in zip(jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(unsharded)):
        for shard in x.addressable_shards:
          np.testing.assert_array_equal(shard.data, np.asarray(y)[shard.index], err_msg=f'{path.name} {layout} {at}')
      # One process reads everything once, however many of its devices hold it; of two each reads about half.
      assert count == total if processes == 1 else 0.5 * total <= count < 0.6 * total, (path.name, layout, count, total)
      np.testing.assert_allclose(logits(cfg, params, mesh), want, rtol=1e-4, atol=1e-5, err_msg=f'{path.name} {layout}')
      print(path.name, layout, f'{count / total:.3f}', flush=True)


if __name__ == '__main__':
  main(*sys.argv[1:])
