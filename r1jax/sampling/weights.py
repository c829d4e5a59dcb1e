"""The sampler's copy of the weights: cast or quantized, a list of layers, laid out over its mesh."""

import dataclasses
import logging

import jax
import jax.numpy as jnp

from r1jax import models, parallel
from r1jax.config import require
from r1jax.models import lora, quantized
from r1jax.models.moe import FLOAT32_PARAMS

log = logging.getLogger('r1jax')


@dataclasses.dataclass(frozen=True)
class Precision:
  """In which dtypes the sampler computes.

  Attributes:
    compute: of the computation.
    weights: of the layers' matrices: 'int8', 'int4', or '' for `compute`.
    cache: of keys and values: 'int8', or '' for `compute`.
  """

  compute: str = 'float32'
  weights: str = ''
  cache: str = ''

  @property
  def loaded(self):
    """The dtype to load parameters in that are only sampled with: float32 if they are quantized then, as in RL."""
    return 'float32' if self.weights else self.compute


def cast_weights(params, cfg, precision):
  """Parameters as the programs of `decode` and `slots` take them: in the computation's dtype, each layer's on its own.

  The last norm stays as it is, as `models.forward` uses it.

  Args:
    params: stacked, of any dtype, adapted or not. cfg: ModelConfig. precision: Precision; see `models.quantized`.
  """
  # Quantized weights are rounded once, not twice: they come from float32.
  params = models.unstack(lora.merge_layers(params, 'float32' if precision.weights else precision.compute))
  if precision.weights:
    params = quantized.quantize(params, models.specs(cfg, stacked=False), precision.weights)

  def cast(at, w):
    exact = quantized.is_quantized(w) or at[-1].key in FLOAT32_PARAMS or at[0].key == 'norm'
    return w if exact else w.astype(precision.compute)

  return jax.tree_util.tree_map_with_path(cast, params, is_leaf=quantized.is_quantized)


def weights_program(params, mesh, cfg, precision):
  """The compiled `cast_weights`, whose result is laid out over a mesh.

  Args:
    params: stacked parameters or their ShapeDtypeStructs.

  Returns:
    the program, and its result as ShapeDtypeStructs with shardings.
  """

  def cast(params):
    return cast_weights(params, cfg, precision)

  abstract = jax.eval_shape(cast, params)
  shardings = quantized.shardings(models.specs(cfg, stacked=False), mesh, abstract)
  struct = lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
  return jax.jit(cast, out_shardings=shardings), jax.tree.map(struct, abstract, shardings)


def log_moved_bytes(params, mesh, cfg, precision):
  """Says how much a copy for another mesh moves, before it is quantized.

  Raises:
    ConfigError: the mesh is not over the devices of the parameters.
  """
  devices = jax.tree.leaves(params)[0].sharding.device_set
  require(
    devices == set(mesh.devices.flat),
    f"parameters lie on {len(devices)} devices, the sampler's mesh on {mesh.size}; lay both over the same ones.",
  )
  after = parallel.shardings(models.specs(dataclasses.replace(cfg, mtp=0)), mesh)
  whole = lora.unadapted(params)  # adapters are small
  copied = {name: whole[name] for name in after}
  entries = jax.tree.map(lambda x, to: parallel.entries_received(x.shape, x.sharding, to), copied, after)
  moved = sum(jax.tree.leaves(entries)) * jnp.dtype(precision.compute).itemsize
  if moved:
    log.info('sampler: its copy of the weights moves %.3g GB between devices', moved / 1e9)
