"""Where a model comes from: a Hugging Face directory, a GGUF file, a run, or a model of `scripts/convert import`."""

import dataclasses
import hashlib
import json
import pathlib

import jax
import jax.numpy as jnp

from r1jax import gguf_files, modelfiles, models, parallel, tokenizers
from r1jax import params as params_lib
from r1jax.checkpoint import adapters, families, gguf_models, hf, safetensors_files, store
from r1jax.checkpoint.model_dir import CONFIG, ModelDirError

CHECKPOINTS = 'checkpoints'  # where a run's directory and an imported model have their store


@dataclasses.dataclass(frozen=True)
class Source:
  """A model that can be loaded.

  Attributes:
    path: as passed by the user.
    cfg: ModelConfig.
    config: contents of its config.json, as transformers reads it.
    tokenizer: directory of the tokenizer's files, or a GGUF file.
    step: path of the checkpoint with the parameters; None for a Hugging Face directory and a GGUF file.
    digest: SHA-256 in hex that distinguishes models of the same shape.
    adapter: adapters.Adapter that is merged into the parameters of `base`, the Source that it adapts; or None.
  """

  path: pathlib.Path
  cfg: models.ModelConfig
  config: dict
  tokenizer: pathlib.Path
  step: pathlib.Path | None
  digest: str
  adapter: adapters.Adapter | None = None
  base: 'Source | None' = None

  def with_adapter(self, path):
    """This model with PEFT's adapter in a directory merged into it. Raises ModelDirError if there is none that fits."""
    adapter = adapters.open_peft(path, self.cfg)
    digest = hashlib.sha256(f'{self.digest} {adapter.digest}'.encode()).hexdigest()
    return dataclasses.replace(self, step=None, digest=digest, adapter=adapter, base=self)

  def load_tokenizer(self, chat_template=None):
    """The model's tokenizer (see `tokenizers.load`). Raises ModelDirError if it has ids that the model lacks."""
    tokenizer = tokenizers.load(self.tokenizer, chat_template)
    if tokenizer.vocab > self.cfg.vocab:
      raise ModelDirError(
        f'the tokenizer in {self.tokenizer} has {tokenizer.vocab} ids but the model '
        f'{self.cfg.vocab}; use the tokenizer and weights of one model.'
      )
    if max(tokenizer.eos) >= self.cfg.vocab:
      raise ModelDirError(
        f'{self.tokenizer}: the end-of-sequence id is {max(tokenizer.eos)}, but the model has '
        f'{self.cfg.vocab} ids; correct eos_token_id.'
      )
    return tokenizer

  def abstract(self, mesh, dtype='keep'):
    """The parameters as ShapeDtypeStructs for `load`: in `dtype` ('keep': as stored), sharded over `mesh`."""
    specs = models.specs(self.cfg)
    dtypes = {name: stored if dtype == 'keep' else dtype for name, stored in self.dtypes().items()}
    return params_lib.abstract(specs, dtypes, parallel.shardings(specs, mesh))

  def load(self, abstract, progress=lambda done, total: None):
    """Loads the parameters with the shardings and dtypes of `abstract`; for `progress` see `hf.load`."""
    if self.adapter and self.base:
      return self.adapter.merge(self.base.load(abstract, progress), self.cfg)
    if self.step:
      return store.read_part(self.step, {'params': abstract})['params']
    if gguf_files.is_gguf(self.path):
      return gguf_models.load(gguf_models.open_file(self.path)[0], self.cfg, abstract, progress)
    return hf.load(self.path, self.cfg, self.config, abstract, progress)[0]

  def dtypes(self):
    """{dotted name of a parameter: dtype} as stored."""
    if self.base:
      return self.base.dtypes()
    if self.step:
      arrays = json.loads((self.step / store.MANIFEST).read_text())['arrays']
      return {k.removeprefix('params.'): v.split('[')[0] for k, v in arrays.items() if k.startswith('params.')}
    if gguf_files.is_gguf(self.path):
      return hf.dtypes(self.cfg, gguf_models.entries(gguf_models.open_file(self.path)[0], self.cfg))
    return hf.dtypes(self.cfg, hf.open_files(self.path, self.cfg, self.config))


def open_model(path, step=None, mtp=False):
  """Opens and checks the model at `path`; reads only configs and headers.

  Args:
    path: a GGUF file, or a directory of one of the three kinds.
    step: of a run's checkpoint; None for the newest intact one.
    mtp: whether the model's layers for multi-token prediction are part of it, if it has any.

  Returns:
    Source.

  Raises:
    ModelDirError: the path holds no model, or one that is incomplete or damaged.
    StoreError: the run has no such step, or no intact one.
  """
  path = pathlib.Path(path)
  if not (path / CHECKPOINTS).is_dir():
    if step is not None:
      raise ModelDirError(f'{path} holds no {CHECKPOINTS}, so no step {step}; do not pass a step.')
    if gguf_files.is_gguf(path):
      _, config, cfg = gguf_models.open_file(path)
      return Source(path, cfg, config, path, None, _digest([path]))
    config = hf.read_config(path)
    cfg = families.from_hf(config, path / CONFIG, safetensors_files.entries(path) if mtp else ())
    hf.open_files(path, cfg, config)
    return Source(path, cfg, families.with_architecture(config, cfg), path, None, _digest(_files(path)))
  at, manifest = store.newest(path / CHECKPOINTS, step)
  config = manifest['fingerprint'].get('model')
  if not isinstance(config, dict):
    raise ModelDirError(f'{at} does not name its model; pass the directory of a run or of an imported model.')
  cfg = families.from_hf(config, at, manifest['arrays'] if mtp else ())
  config, tokenizer = families.with_architecture(config, cfg), _tokenizer(path)
  source = Source(path, cfg, config, tokenizer, at, manifest['sha256'])
  if 'lora' not in manifest['fingerprint']:
    return source
  adapter = adapters.of_step(at, manifest['fingerprint']['lora'], source.digest)
  return dataclasses.replace(source, adapter=adapter, base=_base(path, manifest['fingerprint'].get('base')))


def _base(path, digest):
  """The Source that the adapter of a run adapts. path: the run's folder. digest: of that Source."""
  where = f'{path} holds an adapter only (LoRA), of the model that model.path in {path / CONFIG} names'
  try:
    base = open_model(_base_path(path) or '')
  except (ModelDirError, store.StoreError) as error:
    raise ModelDirError(f'{where}: {error} If that model was moved, set model.path there to its new place.') from error
  if base.digest != digest:
    raise ModelDirError(
      f'{where}: {base.path} is another model now than the one that the adapter was trained on; put that one back, or '
      'set model.path there to where it is.'
    )
  return base


def load_with_head(source, model, abstract, key=None):
  """The parameters of a ModelConfig: those that a Source has, and new ones where it has none, as of a head for scores.

  Args:
    source: Source; None for new ones alone. model: ModelConfig. abstract: of its parameters, as for `Source.load`.
    key: of new parameters; None for zeros.
  """
  known = models.specs(source.cfg) if source else {}
  loaded = {name: x for name, x in abstract.items() if name in known}
  new = {name: x for name, x in abstract.items() if name not in known}
  params = source.load(loaded) if loaded else {}
  if new:
    specs = {name: models.specs(model)[name] for name in new}
    zeros = lambda _: jax.tree.map(lambda like: jnp.zeros(like.shape, like.dtype), new)
    drawn = lambda key: jax.tree.map(lambda x, like: x.astype(like.dtype), params_lib.init(specs, key), new)
    init = zeros if key is None else drawn
    params |= jax.jit(init, out_shardings=jax.tree.map(lambda x: x.sharding, new))(key)
  return params


def _tokenizer(path):
  """Directory of the tokenizer's files, or a GGUF file.

  The config.json of a run names the model that it started from, which may be another run.
  """
  visited = set()
  while (path / CHECKPOINTS).is_dir():
    base = _base_path(path)
    if not base:
      return path
    visited.add(path.resolve())
    if pathlib.Path(base).resolve() in visited:
      raise ModelDirError(
        f'{path / CONFIG}: model.path is {base[:200]!r}, which leads back to this run; set it to the directory of the '
        'tokenizer.'
      )
    path = pathlib.Path(base)
  return path


def _base_path(path):
  """The model that a run started from; None for an imported model. Raises ModelDirError if it is not a path."""
  base = hf.read_config(path).get('model')
  if not isinstance(base, dict) or not base.get('path'):
    return None
  if not isinstance(base['path'], str) or '\0' in base['path']:
    raise ModelDirError(
      f'{path / CONFIG}: model.path is {str(base["path"])[:200]!r}, which is not a path; set it to the directory of '
      'the tokenizer.'
    )
  return base['path']


def _files(path):
  """The files of a directory's weights and tokenizer."""
  files = sorted(path.glob('*.safetensors')) + sorted(path.glob('tokenizer.*'))
  return [p for p in files if not p.is_dir() and modelfiles.exists(p, ModelDirError)]


def _digest(files):
  """SHA-256 in hex over names, sizes and samples of files."""
  digest = hashlib.sha256()
  for file in files:
    digest.update(f'{file.name} {file.stat().st_size}'.encode())
    for piece in pieces(file):
      digest.update(piece)
  return digest.hexdigest()


def pieces(file):
  """Yields a file's bytes; of a file above 16 MiB only 64 KiB at each of 256 places."""
  size, piece = file.stat().st_size, 1 << 16
  with open(file, 'rb') as f:
    for at in range(0, size, max(piece, size // 256)):
      f.seek(at)
      yield f.read(piece)
