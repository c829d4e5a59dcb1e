"""Every setting of a recipe, as frozen dataclasses; `config.convert` makes them of a config file."""

import dataclasses

from r1jax.config import require


@dataclasses.dataclass(frozen=True)
class External:
  """A stage of a recipe that makes nothing: a model directory or a file from outside."""

  path: str

  def __post_init__(self):
    require(self.path, 'path is empty; name the model directory, file or folder that is to be used.')


@dataclasses.dataclass(frozen=True)
class ToyFiles:
  """One run of `experiments/toy_files.py`: rows of r1jax.data.toy.files."""

  seed: int
  pairs: int
  held_out_pairs: int
  answers: int


@dataclasses.dataclass(frozen=True)
class RecipeStage:
  experiment: str  # a key of experiments.recipe.EXPERIMENTS
  config: dict  # its config; a text 'stage:NAME' or 'stage:NAME/FILE' is what an earlier stage made
  about: str = ''  # what it is, for the report
  evaluation: str = ''  # a key of the recipe's evaluations: how the model it makes is evaluated; '': not


@dataclasses.dataclass(frozen=True)
class Comparison:
  """Of two evaluated stages, problem by problem: the second less the first."""

  first: str
  second: str
  figure: str = 'correct'  # of a response: 'correct', 'format', 'language', 'length' or a reward part
  kind: str = ''  # of problems, or one of the recipe's groups; '': all


@dataclasses.dataclass(frozen=True)
class Recipe:
  """One run of `experiments/recipe.py`."""

  seed: int  # of every stage
  stages: dict[str, RecipeStage]  # in the order in which they run
  evaluations: dict[str, dict] = dataclasses.field(default_factory=dict)  # configs of RL, without a model.path
  groups: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)  # kinds shown together
  comparisons: dict[str, Comparison] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    require(self.stages, 'stages is empty; name at least one.')
    for name, stage in self.stages.items():
      require(not set(name) & set('/. ,') and name != 'old', f'{name!r} is no name of a stage: it becomes a folder.')
      require(
        not stage.evaluation or stage.evaluation in self.evaluations,
        f'stages.{name}.evaluation is {stage.evaluation!r}; known: {", ".join(self.evaluations) or "none"}.',
      )
    for name, pair in self.comparisons.items():
      for side in (pair.first, pair.second):
        require(
          side in self.stages and self.stages[side].evaluation,
          f'comparisons.{name} names {side!r}, which is no stage with an evaluation.',
        )
