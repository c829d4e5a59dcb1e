"""The settings of a run of `experiments/sft.py`."""

import dataclasses
import re

from r1jax.config.conversion import ConfigError, require
from r1jax.config.lora import LoRA
from r1jax.config.problems import Data
from r1jax.config.reward import Reward
from r1jax.config.rl import Checkpoint, Mesh, Model, Optimizer, require_dtypes, require_gradient_sum


@dataclasses.dataclass(frozen=True)
class SFTData:
  """The prompts and responses that a model is trained on; `r1jax.data.sft` reads them."""

  source: str  # 'jsonl', or 'chain', which generates right responses of that toy world
  max_length: int  # tokens of a packed sequence; longer texts are dropped and counted
  path: str = ''  # JSON Lines file of training texts, or a folder with train.jsonl
  eval_path: str = ''  # the same for held-out texts; '' holds out eval_fraction of `path`
  eval_fraction: float = 0.02  # share of the texts that is held out, chosen by a hash of the prompt
  # These two as in Data.
  template: str = 'chat'
  chat_template: str = ''
  response: str = '{response}'  # text of a response, with row fields in braces: '<think>{solution}</think>{answer}'
  drop: str = ''  # regular expression; what it matches is removed from all fields

  def __post_init__(self):
    require(
      self.eval_path or self.eval_fraction > 0,
      'nothing is held out: data.eval_path is empty and data.eval_fraction is 0; set one of them.',
    )
    require(
      '{' in self.response,
      f"data.response is {self.response!r}; name the fields of a row in braces, such as '{{response}}'.",
    )
    try:
      re.compile(self.drop)
    except re.error as error:
      raise ConfigError(f'data.drop {self.drop!r} is not a valid regular expression: {error}.') from error


@dataclasses.dataclass(frozen=True)
class SFTEvaluation:
  """Evaluation of a model in SFT: its loss on held-out texts, and its own responses to held-out problems."""

  every: int  # optimizer steps
  texts: int = 0  # held-out texts during the run; 0: all, as before and after the run
  problems: int = 0  # held-out problems to sample responses for; 0: none, and nothing is sampled
  samples: int = 1  # responses per problem
  final_problems: int = 0  # these two are for the evaluations before and after the run; 0: as during the run
  final_samples: int = 0
  batch: int = 16  # problems sampled at a time
  max_prompt: int = 1024  # tokens; problems with longer prompts are dropped and counted
  max_response: int = 2048  # tokens
  temperature: float = 1.0
  top_p: float = 1.0


@dataclasses.dataclass(frozen=True)
class SFT:
  """One run of `experiments/sft.py`."""

  seed: int
  epochs: float  # passes over the texts; the last optimizer step is filled up from the next pass
  batch: int  # packed sequences per optimizer step
  model: Model
  data: SFTData
  optimizer: Optimizer
  eval: SFTEvaluation
  checkpoint: Checkpoint
  problems: Data = Data(source='')  # its held-out problems are those of `eval`, with the template given here
  reward: Reward = Reward(parts={'math': 1.0, 'format': 1.0}, accuracy='math')  # grades the responses in `eval`
  context: int = 0  # context length in tokens that the trained model declares; 0: unchanged
  mesh: Mesh = Mesh()
  # These two as in RL.
  topology: str = ''
  sampler_mesh: Mesh = Mesh(*[0] * 5)
  microbatch: int = 0  # packed sequences per forward and backward pass; 0: the whole batch
  # These four as in Train.
  logit_chunk: int = 1024
  param_dtype: str = 'float32'
  grad_dtype: str = 'float32'
  balance_rate: float = 0.0
  # Weight of the loss of the layer for multi-token prediction (DeepSeek-V3: 0.3, later 0.1); 0: it is not loaded.
  mtp_coef: float = 0.0
  lora: LoRA = LoRA()

  def __post_init__(self):
    require(
      not (self.lora.rank and self.mtp_coef),
      f'mtp_coef is {self.mtp_coef}, but lora.rank is {self.lora.rank}, and the layer for multi-token prediction has '
      'no adapters; set one of them to 0.',
    )
    require(
      self.batch % (self.microbatch or self.batch) == 0,
      f'a batch of {self.batch} rows does not divide into microbatches of {self.microbatch}; '
      f'set microbatch to a divisor of {self.batch}, or 0.',
    )
    require(
      self.model.attention != 'cudnn',
      "model.attention is 'cudnn', which cannot keep the texts of a packed sequence apart; use 'auto' or 'chunked'.",
    )
    require(
      self.eval.problems == 0 or self.problems.source,
      f'eval.problems is {self.eval.problems}, but problems.source is empty; set the source of the problems, or '
      'eval.problems to 0.',
    )
    require_dtypes(self)
    if not self.lora.rank:
      require_gradient_sum(self, self.model.remat)
    self.lora.check(self.optimizer, self.balance_rate, 'balance_rate')
