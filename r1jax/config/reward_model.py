"""The settings of a run of `experiments/reward_model.py`."""

import dataclasses

from r1jax.config.conversion import require
from r1jax.config.reward import Reward
from r1jax.config.rl import Checkpoint, Mesh, Model, Optimizer, Rollout, require_dtypes, require_gradient_sum

OBJECTIVES = ('pairs', 'points', 'steps')
VIEWS = ('summary', 'whole')
STEP_RULES = ('line', 'paragraph')
FORMS = ('auto', 'chat', 'dialogue', 'bare')
ESTIMATES = ('soft', 'hard')


@dataclasses.dataclass(frozen=True)
class RewardModelData:
  """The examples that a reward model is trained on."""

  # 'jsonl'; 'samples', graded ones of experiments.generate, for 'points': whether a response is right; or 'toy', which
  # generates examples for the objective.
  source: str
  max_length: int  # tokens of a prompt with its response; longer ones are cut and counted
  path: str = ''  # of training examples: a JSON Lines file, or a workdir of experiments.generate
  eval_path: str = ''  # the same for held-out examples; '' holds out eval_fraction of `path`
  eval_fraction: float = 0.05  # share of the examples that is held out, chosen by a hash of the prompt
  view: str = 'whole'  # what the model sees of a response: one of VIEWS; 'summary' is the text after the thinking
  steps: str = 'line'  # what separates steps: one of STEP_RULES, that is a line break or a blank line
  form: str = 'auto'  # how a conversation is written: one of FORMS; 'auto' uses the model's chat template, if any
  chat_template: str = ''  # as in Data

  def __post_init__(self):
    for key, known in (('view', VIEWS), ('steps', STEP_RULES), ('form', FORMS)):
      require(getattr(self, key) in known, f'data.{key} is {getattr(self, key)!r}; known: {", ".join(known)}.')
    require(
      self.source == 'toy' or self.eval_path or self.eval_fraction > 0,
      'nothing is held out: data.eval_path is empty and data.eval_fraction is 0; set one of them.',
    )


@dataclasses.dataclass(frozen=True)
class RewardModelEvaluation:
  every: int  # optimizer steps
  examples: int = 0  # held-out examples scored during the run; 0: all, as at the end


@dataclasses.dataclass(frozen=True)
class RewardModel:
  """One run of `experiments/reward_model.py`."""

  seed: int
  # One of OBJECTIVES: 'pairs' (which of two responses is preferred), 'points' (whether a response is safe, or right) or
  # 'steps' (whether each step is right).
  objective: str
  epochs: float  # passes over the examples; the last optimizer step is filled up from the next pass
  batch: int  # examples (pairs, responses or solutions) per optimizer step
  model: Model  # without a path: random weights in the shape of model.preset, and a tokenizer trained on the examples
  data: RewardModelData
  optimizer: Optimizer
  eval: RewardModelEvaluation
  checkpoint: Checkpoint
  mesh: Mesh = Mesh()
  topology: str = ''  # as in RL
  microbatch: int = 0  # examples per forward and backward pass; 0: the whole batch
  vocab: int = 2048  # maximum vocabulary size of a tokenizer that is trained here
  # These three as in Train.
  param_dtype: str = 'float32'
  grad_dtype: str = 'float32'
  balance_rate: float = 0.0

  def __post_init__(self):
    require(self.objective in OBJECTIVES, f'objective is {self.objective!r}; known: {", ".join(OBJECTIVES)}.')
    require(
      self.batch % (self.microbatch or self.batch) == 0,
      f'a batch of {self.batch} examples does not divide into microbatches of {self.microbatch}; '
      f'set microbatch to a divisor of {self.batch}, or 0.',
    )
    require_dtypes(self)
    require_gradient_sum(self, self.model.remat)


@dataclasses.dataclass(frozen=True)
class LabelSteps:
  """One run of `experiments/label_steps.py`, which labels the steps of solutions by rollouts of a policy."""

  seed: int
  input: str  # JSON Lines file of solutions in steps, or a workdir of experiments.generate
  model: Model  # the policy
  # samples: rollouts from each step; chunk: how many steps are continued at a time; prompts: solutions that are written
  # at a time. max_prompt counts the tokens of a problem together with its steps.
  rollout: Rollout
  reward: Reward  # its accuracy part decides whether a rollout is right
  template: str = 'plain'  # prompt template: a key of r1jax.templates.TEMPLATES
  per_problem: int = 0  # of samples: how many different responses to a problem are labelled; 0: all
  steps: str = 'line'  # what separates steps: one of STEP_RULES
  opening: str = ''  # of solutions in steps: text of the response before its first step, such as '<think> '
  between: str = ''  # of solutions in steps: text of the response after each step; '': the separator of `steps`
  estimate: str = 'soft'  # 'soft': the share of right rollouts; 'hard': whether any is right

  def __post_init__(self):
    for key, known in (('steps', STEP_RULES), ('estimate', ESTIMATES)):
      require(getattr(self, key) in known, f'{key} is {getattr(self, key)!r}; known: {", ".join(known)}.')
    r = self.rollout
    require(
      not r.stop and not r.weight_dtype and not r.cache_dtype and not r.slots,
      'rollout.stop, weight_dtype, cache_dtype and slots have no effect on step labels; leave them out.',
    )
