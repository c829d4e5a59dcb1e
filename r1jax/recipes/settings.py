"""The settings of a recipe, as frozen dataclasses; `config.convert` makes them from a config file."""

import dataclasses

from r1jax.config import require


@dataclasses.dataclass(frozen=True)
class External:
  """A stage of a recipe that stands for an existing model directory, file or folder."""

  path: str

  def __post_init__(self):
    require(self.path, 'path is empty; set it to the model directory, file or folder to use.')


@dataclasses.dataclass(frozen=True)
class ToyFiles:
  """One run of `experiments/toy_files.py`: numbers of rows of r1jax.data.toy.files."""

  seed: int
  pairs: int
  held_out_pairs: int
  answers: int


@dataclasses.dataclass(frozen=True)
class RecipeStage:
  experiment: str  # a key of experiments.recipe.EXPERIMENTS
  config: dict  # its config; a text 'stage:NAME' or 'stage:NAME/FILE' refers to the output of an earlier stage
  about: str = ''  # description for the report
  evaluation: str = ''  # key of the recipe's evaluations with which its model is evaluated; '': not at all


@dataclasses.dataclass(frozen=True)
class Comparison:
  """Compares two evaluated stages problem by problem: second minus first."""

  first: str
  second: str
  figure: str = 'correct'  # per response: 'correct', 'format', 'language', 'length' or a reward part
  kind: str = ''  # a kind of problems, or one of the recipe's groups; '': all


STUDIES = ('tasks', 'search', 'reflection')  # experiments that compare models or methods in a table of their own


@dataclasses.dataclass(frozen=True)
class Ablation:
  """What `experiments/ablation.py` compares over several seeds. A recipe without arms and studies is no ablation."""

  arms: tuple[str, ...] = ()  # RL stages to compare
  studies: tuple[str, ...] = ()  # stages of STUDIES, whose results are pooled over the seeds
  seeds: tuple[int, ...] = (0, 1, 2)
  metrics: tuple[str, ...] = ('eval/pass@1',)  # to draw and to tabulate; see docs/metrics.md
  level: float = 0.8  # the first step at which the first metric reaches it is reported

  def __post_init__(self):
    require(self.seeds, 'ablation.seeds is empty; name at least one seed.')
    require(len(set(self.seeds)) == len(self.seeds), f'ablation.seeds {self.seeds} has a seed twice.')
    require(self.metrics, 'ablation.metrics is empty; name at least one metric.')


@dataclasses.dataclass(frozen=True)
class Recipe:
  """One run of `experiments/recipe.py`."""

  seed: int  # of every stage
  stages: dict[str, RecipeStage]  # in the order in which they run
  evaluations: dict[str, dict] = dataclasses.field(default_factory=dict)  # configs of RL, without a model.path
  groups: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)  # kinds that are reported together
  comparisons: dict[str, Comparison] = dataclasses.field(default_factory=dict)
  ablation: Ablation = Ablation()

  def __post_init__(self):
    require(self.stages, 'stages is empty; name at least one.')
    for name, stage in self.stages.items():
      require(
        not set(name) & set('/. ,') and name != 'old',
        f'stages has the name {name!r}, which cannot be that of a folder in the workdir; choose another.',
      )
      require(
        not stage.evaluation or stage.evaluation in self.evaluations,
        f'stages.{name}.evaluation is {stage.evaluation!r}; known: {", ".join(self.evaluations) or "none"}.',
      )
    for key, allowed in (('arms', ('rl',)), ('studies', STUDIES)):
      for name in getattr(self.ablation, key):
        require(name in self.stages, f'ablation.{key} has {name!r}; the stages are {", ".join(self.stages)}.')
        experiment = self.stages[name].experiment
        require(
          experiment in allowed,
          f'ablation.{key} has {name!r}, whose experiment is {experiment!r}; {key} are of {" or ".join(allowed)}.',
        )
    for name, pair in self.comparisons.items():
      for side in (pair.first, pair.second):
        require(
          side in self.stages and self.stages[side].evaluation,
          f'comparisons.{name} names {side!r}, which is not a stage with an evaluation.',
        )
