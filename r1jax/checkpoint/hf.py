"""Models as Hugging Face directories: read into sharded arrays, and written back.

What is here does not depend on the family: `families` says which tensor of the files is which of ours.
"""

import concurrent.futures
import contextlib
import json
import logging
import math
import mmap
import os
import pathlib
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np

from r1jax import modelfiles
from r1jax.checkpoint import families, safetensors_files
from r1jax.checkpoint.model_dir import CONFIG, ModelDirError
from r1jax.checkpoint.safetensors_files import DTYPES, INDEX, ROWS, SCALE

log = logging.getLogger('r1jax')

BUFFERS = re.compile(r'.*\.rotary_emb\.inv_freq')  # older files keep what the config says already
THREADS = min(16, os.cpu_count() or 1)
JOB_BYTES = 1 << 24  # of a file, for one thread
SHARD_BYTES = 5_000_000_000


def read_config(path):
  """The contents of a directory's config.json, a dict. Raises ModelDirError."""
  path = pathlib.Path(path)
  if path.is_file():
    raise ModelDirError(f'{path} is a file; pass the directory that holds {CONFIG} and the weights.')
  if not modelfiles.find_json(path / CONFIG, ModelDirError):
    raise ModelDirError(f'{path} holds no {CONFIG}; pass a model directory.')
  try:
    config = json.loads((path / CONFIG).read_text(encoding='utf-8'))
  except (OSError, ValueError, RecursionError) as error:
    raise ModelDirError(f'{path / CONFIG} is not JSON ({error}); copy it again.') from error
  if not isinstance(config, dict):
    raise ModelDirError(f'{path / CONFIG} holds a {type(config).__name__}, not an object; copy it again.')
  return config


def check(cfg, config, found):
  """What does not fit between the tensors found and those the config asks for.

  Args:
    cfg: ModelConfig. config: the contents of config.json. found: {name: Entry}.

  Returns:
    list of phrases, one a tensor; and {name: Entry} of the layers for multi-token prediction, which are left out.
  """
  wanted = {t.name: t for leaf in families.tensors(cfg).values() for t in leaf.values()}
  last = cfg.layers + families.prediction_layers(config)
  skipped = {
    name: e
    for name, e in found.items()
    if (m := re.match(r'model\.layers\.(\d+)\.', name)) and cfg.layers <= int(m[1]) < last
  }
  both = sorted(wanted.keys() & found.keys())
  scales = {name + SCALE for name in both if found[name].dtype == 'F8_E4M3'}
  free = scales | skipped.keys() | ({'lm_head.weight'} if cfg.tied else set())
  lines = [f'{name} is missing' for name in sorted((wanted.keys() | scales) - found.keys())]
  lines += [
    f'{name} is unexpected' for name in sorted(found.keys() - wanted.keys() - free) if not BUFFERS.fullmatch(name)
  ]
  for name in both:
    shape = found[name].shape
    if shape != wanted[name].shape:
      lines.append(f'{name} has shape {list(shape)}, not {list(wanted[name].shape)}')
    elif name + SCALE in scales & found.keys():
      scale, blocks = found[name + SCALE], [-(-n // b) for n, b in zip(shape, _scale_block(config))]
      if len(shape) != 2 or list(scale.shape) != blocks:
        lines.append(f'{scale.name} has shape {list(scale.shape)}, not {blocks}, for {name} of shape {list(shape)}')
      if scale.dtype == 'F8_E4M3':
        lines.append(f'{scale.name} is FP8 itself')
  return lines, skipped


def _scale_block(config):
  """Of how many rows and columns a factor of FP8 weights is."""
  about = config.get('quantization_config')
  block = (about.get('weight_block_size') if isinstance(about, dict) else None) or [128, 128]
  if not isinstance(block, list) or len(block) != 2 or any(type(n) is not int or not 1 <= n < 1 << 31 for n in block):
    raise ModelDirError(
      f"{CONFIG}: 'weight_block_size' is {block!r}, which is no pair of sizes; copy the model's own {CONFIG}."
    )
  return tuple(block)


def open_files(path, cfg, config):
  """{name: Entry} of a directory's tensors, all as the config asks for them; or ModelDirError with the first few."""
  return _open(path, cfg, config)[0]


def _open(path, cfg, config):
  found = safetensors_files.entries(path)
  lines, skipped = check(cfg, config, found)
  if lines:
    more = f' and {len(lines) - 4} more (scripts/convert import --check lists them)' if len(lines) > 4 else ''
    raise ModelDirError(f'{path} does not fit its {CONFIG}: {"; ".join(lines[:4])}{more}; use the files of one model.')
  return found, skipped


def dtypes(cfg, found):
  """{dotted name of ours: dtype} as on disk; FP8 counts as bfloat16, and where layers differ one that holds all."""
  of = lambda t: DTYPES['BF16' if found[t.name].dtype == 'F8_E4M3' else found[t.name].dtype]
  return {
    leaf: np.dtype(jnp.result_type(*{of(t) for t in places.values()})) for leaf, places in families.tensors(cfg).items()
  }


def load(path, cfg, config, abstract, progress=lambda done, total: None):
  """Reads a directory's weights into arrays laid out as `abstract`.

  The largest come first, when there is room for what they need on the way. A process reads only what its devices hold.

  Args:
    path: model directory. cfg: ModelConfig. config: contents of its config.json.
    abstract: parameters as ShapeDtypeStructs with shardings; FP8 weights are multiplied out to these dtypes.
    progress: called with bytes of parameters done, and in all.

  Returns:
    parameters, and the number of bytes read by this process.
  """
  found, skipped = _open(path, cfg, config)
  if skipped:
    log.info(
      '%s: %d tensors of the layers for multi-token prediction (%s...) are left out.', path, len(skipped), min(skipped)
    )
  places = families.tensors(cfg)
  leaves, treedef = jax.tree_util.tree_flatten_with_path(abstract)
  named = {jax.tree_util.keystr(at, simple=True, separator='.'): leaf for at, leaf in leaves}
  arrays, done, total = {}, 0, sum(_bytes(leaf) for leaf in named.values())
  with (
    contextlib.closing(safetensors_files.Reader(found, _scale_block(config))) as reader,
    concurrent.futures.ThreadPoolExecutor(THREADS) as pool,
  ):
    for name in sorted(named, key=lambda name: -_bytes(named[name])):
      arrays[name] = _read_leaf(reader, found, places[name], named[name], pool)
      done += _bytes(named[name])
      progress(done, total)
  return jax.tree_util.tree_unflatten(treedef, [arrays[name] for name in named]), reader.bytes


def _bytes(leaf):
  return math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize


def _read_leaf(reader, found, places, leaf, pool):
  """One parameter. Parts that lie in the same rows of the files are read together, each once for all its devices."""
  stacked, groups, arrays = len(next(iter(places))), {}, []
  tensor = next(iter(places.values()))
  for device, index in leaf.sharding.addressable_devices_indices_map(leaf.shape).items():
    index = tuple(s.indices(n)[:2] for s, n in zip(index, leaf.shape))
    rows, columns = _range(tensor, leaf.shape[stacked:], index[stacked:])
    groups.setdefault((index[:stacked], rows), {}).setdefault((columns, index), []).append(device)
  for (layers, rows), parts in groups.items():
    read = _read_parts(reader, found, places, leaf.dtype, layers, rows, list(parts), pool)
    arrays += [jax.device_put(part, device) for part, devices in zip(read, parts.values()) for device in devices]
    del read
    jax.block_until_ready(arrays)  # or parts would pile up on their way to an accelerator
  return jax.make_array_from_single_device_arrays(leaf.shape, leaf.sharding, arrays)


def _read_parts(reader, found, places, dtype, layers, rows, parts, pool):
  """[np.ndarray] of a parameter's parts in some rows of its files.

  Args:
    layers: (start, stop) for each stacked dimension. rows: (start, stop).
    parts: [((start, stop) of columns, (start, stop) for each dimension of the parameter)].
  """
  out = [_blank([stop - start for start, stop in index], dtype) for _, index in parts]
  tensor = next(iter(places.values()))
  row_bytes = sum(_size(columns) for columns, _ in parts) * out[0].itemsize
  step = max(1, JOB_BYTES // row_bytes // ROWS) * ROWS
  matrix = lambda x, columns: (
    x.reshape(_size(columns), _size(rows)).T if tensor.transposed else x.reshape(_size(rows), _size(columns))
  )

  def read(job):
    at, first = job
    last = min(first + step, rows[1])
    here = slice(first - rows[0], last - rows[0])
    place = places[tuple(start + i for (start, _), i in zip(layers, at))]
    reader.read(
      found[place.name], (first, last), [(columns, matrix(x[at], columns)[here]) for x, (columns, _) in zip(out, parts)]
    )

  for _ in pool.map(read, [(at, first) for at in np.ndindex(*map(_size, layers)) for first in range(*rows, step)]):
    pass
  return out


def _range(tensor, inner, index):
  """Rows and columns of a file's matrix that hold the part `index` of our dimensions `inner`; all as (start, stop)."""
  if tensor.transposed:
    split = next(n for n in range(1, len(inner)) if math.prod(inner[:n]) == tensor.shape[1])
    return _flat(inner[split:], index[split:]), _flat(inner[:split], index[:split])
  if len(tensor.shape) == 2:
    return _flat(inner[:1], index[:1]), _flat(inner[1:], index[1:])
  return (0, 1), _flat(inner, index)


def _flat(shape, index):
  """The range, in the flattened dimensions `shape`, of a part that is whole in all but the first of them."""
  if any(part != (0, n) for part, n in zip(index[1:], shape[1:])):
    raise ValueError(f'dimensions {shape} are split elsewhere than along the first: {index}.')
  inner = math.prod(shape[1:])
  return index[0][0] * inner, index[0][1] * inner


def _size(part):
  return part[1] - part[0]


def _blank(shape, dtype):
  """An uninitialised array that a CPU device takes over without a copy, as it begins a page.

  NumPy would ask for huge pages. Those come from memory that a virtual machine may first have to get from its host,
  which took three times as long as all the rest.
  """
  size = math.prod(shape) * np.dtype(dtype).itemsize
  return np.frombuffer(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), dtype).reshape(shape)


def save(path, cfg, params, config, files=(), shard_bytes=SHARD_BYTES, progress=lambda done, total: None):
  """Writes a model directory that transformers, vLLM and SGLang read; under a temporary name until it is whole.

  A model directory already at `path` is replaced. It is moved aside first, so a process killed between the two renames
  leaves none at `path`, and the next save moves it back; it never leaves half a one.

  Args:
    path: directory to be.
    cfg: ModelConfig. params: its parameters, all on this process; each tensor keeps its dtype.
    config: contents of config.json.
    files: paths of tokenizer and other files to copy beside it.
    shard_bytes: most bytes of tensors in one file, unless a single one has more.
    progress: called with bytes of tensors written, and in all.

  Raises:
    ModelDirError: `path` is something else, or there is no room on the disk; nothing is left at a temporary name.
  """
  path = check_target(path)
  flat = {
    jax.tree_util.keystr(at, simple=True, separator='.'): x for at, x in jax.tree_util.tree_leaves_with_path(params)
  }
  new, old = (path.with_name(f'{path.name}.{kind}') for kind in ('writing', 'replaced'))
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    if old.exists() and not path.exists():
      os.rename(old, path)
    for left_over in (new, old):
      shutil.rmtree(left_over, ignore_errors=True)
    try:
      new.mkdir()
      _write(new, _shards(cfg, flat, shard_bytes), flat, config, files, progress)
      if path.exists():
        os.rename(path, old)
      os.rename(new, path)
    except BaseException:
      shutil.rmtree(new, ignore_errors=True)
      raise
  except OSError as error:
    raise ModelDirError(
      f'{path} could not be written ({error}); make room or mend the cause, then run the same command again.'
    ) from error
  shutil.rmtree(old, ignore_errors=True)


def check_target(path):
  """The path that `save` would write to, resolved. Raises ModelDirError where something else is there."""
  path = pathlib.Path(path).resolve()
  if path.exists() and not (path.is_dir() and ((path / CONFIG).is_file() or not any(path.iterdir()))):
    raise ModelDirError(
      f'{path} is {"a directory without " + CONFIG if path.is_dir() else "a file"} and would be '
      'replaced; remove it or choose another path.'
    )
  return path


def _shards(cfg, flat, shard_bytes):
  """{file name: [(Tensor, dtype)]}: embedding, layers in order, the rest, so that a reader goes through them once."""
  shards, room = [], 0
  for t in sorted((t for leaf in families.tensors(cfg).values() for t in leaf.values()), key=_in_file):
    dtype = np.dtype(flat[t.leaf].dtype)
    size = math.prod(t.shape) * dtype.itemsize
    if not shards or room < size:
      shards.append([])
      room = shard_bytes
    shards[-1].append((t, dtype))
    room -= size
  name = 'model.safetensors' if len(shards) == 1 else 'model-{:05d}-of-{:05d}.safetensors'
  return {name.format(i, len(shards)): shard for i, shard in enumerate(shards, 1)}


def _in_file(tensor):
  layer = re.match(r'model\.layers\.(\d+)\.', tensor.name)
  return (0 if tensor.leaf == 'embed' else 1 if layer else 2, int(layer[1]) if layer else 0)


def _write(folder, shards, flat, config, files, progress):
  """Writes all that a model directory holds, when there is room for it."""
  headers = {
    name: safetensors_files.header([(t.name, dtype, t.shape) for t, dtype in shard]) for name, shard in shards.items()
  }
  size = lambda t, dtype: math.prod(t.shape) * dtype.itemsize
  done, total = 0, sum(size(*item) for shard in shards.values() for item in shard)
  texts = {CONFIG: config}
  if len(shards) > 1:
    index = {t.name: name for name, shard in shards.items() for t, _ in shard}
    texts[INDEX] = {'metadata': {'total_size': total}, 'weight_map': index}
  texts = {name: (json.dumps(value, indent=2, ensure_ascii=False) + '\n').encode() for name, value in texts.items()}
  need = total + sum(map(len, [*headers.values(), *texts.values()])) + sum(os.path.getsize(file) for file in files)
  free = shutil.disk_usage(folder).free
  if free < need:
    raise ModelDirError(f'{folder.parent} has {free} bytes free, but {folder.stem} needs {need}; make room.')
  for name, shard in shards.items():
    with open(folder / name, 'wb') as f:
      f.write(headers[name])
      for tensor, dtype in shard:
        with jax.transfer_guard('allow'):
          x = np.asarray(flat[tensor.leaf][tensor.at])
        safetensors_files.write_matrix(
          f, x.reshape(tensor.shape[::-1] if tensor.transposed else tensor.shape), tensor.transposed
        )
        done += size(tensor, dtype)
        progress(done, total)
  for file in files:
    shutil.copyfile(file, folder / os.path.basename(file))
  for name, text in texts.items():
    (folder / name).write_bytes(text)
