"""TPU slices by name: chips, the memory the compiler lets a program have, peak rates, and devices without a TPU."""

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
  """One chip: bytes a program may use, bfloat16 FLOP/s, bytes/s of its memory, and the slices offered."""

  limit: int
  flops: float
  bandwidth: float
  slices: tuple[str, ...]


# Limits as the compiler states them when it refuses a program; rates from the vendor's data sheets.
CHIPS = {
  'v5e': Chip(int(15.75 * GIB), 197e12, 0.82e12, _FLAT),
  'v5p': Chip(int(95.73 * GIB), 459e12, 2.77e12, _CUBE),
  'v6e': Chip(int(31.24 * GIB), 918e12, 1.64e12, _FLAT),
}


@dataclasses.dataclass(frozen=True)
class Topology:
  """A slice, e.g. v5e:4x4, or several alike: 2*v5e:4x4."""

  name: str
  chip: Chip
  chips: int
  slices: int = 1


def find(name):
  """The Topology of a name; ConfigError with the known ones for any other."""
  found = re.fullmatch(r'(?:([1-9]\d*)\*)?(\w+):(\w+)', name)
  slices, kind, shape = found.groups() if found else (None, None, None)
  require(
    kind in CHIPS and shape in CHIPS[kind].slices,
    f'unknown topology {name!r}; known: '
    + '; '.join(f'{k}:{{{",".join(chip.slices)}}}' for k, chip in CHIPS.items())
    + '; or several alike, as 2*v5e:4x4.',
  )
  slices = int(slices or 1)
  return Topology(name, CHIPS[kind], slices * math.prod(int(n) for n in shape.split('x')), slices)


def larger(topology, factor):
  """The smallest slice of the same kind with at least `factor` times the chips, or None."""
  kind = topology.name.split('*')[-1].split(':')[0]
  every = [find(f'{kind}:{shape}') for shape in topology.chip.slices]
  return next((t for t in every if t.chips > topology.chips and t.chips >= factor * topology.chips), None)


def require_compiler():
  """Raises ConfigError where the TPU compiler is not installed."""
  require(
    importlib.util.find_spec('libtpu'),
    "the TPU compiler is not installed; `pip install libtpu`, or install this project's extra 'plan'.",
  )


def devices(topology):
  """The slice's devices, to compile for. Loads the TPU compiler; call it in a process of its own."""
  from jax.experimental import topologies  # what it loads is for the process that compiles

  require_compiler()
  # A host has 2 x 2 chips unless it is said otherwise.
  options = {'chips_per_host_bounds': (1, 1, 1)} if topology.chips == 1 else {}
  options |= {'num_slices': topology.slices} if topology.slices > 1 else {}
  try:
    return topologies.get_topology_desc(platform='tpu', topology_name=topology.name.split('*')[-1], **options).devices
  except Exception as error:  # the runtime's own class, which jax does not export
    raise ConfigError(f'the TPU compiler does not offer {topology.name}: {str(error).splitlines()[0]}') from error
