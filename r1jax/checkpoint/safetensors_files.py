"""The safetensors files of a directory, read by ranges of rows and columns into memory that is there already.

The safetensors library maps whole files, and pages read through a map count as resident until it is closed: a
checkpoint would be in memory twice. Plain reads of a few megabytes do not, and a process reads only what it keeps.
"""

import dataclasses
import json
import math
import os
import pathlib
import struct
import threading

import jax.numpy as jnp
import numpy as np

from r1jax import modelfiles
from r1jax.checkpoint.model_dir import ModelDirError

INDEX = 'model.safetensors.index.json'
DTYPES = {
  name: np.dtype(kind)
  for name, kind in (('F32', jnp.float32), ('F16', jnp.float16), ('BF16', jnp.bfloat16), ('F8_E4M3', jnp.float8_e4m3fn))
}
SCALE = '_scale_inv'  # DeepSeek's FP8: W.weight has its blocks' factors in W.weight_scale_inv
ROWS = 32  # transposed at a time: 64 bytes of bfloat16, a line of the cache
PIECE = 1 << 20  # bytes read at a time where nothing is to be done with them
FP8 = np.arange(256, dtype=np.uint8).view(DTYPES['F8_E4M3']).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Entry:
  """Where a tensor lies: file, dtype as the file names it, shape, and the offset of its first byte."""

  name: str
  file: pathlib.Path
  dtype: str
  shape: tuple[int, ...]
  start: int

  @property
  def bytes(self):
    return math.prod(self.shape) * DTYPES[self.dtype].itemsize


def entries(path):
  """{tensor name: Entry} of a model directory; only headers are read.

  Raises:
    ModelDirError: no safetensors, a shard missing or truncated, a header that is none, an unknown dtype, a tensor in
      two files of which the index names neither.
  """
  path = pathlib.Path(path)
  if not path.is_dir():
    raise ModelDirError(f'{path} is no directory; pass the one that holds the *.safetensors.')
  places = {}
  if modelfiles.find_json(path / INDEX, ModelDirError):
    places = _index(path / INDEX)
    wanted = set(places.values())
    missing = sorted(name for name in wanted if not modelfiles.find(path / name, ModelDirError))
    if missing:
      more = f' and {len(missing) - 1} more' if len(missing) > 1 else ''
      raise ModelDirError(f'{path / missing[0]}{more} is missing, though {INDEX} names it; copy it from the source.')
    files = sorted(path / name for name in wanted)
  else:
    files = sorted(p for p in path.glob('*.safetensors') if modelfiles.find(p, ModelDirError))
  if not files:
    pickles = sorted(p.name for p in path.iterdir() if {'.bin', '.pt', '.pth', '.ckpt'} & set(p.suffixes))
    advice = (
      f'{pickles[0]} is a pickle, which can run code and is never opened; convert it where it comes from '
      '(transformers: model.save_pretrained(DIR) writes safetensors).'
      if pickles
      else 'copy the model.safetensors files there.'
    )
    raise ModelDirError(f'{path} holds no *.safetensors; {advice}')
  found = {}
  for file in files:
    for name, entry in _header(file).items():
      first = found.setdefault(name, entry)
      if first is not entry and places.get(name) not in (first.file.name, file.name):
        raise ModelDirError(
          f'{file}: tensor {name} is in {first.file.name} too; remove the file that is not of this model.'
        )
      if places.get(name) == file.name:
        found[name] = entry
  return found


def _index(file):
  """{tensor name: name of its file}."""
  try:
    places = json.loads(file.read_text(encoding='utf-8'))['weight_map']
    if not all(name and os.path.basename(name) == name and name.isprintable() for name in set(places.values())):
      raise ValueError('a shard is not a plain file name')
    return places
  except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
    raise ModelDirError(f'{file} is damaged ({error!r}); copy it again.') from error


def _header(file):
  try:
    size = file.stat().st_size
    with open(file, 'rb') as f:
      (length,) = struct.unpack('<Q', f.read(8))
      if length > min(size - 8, 100_000_000):
        raise ValueError(f'a header of {length} bytes in a file of {size}')
      header = json.loads(f.read(length))
    header.pop('__metadata__', None)
    found = [_entry(file, name, about, 8 + length) for name, about in header.items()]
  except ModelDirError:
    raise
  except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error) as error:
    raise ModelDirError(f'{file} is no safetensors file or damaged ({error}); copy it again.') from error
  end = 8 + length
  for entry in sorted(found, key=lambda entry: (entry.start, entry.bytes)):
    if entry.start < end:
      raise ModelDirError(f'{file} is damaged: tensor {entry.name} begins inside another; copy it again.')
    end = entry.start + entry.bytes
    if end > size:
      raise ModelDirError(
        f'{file} is truncated: it has {size} bytes, but tensor {entry.name} ends at {end}; copy it again.'
      )
  return {entry.name: entry for entry in found}


def _entry(file, name, about, data):
  """The Entry of a header's item; ValueError and the like where it is none. `data`: where the header ends."""
  dtype, shape, (begin, end) = about['dtype'], tuple(about['shape']), about['data_offsets']
  if (
    not name.isprintable()
    or len(name) > 1000
    or len(shape) > 8
    or any(type(n) is not int or not 0 <= n < 1 << 63 for n in (*shape, begin, end))
  ):
    raise ValueError(
      f'tensor {name[:1000]!r} of shape {str(list(shape))[:200]} lies at {str(begin)[:20]}:{str(end)[:20]}'
    )
  if dtype not in DTYPES:
    raise ModelDirError(
      f'{file}: tensor {name} has dtype {dtype!r}; known: {", ".join(DTYPES)}. Convert it where it comes from.'
    )
  entry = Entry(name, file, dtype, shape, data + begin)
  if end - begin != entry.bytes:
    raise ValueError(f'tensor {name} of {entry.bytes} bytes lies at {begin}:{end}')
  return entry


class Reader:
  """Reads parts of tensors; for several threads at once. Attribute `bytes`: how many were read."""

  def __init__(self, found, scale_block=(128, 128)):
    self._found, self._scale_block = found, scale_block
    self._files = {file: os.open(file, os.O_RDONLY) for file in {entry.file for entry in found.values()}}
    self._lock = threading.Lock()
    self.bytes = 0

  def read(self, entry, rows, parts):
    """Reads some rows of a matrix, in so far as a part of their columns is wanted, into arrays of any dtype.

    Args:
      entry: of shape [R, C], or [C], which has one row.
      rows: (start, stop).
      parts: [((start, stop) of columns, np.ndarray [rows, columns] of any strides)], no two overlapping.
    """
    have, parts = DTYPES[entry.dtype], sorted(parts, key=lambda part: part[0])
    spans = _joined([columns for columns, _ in parts])
    width, out = sum(stop - start for start, stop in spans), parts[0][1]
    scales = self._scales(entry, rows, spans) if entry.dtype == 'F8_E4M3' else None
    straight = len(parts) == 1 and out.dtype == have and out.strides[-1] == have.itemsize and scales is None
    step = max(1, PIECE // (width * have.itemsize)) if straight else ROWS
    # Rows whose lengths are powers of two would all lie in the same few lines of the cache.
    block = None if straight else np.empty((ROWS, width + 64 // have.itemsize), have)[:, :width]
    count = 0
    for first in range(0, rows[1] - rows[0], step):
      here = slice(first, min(first + step, rows[1] - rows[0]))
      values = out[here] if straight else block[: here.stop - first]
      count += self._fill(entry, rows[0] + first, spans, values)
      if straight:
        continue
      if scales is not None:
        at = np.arange(rows[0] + first, rows[0] + here.stop) // self._scale_block[0]
        values = FP8.take(values.view(np.uint8)) * scales[at - rows[0] // self._scale_block[0]]
      at = 0
      for (start, stop), part in parts:
        _copy(values[:, at : at + stop - start], part[here])
        at += stop - start
    with self._lock:
      self.bytes += count

  def _scales(self, entry, rows, spans):
    """f32[blocks of these rows, columns]: the factor of each column in each block of rows."""
    scale, (down, across) = self._found[entry.name + SCALE], self._scale_block
    first, last = rows[0] // down, -(-rows[1] // down)
    blocks = np.empty((last - first, scale.shape[1]), np.float32)
    self.read(scale, (first, last), [((0, scale.shape[1]), blocks)])
    return blocks[:, np.concatenate([np.arange(*span) for span in spans]) // across]

  def _fill(self, entry, first, spans, block):
    """Reads rows from `first` on into those of `block`, where the spans lie side by side. Returns how many bytes."""
    total, size = entry.shape[-1], block.itemsize
    at = entry.start + first * total * size
    if spans == [(0, total)]:
      whole = block.flags.c_contiguous
      return self._get(entry, at, list(block.reshape(1, -1).view(np.uint8) if whole else block.view(np.uint8)))
    count, raw = 0, block.view(np.uint8)
    for row in raw:
      left = 0
      for start, stop in spans:
        count += self._get(entry, at + start * size, [row[left : left + (stop - start) * size]])
        left += (stop - start) * size
      at += total * size
    return count

  def _get(self, entry, at, views):
    """Fills byte arrays, one after the other, with what lies from `at` on."""
    count = 0
    while views:
      n = os.preadv(self._files[entry.file], views, at + count)
      if not n:
        raise ModelDirError(f'{entry.file} ended while tensor {entry.name} was read; copy it again.')
      count += n
      while views and n >= len(views[0]):
        n -= len(views.pop(0))
      if n:
        views[0] = views[0][n:]
    return count

  def close(self):
    for file in self._files.values():
      os.close(file)


def _joined(spans):
  """Spans in order, those that touch as one."""
  out = []
  for start, stop in spans:
    if out and out[-1][1] == start:
      start, _ = out.pop()
    out.append((start, stop))
  return out


def _copy(block, out):
  """out[...] = block, quickly where NumPy knows the types only through ml_dtypes."""
  if (block.dtype, out.dtype) == (DTYPES['BF16'], DTYPES['F32']):
    block = (block.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
  elif block.dtype != out.dtype:
    block = block.astype(out.dtype)
  unsigned = f'u{out.itemsize}'
  out.view(unsigned)[...] = block.view(unsigned)


def header(tensors):
  """The bytes before the data of a file of `tensors`, [(name, dtype, shape)] in this order."""
  about, at, names = {'__metadata__': {'format': 'pt'}}, 0, {dtype: name for name, dtype in DTYPES.items()}
  for name, dtype, shape in tensors:
    end = at + math.prod(shape) * dtype.itemsize
    about[name] = {'dtype': names[dtype], 'shape': list(shape), 'data_offsets': [at, end]}
    at = end
  text = json.dumps(about, separators=(',', ':')).encode()
  text += b' ' * (-len(text) % 8)
  return struct.pack('<Q', len(text)) + text


def write_matrix(f, x, transposed):
  """Appends an array to an open file; `transposed`: the rows of its [in, out] as columns, a few at a time."""
  x = x.view(f'u{x.itemsize}')
  if not transposed:
    f.write(np.ascontiguousarray(x))
    return
  for first in range(0, x.shape[1], ROWS):
    f.write(np.ascontiguousarray(np.ascontiguousarray(x[:, first : first + ROWS]).T))
