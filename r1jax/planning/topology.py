"""TPU slices by name: chips, the memory that a program may use, peak rates, and devices to compile for."""

import dataclasses
import importlib.util
import math
import re

from r1jax.config import ConfigError, require

GIB = 2**30
_FLAT = ('1x1', '2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16')
_CUBE = ('2x2x1', '2x2x2', '2x2x4', '2x4x4', '4x4x4', '4x4x8', '4x8x8', '8x8x8', '8x8x16', '8x16x16', '16x16x16')


@dataclasses.dataclass(frozen=True)
class Chip:
  """One chip: bytes a program may use, peak bfloat16 FLOP/s, memory bandwidth in bytes/s, and the slices on offer."""

  limit: int
  flops: float
  bandwidth: float
  slices: tuple[str, ...]


# Limits are from the compiler's out-of-memory errors, rates from the vendor's data sheets.
CHIPS = {
  'v5e': Chip(int(15.75 * GIB), 197e12, 0.82e12, _FLAT),
  'v5p': Chip(int(95.73 * GIB), 459e12, 2.77e12, _CUBE),
  'v6e': Chip(int(31.24 * GIB), 918e12, 1.64e12, _FLAT),
}


@dataclasses.dataclass(frozen=True)
class Topology:
  """A slice, for example v5e:4x4, or several equal ones: 2*v5e:4x4."""

  name: str
  chip: Chip
  chips: int
  slices: int = 1


def find(name):
  """The Topology of a name. Raises ConfigError with the known names for any other."""
  match = re.fullmatch(r'(?:([1-9]\d*)\*)?(\w+):(\w+)', name)
  slices, kind, shape = match.groups() if match else (None, '', '')
  require(
    kind in CHIPS and shape in CHIPS[kind].slices,
    f'unknown topology {name!r}; known: '
    + '; '.join(f'{k}:{{{",".join(chip.slices)}}}' for k, chip in CHIPS.items())
    + '; or several equal slices, for example 2*v5e:4x4.',
  )
  slices = int(slices or 1)
  return Topology(name, CHIPS[kind], slices * math.prod(int(n) for n in shape.split('x')), slices)


def larger(topology, factor):
  """The smallest slice of the same kind with at least `factor` times the chips, or None."""
  kind = topology.name.split('*')[-1].split(':')[0]
  candidates = [find(f'{kind}:{shape}') for shape in topology.chip.slices]
  return next((t for t in candidates if t.chips > topology.chips and t.chips >= factor * topology.chips), None)


def require_compiler():
  """Raises ConfigError if the TPU compiler is not installed."""
  require(
    importlib.util.find_spec('libtpu'),
    "the TPU compiler is not installed; run `pip install libtpu`, or install this project's extra 'plan'.",
  )


def devices(topology):
  """The slice's devices, to compile for. Loads the TPU compiler, so call it in a separate process."""
  from jax.experimental import topologies  # loads the TPU compiler

  require_compiler()
  # The default is 2 x 2 chips on a host.
  options = {'chips_per_host_bounds': (1, 1, 1)} if topology.chips == 1 else {}
  options |= {'num_slices': topology.slices} if topology.slices > 1 else {}
  try:
    return topologies.get_topology_desc(platform='tpu', topology_name=topology.name.split('*')[-1], **options).devices
  except Exception as error:  # the class is the runtime's and not exported by jax
    raise ConfigError(f'the TPU compiler does not offer {topology.name}: {str(error).splitlines()[0]}') from error
