"""A model as a directory: config.json, model.safetensors (float32, names dotted by tree path), tokenizer.model."""
import hashlib
import json
import os
import pathlib
import shutil

import jax
import numpy as np
import safetensors
import safetensors.numpy

CONFIG, WEIGHTS, TOKENIZER = 'config.json', 'model.safetensors', 'tokenizer.model'


class ModelDirError(ValueError):
  """A model directory that is missing, incomplete or damaged."""


def save_model(path, config, params, tokenizer_file):
  """Writes a model directory, under a temporary name until it is whole.

  A directory already at `path` is replaced. It is moved aside first, so a process killed between
  the two renames leaves none at `path`; it never leaves half a one.

  Args:
    path: directory to be.
    config: dict of JSON values.
    params: nested dict of arrays; keys without dots.
    tokenizer_file: path of the tokenizer's file, copied.
  """
  path = pathlib.Path(path)
  new, old = (path.with_name(f'{path.name}.{kind}') for kind in ('writing', 'replaced'))
  for left_over in (new, old):
    shutil.rmtree(left_over, ignore_errors=True)
  new.mkdir(parents=True)
  (new / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + '\n', encoding='utf-8')
  with jax.transfer_guard('allow'):
    flat = {k: np.asarray(v, np.float32, order='C') for k, v in flatten(params).items()}
  safetensors.numpy.save_file(flat, new / WEIGHTS)
  shutil.copyfile(tokenizer_file, new / TOKENIZER)
  if path.exists():
    os.rename(path, old)
  os.rename(new, path)
  shutil.rmtree(old, ignore_errors=True)


def digest(path):
  """SHA-256 of a model directory's weights and tokenizer, in hex: two models of one shape are still two."""
  found = hashlib.sha256()
  for name in (WEIGHTS, TOKENIZER):
    with open(os.path.join(path, name), 'rb') as f:
      found.update(hashlib.file_digest(f, 'sha256').digest())
  return found.hexdigest()


def load_model(path):
  """Reads a model directory.

  Returns:
    (config dict, {dotted name: np.ndarray}, path of the tokenizer's file).

  Raises:
    ModelDirError: a file is missing, truncated or not of its format; one line.
  """
  path = pathlib.Path(path)
  if not path.is_dir():
    raise ModelDirError(f'{path} is no directory; pass one that holds {CONFIG}, {WEIGHTS} and {TOKENIZER}.')
  missing = [name for name in (CONFIG, WEIGHTS, TOKENIZER) if not (path / name).is_file()]
  if missing:
    raise ModelDirError(f'{path} lacks {" and ".join(missing)}; '
                        f'a model directory holds {CONFIG}, {WEIGHTS} and {TOKENIZER}.')
  try:
    config = json.loads((path / CONFIG).read_text(encoding='utf-8'))
  except ValueError as error:
    raise ModelDirError(f'{path / CONFIG} is not JSON ({error}); write it again.') from error
  if not isinstance(config, dict):
    raise ModelDirError(f'{path / CONFIG} holds a {type(config).__name__}, not an object; write it again.')
  weights = path / WEIGHTS
  try:
    flat = safetensors.numpy.load_file(weights)
  except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
    raise ModelDirError(f'{weights} ({weights.stat().st_size} bytes) is truncated or damaged ({error}); '
                        'copy it again.') from error
  if not (path / TOKENIZER).stat().st_size:
    raise ModelDirError(f'{path / TOKENIZER} is empty; copy it again.')
  return config, flat, path / TOKENIZER


def check_tensors(path, flat, abstract):
  """Raises ModelDirError unless `flat` has exactly the tensors of `abstract`.

  Args:
    path: where `flat` was read from, for the message.
    flat: {dotted name: array}.
    abstract: nested dict of anything with a `shape`.
  """
  want = flatten(abstract)
  problems = [f'{k} is missing' for k in sorted(want.keys() - flat.keys())]
  problems += [f'{k} is unknown' for k in sorted(flat.keys() - want.keys())]
  problems += [f'{k} has shape {list(flat[k].shape)}, not {list(want[k].shape)}'
               for k in sorted(want.keys() & flat.keys()) if tuple(flat[k].shape) != tuple(want[k].shape)]
  if problems:
    more = f' and {len(problems) - 4} more' if len(problems) > 4 else ''
    raise ModelDirError(f'{path} does not fit its {CONFIG}: {"; ".join(problems[:4])}{more}; '
                        'use the two files of one model.')


def flatten(nested, at=''):
  """Nested dict of arrays -> {dotted name: array}. Raises ValueError for a key with a dot."""
  flat = {}
  for key, value in nested.items():
    if '.' in key:
      raise ValueError(f'parameter key {at + key!r}: {key!r} contains a dot, which separates levels; rename it.')
    flat.update(flatten(value, f'{at}{key}.') if isinstance(value, dict) else {at + key: value})
  return flat


def unflatten(flat):
  """{dotted name: array} -> nested dict. Raises ModelDirError where one name is both tensor and prefix."""
  nested = {}
  for name, value in flat.items():
    *parents, last = name.split('.')
    node = nested
    for parent in parents:
      node = node.setdefault(parent, {})
      if not isinstance(node, dict):
        break
    if not isinstance(node, dict) or last in node:
      raise ModelDirError(f'tensor {name!r} clashes with another whose name begins or continues it; rename one.')
    node[last] = value
  return nested
