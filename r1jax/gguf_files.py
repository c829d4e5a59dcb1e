"""Reads the metadata and the tensor directory of GGUF files, which are untrusted.

The library's own reader maps the file and trusts its counts and offsets; here each is compared with the file's size
before it is used, so that a truncated or hostile file is refused in one line, without a large allocation.
"""

import dataclasses
import math
import os
import pathlib
import struct
from typing import Any

import gguf
import numpy as np

from r1jax import modelfiles

SUFFIX = '.gguf'
Kind = gguf.GGMLQuantizationType
# The types of tensors that are read; a row of a tensor is a whole number of its blocks.
KINDS = (
  *(Kind.F32, Kind.F16, Kind.BF16),
  *(Kind.Q8_0, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1),
  *(Kind.Q2_K, Kind.Q3_K, Kind.Q4_K, Kind.Q5_K, Kind.Q6_K),
)

_VERSIONS = (2, 3)
_HEADER_BYTES = 1 << 26  # metadata and directory; a vocabulary of 256 thousand tokens takes 10 MB
_MAX_FIELDS = 1 << 16
_MAX_TENSORS = 1 << 18
_MAX_ITEMS = 1 << 21  # of an array in the metadata
_MAX_NAME = 1 << 10  # bytes of the name of a field or tensor
_MAX_DIMENSIONS = 4
_SCALARS = {0: 'B', 1: 'b', 2: 'H', 3: 'h', 4: 'I', 5: 'i', 6: 'f', 7: '?', 10: 'Q', 11: 'q', 12: 'd'}
_STRING, _ARRAY, _FLOAT32 = 8, 9, 6


@dataclasses.dataclass(frozen=True)
class Tensor:
  """A tensor of a GGUF file.

  Attributes:
    kind: how its values are stored, one of KINDS.
    shape: outermost dimension first, as in NumPy.
    start: offset of its first byte in the file.
  """

  name: str
  kind: Kind
  shape: tuple[int, ...]
  start: int

  @property
  def row_bytes(self):
    block, size = gguf.GGML_QUANT_SIZES[self.kind]
    return self.shape[-1] // block * size

  @property
  def bytes(self):
    return math.prod(self.shape[:-1]) * self.row_bytes


@dataclasses.dataclass(frozen=True)
class File:
  """What precedes the data of a GGUF file: {key: value} of its metadata, and {name: Tensor}."""

  path: pathlib.Path
  fields: dict[str, Any]
  tensors: dict[str, Tensor]


def is_gguf(path):
  """Whether the path is that of a GGUF file, by its name."""
  return str(path).endswith(SUFFIX) and not os.path.isdir(path)


def read(path, error):
  """Reads the header of a GGUF file; nothing of the tensors' data.

  Args:
    path: the file.
    error: class of the exception to raise.

  Returns:
    File. Strings are str, arrays are lists, and float32 numbers have the fewest digits that give the same float32.

  Raises:
    error: the file is missing, not GGUF, truncated or damaged, or a tensor has an unknown type; one line.
  """
  path = pathlib.Path(path)
  if not modelfiles.exists(path, error):
    raise error(f'{path} does not exist; pass a GGUF file.')
  try:
    size = path.stat().st_size
    with open(path, 'rb') as f:
      return _Header(path, f, size).read()
  except (_DamagedError, OSError, UnicodeDecodeError) as damage:
    raise error(f'{path} is truncated, or not a GGUF file ({damage}); fetch it again.') from damage
  except _UnknownKindError as unknown:
    raise error(f'{path}: {unknown}; use another quantisation of the model.') from unknown


class _DamagedError(Exception):
  """What is wrong with a file, as part of a sentence."""


class _UnknownKindError(Exception):
  """Which tensor has a type that is not read."""


class _Header:
  """Reads a header from start to end; `left` is how many bytes it may still have."""

  def __init__(self, path, f, size):
    self._path, self._f, self._size, self._left = path, f, size, min(size, _HEADER_BYTES)

  def read(self):
    if self._take(4) != b'GGUF':
      raise _DamagedError('it does not begin with GGUF')
    version = self._number('I')
    if version not in _VERSIONS:
      raise _DamagedError(f'version {version}; known, in little-endian order: {", ".join(map(str, _VERSIONS))}')
    tensors, fields = self._count('Q', _MAX_TENSORS, 'tensors'), self._count('Q', _MAX_FIELDS, 'fields')
    metadata = dict(self._unique(lambda: (self._text(_MAX_NAME), self._value()), fields))
    alignment = metadata.get('general.alignment', gguf.GGUF_DEFAULT_ALIGNMENT)
    if type(alignment) is not int or not 8 <= alignment <= 1 << 20 or alignment & (alignment - 1):
      raise _DamagedError(f'general.alignment is {alignment!r:.20}, not a power of two from 8 to {1 << 20}')
    directory = dict(self._unique(self._tensor, tensors))
    start = -(-self._f.tell() // alignment) * alignment
    return File(self._path, metadata, self._placed(directory, start, alignment))

  def _unique(self, read, count):
    """Yields `count` pairs whose names differ."""
    names = set()
    for _ in range(count):
      name, value = read()
      if name in names:
        raise _DamagedError(f'{name[:100]!r} is there twice')
      names.add(name)
      yield name, value

  def _take(self, count):
    if count > self._left:
      raise _DamagedError(f'{count} bytes are needed at {self._f.tell()} of {self._size}')
    self._left -= count
    data = self._f.read(count)
    if len(data) < count:
      raise _DamagedError(f'it ends at {self._f.tell()}')
    return data

  def _number(self, code):
    return struct.unpack('<' + code, self._take(struct.calcsize('<' + code)))[0]

  def _count(self, code, most, what):
    count = self._number(code)
    if count > most:
      raise _DamagedError(f'it names {count} {what}, over the limit of {most}')
    return count

  def _text(self, most=_HEADER_BYTES):
    return self._take(self._count('Q', most, 'bytes of text')).decode('utf-8')

  def _value(self):
    kind = self._number('I')
    if kind == _ARRAY:
      kind = self._number('I')
      count = self._count('Q', _MAX_ITEMS, 'items of an array')
      if kind == _STRING:
        return [self._text() for _ in range(count)]
      code = self._code(kind)
      numbers = struct.unpack(f'<{count}{code}', self._take(count * struct.calcsize('<' + code)))
      return [_shortest(x) for x in numbers] if kind == _FLOAT32 else list(numbers)
    if kind == _STRING:
      return self._text()
    value = self._number(self._code(kind))
    return _shortest(value) if kind == _FLOAT32 else value

  def _code(self, kind):
    if kind not in _SCALARS:
      raise _DamagedError(f'a field has type {kind}, which is unknown')
    return _SCALARS[kind]

  def _tensor(self):
    """(name, (kind, shape, offset)); the shape is that of the file, reversed."""
    name = self._text(_MAX_NAME)
    shape = tuple(self._number('Q') for _ in range(self._count('I', _MAX_DIMENSIONS, 'dimensions')))[::-1]
    kind, offset = self._number('I'), self._number('Q')
    if kind not in KINDS:
      known = next((k.name for k in Kind if k == kind), kind)
      raise _UnknownKindError(f'tensor {name[:100]!r} has type {known}, not one of {", ".join(k.name for k in KINDS)}')
    if not shape or min(shape) < 1 or math.prod(shape) > self._size << 4:  # at least 2 bits for each value
      raise _DamagedError(f'tensor {name[:100]!r} has shape {list(shape)}')
    block = gguf.GGML_QUANT_SIZES[kind][0]
    if shape[-1] % block:
      raise _DamagedError(f'tensor {name[:100]!r} has rows of {shape[-1]}, not a multiple of its blocks of {block}')
    return name, (Kind(kind), shape, offset)

  def _placed(self, directory, start, alignment):
    """{name: Tensor}, once each lies in the file and none in another."""
    out = {n: Tensor(n, kind, shape, start + offset) for n, (kind, shape, offset) in directory.items()}
    end = start
    for tensor in sorted(out.values(), key=lambda tensor: tensor.start):
      if tensor.start % alignment or tensor.start < end or tensor.start + tensor.bytes > self._size:
        raise _DamagedError(
          f'tensor {tensor.name[:100]!r} lies at {tensor.start}:{tensor.start + tensor.bytes} of {self._size} bytes, '
          f'outside of the file or in another tensor'
        )
      end = tensor.start + tensor.bytes
    return out


def _shortest(number):
  return float(str(np.float32(number)))
