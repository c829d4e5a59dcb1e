"""The settings of on-policy distillation."""

import dataclasses

from r1jax.config.conversion import require

DIVERGENCES = ('reverse_kl', 'forward_kl', 'jsd')


@dataclasses.dataclass(frozen=True)
class Distill:
  """Teachers that score every token of the policy's own responses (GKD, arXiv 2306.13649)."""

  coef: float = 0.0  # weight of the divergence from the teacher in the loss; 0: off
  objective: str = 'reverse_kl'  # one of DIVERGENCES
  path: str = ''  # the teacher of the kinds that path_by_kind does not name, as model.path; '': they have none
  path_by_kind: dict[str, str] = dataclasses.field(default_factory=dict)  # kind of problem -> its teacher; '': none
  preset: str = ''  # shape to plan for where no path is set: a key of r1jax.models.PRESETS; '': the policy's

  def __post_init__(self):
    require(self.objective in DIVERGENCES, f'distill.objective is {self.objective!r}; known: {", ".join(DIVERGENCES)}.')
    require(
      self.coef or not self.paths,
      f'distill has the teacher {next(iter(self.paths), "")}, but distill.coef is 0; set distill.coef, such as to 1.0, '
      'or leave out the teacher.',
    )

  @property
  def paths(self):
    """The paths of the teachers, each once."""
    return tuple(dict.fromkeys(path for path in (self.path, *self.path_by_kind.values()) if path))
