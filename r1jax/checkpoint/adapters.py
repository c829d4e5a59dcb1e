"""LoRA adapters as files: those of a run's checkpoint, and directories of PEFT, in and out.

In PEFT's adapter_model.safetensors the matrix `model.layers.0.self_attn.q_proj.weight` of a model, [out, in], has
`base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`, [rank, in], and `...lora_B.weight`, [out, rank].
"""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import shutil

import jax
from jax.sharding import NamedSharding
import numpy as np

from r1jax import config as config_lib
from r1jax import models, parallel
from r1jax import params as params_lib
from r1jax.checkpoint import config_keys, families, hf, safetensors_files, store
from r1jax.checkpoint.model_dir import ModelDirError
from r1jax.models import lora

CONFIG, WEIGHTS = 'adapter_config.json', 'adapter_model.safetensors'
PREFIX = 'base_model.model.'
DTYPES = ('F32', 'F16', 'BF16')
# Options of PEFT under which the files hold something else than A and B of plain LoRA, with what turns them off.
OFF = {
  'peft_type': 'LORA',
  'use_rslora': False,
  'use_dora': False,
  'use_qalora': False,
  'lora_bias': False,
  'fan_in_fan_out': False,
  'bias': 'none',
  'rank_pattern': {},
  'alpha_pattern': {},
  'modules_to_save': None,
  'target_parameters': None,
  'layer_replication': None,
  'trainable_token_indices': None,
  'alora_invocation_tokens': None,
}
PLAIN_BEGINNINGS = (None, True, False, 'gaussian', 'eva', 'orthogonal')  # others of PEFT change the base's weights too


@dataclasses.dataclass(frozen=True)
class Adapter:
  """An adapter that can be loaded.

  Attributes:
    path: PEFT's directory, or the step of a run's checkpoint.
    settings: config.LoRA with its rank, alpha and targets.
    digest: SHA-256 in hex.
    in_step: whether `path` is a step.
  """

  path: pathlib.Path
  settings: config_lib.LoRA
  digest: str
  in_step: bool

  @property
  def scale(self):
    return self.settings.alpha / self.settings.rank

  def load(self, cfg, shardings):
    """The adapter, f32. cfg: ModelConfig. shardings: in the place of its specs (`specs`)."""
    abstract = params_lib.abstract(self.specs(cfg), np.float32, shardings)
    if self.in_step:
      return store.read_part(self.path, {'params': abstract})['params']
    return _read(self.path, cfg, abstract)

  def specs(self, cfg):
    return lora.adapter_specs(models.specs(cfg), self.settings.rank, self.settings.targets)

  def merge(self, params, cfg):
    """The parameters of the adapted model, with the dtypes and shardings of `params`, which are donated."""
    specs, where = self.specs(cfg), jax.tree.leaves(params)[0].sharding
    if isinstance(where, NamedSharding):
      shardings = parallel.shardings(specs, where.mesh)
    else:
      shardings = jax.tree.map(lambda _: where, specs, is_leaf=params_lib.is_spec)
    whole = lora.Base(params, self.scale).attach(self.load(cfg, shardings))
    one = lambda w: _merge(w.weight, w.a, w.b, scale=w.scale, sharding=w.weight.sharding) if lora.is_adapted(w) else w
    return jax.tree.map(one, whole, is_leaf=lora.is_adapted)


@functools.partial(jax.jit, static_argnames=('scale', 'sharding'), donate_argnames='weight')
def _merge(weight, a, b, *, scale, sharding):
  merged = lora.Adapted(weight, a, b, scale).merged().astype(weight.dtype)
  return jax.lax.with_sharding_constraint(merged, sharding)


def of_step(path, recorded, digest):
  """The Adapter in a step of a run. path: of the step. recorded: 'lora' of its fingerprint.

  Raises ModelDirError if that is not what a run writes.
  """
  try:
    fields = {name: recorded[name] for name in ('rank', 'alpha', 'targets')}
    settings = config_lib.convert(fields, config_lib.LoRA, 'lora.')
    config_lib.require(settings.rank, 'lora.rank is 0.')
  except (config_lib.ConfigError, LookupError, TypeError) as error:
    raise ModelDirError(f'{path} does not describe its adapter ({error}); restore it from a backup.') from error
  return Adapter(path, settings, digest, True)


def open_peft(path, cfg):
  """Opens and checks an adapter in PEFT's format; reads only its config and the header of its file.

  Args:
    path: directory. cfg: ModelConfig of the model that it adapts.

  Raises:
    ModelDirError: there is no adapter, it is not plain LoRA, or it does not fit the model.
  """
  path = pathlib.Path(path)
  config = hf.read_json(path, CONFIG, "pass PEFT's directory of an adapter")
  keys = config_keys.Keys(config, path / CONFIG)
  for key, off in OFF.items():
    if config.get(key) not in (None, off):
      keys.fail(f'{key} is {str(config[key])[:100]!r}, which is not supported, only {off!r}.')
  begin = config.get('init_lora_weights')
  if begin not in PLAIN_BEGINNINGS:
    keys.fail(
      f'init_lora_weights is {str(begin)[:100]!r}, which changes the base too; convert it to plain LoRA in PEFT.'
    )
  rank, alpha = keys.size('r'), float(keys.number('lora_alpha', most=1e6))
  entries = safetensors_files.entries(path)
  known, targets = lora.matrices(models.specs(cfg)), {}
  for leaf, tensors in families.tensors(cfg).items():
    if leaf in known:
      names = [name for t in tensors.values() for name, _ in _pair(t, rank)]
      if any(name in entries for name in names):
        targets[lora.within_layer(leaf)] = True
  _check(path, entries, _expected(cfg, rank, targets) if targets else {})
  return Adapter(path, config_lib.LoRA(rank, alpha, tuple(targets)), _digest(path), False)


def _expected(cfg, rank, targets):
  """{name of a tensor in PEFT's file: shape}."""
  chosen = lora.matrices(models.specs(cfg), targets)
  tensors = (t for leaf, by_index in families.tensors(cfg).items() if leaf in chosen for t in by_index.values())
  return {name: shape for t in tensors for name, shape in _pair(t, rank)}


def _pair(tensor, rank):
  """(name, shape) of A and of B of a matrix. tensor: families.Tensor."""
  module = PREFIX + tensor.name.removesuffix('.weight')
  return (f'{module}.lora_A.weight', (rank, tensor.shape[1])), (f'{module}.lora_B.weight', (tensor.shape[0], rank))


def _check(path, entries, expected):
  problems = [f'{name} is missing' for name in expected if name not in entries]
  for name, entry in entries.items():
    if name not in expected:
      problems.append(f'{name[:200]} is no matrix of this model that can be adapted')
    elif entry.shape != expected[name]:
      problems.append(f'{name} has shape {list(entry.shape)}, not {list(expected[name])}')
    elif entry.dtype not in DTYPES:
      problems.append(f'{name} has dtype {entry.dtype}, not one of {", ".join(DTYPES)}')
  if problems or not entries:
    more = f' and {len(problems) - 3} more' if len(problems) > 3 else ''
    raise ModelDirError(
      f'{path} does not fit the model: {"; ".join(problems[:3]) or "it has no tensors"}{more}; use an adapter of this '
      f'model with the {CONFIG} that belongs to it.'
    )


def _digest(path):
  digest = hashlib.sha256()
  for file in (path / CONFIG, *sorted(path.glob('*.safetensors'))):
    with open(file, 'rb') as f:
      digest.update(hashlib.file_digest(f, 'sha256').digest())
  return digest.hexdigest()


def _read(path, cfg, abstract):
  """The arrays of PEFT's file in the structure of `abstract`. Each process reads all of it: adapters are small."""
  tensors, entries = families.tensors(cfg), safetensors_files.entries(path)
  reader = safetensors_files.Reader(entries)

  def matrix(name):
    rows, columns = entries[name].shape
    out = np.empty((rows, columns), np.float32)
    reader.read(entries[name], (0, rows), [((0, columns), out)])
    return out.T

  def one(at, like):
    *leaf, part = (key.key for key in at)
    out = np.empty(like.shape, np.float32)
    for index, tensor in tensors['.'.join(leaf)].items():
      name, _ = _pair(tensor, 0)[part == 'b']
      out[index] = matrix(name).reshape(out[index].shape)
    return jax.make_array_from_callback(like.shape, like.sharding, lambda i: out[i])

  try:
    return jax.tree_util.tree_map_with_path(one, abstract)
  finally:
    reader.close()


def save_peft(path, adapter, cfg, base, dtype='float32'):
  """Writes an Adapter as PEFT's directory, under a temporary name until it is complete.

  Args:
    path: must not exist. cfg: ModelConfig. base: path of the adapted model, which PEFT loads if it is not given one.
    dtype: of A and B.

  Raises:
    ModelDirError: `path` exists, or cannot be written.
  """
  path = pathlib.Path(path).resolve()
  if path.exists():
    raise ModelDirError(f'{path} already exists; remove it or choose another path.')
  here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  shardings = jax.tree.map(lambda _: here, adapter.specs(cfg), is_leaf=params_lib.is_spec)
  flat = jax.tree_util.tree_leaves_with_path(jax.device_get(adapter.load(cfg, shardings)))
  named = {jax.tree_util.keystr(at, simple=True, separator='.'): x for at, x in flat}
  tensors = {}
  for leaf, by_index in families.tensors(cfg).items():
    for index, t in by_index.items() if f'{leaf}.a' in named else ():
      for (name, shape), part in zip(_pair(t, adapter.settings.rank), 'ab'):
        tensors[name] = named[f'{leaf}.{part}'][index].reshape(shape[::-1]).T.astype(dtype)
  writing = path.with_name(path.name + '.writing')
  try:
    shutil.rmtree(writing, ignore_errors=True)
    writing.mkdir(parents=True)
    with open(writing / WEIGHTS, 'wb') as f:
      f.write(safetensors_files.header([(name, x.dtype, x.shape) for name, x in tensors.items()]))
      for x in tensors.values():
        safetensors_files.write_matrix(f, x, False)
    (writing / CONFIG).write_text(json.dumps(_config(adapter, cfg, base), indent=2) + '\n', encoding='utf-8')
    os.rename(writing, path)
  except OSError as error:
    shutil.rmtree(writing, ignore_errors=True)
    raise ModelDirError(f'{path} could not be written ({error}); free some space or choose another path.') from error


def _config(adapter, cfg, base):
  return {
    'peft_type': 'LORA',
    'task_type': 'CAUSAL_LM',
    'base_model_name_or_path': str(base),
    'r': adapter.settings.rank,
    'lora_alpha': adapter.settings.alpha,
    'target_modules': _target_modules(cfg, adapter.settings.targets),
    'lora_dropout': 0.0,
    'bias': 'none',
    'fan_in_fan_out': False,
    'inference_mode': True,
  }


def _target_modules(cfg, targets):
  """Ends of modules' names, as PEFT matches them: 'q_proj', or more of the name where not all such are adapted."""
  adapted = lora.matrices(models.specs(cfg), targets)
  modules = {True: set(), False: set()}
  for leaf, by_index in families.tensors(cfg).items():
    names = (t.name.removesuffix('.weight').split('.', 3) for t in by_index.values() if len(t.index))
    modules[leaf in adapted] |= {name[-1] for name in names}
  last = lambda name: name.rpartition('.')[2]
  others = {last(name) for name in modules[False]}
  return sorted({name if last(name) in others else last(name) for name in modules[True]})
