"""The settings of a run of `experiments/reflection.py`."""

import dataclasses

from r1jax.config.conversion import require
from r1jax.config.problems import Data
from r1jax.config.reward import Reward
from r1jax.config.reward_model import STEP_RULES
from r1jax.config.rl import Mesh, Model, Rollout


@dataclasses.dataclass(frozen=True)
class Reflection:
  """What reflection is worth to several models, such as a base and what RL has made of it."""

  seed: int
  model: Model  # its path is that of the one model, or empty where `models` names several
  data: Data  # the held-out problems are asked, or all if none are held out
  # prompts: problems of a file of samples; samples: responses to each; slots: rows decoded at a time. Its temperature
  # has no effect.
  rollout: Rollout
  reward: Reward  # its accuracy part, a rule, decides what is right
  temperatures: tuple[float, ...] = (0.6, 1.0)
  models: dict[str, str] = dataclasses.field(default_factory=dict)  # label -> path
  problems: int = 128  # how many; 0: all
  closing: str = '\n</think>\n'  # closes the thinking before `opening`, where it is open
  opening: str = '\nThe final answer is \\boxed{'  # makes a model answer at once
  answer_tokens: int = 32  # the most tokens of such an answer
  answer_stop: tuple[str, ...] = ('\n', '</answer>')  # strings that end it
  tries: int = 4  # continuations of which the first that does not reflect at once counts
  steps: str = 'line'  # what ends a step: one of STEP_RULES
  mesh: Mesh = Mesh()

  def __post_init__(self):
    require(not (self.model.path and self.models), 'model.path and models are both set; set only one of the two.')
    for label in self.models:
      require(not set(label) & set('/. ,'), f'models has the name {label!r}, which cannot be that of a folder.')
    require(
      self.temperatures and min(self.temperatures) >= 0,
      f'temperatures is {self.temperatures}; name at least one, none below 0.',
    )
    require(
      len(set(self.temperatures)) == len(self.temperatures), f'temperatures {self.temperatures} has one of them twice.'
    )
    require(self.steps in STEP_RULES, f'steps is {self.steps!r}; known: {", ".join(STEP_RULES)}.')
    require(self.rollout.slots, 'rollout.slots is 0; set how many rows are decoded at a time, such as 32.')
    require(self.opening, 'opening is empty; write what makes the model answer, such as "<answer>".')

  def paths(self):
    """{label: path} of the models."""
    return self.models or {'model': self.model.path}
