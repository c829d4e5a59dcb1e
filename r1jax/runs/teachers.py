"""Opens the teachers of on-policy distillation, and says which of them scores which problem."""

import dataclasses

import numpy as np

from r1jax import checkpoint
from r1jax import config as config_lib
from r1jax.config import require
from r1jax.rewards.mix import kind_of
from r1jax.training import distill


@dataclasses.dataclass(frozen=True)
class Teachers:
  """The teachers of a run.

  Attributes:
    cfg: config.Distill. sources: checkpoint.Source of each, in the order of cfg.paths.
  """

  cfg: config_lib.Distill
  sources: tuple[checkpoint.Source, ...]

  @property
  def models(self):
    return [source.cfg for source in self.sources]

  @property
  def names(self):
    """A name of each: the kinds that it scores."""
    scored = {'default': self.cfg.path} | dict(self.cfg.path_by_kind)
    return ['+'.join(kind for kind, of in scored.items() if of == path) for path in self.cfg.paths]

  def of(self, problems):
    """i32[P], the index of each problem's teacher, -1 for none."""
    number = {path: k for k, path in enumerate(self.cfg.paths)}
    path = lambda problem: self.cfg.path_by_kind.get(kind_of(problem) or '', self.cfg.path)
    return np.array([number.get(path(problem), -1) for problem in problems], np.int32)

  def load(self, model, cfg, mesh):
    """Their parameters as `distill.Teaching` reads them. model: ModelConfig of the policy. cfg: config.RL."""
    return {'teachers': [distill.load(source, model, cfg, mesh) for source in self.sources]}

  def identity(self):
    """What a checkpoint must agree on with the run that restores it."""
    digest = {path: source.digest for path, source in zip(self.cfg.paths, self.sources, strict=True)} | {'': ''}
    kinds = {kind: digest[path] for kind, path in self.cfg.path_by_kind.items()}
    settings = {'coef': self.cfg.coef, 'objective': self.cfg.objective}
    return settings | {'default': digest[self.cfg.path], 'by_kind': kinds}


def open_teachers(cfg, policy, tokenizer, problems):
  """The Teachers of a config.RL; None for a run without distillation.

  Args:
    policy: checkpoint.Source. tokenizer: its tokenizer. problems: those of training.

  Raises:
    ConfigError: there is no teacher, one cannot score the policy's tokens, or no problem is of a kind that has one.
    ModelDirError: there is no model.
  """
  if not cfg.distill.coef:
    return None
  require(
    cfg.distill.paths,
    f'distill.coef is {cfg.distill.coef}, but there is no teacher; pass its model directory with '
    '--config.distill.path=DIR, or set distill.coef to 0.',
  )
  _check_kinds(cfg.distill, problems)
  teachers = Teachers(cfg.distill, tuple(map(checkpoint.open_model, cfg.distill.paths)))
  for source in teachers.sources:
    require(
      source.cfg.head == 'tokens',
      f'{source.path} is a reward model, which gives no distribution over tokens; a teacher must be a policy.',
    )
    _check_tokenizer(source, tokenizer, policy)
    config_lib.check_context(cfg.rollout, source.cfg.context, model=f'the teacher {source.path}')
  return teachers


def _check_kinds(cfg, problems):
  kinds = {kind_of(problem) or '' for problem in problems} - {''}
  unknown = [kind for kind in cfg.path_by_kind if kind not in kinds]
  require(
    not unknown,
    f'distill.path_by_kind names the kind {", ".join(unknown)}, of which there is no training problem; the kinds in '
    f'the data are: {", ".join(sorted(kinds)) or "none"}.',
  )


def _check_tokenizer(source, tokenizer, policy):
  """Refuses a teacher for whom a token id stands for another text."""
  ids, own = source.load_tokenizer().ids, tokenizer.ids
  if ids == own:
    return
  token = min((t for t in ids.keys() | own.keys() if ids.get(t) != own.get(t)), key=lambda t: (own.get(t, 1 << 31), t))
  where = lambda of: f'has the id {of[token]}' if token in of else 'does not exist'
  require(
    False,
    f"{source.path} has another tokenizer than the policy {policy.path}: {token!r} {where(ids)} in the teacher's and "
    f"{where(own)} in the policy's. A teacher scores the policy's own tokens; pass one with the same tokenizer.",
  )
