"""The settings of runs of the other experiments."""

import dataclasses
import re

from r1jax.config.conversion import ConfigError, convert, require, require_float
from r1jax.config.rl import RL, Checkpoint, Data, Mesh, Model, Optimizer, Reward, Rollout


def of_run(config):
  """A ConfigDict or dict as the class of run it is for, of those that `experiments/plan.py` plans.

  Raises ConfigError, also for other runs.
  """
  require('stages' not in config, 'this is a recipe; name one of its stages, as configs/r1.py:deepseek_v3/zero.')
  require(
    not {'merge', 'gate', 'pairs'} & set(config) and set(config) != {'path'},
    'this config has no programs for a slice; RL, SFT, reward models, cold start and sampling in bulk have.',
  )
  known = {'loss': RL, 'ways': ColdStart, 'objective': RewardModel, 'rollout': Generate}  # by a key that no other has
  return convert(config, next((cls for key, cls in known.items() if key in config), SFT))


@dataclasses.dataclass(frozen=True)
class Gate:
  """What a base must have learned before RL begins, measured on held-out problems at temperature 1."""

  steps: dict[str, float]  # kind of step -> share of the base's own steps of that kind that must be right
  problems: int
  samples: int
  extra_steps: int  # trained further by these where it falls short,
  rounds: int  # at most so many times


@dataclasses.dataclass(frozen=True)
class Pretrain:
  """One run of `experiments/pretrain.py`: a base model from generated text."""

  seed: int
  world: str  # a key of r1jax.data.toy.arithmetic.WORLDS
  preset: str  # a key of r1jax.models.PRESETS; the vocabulary is the tokenizer's
  vocab: int  # ids of the tokenizer, at most
  documents: int  # texts generated
  steps: int
  batch: int  # rows
  length: int  # tokens of a row
  max_response: int  # tokens, for the gate's samples
  optimizer: Optimizer
  gate: Gate
  balance_rate: float = 0.0  # as in Train


SPLITS = ('train', 'held_out')


@dataclasses.dataclass(frozen=True)
class Generate:
  """One run of `experiments/generate.py`: samples of a policy for each problem, graded."""

  seed: int
  model: Model  # the policy; without a path it is the endpoint
  data: Data
  rollout: Rollout  # prompts: problems of one file; chunk: of those sampled at a time
  reward: Reward
  split: str = 'train'  # which of the problems: SPLITS
  problems: int = 0  # so many of them, drawn by the seed (held out: the first); 0: all, in their order
  endpoint: dict = dataclasses.field(default_factory=dict)  # options of rewards.neural.endpoint.Endpoint, its url first
  part: int = 0  # which part of the files this command makes, of `parts`: jobs that share a workdir
  parts: int = 1
  mesh: Mesh = Mesh()
  topology: str = ''  # as in RL

  def __post_init__(self):
    require(self.split in SPLITS, f'split is {self.split!r}; known: {", ".join(SPLITS)}.')
    require(0 <= self.part < self.parts, f'part {self.part} is none of {self.parts} parts; number them from 0.')


COLD_WAYS = ('few_shot', 'direct', 'readable', 'rewrite', 'traces')


@dataclasses.dataclass(frozen=True)
class ColdWay:
  """One of the ways to cold-start data, by `r1jax.recipes.coldstart`; 'traces' are responses that there are already."""

  way: str  # COLD_WAYS
  model: Model = Model('')  # the policy, or the endpoint, as in Generate
  endpoint: dict = dataclasses.field(default_factory=dict)
  rollout: Rollout = Rollout(prompts=64, samples=4, max_prompt=4096, max_response=16_384, chunk=16)  # as in Generate
  chat: bool = True  # for 'direct' and 'rewrite': with the model's own chat template around the prompt
  template: str = 'r1_zero'  # for 'readable': how the policy was trained to be asked; a key of TEMPLATES
  shots: int = 1  # for 'few_shot': examples in a prompt,
  examples: str = ''  # from JSON Lines with problem, thinking and summary; '': the wording's own, few
  drafts: str = ''  # for 'rewrite': the way whose rows are drafts, and then no rows themselves
  path: str = ''  # for 'traces': JSON Lines; for 'readable' in place of a policy: a Generate's samples
  exclude: str = ''  # for 'traces': a field that is true in rows to leave out, as of evaluation problems
  keep: int = 1  # rows of one problem, at most

  def __post_init__(self):
    require(self.way in COLD_WAYS, f'way is {self.way!r}; known: {", ".join(COLD_WAYS)}.')
    for key, ways in (('path', ('traces', 'readable')), ('drafts', ('rewrite',)), ('examples', ('few_shot',))):
      require(not getattr(self, key) or self.way in ways, f'{key} is for the way {" and ".join(ways)}, not {self.way}.')
    require(
      self.drafts or self.way != 'rewrite', "the way rewrite needs 'drafts', which is empty: whose rows are drafts?"
    )


@dataclasses.dataclass(frozen=True)
class ColdStart:
  """One run of `experiments/cold_start.py`."""

  seed: int  # the n-th way samples with seed + n
  data: Data  # problems, for ways that begin with them; its template is not used
  reward: Reward  # by which a sample is right
  ways: dict[str, ColdWay]  # by name
  split: str = 'train'  # these two as in Generate, for each way
  problems: int = 0  # of 'traces', rows
  layout: str = '<think>\n{thinking}\n</think>\n\n{summary}'  # of a response
  wording: str = 'text'  # of what is asked, a key of r1jax.recipes.wordings.WORDINGS
  language: float = 0.95  # least share of words in the problem's language, of the chain and of the summary
  shortest: int = 0  # characters of a chain
  longest: int = 0  # 0: any
  repetition: float = 0.2  # largest share of a chain's 20-grams that have occurred in it before
  paragraph: int = 0  # characters over which a chain's paragraph is broken up at sentences; 0: never
  mesh: Mesh = Mesh()
  topology: str = ''  # as in RL

  def __post_init__(self):
    require(self.ways, 'ways is empty; name at least one way to cold-start data.')
    for name, way in self.ways.items():
      others = [other for other, w in self.ways.items() if not w.drafts]
      require(
        not way.drafts or way.drafts in others,
        f'ways.{name}.drafts is {way.drafts!r}; it must be one of {", ".join(others)}.',
      )
    require(self.split in SPLITS, f'split is {self.split!r}; known: {", ".join(SPLITS)}.')
    head, between, tail = self.layout.partition('{summary}')[0].partition('{thinking}')
    require(
      head.strip() and between and tail.strip() and self.layout.count('{') == 2 and '{summary}' in self.layout,
      f'layout is {self.layout!r}; it must mark where {{thinking}} begins and ends, with {{summary}} after it.',
    )


OBJECTIVES = ('pairs', 'points', 'steps')
VIEWS = ('summary', 'whole')
STEP_RULES = ('line', 'paragraph')
FORMS = ('auto', 'chat', 'dialogue', 'bare')


@dataclasses.dataclass(frozen=True)
class RewardModelData:
  """What a reward model learns from."""

  source: str  # 'jsonl', or 'toy': generated to suit the objective
  max_length: int  # tokens of a prompt with its response; what is over is cut and counted
  path: str = ''  # JSON Lines to train on
  eval_path: str = ''  # the same, held out; '' holds out eval_fraction of path
  eval_fraction: float = 0.05  # by a hash of the prompt
  view: str = 'whole'  # what of a response is seen: VIEWS; 'summary' is the text after the thinking
  steps: str = 'line'  # what ends a step: STEP_RULES, a line's end or a blank line
  form: str = 'auto'  # how a conversation is written: FORMS; 'auto' is the model's chat template, if any
  chat_template: str = ''  # as in Data

  def __post_init__(self):
    for key, known in (('view', VIEWS), ('steps', STEP_RULES), ('form', FORMS)):
      require(getattr(self, key) in known, f'data.{key} is {getattr(self, key)!r}; known: {", ".join(known)}.')
    require(
      self.source != 'jsonl' or self.eval_path or self.eval_fraction > 0,
      'nothing is held out: data.eval_path is empty and data.eval_fraction is 0; set one of them.',
    )


@dataclasses.dataclass(frozen=True)
class RewardModelEvaluation:
  every: int  # optimizer steps
  examples: int = 0  # held-out examples scored on the way; 0: all, as at the end


@dataclasses.dataclass(frozen=True)
class RewardModel:
  """One run of `experiments/reward_model.py`."""

  seed: int
  objective: str  # OBJECTIVES: preference pairs, safe or not, steps right or wrong
  epochs: float  # passes over the examples; the last optimizer step is filled from the next pass
  batch: int  # examples (pairs, responses, solutions) of one optimizer step
  model: Model  # without a path: random, of preset's shape, with a tokenizer made from the texts
  data: RewardModelData
  optimizer: Optimizer
  eval: RewardModelEvaluation
  checkpoint: Checkpoint
  mesh: Mesh = Mesh()
  topology: str = ''  # as in RL
  microbatch: int = 0  # examples per forward and backward; 0: the whole batch
  vocab: int = 2048  # ids of a tokenizer made here, at most
  param_dtype: str = 'float32'  # these three as in Train
  grad_dtype: str = 'float32'
  balance_rate: float = 0.0

  def __post_init__(self):
    require(self.objective in OBJECTIVES, f'objective is {self.objective!r}; known: {", ".join(OBJECTIVES)}.')
    require(
      self.batch % (self.microbatch or self.batch) == 0,
      f'a batch of {self.batch} examples does not divide into microbatches of {self.microbatch}; '
      f'set microbatch to a divisor of {self.batch}, or 0.',
    )
    _require_dtypes(self)


def _require_dtypes(cfg):
  require_float('param_dtype', cfg.param_dtype)
  require(cfg.grad_dtype in ('float32', 'param'), f"grad_dtype is {cfg.grad_dtype!r}; use 'float32' or 'param'.")
  require(
    cfg.param_dtype == 'float32' or cfg.grad_dtype == 'param' or cfg.model.remat == 'none',
    f"grad_dtype 'float32' does not go with param_dtype {cfg.param_dtype!r} and model.remat "
    f"{cfg.model.remat!r}, which adds gradients up in the parameters' dtype; set grad_dtype to 'param'.",
  )


@dataclasses.dataclass(frozen=True)
class SFTData:
  """Prompts with responses to learn from: what `r1jax.data.sft` reads."""

  source: str  # 'jsonl', or 'chain': right answers of that toy world's authors
  max_length: int  # tokens of a packed row; longer texts are dropped and counted
  path: str = ''  # JSON Lines, or a folder with train.jsonl, to train on
  eval_path: str = ''  # the same, held out; '' holds out eval_fraction of path
  eval_fraction: float = 0.02  # by a hash of the prompt
  template: str = 'chat'  # as in Data, and chat_template too
  chat_template: str = ''
  response: str = '{response}'  # fields of a row by name, as '<think>{solution}</think>{answer}'
  drop: str = ''  # a regular expression; what it matches goes out of all fields

  def __post_init__(self):
    require(
      self.eval_path or self.eval_fraction > 0,
      'nothing is held out: data.eval_path is empty and data.eval_fraction is 0; set one of them.',
    )
    require(
      '{' in self.response,
      f"data.response is {self.response!r}; name the fields of a row in braces, as '{{response}}'.",
    )
    try:
      re.compile(self.drop)
    except re.error as error:
      raise ConfigError(f'data.drop {self.drop!r} is no regular expression: {error}.') from error


@dataclasses.dataclass(frozen=True)
class SFTEvaluation:
  """How a model is tested while it learns to imitate: by the loss of held-out texts, and by its own answers."""

  every: int  # optimizer steps
  texts: int = 0  # held-out texts on the way; 0: all, as before and after the run
  problems: int = 0  # held-out problems to answer; 0: none, nothing is sampled
  samples: int = 1  # answers to each
  final_problems: int = 0  # before and after the run; 0: the same as problems
  final_samples: int = 0
  batch: int = 16  # problems at a time
  max_prompt: int = 1024  # tokens; longer prompts are dropped and counted
  max_response: int = 2048
  temperature: float = 1.0
  top_p: float = 1.0


@dataclasses.dataclass(frozen=True)
class SFT:
  """One run of `experiments/sft.py`."""

  seed: int
  epochs: float  # passes over the texts; the last optimizer step is filled from the next pass
  batch: int  # packed rows of one optimizer step
  model: Model
  data: SFTData
  optimizer: Optimizer
  eval: SFTEvaluation
  checkpoint: Checkpoint
  problems: Data = Data(source='')  # whose held-out problems are answered, asked by its own template
  reward: Reward = Reward(parts={'math': 1.0, 'format': 1.0}, accuracy='math')  # grades the answers
  context: int = 0  # tokens that the model is from now on made for; 0: as it was
  mesh: Mesh = Mesh()
  topology: str = ''  # these two as in RL
  sampler_mesh: Mesh = Mesh(*[0] * 5)
  microbatch: int = 0  # packed rows per forward and backward; 0: the whole batch
  logit_chunk: int = 1024  # these four as in Train
  param_dtype: str = 'float32'
  grad_dtype: str = 'float32'
  balance_rate: float = 0.0

  def __post_init__(self):
    require(
      self.batch % (self.microbatch or self.batch) == 0,
      f'a batch of {self.batch} rows does not divide into microbatches of {self.microbatch}; '
      f'set microbatch to a divisor of {self.batch}, or 0.',
    )
    require(
      self.model.attention != 'cudnn',
      "model.attention is 'cudnn', which cannot keep the texts of a packed row apart; use 'auto' or 'chunked'.",
    )
    require(
      self.eval.problems == 0 or self.problems.source,
      f'eval.problems is {self.eval.problems}, but problems.source is empty; name where they come from, or set '
      'eval.problems to 0.',
    )
    _require_dtypes(self)


@dataclasses.dataclass(frozen=True)
class Filters:
  """What a text to learn from must not be; see r1jax/recipes/filters.py. 0 takes a filter away."""

  form: str = 'r1'  # of a response: r1jax.rewards.text.form's, or '' for any
  special: str = '|special_token|'  # of form 'special'
  language: float = 0.95  # least share of the chain's words in the language of the problem
  paragraph: int = 300  # most words of a line of the chain, Chinese characters counting as words
  code: bool = False  # whether a chain may hold code blocks
  repetition: float = 0.1  # most share of n-grams that occurred before in the response
  repetition_ngram: int = 20  # words
  near: float = 0.8  # similarity (Jaccard) from which both problem and response are near duplicates
  near_ngram: int = 5  # words

  def __post_init__(self):
    require(
      self.form in ('', 'r1', 'r1_zero', 'special'),
      f"filters.form is {self.form!r}; known: r1, r1_zero, special, or '' for any.",
    )
    require(self.special, "filters.special is empty; give the text of the token, such as '|special_token|'.")


@dataclasses.dataclass(frozen=True)
class MergedSource:
  """Rows to learn from that were not sampled here."""

  path: str  # a dataset's folder, or JSON Lines
  limit: int = 0  # rows kept, at most, the first; 0: all
  kind: str = ''  # of rows that name none
  language: str = ''


@dataclasses.dataclass(frozen=True)
class Curate:
  """One run of `experiments/curate.py`: from samples to a dataset to learn from."""

  samples: str  # of experiments/generate.py: its workdir, a folder of shards or a file; '': none
  per_prompt: int  # samples kept of one problem, at most
  name: str = 'reasoning'  # of the dataset
  version: str = '1.0.0'
  filters: Filters = Filters()
  judge: dict = dataclasses.field(default_factory=dict)  # options of the reward 'judge', for
  judged: tuple[str, ...] = ()  # the kinds of problem whose samples it decides; a rule has decided on the others
  merge: dict[str, MergedSource] = dataclasses.field(default_factory=dict)  # name of a source -> rows
  evaluation: tuple[str, ...] = ()  # JSON Lines of problems, or generated worlds (r1jax.data.SOURCES), to stay out
  window: int = 50  # letters of an n-gram by which these are found
  overlap: float = 0.5  # share of an evaluation problem's n-grams from which a text holds it
  chunk: int = 500  # lines between two saves
  shard: int = 10_000  # rows of an array_record file
  workers: int = 1  # processes that look at texts

  def __post_init__(self):
    require(
      re.fullmatch('[a-z][a-z0-9_]*', self.name),
      f'name is {self.name!r}; use small letters, digits and _, as the files take it.',
    )
    require(
      re.fullmatch(r'[0-9]+\.[0-9]+\.[0-9]+', self.version),
      f"version is {self.version!r}; it must be three numbers, such as '1.0.0'.",
    )
    require(
      bool(self.judge) == bool(self.judged),
      f'judged is {list(self.judged)} and judge has {len(self.judge)} options; give both, or neither.',
    )
    require('samples' not in self.merge, "merge names a source 'samples', which is what is sampled; call it otherwise.")
