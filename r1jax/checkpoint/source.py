"""Where a model comes from: a Hugging Face directory, a run's folder, or what `scripts/convert import` has made."""

import dataclasses
import hashlib
import json
import pathlib

from r1jax import modelfiles, models, parallel, tokenizers
from r1jax import params as params_lib
from r1jax.checkpoint import families, hf, store
from r1jax.checkpoint.model_dir import CONFIG, ModelDirError

CHECKPOINTS = 'checkpoints'  # a run's folder and an imported model hold their store under this name


@dataclasses.dataclass(frozen=True)
class Source:
  """A model that can be loaded.

  Attributes:
    path: as given.
    cfg: ModelConfig.
    config: the contents of its config.json, as transformers reads it.
    tokenizer: the directory with the tokenizer's files.
    step: path of the store's step that holds the parameters; None for a Hugging Face directory.
    digest: SHA-256 in hex that tells two models of one shape apart.
  """

  path: pathlib.Path
  cfg: models.ModelConfig
  config: dict
  tokenizer: pathlib.Path
  step: pathlib.Path | None
  digest: str

  def load_tokenizer(self, chat_template=None):
    """The model's tokenizer (see `tokenizers.load`). Raises ModelDirError where it has ids that the model lacks."""
    tokenizer = tokenizers.load(self.tokenizer, chat_template)
    if tokenizer.vocab > self.cfg.vocab:
      raise ModelDirError(
        f'the tokenizer in {self.tokenizer} has {tokenizer.vocab} ids but the model '
        f'{self.cfg.vocab}; use the two of one model.'
      )
    if max(tokenizer.eos) >= self.cfg.vocab:
      raise ModelDirError(
        f'{self.tokenizer}: a text ends with id {max(tokenizer.eos)}, but the model has '
        f'{self.cfg.vocab} ids; correct eos_token_id.'
      )
    return tokenizer

  def abstract(self, mesh, dtype='keep'):
    """Parameters to be, in `dtype` ('keep': as stored), as ShapeDtypeStructs laid out over `mesh` for `load`."""
    specs = models.specs(self.cfg)
    dtypes = {name: stored if dtype == 'keep' else dtype for name, stored in self.dtypes().items()}
    return params_lib.abstract(specs, dtypes, parallel.shardings(specs, mesh))

  def load(self, abstract, progress=lambda done, total: None):
    """Parameters laid out as `abstract`, ShapeDtypeStructs with shardings, and in its dtypes."""
    if self.step:
      return store.read_part(self.step, {'params': abstract})['params']
    return hf.load(self.path, self.cfg, self.config, abstract, progress)[0]

  def dtypes(self):
    """{dotted name of a parameter: dtype} as stored."""
    if self.step:
      arrays = json.loads((self.step / store.MANIFEST).read_text())['arrays']
      return {k.removeprefix('params.'): v.split('[')[0] for k, v in arrays.items() if k.startswith('params.')}
    return hf.dtypes(self.cfg, hf.open_files(self.path, self.cfg, self.config))


def open_model(path, step=None):
  """The Source at `path`; reads configs and headers only, and checks them.

  Args:
    path: directory of one of the three kinds.
    step: of a run's checkpoint; the newest intact one where None.

  Raises:
    ModelDirError: nothing of the kind, incomplete or damaged. StoreError: no such step.
  """
  path = pathlib.Path(path)
  if not (path / CHECKPOINTS).is_dir():
    if step is not None:
      raise ModelDirError(f'{path} holds no {CHECKPOINTS}, so no step {step}; leave the step out.')
    config = hf.read_config(path)
    cfg = families.from_hf(config, path / CONFIG)
    hf.open_files(path, cfg, config)
    return Source(path, cfg, families.named(config, cfg), path, None, _digest(path))
  at, manifest = store.newest(path / CHECKPOINTS, step)
  config = manifest['fingerprint'].get('model')
  if not isinstance(config, dict):
    raise ModelDirError(f'{at} does not say which model it holds; give the folder of a run, or of an imported model.')
  cfg = families.from_hf(config, at)
  return Source(path, cfg, families.named(config, cfg), _tokenizer(path), at, manifest['sha256'])


def _tokenizer(path):
  """Where the tokenizer's files lie: a run's config.json names the model it began from, which may be a run too."""
  seen = set()
  while (path / CHECKPOINTS).is_dir():
    began = hf.read_config(path).get('model')
    if not isinstance(began, dict) or not began.get('path'):
      return path
    seen.add(path.resolve())
    if not isinstance(began['path'], str) or '\0' in began['path'] or pathlib.Path(began['path']).resolve() in seen:
      raise ModelDirError(
        f'{path / CONFIG}: the model that it began from, {str(began["path"])[:200]!r}, is no path or '
        'began from this one; set model.path there to where the tokenizer lies.'
      )
    path = pathlib.Path(began['path'])
  return path


def _digest(path):
  """Of all that a directory holds: names, sizes and `pieces`."""
  found = hashlib.sha256()
  files = sorted(path.glob('*.safetensors')) + sorted(path.glob('tokenizer.*'))
  for file in (p for p in files if not p.is_dir() and modelfiles.find(p, ModelDirError)):
    found.update(f'{file.name} {file.stat().st_size}'.encode())
    for piece in pieces(file):
      found.update(piece)
  return found.hexdigest()


def pieces(file):
  """Yields a file's bytes; of one above 16 MiB 64 KiB at 256 places."""
  size, piece = file.stat().st_size, 1 << 16
  with open(file, 'rb') as f:
    for at in range(0, size, max(piece, size // 256)):
      f.seek(at)
      yield f.read(piece)
