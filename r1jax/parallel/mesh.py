"""The mesh of a run. One device is a mesh of one."""

import dataclasses
import math

import jax
import numpy as np

from r1jax.config import ConfigError

AXES = ('data', 'fsdp', 'expert', 'tp', 'seq')


def with_default_sizes(cfg, default):
  """A config.Mesh with the sizes of another in the place of zeros."""
  return dataclasses.replace(default, **{axis: n for axis, n in dataclasses.asdict(cfg).items() if n})


def make_mesh(cfg, devices=None, name='mesh'):
  """A Mesh with the axes above over `devices` (all of them where None).

  Args:
    cfg: config.Mesh; at most one axis is -1 and takes the devices left over. name: of its key in the config.

  Raises:
    ConfigError: the sizes do not multiply to the number of devices, or other axes than data would cross slices.
  """
  devices = jax.devices() if devices is None else devices
  # Hosts of GPUs number themselves by it too.
  of_slice = lambda device: getattr(device, 'slice_index', 0) if getattr(device, 'platform', '') == 'tpu' else 0
  devices = sorted(devices, key=of_slice)  # slices outermost: axis data crosses the network between them
  slices = len({of_slice(device) for device in devices})
  sizes = [getattr(cfg, axis) for axis in AXES]
  if sizes.count(-1) > 1:
    raise ConfigError(f'{name} {dict(zip(AXES, sizes))}: only one axis can be -1.')
  known = math.prod(s for s in sizes if s != -1)
  if -1 in sizes and known and len(devices) % known == 0:
    sizes[sizes.index(-1)] = len(devices) // known
  if math.prod(sizes) != len(devices) or min(sizes) < 1:
    raise ConfigError(
      f'{name} {dict(zip(AXES, sizes))} does not match {len(devices)} devices; '
      f'let one axis be -1 and the others divide {len(devices)}.'
    )
  if sizes[0] % slices:
    raise ConfigError(
      f'{name} {dict(zip(AXES, sizes))} spans {slices} slices; only axis data may cross slices, so set it to '
      f'a multiple of {slices}.'
    )
  return jax.sharding.Mesh(np.array(devices).reshape(sizes), AXES)
