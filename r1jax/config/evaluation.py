"""The settings of an evaluation by tasks, which `experiments/evaluate.py` runs."""

import dataclasses
import difflib

from r1jax.config.conversion import convert, require
from r1jax.config.problems import Rows
from r1jax.config.reward import Reward
from r1jax.config.rl import RL, Mesh, Model, Rollout


@dataclasses.dataclass(frozen=True)
class FewShot:
  """Solved examples before each problem."""

  count: int = 0
  # JSON Lines file that they come from, with rows as those of the task; '': the training problems of a source that
  # generates its own. The first ones are taken: of the problem's own value of the task's `split`, where the rows have
  # that field, and never one with the problem's own text.
  path: str = ''
  response: str = '{answer}'  # the text that answers an example, with row fields in braces


@dataclasses.dataclass(frozen=True)
class Task(Rows):
  """Problems, and how responses to them are graded."""

  template: str = 'chat'  # prompt template: a key of r1jax.templates.TEMPLATES
  grader: str = 'math'  # decides whether a response is right: a reward, as in reward.parts
  options: dict = dataclasses.field(default_factory=dict)  # keyword arguments of its function
  threshold: float = 1.0  # lowest score that counts as right
  samples: int = 0  # k, responses to each problem; 0: rollout.samples
  problems: int = 0  # how many, chosen by a hash; 0: all
  max_response: int = 0  # tokens; 0: rollout.max_response
  few_shot: FewShot = FewShot()
  split: str = ''  # field of a problem by whose values results are also given, such as 'language'; '': none

  def reward(self, workers=1, timeout=5.0):
    """The config.Reward of the task. workers, timeout: as there."""
    return Reward(
      parts={self.grader: 1.0},
      accuracy=self.grader,
      options={self.grader: self.options},
      thresholds={self.grader: self.threshold},
      workers=workers,
      timeout=timeout,
    )


@dataclasses.dataclass(frozen=True)
class TaskRollout(Rollout):
  """As in RL, with the paper's sampling. Records are written after each `prompts` problems; `samples` is for tasks that
  do not say how many.
  """

  temperature: float = 0.6  # 0: greedy
  top_p: float = 0.95


@dataclasses.dataclass(frozen=True)
class Evaluate:
  """One run of `experiments/evaluate.py` with tasks."""

  seed: int
  model: Model  # its path is that of the one model to evaluate, or empty where `models` names several
  rollout: TaskRollout
  tasks: dict[str, Task]
  # label -> path. Runs of several seeds, as paths with commas between them, are one model: run n samples with seed + n.
  models: dict[str, str] = dataclasses.field(default_factory=dict)
  only: tuple[str, ...] = ()  # names of the tasks to run; (): all
  folder: str = ''  # in which relative paths of tasks lie
  chat_template: str = ''  # as in Data
  # These two as in Reward.
  workers: int = 1
  timeout: float = 5.0
  mesh: Mesh = Mesh()

  def __post_init__(self):
    require(self.tasks, 'tasks is empty; name at least one, as configs/evaluation.py does.')
    require(not (self.model.path and self.models), 'model.path and models are both set; set only one of the two.')
    for label, path in self.models.items():
      require(all(path.split(',')), f'models.{label} is {path!r}; name a model, or several with commas between them.')
    for name in self.only:
      nearest = difflib.get_close_matches(name, self.tasks, n=1, cutoff=0)[0]
      require(name in self.tasks, f"only has {name!r}, which is no task; the nearest known one is '{nearest}'.")
    for key in ('tasks', 'models'):
      for name in getattr(self, key):
        require(
          not set(name) & set('/ ,') and name.strip('.'),
          f'{key} has the name {name!r}, which cannot be that of a file; choose another.',
        )
    for name, task in self.chosen().items():
      require(
        task.few_shot.count or not task.few_shot.path,
        f'tasks.{name}.few_shot has 0 examples and the path {task.few_shot.path!r}; set count too, or leave out path.',
      )
      task.reward(self.workers, self.timeout)  # a limit on tests above the timeout is refused here

  def chosen(self):
    """{name: Task} of the tasks to run."""
    return {name: task for name, task in self.tasks.items() if name in (self.only or self.tasks)}

  def runs(self):
    """{label: paths of its runs}."""
    return {label: path.split(',') for label, path in (self.models or {'model': self.model.path}).items()}

  def rollout_of(self, task):
    """The config.TaskRollout of a Task."""
    return dataclasses.replace(
      self.rollout,
      samples=task.samples or self.rollout.samples,
      max_response=task.max_response or self.rollout.max_response,
    )


def of_evaluation(config):
  """Converts a ConfigDict or dict to an Evaluate if it has tasks, else to the RL whose policy is to be evaluated."""
  return convert(config, Evaluate if 'tasks' in config else RL)
