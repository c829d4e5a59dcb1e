"""The safetensors files of a directory, read by ranges of rows and columns into arrays that are already allocated.

The safetensors library maps whole files into memory, and pages read through a map count as resident until it is closed:
a checkpoint would be in memory twice. Plain reads of a few megabytes avoid that, and each process reads only what it
keeps.
"""

import dataclasses
import json
import math
import os
import pathlib
import struct
import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from r1jax import modelfiles
from r1jax.checkpoint.model_dir import ModelDirError

INDEX = 'model.safetensors.index.json'
DTYPES = {
  name: np.dtype(kind)
  for name, kind in (('F32', jnp.float32), ('F16', jnp.float16), ('BF16', jnp.bfloat16), ('F8_E4M3', jnp.float8_e4m3fn))
}
SCALE = '_scale_inv'  # DeepSeek's FP8: the scales of the blocks of W.weight are in W.weight_scale_inv
ROWS = 32  # transposed at a time: 64 bytes of bfloat16, one cache line
READ_BYTES = 1 << 20  # read at a time if they need no conversion
FP8 = np.arange(256, dtype=np.uint8).view(DTYPES['F8_E4M3']).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Entry:
  """Where a tensor is stored: file, dtype in safetensors' notation, shape, and offset of its first byte."""

  name: str
  file: pathlib.Path
  dtype: str
  shape: tuple[int, ...]
  start: int

  @property
  def bytes(self):
    return math.prod(self.shape) * DTYPES[self.dtype].itemsize


def entries(path):
  """{tensor name: Entry} of a model directory; reads only the headers of its files.

  Raises:
    ModelDirError: there are no safetensors files, a shard is missing or truncated, a header is invalid, a dtype is
      unknown, or a tensor is in two files neither of which the index names for it.
  """
  path = pathlib.Path(path)
  if not path.is_dir():
    raise ModelDirError(f'{path} is not a directory; pass the one with the *.safetensors files.')
  places = {}
  if modelfiles.json_exists(path / INDEX, ModelDirError):
    places = _index(path / INDEX)
    names = set(places.values())
    missing = sorted(name for name in names if not modelfiles.exists(path / name, ModelDirError))
    if missing:
      more = f' and {len(missing) - 1} more' if len(missing) > 1 else ''
      raise ModelDirError(f'{path / missing[0]}{more} is missing, but {INDEX} names it; copy it from the source.')
    files = sorted(path / name for name in names)
  else:
    files = sorted(p for p in path.glob('*.safetensors') if modelfiles.exists(p, ModelDirError))
  if not files:
    pickles = sorted(p.name for p in path.iterdir() if {'.bin', '.pt', '.pth', '.ckpt'} & set(p.suffixes))
    advice = (
      f'{pickles[0]} is a pickle, which can run code and is never opened; convert it at its source '
      '(transformers: model.save_pretrained(DIR) writes safetensors).'
      if pickles
      else 'copy the model.safetensors files there.'
    )
    raise ModelDirError(f'{path} has no *.safetensors files; {advice}')
  out = {}
  for file in files:
    for name, entry in _header(file).items():
      first = out.setdefault(name, entry)
      if first is not entry and places.get(name) not in (first.file.name, file.name):
        raise ModelDirError(
          f'{file}: tensor {name} is also in {first.file.name}; remove the file that does not belong to this model.'
        )
      if places.get(name) == file.name:
        out[name] = entry
  return out


def _index(file):
  """{tensor name: name of its file} from an index file. Raises ModelDirError if it is damaged."""
  try:
    places = json.loads(file.read_text(encoding='utf-8'))['weight_map']
    if not all(name and os.path.basename(name) == name and name.isprintable() for name in set(places.values())):
      raise ValueError('a shard is not a plain file name')
    return places
  except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
    raise ModelDirError(f'{file} is damaged ({error!r}); copy it again.') from error


def _header(file):
  """{tensor name: Entry} of one file. Raises ModelDirError if the header is invalid or the file is truncated."""
  try:
    size = file.stat().st_size
    with open(file, 'rb') as f:
      (length,) = struct.unpack('<Q', f.read(8))
      if length > min(size - 8, 100_000_000):
        raise ValueError(f'a header of {length} bytes in a file of {size}')
      header = json.loads(f.read(length))
    header.pop('__metadata__', None)
    out = [_entry(file, name, fields, 8 + length) for name, fields in header.items()]
  except ModelDirError:
    raise
  except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error) as error:
    raise ModelDirError(f'{file} is not a safetensors file, or is damaged ({error}); copy it again.') from error
  end = 8 + length
  for entry in sorted(out, key=lambda entry: (entry.start, entry.bytes)):
    if entry.start < end:
      raise ModelDirError(f'{file} is damaged: tensor {entry.name} overlaps another; copy it again.')
    end = entry.start + entry.bytes
    if end > size:
      raise ModelDirError(
        f'{file} is truncated: it has {size} bytes, but tensor {entry.name} ends at {end}; copy it again.'
      )
  return {entry.name: entry for entry in out}


def _entry(file, name, fields, data_start):
  """The Entry of one tensor of a header.

  Args:
    fields: of the tensor in the header.
    data_start: offset in the file at which the header ends.

  Raises:
    ModelDirError: an unknown dtype.
    ValueError, KeyError, TypeError: invalid fields.
  """
  dtype, shape, (begin, end) = fields['dtype'], tuple(fields['shape']), fields['data_offsets']
  if (
    not name.isprintable()
    or len(name) > 1000
    or len(shape) > 8
    or any(type(n) is not int or not 0 <= n < 1 << 63 for n in (*shape, begin, end))
  ):
    raise ValueError(
      f'tensor {name[:1000]!r} of shape {str(list(shape))[:200]} has offsets {str(begin)[:20]}:{str(end)[:20]}'
    )
  if dtype not in DTYPES:
    raise ModelDirError(
      f'{file}: tensor {name} has dtype {dtype!r}; known: {", ".join(DTYPES)}. Convert the model at its source.'
    )
  entry = Entry(name, file, dtype, shape, data_start + begin)
  if end - begin != entry.bytes:
    raise ValueError(f'tensor {name} of {entry.bytes} bytes has offsets {begin}:{end}')
  return entry


def same(a, b):
  """Whether the tensors of two Entries have equal dtypes, shapes and bytes. Each process compares its own share."""
  if (a.dtype, a.shape) != (b.dtype, b.shape):
    return False
  with open(a.file, 'rb') as f, open(b.file, 'rb') as g:
    for at in range(jax.process_index() * READ_BYTES, a.bytes, jax.process_count() * READ_BYTES):
      f.seek(a.start + at)
      g.seek(b.start + at)
      count = min(READ_BYTES, a.bytes - at)
      if f.read(count) != g.read(count):
        return False
  return True


class Reader:
  """Reads parts of tensors; several threads may share one. Attribute `bytes`: how many were read so far."""

  def __init__(self, entries, scale_block=(128, 128)):
    """
    Args:
      entries: {tensor name: Entry}, see `entries`.
      scale_block: (rows, columns) of the blocks of FP8 weights that share a scale.
    """
    self._entries, self._scale_block = entries, scale_block
    self._files = {file: os.open(file, os.O_RDONLY) for file in {entry.file for entry in entries.values()}}
    self._lock = threading.Lock()
    self.bytes = 0

  def read(self, entry, rows, parts):
    """Reads ranges of columns of some rows of a matrix into arrays of any dtype.

    Args:
      entry: of shape [R, C], or [C] for a single row.
      rows: (start, stop).
      parts: [((start, stop) of columns, np.ndarray [rows, columns] with any strides)]; ranges must not overlap.
    """
    stored, parts = DTYPES[entry.dtype], sorted(parts, key=lambda part: part[0])
    spans = _join([columns for columns, _ in parts])
    width, out = sum(stop - start for start, stop in spans), parts[0][1]
    scales = self._scales(entry, rows, spans) if entry.dtype == 'F8_E4M3' else None
    direct = len(parts) == 1 and out.dtype == stored and out.strides[-1] == stored.itemsize and scales is None
    step = max(1, READ_BYTES // (width * stored.itemsize)) if direct else ROWS
    # Padded, as rows of a power of two bytes would all map to the same few cache lines.
    buffer = None if direct else np.empty((ROWS, width + 64 // stored.itemsize), stored)[:, :width]
    count = 0
    for first in range(0, rows[1] - rows[0], step):
      window = slice(first, min(first + step, rows[1] - rows[0]))
      values = out[window] if buffer is None else buffer[: window.stop - first]
      count += self._fill(entry, rows[0] + first, spans, values)
      if direct:
        continue
      if scales is not None:
        block = np.arange(rows[0] + first, rows[0] + window.stop) // self._scale_block[0]
        values = FP8.take(values.view(np.uint8)) * scales[block - rows[0] // self._scale_block[0]]
      column = 0
      for (start, stop), part in parts:
        copy(values[:, column : column + stop - start], part[window])
        column += stop - start
    with self._lock:
      self.bytes += count

  def _scales(self, entry, rows, spans):
    """f32[blocks of these rows, columns of the spans]: the scale of each column in each block of rows."""
    scale, (block_rows, block_columns) = self._entries[entry.name + SCALE], self._scale_block
    first, last = rows[0] // block_rows, -(-rows[1] // block_rows)
    blocks = np.empty((last - first, scale.shape[1]), np.float32)
    self.read(scale, (first, last), [((0, scale.shape[1]), blocks)])
    return blocks[:, np.concatenate([np.arange(*span) for span in spans]) // block_columns]

  def _fill(self, entry, first, spans, out):
    """Reads rows from `first` on into the rows of `out`, with the spans side by side. Returns the bytes read."""
    columns, size = entry.shape[-1], out.itemsize
    offset = entry.start + first * columns * size
    if spans == [(0, columns)]:
      rows = out.reshape(1, -1) if out.flags.c_contiguous else out
      return self._read_bytes(entry, offset, list(rows.view(np.uint8)))
    count = 0
    for row in out.view(np.uint8):
      left = 0
      for start, stop in spans:
        count += self._read_bytes(entry, offset + start * size, [row[left : left + (stop - start) * size]])
        left += (stop - start) * size
      offset += columns * size
    return count

  def _read_bytes(self, entry, offset, views):
    """Fills byte arrays one after the other with the file's contents from `offset` on. Returns the bytes read."""
    count = 0
    while views:
      n = os.preadv(self._files[entry.file], views, offset + count)
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


def _join(spans):
  """Merges adjacent ones of some sorted (start, stop)."""
  out = []
  for start, stop in spans:
    if out and out[-1][1] == start:
      start, _ = out.pop()
    out.append((start, stop))
  return out


def copy(block, out):
  """out[...] = block, but fast for dtypes that NumPy knows only through ml_dtypes."""
  if (block.dtype, out.dtype) == (DTYPES['BF16'], DTYPES['F32']):
    block = (block.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
  elif block.dtype != out.dtype:
    block = block.astype(out.dtype)
  unsigned = f'u{out.itemsize}'
  out.view(unsigned)[...] = block.view(unsigned)


def header(tensors):
  """The bytes that precede the data in a file of `tensors`, [(name, dtype, shape)] in this order."""
  fields: dict[str, Any] = {'__metadata__': {'format': 'pt'}}
  start, names = 0, {dtype: name for name, dtype in DTYPES.items()}
  for name, dtype, shape in tensors:
    end = start + math.prod(shape) * dtype.itemsize
    fields[name] = {'dtype': names[dtype], 'shape': list(shape), 'data_offsets': [start, end]}
    start = end
  text = json.dumps(fields, separators=(',', ':')).encode()
  text += b' ' * (-len(text) % 8)
  return struct.pack('<Q', len(text)) + text


def write_matrix(f, x, transposed):
  """Appends an array to an open file; if `transposed`, writes its transpose, a few rows of that at a time."""
  x = x.view(f'u{x.itemsize}')
  if not transposed:
    f.write(np.ascontiguousarray(x))
    return
  for first in range(0, x.shape[1], ROWS):
    f.write(np.ascontiguousarray(np.ascontiguousarray(x[:, first : first + ROWS]).T))
