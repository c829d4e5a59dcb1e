"""Run by test_gguf.py with eight devices: python gguf_on_meshes.py DIR prints ok for each GGUF file and mesh."""

import pathlib
import sys

import jax
import numpy as np

from r1jax import checkpoint, config, parallel


def main(folder):
  for path in sorted(pathlib.Path(folder).glob('*.gguf')):
    source = checkpoint.open_model(path)
    whole = source.load(source.abstract(parallel.make_mesh(config.Mesh(1, 1, 1), jax.local_devices()[:1])))
    for layout in (dict(fsdp=8), dict(fsdp=4, tp=2), dict(data=2, fsdp=2, tp=2)):
      abstract = source.abstract(parallel.make_mesh(config.Mesh(**dict(data=1, fsdp=1, tp=1) | layout)))
      params = source.load(abstract)
      for x, like, y in zip(*map(jax.tree.leaves, (params, abstract, whole))):
        assert x.sharding.is_equivalent_to(like.sharding, x.ndim)
        for shard in x.addressable_shards:
          np.testing.assert_array_equal(shard.data, np.asarray(y)[shard.index])
      assert any(not x.sharding.is_fully_replicated for x in jax.tree.leaves(params))
      print('ok')


if __name__ == '__main__':
  main(sys.argv[1])
