"""The settings of the runs that make base models and data: pretraining, sampling, cold-start data, curation."""

import dataclasses
import re

from r1jax.config.conversion import convert, require
from r1jax.config.problems import Data
from r1jax.config.reward import Reward
from r1jax.config.reward_model import RewardModel
from r1jax.config.rl import RL, Mesh, Model, Optimizer, Rollout
from r1jax.config.sft import SFT


def of_run(config):
  """Converts a ConfigDict or dict to the settings class of its run, if `experiments/plan.py` can plan that run.

  Raises:
    ConfigError: the run cannot be planned, or the settings cannot work.
  """
  require('stages' not in config, 'this is a recipe; name one of its stages, such as configs/r1.py:deepseek_v3/zero.')
  require(
    not {'merge', 'gate', 'pairs', 'tasks'} & set(config) and set(config) != {'path'},
    'this run has no accelerator programs to plan; use a config of RL, SFT, a reward model, cold-start data or '
    'sampling (generate).',
  )
  # Each class has a key that no other class has.
  classes = {'loss': RL, 'ways': ColdStart, 'objective': RewardModel, 'rollout': Generate}
  return convert(config, next((cls for key, cls in classes.items() if key in config), SFT))


@dataclasses.dataclass(frozen=True)
class Gate:
  """What a base model must have learned before RL starts, measured on held-out problems at temperature 1."""

  steps: dict[str, float]  # kind of step -> share of the model's own steps of that kind that must be right
  problems: int
  samples: int  # responses per problem
  extra_steps: int  # optimizer steps to train further if the model falls short
  rounds: int  # how many times, at most


@dataclasses.dataclass(frozen=True)
class Pretrain:
  """One run of `experiments/pretrain.py`, which trains a base model on generated text."""

  seed: int
  world: str  # one of r1jax.data.toy.worlds.WORLDS
  preset: str  # model shape: a key of r1jax.models.PRESETS; the vocabulary size is the tokenizer's
  vocab: int  # maximum vocabulary size of the tokenizer
  documents: int  # texts to generate
  steps: int
  batch: int  # sequences per step
  length: int  # tokens of a sequence
  max_response: int  # tokens of a response sampled for the gate
  optimizer: Optimizer
  gate: Gate
  balance_rate: float = 0.0  # as in Train


SPLITS = ('train', 'held_out')


@dataclasses.dataclass(frozen=True)
class Generate:
  """One run of `experiments/generate.py`, which samples and grades responses of a policy."""

  seed: int
  model: Model  # the policy; without a path the endpoint is the policy
  data: Data
  rollout: Rollout  # prompts: problems per output file; chunk: how many of them are sampled at a time
  reward: Reward
  split: str = 'train'  # which problems: one of SPLITS
  problems: int = 0  # how many, drawn with the seed (from held_out: the first ones); 0: all, in order
  endpoint: dict = dataclasses.field(default_factory=dict)  # options of rewards.neural.endpoint.Endpoint, url included
  # Jobs that share a workdir: this job writes share number `part` (from 0) of `parts` shares of the files.
  part: int = 0
  parts: int = 1
  mesh: Mesh = Mesh()
  topology: str = ''  # as in RL

  def __post_init__(self):
    require(self.split in SPLITS, f'split is {self.split!r}; known: {", ".join(SPLITS)}.')
    require(0 <= self.part < self.parts, f'part {self.part} must be below parts {self.parts}; number the parts from 0.')


COLD_WAYS = ('few_shot', 'direct', 'readable', 'rewrite', 'traces')


@dataclasses.dataclass(frozen=True)
class ColdWay:
  """One way to make cold-start data (see `r1jax.recipes.coldstart`); 'traces' takes existing responses."""

  way: str  # one of COLD_WAYS
  # These two as in Generate.
  model: Model = Model('')
  endpoint: dict = dataclasses.field(default_factory=dict)
  rollout: Rollout = Rollout(prompts=64, samples=4, max_prompt=4096, max_response=16_384, chunk=16)  # as in Generate
  chat: bool = True  # 'direct' and 'rewrite': put the model's own chat template around the prompt
  # 'readable': the prompt template that the policy was trained with, a key of r1jax.templates.TEMPLATES.
  template: str = 'r1_zero'
  shots: int = 1  # 'few_shot': examples in a prompt
  # 'few_shot': JSON Lines file of examples with problem, thinking and summary; '': the few examples of the wording.
  examples: str = ''
  drafts: str = ''  # 'rewrite': name of the way whose rows are the drafts; they are then not rows of the result
  path: str = ''  # 'traces': JSON Lines file; 'readable': samples of Generate to use instead of a policy
  exclude: str = ''  # 'traces': rows in which this field is true are left out, such as evaluation problems
  keep: int = 1  # maximum number of rows per problem

  def __post_init__(self):
    require(self.way in COLD_WAYS, f'way is {self.way!r}; known: {", ".join(COLD_WAYS)}.')
    for key, ways in (('path', ('traces', 'readable')), ('drafts', ('rewrite',)), ('examples', ('few_shot',))):
      require(not getattr(self, key) or self.way in ways, f'{key} is for the way {" and ".join(ways)}, not {self.way}.')
    require(
      self.drafts or self.way != 'rewrite',
      "the way 'rewrite' has an empty 'drafts'; name the way whose rows are the drafts.",
    )


@dataclasses.dataclass(frozen=True)
class ColdStart:
  """One run of `experiments/cold_start.py`."""

  seed: int  # way number n samples with seed + n
  data: Data  # the problems, for ways that start from problems; its template is not used
  reward: Reward  # decides which samples are right
  ways: dict[str, ColdWay]  # name -> way
  # These two as in Generate, for each way; of 'traces', `problems` is the number of rows.
  split: str = 'train'
  problems: int = 0
  layout: str = '<think>\n{thinking}\n</think>\n\n{summary}'  # of a response
  wording: str = 'text'  # how the policy is prompted: a key of r1jax.recipes.wordings.WORDINGS
  language: float = 0.95  # lowest share of words in the problem's language, in the thinking and in the summary
  shortest: int = 0  # minimum length of the thinking in characters
  longest: int = 0  # maximum length of the thinking in characters; 0: unlimited
  repetition: float = 0.2  # highest share of 20-grams of the thinking that occurred earlier in it
  paragraph: int = 0  # longer paragraphs of the thinking, in characters, are split at sentence ends; 0: never
  mesh: Mesh = Mesh()
  topology: str = ''  # as in RL

  def __post_init__(self):
    require(self.ways, 'ways is empty; name at least one way to make cold-start data.')
    sources = [name for name, way in self.ways.items() if not way.drafts]
    for name, way in self.ways.items():
      require(
        not way.drafts or way.drafts in sources,
        f'ways.{name}.drafts is {way.drafts!r}; it must be one of {", ".join(sources)}.',
      )
    require(self.split in SPLITS, f'split is {self.split!r}; known: {", ".join(SPLITS)}.')
    before, between, after = self.layout.partition('{summary}')[0].partition('{thinking}')
    require(
      before.strip() and between and after.strip() and self.layout.count('{') == 2 and '{summary}' in self.layout,
      f'layout is {self.layout!r}; it must have a text before {{thinking}}, a text after it, and then {{summary}}.',
    )


@dataclasses.dataclass(frozen=True)
class Filters:
  """Which samples are dropped from training data (see r1jax/recipes/filters.py); 0 turns a filter off."""

  form: str = 'r1'  # required form of a response (see r1jax.rewards.text.form); '': any
  special: str = '|special_token|'  # the token of the form 'special'
  language: float = 0.95  # lowest share of the thinking's words that are in the problem's language
  paragraph: int = 300  # maximum number of words in a line of the thinking; a Chinese character counts as a word
  code: bool = False  # whether the thinking may contain code blocks
  repetition: float = 0.1  # highest share of n-grams that occurred earlier in the response
  repetition_ngram: int = 20  # words
  near: float = 0.8  # near duplicates: both problem and response have at least this Jaccard similarity
  near_ngram: int = 5  # words

  def __post_init__(self):
    require(
      self.form in ('', 'r1', 'r1_zero', 'special'),
      f"filters.form is {self.form!r}; known: r1, r1_zero, special, or '' for any.",
    )
    require(self.special, "filters.special is empty; give the text of the token, such as '|special_token|'.")


@dataclasses.dataclass(frozen=True)
class MergedSource:
  """Training rows from elsewhere, to be merged with the samples."""

  path: str  # folder of a dataset, or a JSON Lines file
  limit: int = 0  # keeps only the first rows, at most this many; 0: all
  # For rows without these fields.
  kind: str = ''
  language: str = ''


@dataclasses.dataclass(frozen=True)
class Curate:
  """One run of `experiments/curate.py`, which makes a training dataset from samples."""

  samples: str  # samples of experiments/generate.py: its workdir, a folder of shards or a file; '': none
  per_prompt: int  # maximum number of samples kept per problem
  name: str = 'reasoning'  # of the dataset
  version: str = '1.0.0'
  filters: Filters = Filters()
  # Options of the reward 'judge'. It decides on samples for the kinds of problem in `judged`; rules have already
  # decided on the others.
  judge: dict = dataclasses.field(default_factory=dict)
  judged: tuple[str, ...] = ()
  merge: dict[str, MergedSource] = dataclasses.field(default_factory=dict)  # name of a source -> its rows
  # Evaluation sets for decontamination: JSON Lines files of problems, or generated worlds (keys of r1jax.data.SOURCES).
  evaluation: tuple[str, ...] = ()
  window: int = 50  # n-gram length in letters for decontamination
  overlap: float = 0.5  # a text contains an evaluation problem if it has at least this share of the problem's n-grams
  chunk: int = 500  # lines processed between two saves
  shard: int = 10_000  # rows per array_record file
  workers: int = 1  # processes that filter texts

  def __post_init__(self):
    require(
      re.fullmatch('[a-z][a-z0-9_]*', self.name),
      f'name is {self.name!r}; use lowercase letters, digits and _, as it becomes a file name.',
    )
    require(
      re.fullmatch(r'[0-9]+\.[0-9]+\.[0-9]+', self.version),
      f"version is {self.version!r}; it must be three numbers, such as '1.0.0'.",
    )
    require(
      bool(self.judge) == bool(self.judged),
      f'judged is {list(self.judged)} and judge has {len(self.judge)} options; set both, or neither.',
    )
    require(
      'samples' not in self.merge, "merge has a source named 'samples', which is the name of the samples; rename it."
    )
