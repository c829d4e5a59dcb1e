"""Models as Hugging Face directories: read into sharded arrays, and written back.

Nothing here depends on the model family: `families` maps the tensors of the files to our parameters.
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

BUFFERS = re.compile(r'.*\.rotary_emb\.inv_freq')  # in older files; they follow from the config
THREADS = min(16, os.cpu_count() or 1)
JOB_BYTES = 1 << 24  # of a file that one thread reads at a time
SHARD_BYTES = 5_000_000_000


def read_config(path):
  """The contents of a directory's config.json, a dict. Raises ModelDirError if it is missing or damaged."""
  path = pathlib.Path(path)
  if path.is_file():
    raise ModelDirError(
      f'{path} is a file; pass the directory that contains {CONFIG} and the weights, or a .gguf file.'
    )
  return read_json(path, CONFIG, 'pass a model directory')


def read_json(path, name, advice):
  """The contents of a file of a directory, a dict. Raises ModelDirError, with advice if there is no such file."""
  path = pathlib.Path(path)
  if not modelfiles.json_exists(path / name, ModelDirError):
    raise ModelDirError(f'{path} holds no {name}; {advice}.')
  try:
    config = json.loads((path / name).read_text(encoding='utf-8'))
  except (OSError, ValueError, RecursionError) as error:
    raise ModelDirError(f'{path / name} is not JSON ({error}); copy it again.') from error
  if not isinstance(config, dict):
    raise ModelDirError(f'{path / name} holds a {type(config).__name__}, not an object; copy it again.')
  return config


def check(cfg, config, entries):
  """Compares the tensors of the files with those that the config requires.

  Args:
    cfg: ModelConfig.
    config: contents of config.json.
    entries: {name: Entry}.

  Returns:
    list of problems, one phrase for each tensor; and {name: Entry} of the layers for multi-token prediction that are
    not loaded.
  """
  expected = {t.name: t for by_index in families.tensors(cfg).values() for t in by_index.values()}
  expected |= {t.name: t for t, _ in families.mtp_copies(cfg) if t.name in entries}
  end = cfg.layers + families.prediction_layers(config)
  skipped = {
    name: entry
    for name, entry in entries.items()
    if (m := re.match(r'model\.layers\.(\d+)\.', name)) and cfg.layers + cfg.mtp <= int(m[1]) < end
  }
  common = sorted(expected.keys() & entries.keys())
  scales = {name + SCALE for name in common if entries[name].dtype == 'F8_E4M3'}
  allowed = scales | skipped.keys() | ({'lm_head.weight'} if cfg.tied else set())
  problems = [f'{name} is missing' for name in sorted((expected.keys() | scales) - entries.keys())]
  problems += [
    f'{name} is unexpected'
    for name in sorted(entries.keys() - expected.keys() - allowed)
    if not BUFFERS.fullmatch(name)
  ]
  for name in common:
    shape = entries[name].shape
    if shape != expected[name].shape:
      problems.append(f'{name} has shape {list(shape)}, not {list(expected[name].shape)}')
    elif name + SCALE in scales & entries.keys():
      scale, blocks = entries[name + SCALE], [-(-n // b) for n, b in zip(shape, _scale_block(config))]
      if len(shape) != 2 or list(scale.shape) != blocks:
        problems.append(f'{scale.name} has shape {list(scale.shape)}, not {blocks}, for {name} of shape {list(shape)}')
      if scale.dtype == 'F8_E4M3':
        problems.append(f'{scale.name} is FP8 itself')
  return problems, skipped


def _scale_block(config):
  """(rows, columns) of the blocks of an FP8 weight that share a scale."""
  quantization = config.get('quantization_config')
  block = (quantization.get('weight_block_size') if isinstance(quantization, dict) else None) or [128, 128]
  if not isinstance(block, list) or len(block) != 2 or any(type(n) is not int or not 1 <= n < 1 << 31 for n in block):
    raise ModelDirError(
      f"{CONFIG}: 'weight_block_size' is {block!r}, not a pair of positive sizes; copy the model's own {CONFIG}."
    )
  return tuple(block)


def open_files(path, cfg, config):
  """{name: Entry} of a directory's tensors. Raises ModelDirError with the first problems that `check` finds."""
  return _open(path, cfg, config)[0]


def _open(path, cfg, config):
  entries = safetensors_files.entries(path)
  problems, skipped = check(cfg, config, entries)
  if problems:
    more = f' and {len(problems) - 4} more (scripts/convert import --check lists them)' if len(problems) > 4 else ''
    raise ModelDirError(
      f'{path} does not match its {CONFIG}: {"; ".join(problems[:4])}{more}; use the files of one model.'
    )
  return entries, skipped


def dtypes(cfg, entries):
  """{dotted name of our parameter: dtype} as stored.

  FP8 counts as bfloat16. Where layers have different dtypes, it is the one to which all of them promote.
  """
  stored = lambda t: DTYPES['BF16' if entries[t.name].dtype == 'F8_E4M3' else entries[t.name].dtype]
  return {
    leaf: np.dtype(jnp.result_type(*{stored(t) for t in by_index.values()}))
    for leaf, by_index in families.tensors(cfg).items()
  }


def load(path, cfg, config, abstract, progress=lambda done, total: None):
  """Reads a directory's weights into arrays with the shardings of `abstract`.

  The largest parameters are read first, while memory for their temporaries is free. A process reads only the shards of
  its own devices.

  Args:
    path: model directory.
    cfg: ModelConfig.
    config: contents of its config.json.
    abstract: parameters as ShapeDtypeStructs with shardings; FP8 weights are dequantised to these dtypes.
    progress: called with the bytes of parameters done and their total.

  Returns:
    parameters, and the number of bytes read by this process.

  Raises:
    ModelDirError: the files do not match the config, or end while they are read; or what the layer for multi-token
      prediction shares with the model differs from the model's own.
  """
  entries, skipped = _open(path, cfg, config)
  for copy, original in families.mtp_copies(cfg):
    if copy.name in entries and not safetensors_files.same(entries[copy.name], entries[original]):
      raise ModelDirError(
        f'{path}: {copy.name} differs from {original}, which it should share; use the files of one model, or leave the '
        'layer for multi-token prediction out: mtp_coef=0, or --drop_mtp of scripts/convert.'
      )
  if skipped:
    log.info(
      '%s: skipping %d tensors of the layers for multi-token prediction (%s...).', path, len(skipped), min(skipped)
    )
  with contextlib.closing(safetensors_files.Reader(entries, _scale_block(config))) as reader:
    return read_all(reader, entries, cfg, abstract, progress), reader.bytes


def read_all(reader, entries, cfg, abstract, progress):
  """Reads all parameters through a reader, as `load` does.

  Args:
    reader: has `read` of `safetensors_files.Reader`.
    entries: {name of a tensor, as in `families`: what the reader knows it by}.
  """
  tensors = families.tensors(cfg)
  leaves, treedef = jax.tree_util.tree_flatten_with_path(abstract)
  named = {jax.tree_util.keystr(key, simple=True, separator='.'): leaf for key, leaf in leaves}
  arrays, done, total = {}, 0, sum(_bytes(leaf) for leaf in named.values())
  with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
    for name in sorted(named, key=lambda name: -_bytes(named[name])):
      arrays[name] = _read_leaf(reader, entries, tensors[name], named[name], pool)
      done += _bytes(named[name])
      progress(done, total)
  return jax.tree_util.tree_unflatten(treedef, [arrays[name] for name in named])


def _bytes(leaf):
  return math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize


def _read_leaf(reader, entries, tensors, leaf, pool):
  """Reads one parameter as a sharded array.

  Shards that lie in the same rows of the files are read together, and each is read once for all devices that hold it.

  Args:
    tensors: {index into the stacked dimensions: Tensor}.
    leaf: ShapeDtypeStruct with a sharding.
  """
  stacked, groups, arrays = len(next(iter(tensors))), {}, []
  tensor = next(iter(tensors.values()))
  for device, index in leaf.sharding.addressable_devices_indices_map(leaf.shape).items():
    index = tuple(s.indices(n)[:2] for s, n in zip(index, leaf.shape))
    rows, columns = _file_range(tensor, leaf.shape[stacked:], index[stacked:])
    groups.setdefault((index[:stacked], rows), {}).setdefault((columns, index), []).append(device)
  for (layers, rows), shards in groups.items():
    values = _read_shards(reader, entries, tensors, leaf.dtype, layers, rows, list(shards), pool)
    arrays += [jax.device_put(x, device) for x, devices in zip(values, shards.values()) for device in devices]
    del values
    jax.block_until_ready(arrays)  # or shards would pile up on their way to an accelerator
  return jax.make_array_from_single_device_arrays(leaf.shape, leaf.sharding, arrays)


def _read_shards(reader, entries, tensors, dtype, layers, rows, shards, pool):
  """Reads the shards of a parameter that share rows of its files.

  Args:
    layers: (start, stop) for each stacked dimension.
    rows: (start, stop).
    shards: [((start, stop) of columns, (start, stop) for each dimension of the parameter)].

  Returns:
    [np.ndarray], one for each shard.
  """
  out = [_empty([stop - start for start, stop in index], dtype) for _, index in shards]
  tensor = next(iter(tensors.values()))
  row_bytes = sum(_size(columns) for columns, _ in shards) * out[0].itemsize
  step = max(1, JOB_BYTES // row_bytes // ROWS) * ROWS
  matrix = lambda x, columns: (
    x.reshape(_size(columns), _size(rows)).T if tensor.transposed else x.reshape(_size(rows), _size(columns))
  )

  def read(job):
    index, first = job
    last = min(first + step, rows[1])
    window = slice(first - rows[0], last - rows[0])
    source = tensors[tuple(start + i for (start, _), i in zip(layers, index))]
    targets = [(columns, matrix(x[index], columns)[window]) for x, (columns, _) in zip(out, shards)]
    reader.read(entries[source.name], (first, last), targets)

  for _ in pool.map(
    read, [(index, first) for index in np.ndindex(*map(_size, layers)) for first in range(rows[0], rows[1], step)]
  ):
    pass
  return out


def _file_range(tensor, inner, index):
  """Rows and columns of a file's matrix, each (start, stop), that hold the shard `index` of our dimensions `inner`."""
  if tensor.transposed:
    split = next(n for n in range(1, len(inner)) if math.prod(inner[:n]) == tensor.shape[1])
    return _flat(inner[split:], index[split:]), _flat(inner[:split], index[:split])
  if len(tensor.shape) == 2:
    return _flat(inner[:1], index[:1]), _flat(inner[1:], index[1:])
  return (0, 1), _flat(inner, index)


def _flat(shape, index):
  """(start, stop) of a shard in the flattened dimensions `shape`, of which it may split only the first."""
  if any(span != (0, n) for span, n in zip(index[1:], shape[1:])):
    raise ValueError(f'only the first of the dimensions {shape} can be sharded, but the shard is {index}.')
  inner = math.prod(shape[1:])
  return index[0][0] * inner, index[0][1] * inner


def _size(span):
  return span[1] - span[0]


def _empty(shape, dtype):
  """An uninitialised array that a CPU device adopts without a copy, because it starts at a page boundary.

  NumPy would ask for huge pages, which a virtual machine may first have to get from its host: that took three times as
  long as everything else.
  """
  size = math.prod(shape) * np.dtype(dtype).itemsize
  return np.frombuffer(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), dtype).reshape(shape)


def save(path, cfg, params, config, files=(), shard_bytes=SHARD_BYTES, progress=lambda done, total: None):
  """Writes a model directory for transformers, vLLM and SGLang, under a temporary name until it is complete.

  An existing model directory at `path` is replaced. It is moved aside first: a process killed between the two renames
  leaves nothing at `path`, and the next save moves the old directory back. There is never a half-written one.

  Args:
    path: directory to write.
    cfg: ModelConfig.
    params: its parameters, all addressable by this process; each keeps its dtype.
    config: contents of config.json.
    files: paths of tokenizer and other files to copy into the directory.
    shard_bytes: maximum bytes of tensors in one file; a single larger tensor gets a file of its own.
    progress: called with the bytes of tensors written and their total.

  Raises:
    ModelDirError: `path` is not a model directory, or the disk is full; no temporary directory is left.
  """
  path = check_target(path)
  flat = {
    jax.tree_util.keystr(key, simple=True, separator='.'): x for key, x in jax.tree_util.tree_leaves_with_path(params)
  }
  new, old = (path.with_name(f'{path.name}.{kind}') for kind in ('writing', 'replaced'))
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    if old.exists() and not path.exists():
      os.rename(old, path)
    for leftover in (new, old):
      shutil.rmtree(leftover, ignore_errors=True)
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
      f'{path} could not be written ({error}); free some space or fix the cause, then run the same command again.'
    ) from error
  shutil.rmtree(old, ignore_errors=True)


def check_target(path):
  """The resolved path that `save` writes to. Raises ModelDirError if anything but a model directory is there."""
  path = pathlib.Path(path).resolve()
  if path.exists() and not (path.is_dir() and ((path / CONFIG).is_file() or not any(path.iterdir()))):
    raise ModelDirError(
      f'{path} is {"a directory without " + CONFIG if path.is_dir() else "a file"} and would be '
      'replaced; remove it or choose another path.'
    )
  return path


def _shards(cfg, flat, shard_bytes):
  """{file name: [(Tensor, dtype)]}: embedding, layers in order, the rest, so that readers need one pass."""
  shards, room = [], 0
  tensors = [t for by_index in families.tensors(cfg).values() for t in by_index.values()]
  for t in sorted([*tensors, *(copy for copy, _ in families.mtp_copies(cfg))], key=_file_order):
    dtype = np.dtype(flat[t.leaf].dtype)
    size = math.prod(t.shape) * dtype.itemsize
    if not shards or room < size:
      shards.append([])
      room = shard_bytes
    shards[-1].append((t, dtype))
    room -= size
  name = 'model.safetensors' if len(shards) == 1 else 'model-{:05d}-of-{:05d}.safetensors'
  return {name.format(i, len(shards)): shard for i, shard in enumerate(shards, 1)}


def _file_order(tensor):
  layer = re.match(r'model\.layers\.(\d+)\.', tensor.name)
  return (1 if layer else 0 if tensor.leaf == 'embed' else 2, int(layer[1]) if layer else 0)


def _write(folder, shards, flat, config, files, progress):
  """Writes the contents of a model directory. Raises ModelDirError before that if the disk lacks the space."""
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
    raise ModelDirError(f'{folder.parent} has {free} bytes free, but {folder.stem} needs {need}; free some space.')
  for name, shard in shards.items():
    with open(folder / name, 'wb') as f:
      f.write(headers[name])
      for tensor, dtype in shard:
        with jax.transfer_guard('allow'):
          x = np.asarray(flat[tensor.leaf][tensor.index])
        safetensors_files.write_matrix(
          f, x.reshape(tensor.shape[::-1] if tensor.transposed else tensor.shape), tensor.transposed
        )
        done += size(tensor, dtype)
        progress(done, total)
  for file in files:
    shutil.copyfile(file, folder / os.path.basename(file))
  for name, text in texts.items():
    (folder / name).write_bytes(text)
