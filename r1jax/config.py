"""Every setting of a run, as frozen dataclasses, and the one conversion from a config file to them.

A file under `configs/` builds an `ml_collections.ConfigDict`; `convert` turns it into the classes
below once, before anything compiles. A key that no class declares is an error that names the
nearest known one, a wrong type is an error, and each class refuses impossible combinations.
"""
import dataclasses
import difflib
import re
import types
import typing


class ConfigError(ValueError):
  """A setting that cannot work; the message says which, with the numbers, and what to do."""


def require(ok, message):
  if not ok:
    raise ConfigError(message)


def require_float(name, value):
  require(value in ('float32', 'bfloat16'), f"{name} is {value!r}; use 'float32' or 'bfloat16'.")


# 'none' keeps everything; 'full' a layer's input only; the others that and attention's result, or its inputs too.
REMAT = ('none', 'full', 'attention', 'qkv')
ATTENTION = ('auto', 'xla', 'chunked', 'splash', 'cudnn')


@dataclasses.dataclass(frozen=True)
class Model:
  path: str                       # a Hugging Face directory, an imported model or a run's folder
  dtype: str = 'float32'          # of the computation; see train.param_dtype
  remat: str = 'none'             # what each layer keeps for the backward pass: REMAT
  attention: str = 'auto'         # without a cache: ATTENTION; 'auto' goes by platform and length
  preset: str = ''                # shapes to plan for without a path: a key of r1jax.models.PRESETS

  def __post_init__(self):
    require(self.dtype in ('float32', 'bfloat16'), f"model.dtype is {self.dtype!r}; use 'float32' or 'bfloat16'.")
    for key, known in (('remat', REMAT), ('attention', ATTENTION)):
      require(getattr(self, key) in known, f'model.{key} is {getattr(self, key)!r}; known: {", ".join(known)}.')


@dataclasses.dataclass(frozen=True)
class Part:
  """Problems of one sort in a mixture."""
  source: str                     # these five as in Data
  path: str = ''
  eval_path: str = ''
  eval_fraction: float = 0.05
  name: str = ''
  weight: float = 1.0             # of a step's prompts, against the other parts'; 0 leaves the part out, unread
  begin: int = 0                  # step from which on it is drawn
  kind: str = ''                  # of all its problems; '': each one's own, or else the part's name
  language: str = ''              # the same for the target of language consistency; where none is named, data.language
  template: str = ''              # in place of data.template
  answers: bool = True            # False: its rows need no 'answer'
  problem: str = ''               # the problem as a text with places for a row's fields, as '{problem}\n{asserts}'
  fields: dict[str, str] = dataclasses.field(default_factory=dict)  # a row's name of a field -> ours
  only: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)  # field -> values; path's rows with others
  eval_only: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)  # or, here, eval_path's are left out

  def __post_init__(self):
    require(0 <= self.weight < float('inf') and self.begin >= 0,
            f'a part of data.parts has weight {self.weight} and begin {self.begin}; neither may be negative.')
    require(0 <= self.eval_fraction < 1, f'eval_fraction of a part is {self.eval_fraction}; it must lie in [0, 1).')


@dataclasses.dataclass(frozen=True)
class Data:
  source: str                     # a key of r1jax.data.SOURCES: 'jsonl', 'tfds', a toy world; or 'mixture', of parts
  path: str = ''                  # file or TFDS data_dir of the training problems
  eval_path: str = ''             # the same for held-out problems; '' holds out eval_fraction of path
  eval_fraction: float = 0.05     # by a hash of the problem's text
  name: str = ''                  # TFDS builder name where source is 'tfds'
  template: str = 'plain'         # a key of r1jax.templates.TEMPLATES
  chat_template: str = ''         # a key of r1jax.tokenizers.CHAT_TEMPLATES in place of the model's own; '': its own
  language: str = 'en'            # target of language consistency, for problems that name none
  parts: dict[str, Part] = dataclasses.field(default_factory=dict)  # of source 'mixture'

  def __post_init__(self):
    require(0 <= self.eval_fraction < 1, f'data.eval_fraction is {self.eval_fraction}; it must lie in [0, 1).')
    if self.source != 'mixture':
      require(not self.parts, f"data.parts names {', '.join(self.parts)}, but data.source is {self.source!r}; "
                              "set it to 'mixture'.")
      return
    require(not self.path and not self.eval_path,
            f'data.path {self.path or self.eval_path!r} would not be read: a mixture has data.parts.')
    require(any(part.weight for part in self.parts.values()),
            "data.source is 'mixture', but data.parts holds no part with a weight; name some.")
    begins = [part.begin for part in self.parts.values() if part.weight]
    require(min(begins) == 0, f'no part of the mixture is drawn before step {min(begins)}; let one begin at 0.')


@dataclasses.dataclass(frozen=True)
class Rollout:
  prompts: int                    # distinct problems in one rollout
  samples: int                    # G, responses to each
  max_prompt: int                 # tokens; longer prompts are dropped and counted
  max_response: int               # tokens
  temperature: float = 1.0
  top_p: float = 1.0
  top_k: int = 0                  # 0: off
  min_p: float = 0.0
  stop: tuple[str, ...] = ()      # strings that end a response
  chunk: int = 0                  # prompts sampled at a time while workers grade the ones before; 0: all

  def __post_init__(self):
    require(self.samples >= 1 and self.prompts >= 1,
            f'rollout.prompts {self.prompts} and rollout.samples {self.samples} must be positive.')
    require(self.max_prompt > 0 and self.max_response > 0,
            f'rollout.max_prompt {self.max_prompt} and rollout.max_response {self.max_response} must be positive.')
    require(self.temperature > 0, f'rollout.temperature is {self.temperature}; training samples need a positive one.')
    require(0 < self.top_p <= 1, f'rollout.top_p is {self.top_p}; it must lie in (0, 1].')
    require(0 <= self.min_p < 1, f'rollout.min_p is {self.min_p}; it must lie in [0, 1).')
    require(self.top_k >= 0, f'rollout.top_k is {self.top_k}; use 0 for no limit.')
    require(self.chunk == 0 or self.chunk > 0 and self.prompts % self.chunk == 0,
            f'rollout.prompts {self.prompts} does not divide into chunks of {self.chunk}; '
            'set rollout.chunk to a divisor.')


@dataclasses.dataclass(frozen=True)
class Reward:
  parts: dict[str, float]         # name of a reward (a key of r1jax.rewards.REWARDS, or of uses) -> weight
  accuracy: str                   # the part that says whether a response is right; '': none but routes' own
  options: dict[str, dict] = dataclasses.field(default_factory=dict)  # part -> keyword arguments of its function
  gates: tuple[str, ...] = ()     # parts whose scores multiply the weighted sum
  step_credit: float = 0.0        # weight of the part 'process' as credit by step in the advantage; 0: none
  workers: int = 1                # processes that grade
  timeout: float = 5.0            # seconds for one response, after which it scores 0
  overlong_buffer: int = 0        # tokens before max_response over which DAPO's soft punishment grows; 0: off
  # Problems of several kinds. A route's parts take the place of the part `accuracy`, for problems of its kind alone;
  # a route may give another one of `parts` another weight. Where a route has several parts of its own, or none,
  # accuracies names the one that says whether a response is right ('': none can).
  routes: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)  # kind -> {part: weight}
  accuracies: dict[str, str] = dataclasses.field(default_factory=dict)           # kind -> part
  bars: dict[str, float] = dataclasses.field(default_factory=dict)  # part -> score from which on it is right; others: 1
  uses: dict[str, str] = dataclasses.field(default_factory=dict)    # part -> the reward that it is, if of another name
  begin: dict[str, int] = dataclasses.field(default_factory=dict)   # part -> first step in which it counts; others: 0

  def __post_init__(self):
    require(self.parts or self.routes, 'reward.parts is empty; name at least one reward and its weight.')
    require(self.accuracy in self.parts or not self.accuracy and self.routes,
            f'reward.accuracy is {self.accuracy!r}, which is none of reward.parts ({", ".join(self.parts)}).')
    known = f'reward.parts ({", ".join(self.parts)})' + (' or of reward.routes' if self.routes else '')
    for key in ('options', 'gates', 'bars', 'uses', 'begin'):
      for name in getattr(self, key):
        require(name in self.names(), f'reward.{key} names {name!r}, which is none of {known}; '
                                      'add it there, with weight 0 if it is to add nothing.')
    self._check_kinds()
    require(self.step_credit == 0 or self.step_credit > 0 and 'process' in self.names(),
            f"reward.step_credit is {self.step_credit}; it must not be negative, and needs 'process' among "
            f'{known}, with weight 0 if its one score is to add nothing.')
    require(self.workers >= 1, f'reward.workers is {self.workers}; it must be at least 1.')
    require(self.timeout > 0, f'reward.timeout is {self.timeout} s; it must be positive.')
    for name in self.names():
      limit = self.options.get(name, {}).get('time_limit', 5.0) if self.function(name) == 'code' else 0
      require(not isinstance(limit, (int, float)) or limit < self.timeout,
              f"reward.timeout of {self.timeout} s ends a response's grading, but one test of {name!r} alone may take "
              f'{limit} s; set reward.timeout above the time of all its tests, such as 60.')

  def _check_kinds(self):
    for kind, name in self.accuracies.items():
      require(not name or name in self.weights(kind), f'reward.accuracies names {name!r} for problems of kind '
              f'{kind!r}, whose parts are {", ".join(self.weights(kind))}.')
    for kind in self.routes:
      own = self._own(kind)
      require(len(own) == 1 or kind in self.accuracies,
              f'reward.routes.{kind} has {len(own)} parts of its own{" (" if own else ""}{", ".join(own)}'
              f"{')' if own else ''}; say in reward.accuracies.{kind} which one is right or wrong ('' for none).")
    for name, step in self.begin.items():
      require(step >= 0, f'reward.begin.{name} is {step}; it must be a step, from 0 on.')

  def names(self):
    """Every part, of reward.parts or a route; a list."""
    return list(dict.fromkeys([*self.parts, *(name for route in self.routes.values() for name in route)]))

  def function(self, name):
    """The reward that a part is: a key of r1jax.rewards.REWARDS or NEURAL, or module:function."""
    return self.uses.get(name, name)

  def weights(self, kind=None):
    """The parts of a problem of a kind, and their weights: {name: float}."""
    if kind not in self.routes:
      return dict(self.parts)
    return {name: w for name, w in self.parts.items() if name != self.accuracy} | dict(self.routes[kind])

  def accuracy_of(self, kind=None):
    """The part that says whether a response to a problem of a kind is right; '' where none can."""
    if kind in self.accuracies:
      return self.accuracies[kind]
    return self._own(kind)[0] if kind in self.routes else self.accuracy

  def _own(self, kind):
    return [name for name in self.routes[kind] if name not in self.parts or name == self.accuracy]


@dataclasses.dataclass(frozen=True)
class Loss:
  name: str                       # a key of r1jax.losses.LOSSES
  advantage: str = 'group'        # a key of r1jax.losses.ADVANTAGES
  clip_low: float = 0.2
  clip_high: float = 0.2
  dual_clip: float = 0.0          # lower bound c of the objective where A < 0; 0: off
  kl_coef: float = 0.0
  kl_estimator: str = 'k3'        # 'k1', 'k2', 'k3'
  kl_place: str = 'loss'          # 'loss' or 'reward'
  tis_cap: float = 0.0            # cap of the trainer/sampler importance weight; 0: off
  entropy_coef: float = 0.0       # bonus, subtracted from the loss
  resample_limit: int = 0         # DAPO's dynamic sampling: extra rollouts a step may draw; 0: off

  def __post_init__(self):
    require(self.kl_estimator in ('k1', 'k2', 'k3'),
            f"loss.kl_estimator is {self.kl_estimator!r}; use 'k1', 'k2' or 'k3'.")
    require(self.kl_place in ('loss', 'reward'), f"loss.kl_place is {self.kl_place!r}; use 'loss' or 'reward'.")
    require(self.clip_low >= 0 and self.clip_high >= 0,
            f'loss.clip_low {self.clip_low} and loss.clip_high {self.clip_high} must not be negative.')
    require(self.dual_clip == 0 or self.dual_clip > 1,
            f'loss.dual_clip is {self.dual_clip}; it must exceed 1, or be 0 for off.')
    require(self.kl_coef >= 0, f'loss.kl_coef is {self.kl_coef}; it must not be negative.')


@dataclasses.dataclass(frozen=True)
class Optimizer:
  learning_rate: float
  schedule: str = 'constant'      # 'constant', 'linear', 'cosine'
  warmup: int = 0                 # optimizer steps
  final_fraction: float = 0.0     # of learning_rate at the last step, for 'linear' and 'cosine'
  b1: float = 0.9
  b2: float = 0.95
  eps: float = 1e-8
  weight_decay: float = 0.0
  grad_clip: float = 1.0          # global norm; 0: off
  name: str = 'adam'              # 'adam', or 'muon' for matrices with Adam for the rest
  moment_dtype: str = 'float32'   # of the kept moments; their arithmetic is float32

  def __post_init__(self):
    require(self.schedule in ('constant', 'linear', 'cosine'),
            f"optimizer.schedule is {self.schedule!r}; use 'constant', 'linear' or 'cosine'.")
    require(self.name in ('adam', 'muon'), f"optimizer.name is {self.name!r}; use 'adam' or 'muon'.")
    require_float('optimizer.moment_dtype', self.moment_dtype)
    # bfloat16 holds 8 bits: a moment that moves by less than 2^-9 of itself a step would stay where it is.
    require(self.moment_dtype == 'float32' or max(self.b1, self.b2) <= 0.99,
            f"optimizer.b1 {self.b1} and optimizer.b2 {self.b2} must not exceed 0.99 with moment_dtype 'bfloat16', "
            "which rounds smaller changes away; use 'float32'.")
    require(self.learning_rate > 0, f'optimizer.learning_rate is {self.learning_rate}; it must be positive.')


@dataclasses.dataclass(frozen=True)
class Train:
  minibatches: int = 1            # optimizer steps per rollout, over whole groups
  microbatch: int = 0             # responses per forward and backward; 0: the whole minibatch
  length_slices: int = 1          # each group is cut by length into so many, padded apart: long tails cost less
  epochs: int = 1                 # passes over one rollout
  logit_chunk: int = 1024         # positions whose logits exist at one time
  balance_rate: float = 0.0       # of a mixture's correction biases, an optimizer step (DeepSeek-V3: 1e-3); 0: frozen
  reference_refresh: int = 0      # steps between copies of the policy into the reference; 0: never
  param_dtype: str = 'float32'    # of the kept parameters, but routers'; an update below 2^-9 of a bfloat16 one is lost
  grad_dtype: str = 'float32'     # in which microbatches' gradients are added up; 'param': the parameters'
  reference_dtype: str = 'float32'  # of the reference policy's parameters
  reference_memory: str = 'device'  # where they lie between uses: 'device' or 'host'

  def __post_init__(self):
    for name in ('param_dtype', 'reference_dtype'):
      require_float(f'train.{name}', getattr(self, name))
    require(self.reference_memory in ('device', 'host'),
            f"train.reference_memory is {self.reference_memory!r}; use 'device' or 'host'.")
    require(self.grad_dtype in ('float32', 'param'),
            f"train.grad_dtype is {self.grad_dtype!r}; use 'float32' or 'param'.")
    require(self.minibatches >= 1 and self.epochs >= 1,
            f'train.minibatches {self.minibatches} and train.epochs {self.epochs} must be positive.')
    require(self.microbatch >= 0, f'train.microbatch is {self.microbatch}; use 0 for the whole minibatch.')
    require(self.length_slices >= 1 and self.logit_chunk >= 1,
            f'train.length_slices {self.length_slices} and train.logit_chunk {self.logit_chunk} must be positive.')
    require(self.balance_rate >= 0, f'train.balance_rate is {self.balance_rate}; use 0 to freeze the biases.')


@dataclasses.dataclass(frozen=True)
class Evaluation:
  every: int                      # steps
  problems: int                   # held-out problems
  samples: int                    # k of pass@1, cons@k and any@k
  final_problems: int = 0         # for the evaluations before and after the run; 0: the same as problems
  final_samples: int = 0
  temperature: float = 1.0
  top_p: float = 1.0

  def __post_init__(self):
    require(self.every >= 1 and self.problems >= 1 and self.samples >= 1,
            f'eval.every {self.every}, eval.problems {self.problems} and eval.samples {self.samples} must be positive.')


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  every: int                      # steps
  keep: int = 2                   # newest ones kept
  keep_every: int = 0             # steps of those kept for good; 0: none

  def __post_init__(self):
    require(self.every >= 1 and self.keep >= 2,
            f'checkpoint.every {self.every} must be at least 1 and checkpoint.keep {self.keep} at least 2: '
            'a damaged newest one needs one before it.')


@dataclasses.dataclass(frozen=True)
class Mesh:
  data: int = 1
  fsdp: int = -1                  # -1 fills with the devices left over
  expert: int = 1                 # splits the experts of a layer, and the batch
  tp: int = 1
  seq: int = 1                    # splits the tokens of a row, but for decoding


@dataclasses.dataclass(frozen=True)
class RL:
  """One run of `experiments/rl.py`."""
  seed: int
  steps: int
  model: Model
  data: Data
  rollout: Rollout
  reward: Reward
  loss: Loss
  optimizer: Optimizer
  train: Train
  eval: Evaluation
  checkpoint: Checkpoint
  mesh: Mesh = Mesh()
  topology: str = ''              # TPU slice that the mesh was planned for, as 'v5e:4x4'; for experiments/plan.py
  sampler_mesh: Mesh = Mesh(*[0] * 5)  # the same devices, for sampling; 0: as in mesh

  def __post_init__(self):
    r, u = self.rollout, self.train
    total = r.prompts * r.samples
    require(r.samples > 1 or self.loss.advantage == 'none',
            f'rollout.samples is {r.samples}: a group of one has no advantage ({self.loss.advantage!r}); '
            'set rollout.samples to 2 or more.')
    require(r.prompts % u.minibatches == 0,
            f'{total} samples a rollout ({r.prompts} prompts x {r.samples}) do not divide into {u.minibatches} '
            f'minibatches of whole groups; set rollout.prompts to a multiple of {u.minibatches}.')
    require(r.samples % u.length_slices == 0,
            f'{r.samples} samples a prompt do not divide into {u.length_slices} length slices; '
            'set train.length_slices to a divisor.')
    if u.microbatch:
      mini, part = total // u.minibatches, r.samples // u.length_slices
      require(mini % u.microbatch == 0,
              f'a minibatch of {mini} samples does not divide into microbatches of {u.microbatch}; '
              f'set train.microbatch to a divisor of {mini}.')
      require(u.microbatch % part == 0 or part % u.microbatch == 0,
              f'train.microbatch {u.microbatch} neither divides nor is a multiple of the {part} samples of a prompt '
              f'that stay together (rollout.samples {r.samples} / train.length_slices {u.length_slices}); '
              'choose one that does.')
    require(u.param_dtype == 'float32' or u.grad_dtype == 'param' or self.model.remat == 'none',
            f"train.grad_dtype 'float32' does not go with train.param_dtype {u.param_dtype!r} and model.remat "
            f"{self.model.remat!r}, which adds gradients up in the parameters' dtype; set train.grad_dtype to 'param'.")
    require(not (self.reward.step_credit and self.loss.name == 'gspo'),
            "reward.step_credit gives each token its own advantage, but loss.name 'gspo' has one ratio for a response; "
            "use 'grpo', 'dr_grpo', 'dapo' or 'reinforce'.")
    require(self.reward.overlong_buffer < r.max_response,
            f'reward.overlong_buffer {self.reward.overlong_buffer} must be below '
            f'rollout.max_response {r.max_response}.')


def check_context(rollout, context, name='rollout'):
  """Raises ConfigError where prompt and response together exceed the model's context (tokens)."""
  need = rollout.max_prompt + rollout.max_response
  require(need <= context,
          f'{name}.max_prompt {rollout.max_prompt} + {name}.max_response {rollout.max_response} = {need} '
          f"tokens exceed the model's context of {context}; lower {name}.max_response by {need - context}.")


def convert(config, cls=RL, at=''):
  """Turns a ConfigDict (or nested dict) into the frozen dataclass `cls`.

  Raises ConfigError for an unknown key (naming the nearest), a missing key, a wrong type, and
  whatever a class's own checks refuse.
  """
  fields = {f.name: f for f in dataclasses.fields(cls)}
  for key in config:
    if key not in fields:
      near = difflib.get_close_matches(key, fields, n=1, cutoff=0)
      raise ConfigError(f"unknown key '{at}{key}'; the nearest known one is '{at}{near[0]}'.")
  hints = typing.get_type_hints(cls)
  values = {}
  for name, field in fields.items():
    if name in config:
      values[name] = _value(config[name], hints[name], at + name)
    elif field.default is field.default_factory is dataclasses.MISSING:
      raise ConfigError(f"'{at}{name}' is missing; it has no default.")
  return cls(**values)


def _value(value, want, at):
  if dataclasses.is_dataclass(want):
    require(hasattr(value, 'items'), f"'{at}' is {value!r}; it must hold the keys of {want.__name__}.")
    return convert(value, want, at + '.')
  origin = typing.get_origin(want)
  if origin is dict:
    _, inner = typing.get_args(want)
    require(hasattr(value, 'items'), f"'{at}' is {value!r}; it must map names to {inner.__name__}s.")
    return types.MappingProxyType({k: _value(v, inner, f'{at}.{k}') for k, v in value.items()})
  if origin is tuple:
    inner = typing.get_args(want)[0]
    require(isinstance(value, (tuple, list)), f"'{at}' is {value!r}; it must be a list of {inner.__name__}s.")
    return tuple(_value(v, inner, at) for v in value)
  if want is dict:
    require(hasattr(value, 'items'), f"'{at}' is {value!r}; it must map names to values.")
    return {k: _value(v, dict, f'{at}.{k}') if hasattr(v, 'items') else v for k, v in value.items()}
  if want is float and isinstance(value, int) and not isinstance(value, bool):
    return float(value)
  if not isinstance(value, want) or (isinstance(value, bool) and want is not bool):
    raise ConfigError(f"'{at}' is {value!r} ({type(value).__name__}); it must be of type {want.__name__}.")
  return value


def of_run(config):
  """A ConfigDict or dict as the class of run it is for, RL or SFT, which `experiments/plan.py` plans alike."""
  return convert(config, RL if 'rollout' in config else SFT)


def to_dict(config):
  """The plain nested dict of a converted config, for JSON."""
  if dataclasses.is_dataclass(config):
    return {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
  if isinstance(config, (dict, types.MappingProxyType)):
    return {k: to_dict(v) for k, v in config.items()}
  if isinstance(config, tuple):
    return [to_dict(v) for v in config]
  return config


@dataclasses.dataclass(frozen=True)
class Gate:
  """What a base must have learned before RL begins, measured on held-out problems at temperature 1."""
  steps: dict[str, float]         # kind of step -> share of the base's own steps of that kind that must be right
  problems: int
  samples: int
  extra_steps: int                # trained further by these where it falls short,
  rounds: int                     # at most so many times


@dataclasses.dataclass(frozen=True)
class Pretrain:
  """One run of `experiments/pretrain.py`: a base model from generated text."""
  seed: int
  world: str                      # a key of r1jax.data.toy.WORLDS
  preset: str                     # a key of r1jax.models.PRESETS; the vocabulary is the tokenizer's
  vocab: int                      # ids of the tokenizer, at most
  documents: int                  # texts generated
  steps: int
  batch: int                      # rows
  length: int                     # tokens of a row
  max_response: int               # tokens, for the gate's samples
  optimizer: Optimizer
  gate: Gate
  balance_rate: float = 0.0       # as in Train


SPLITS = ('train', 'held_out')


@dataclasses.dataclass(frozen=True)
class Generate:
  """One run of `experiments/generate.py`: samples of a policy for each problem, graded."""
  seed: int
  model: Model                    # the policy; without a path it is the endpoint
  data: Data
  rollout: Rollout                # prompts: problems of one file; chunk: of those sampled at a time
  reward: Reward
  split: str = 'train'            # which of the problems: SPLITS
  problems: int = 0               # so many of them, drawn by the seed (held out: the first); 0: all, in their order
  endpoint: dict = dataclasses.field(default_factory=dict)  # options of rewards.neural.endpoint.Endpoint, its url first
  part: int = 0                   # which part of the files this command makes, of `parts`: jobs that share a workdir
  parts: int = 1
  mesh: Mesh = Mesh()

  def __post_init__(self):
    require(self.split in SPLITS, f'split is {self.split!r}; known: {", ".join(SPLITS)}.')
    require(self.problems >= 0, f'problems is {self.problems}; use 0 for all.')
    require(0 <= self.part < self.parts, f'part {self.part} is none of {self.parts} parts; number them from 0.')


COLD_WAYS = ('few_shot', 'direct', 'readable', 'rewrite', 'traces')


@dataclasses.dataclass(frozen=True)
class ColdWay:
  """One of the ways to cold-start data, by `r1jax.recipes.coldstart`; 'traces' are responses that there are already."""
  way: str                        # COLD_WAYS
  model: Model = Model('')        # the policy, or the endpoint, as in Generate
  endpoint: dict = dataclasses.field(default_factory=dict)
  rollout: Rollout = Rollout(prompts=64, samples=4, max_prompt=4096, max_response=16_384, chunk=16)  # as in Generate
  chat: bool = True               # for 'direct' and 'rewrite': with the model's own chat template around the prompt
  template: str = 'r1_zero'       # for 'readable': how the policy was trained to be asked; a key of TEMPLATES
  shots: int = 1                  # for 'few_shot': examples in a prompt,
  examples: str = ''              # from JSON Lines with problem, thinking and summary; '': the wording's own
  of: str = ''                    # for 'rewrite': the way whose rows are drafts, and then no rows themselves
  path: str = ''                  # for 'traces': JSON Lines; for 'readable' in place of a policy: a Generate's samples
  without: str = ''               # for 'traces': a field that is true in rows to leave out, as of evaluation problems
  keep: int = 1                   # rows of one problem, at most

  def __post_init__(self):
    require(self.way in COLD_WAYS, f'way is {self.way!r}; known: {", ".join(COLD_WAYS)}.')
    for key, ways in (('path', ('traces', 'readable')), ('of', ('rewrite',)), ('examples', ('few_shot',))):
      require(not getattr(self, key) or self.way in ways, f'{key} is for the way {" and ".join(ways)}, not {self.way}.')
    require(self.of or self.way != 'rewrite', "the way rewrite needs 'of', which is empty: whose rows are drafts?")
    require(self.keep >= 1 and self.shots >= 0,
            f'keep {self.keep} must be positive and shots {self.shots} not negative.')


@dataclasses.dataclass(frozen=True)
class ColdStart:
  """One run of `experiments/cold_start.py`."""
  seed: int                       # the n-th way samples with seed + n
  data: Data                      # problems, for ways that begin with them; its template is not used
  reward: Reward                  # by which a sample is right
  ways: dict[str, ColdWay]        # by name
  split: str = 'train'            # these two as in Generate, for each way
  problems: int = 0
  layout: str = '<think>\n{thinking}\n</think>\n\n{summary}'  # of a response
  wording: str = 'text'           # of what is asked, a key of r1jax.recipes.wordings.WORDINGS
  language: float = 0.95          # least share of words in the problem's language, of the chain and of the summary
  shortest: int = 0               # characters of a chain
  longest: int = 0                # 0: any
  repetition: float = 0.2         # largest share of a chain's 20-grams that have occurred in it before
  paragraph: int = 0              # characters over which a chain's paragraph is broken up at sentences; 0: never
  mesh: Mesh = Mesh()

  def __post_init__(self):
    require(self.ways, 'ways is empty; name at least one way to cold-start data.')
    for name, way in self.ways.items():
      others = [other for other, w in self.ways.items() if not w.of]
      require(not way.of or way.of in others, f'ways.{name}.of is {way.of!r}; it must be one of {", ".join(others)}.')
    require(self.split in SPLITS, f'split is {self.split!r}; known: {", ".join(SPLITS)}.')
    head, between, tail = self.layout.partition('{summary}')[0].partition('{thinking}')
    require(head.strip() and between and tail.strip() and self.layout.count('{') == 2 and '{summary}' in self.layout,
            f'layout is {self.layout!r}; it must mark where {{thinking}} begins and ends, with {{summary}} after it.')


OBJECTIVES = ('pairs', 'points', 'steps')
VIEWS = ('summary', 'whole')
STEP_RULES = ('line', 'paragraph')
FORMS = ('auto', 'chat', 'dialogue', 'bare')


@dataclasses.dataclass(frozen=True)
class Labelled:
  """What a reward model learns from."""
  source: str                     # 'jsonl', or 'toy': generated to suit the objective
  max_length: int                 # tokens of a prompt with its response; what is over is cut and counted
  path: str = ''                  # JSON Lines to train on
  eval_path: str = ''             # the same, held out; '' holds out eval_fraction of path
  eval_fraction: float = 0.05     # by a hash of the prompt
  view: str = 'whole'             # what of a response is seen: VIEWS; 'summary' is the text after the thinking
  steps: str = 'line'             # what ends a step: STEP_RULES, a line's end or a blank line
  form: str = 'auto'              # how a conversation is written: FORMS; 'auto' is the model's chat template, if any
  chat_template: str = ''         # as in Data

  def __post_init__(self):
    for key, known in (('view', VIEWS), ('steps', STEP_RULES), ('form', FORMS)):
      require(getattr(self, key) in known, f'data.{key} is {getattr(self, key)!r}; known: {", ".join(known)}.')
    require(self.max_length >= 8, f'data.max_length is {self.max_length} tokens; it must be at least 8.')
    require(0 <= self.eval_fraction < 1, f'data.eval_fraction is {self.eval_fraction}; it must lie in [0, 1).')
    require(self.source != 'jsonl' or self.eval_path or self.eval_fraction > 0,
            'nothing is held out: data.eval_path is empty and data.eval_fraction is 0; set one of them.')


@dataclasses.dataclass(frozen=True)
class HeldOut:
  every: int                      # optimizer steps
  examples: int = 0               # held-out examples scored on the way; 0: all, as at the end

  def __post_init__(self):
    require(self.every >= 1 and self.examples >= 0,
            f'eval.every {self.every} must be positive and eval.examples {self.examples} not negative.')


@dataclasses.dataclass(frozen=True)
class RewardModel:
  """One run of `experiments/reward_model.py`."""
  seed: int
  objective: str                  # OBJECTIVES: preference pairs, safe or not, steps right or wrong
  epochs: float                   # passes over the examples; the last optimizer step is filled from the next pass
  batch: int                      # examples (pairs, responses, solutions) of one optimizer step
  model: Model                    # without a path: random, of preset's shape, with a tokenizer made from the texts
  data: Labelled
  optimizer: Optimizer
  eval: HeldOut
  checkpoint: Checkpoint
  mesh: Mesh = Mesh()
  microbatch: int = 0             # examples per forward and backward; 0: the whole batch
  vocab: int = 2048               # ids of a tokenizer made here, at most
  param_dtype: str = 'float32'    # these three as in Train
  grad_dtype: str = 'float32'
  balance_rate: float = 0.0

  def __post_init__(self):
    require(self.objective in OBJECTIVES, f'objective is {self.objective!r}; known: {", ".join(OBJECTIVES)}.')
    require(self.epochs > 0 and self.batch >= 1, f'epochs {self.epochs} and batch {self.batch} must be positive.')
    require(self.microbatch >= 0 and self.batch % (self.microbatch or self.batch) == 0,
            f'a batch of {self.batch} examples does not divide into microbatches of {self.microbatch}; '
            f'set microbatch to a divisor of {self.batch}, or 0.')
    require(self.vocab >= 300, f'vocab is {self.vocab}; a tokenizer needs 256 bytes and more: at least 300.')
    _require_dtypes(self)


def _require_dtypes(cfg):
  require_float('param_dtype', cfg.param_dtype)
  require(cfg.grad_dtype in ('float32', 'param'), f"grad_dtype is {cfg.grad_dtype!r}; use 'float32' or 'param'.")
  require(cfg.param_dtype == 'float32' or cfg.grad_dtype == 'param' or cfg.model.remat == 'none',
          f"grad_dtype 'float32' does not go with param_dtype {cfg.param_dtype!r} and model.remat "
          f"{cfg.model.remat!r}, which adds gradients up in the parameters' dtype; set grad_dtype to 'param'.")


@dataclasses.dataclass(frozen=True)
class Imitated:
  """Prompts with responses to learn from: what `r1jax.data.sft` reads."""
  source: str                     # 'jsonl', or 'chain': right answers of that toy world's authors
  max_length: int                 # tokens of a packed row; longer texts are dropped and counted
  path: str = ''                  # JSON Lines, or a folder with train.jsonl, to train on
  eval_path: str = ''             # the same, held out; '' holds out eval_fraction of path
  eval_fraction: float = 0.02     # by a hash of the prompt
  template: str = 'chat'          # as in Data, and chat_template too
  chat_template: str = ''
  response: str = '{response}'    # fields of a row by name, as '<think>{solution}</think>{answer}'
  drop: str = ''                  # a regular expression; what it matches goes out of all fields

  def __post_init__(self):
    require(self.max_length >= 8, f'data.max_length is {self.max_length} tokens; it must be at least 8.')
    require(0 <= self.eval_fraction < 1, f'data.eval_fraction is {self.eval_fraction}; it must lie in [0, 1).')
    require(self.eval_path or self.eval_fraction > 0,
            'nothing is held out: data.eval_path is empty and data.eval_fraction is 0; set one of them.')
    require('{' in self.response, f'data.response is {self.response!r}; name the fields of a row in braces, as '
            "'{response}'.")
    try:
      re.compile(self.drop)
    except re.error as error:
      raise ConfigError(f'data.drop {self.drop!r} is no regular expression: {error}.') from error


@dataclasses.dataclass(frozen=True)
class Tested:
  """How a model is tested while it learns to imitate: by the loss of held-out texts, and by its own answers."""
  every: int                      # optimizer steps
  texts: int = 0                  # held-out texts on the way; 0: all, as before and after the run
  problems: int = 0               # held-out problems to answer; 0: none, nothing is sampled
  samples: int = 1                # answers to each
  final_problems: int = 0         # before and after the run; 0: the same as problems
  final_samples: int = 0
  batch: int = 16                 # problems at a time
  max_prompt: int = 1024          # tokens; longer prompts are dropped and counted
  max_response: int = 2048
  temperature: float = 1.0
  top_p: float = 1.0

  def __post_init__(self):
    require(self.every >= 1 and self.samples >= 1 and self.batch >= 1,
            f'eval.every {self.every}, eval.samples {self.samples} and eval.batch {self.batch} must be positive.')
    require(self.texts >= 0 and self.problems >= 0,
            f'eval.texts {self.texts} and eval.problems {self.problems} must not be negative.')


@dataclasses.dataclass(frozen=True)
class SFT:
  """One run of `experiments/sft.py`."""
  seed: int
  epochs: float                   # passes over the texts; the last optimizer step is filled from the next pass
  batch: int                      # packed rows of one optimizer step
  model: Model
  data: Imitated
  optimizer: Optimizer
  eval: Tested
  checkpoint: Checkpoint
  problems: Data = Data(source='')  # whose held-out problems are answered, asked by its own template
  reward: Reward = Reward(parts={'math': 1.0, 'format': 1.0}, accuracy='math')  # grades the answers
  context: int = 0                # tokens that the model is from now on made for; 0: as it was
  mesh: Mesh = Mesh()
  topology: str = ''              # these two as in RL
  sampler_mesh: Mesh = Mesh(*[0] * 5)
  microbatch: int = 0             # packed rows per forward and backward; 0: the whole batch
  logit_chunk: int = 1024         # these four as in Train
  param_dtype: str = 'float32'
  grad_dtype: str = 'float32'
  balance_rate: float = 0.0

  def __post_init__(self):
    require(self.epochs > 0 and self.batch >= 1, f'epochs {self.epochs} and batch {self.batch} must be positive.')
    require(self.microbatch >= 0 and self.batch % (self.microbatch or self.batch) == 0,
            f'a batch of {self.batch} rows does not divide into microbatches of {self.microbatch}; '
            f'set microbatch to a divisor of {self.batch}, or 0.')
    require(self.logit_chunk >= 1, f'logit_chunk is {self.logit_chunk}; it must be positive.')
    require(self.model.attention != 'cudnn', "model.attention is 'cudnn', which cannot keep the texts of a packed row "
            "apart; use 'auto' or 'chunked'.")
    require(self.eval.problems == 0 or self.problems.source,
            f'eval.problems is {self.eval.problems}, but problems.source is empty; name where they come from, or set '
            'eval.problems to 0.')
    _require_dtypes(self)


@dataclasses.dataclass(frozen=True)
class Filters:
  """What a text to learn from must not be; see r1jax/recipes/filters.py. 0 takes a filter away."""
  form: str = 'r1'                # of a response: r1jax.rewards.form's, or '' for any
  special: str = '|special_token|'  # of form 'special'
  language: float = 0.95          # least share of the chain's words in the language of the problem
  paragraph: int = 300            # most words of a line of the chain, Chinese characters counting as words
  code: bool = False              # whether a chain may hold code blocks
  repetition: float = 0.1         # most share of n-grams that occurred before in the response
  repetition_ngram: int = 20      # words
  near: float = 0.8               # similarity (Jaccard) from which both problem and response are near duplicates
  near_ngram: int = 5             # words

  def __post_init__(self):
    require(self.form in ('', 'r1', 'r1_zero', 'special'),
            f"filters.form is {self.form!r}; known: r1, r1_zero, special, or '' for any.")
    require(self.special, "filters.special is empty; give the text of the token, such as '|special_token|'.")
    for key in ('language', 'repetition'):
      require(0 <= getattr(self, key) <= 1, f'filters.{key} is {getattr(self, key)}; it must lie in [0, 1].')
    require(self.near == 0 or 0.7 <= self.near <= 1,
            f'filters.near is {self.near}; it must lie in [0.7, 1], below which not all are found, or be 0 for off.')
    require(self.paragraph >= 0 and min(self.repetition_ngram, self.near_ngram) >= 1,
            f'filters.paragraph {self.paragraph} must not be negative, and n-grams ({self.repetition_ngram}, '
            f'{self.near_ngram} words) must have a word at least.')


@dataclasses.dataclass(frozen=True)
class Merged:
  """Rows to learn from that were not sampled here."""
  path: str                       # a dataset's folder, or JSON Lines
  limit: int = 0                  # rows kept, at most, the first; 0: all
  kind: str = ''                  # of rows that name none
  language: str = ''


@dataclasses.dataclass(frozen=True)
class Curate:
  """One run of `experiments/curate.py`: from samples to a dataset to learn from."""
  samples: str                    # of experiments/generate.py: its workdir, a folder of shards or a file; '': none
  per_prompt: int                 # samples kept of one problem, at most
  name: str = 'reasoning'         # of the dataset
  version: str = '1.0.0'
  filters: Filters = Filters()
  judge: dict = dataclasses.field(default_factory=dict)   # options of the reward 'judge', for
  judged: tuple[str, ...] = ()    # the kinds of problem whose samples it decides; a rule has decided on the others
  merge: dict[str, Merged] = dataclasses.field(default_factory=dict)  # name of a source -> rows
  evaluation: tuple[str, ...] = ()  # JSON Lines of problems, or generated worlds (r1jax.data.SOURCES), to stay out
  window: int = 50                # letters of an n-gram by which these are found
  overlap: float = 0.5            # share of an evaluation problem's n-grams from which a text holds it
  chunk: int = 500                # lines between two saves
  shard: int = 10_000             # rows of an array_record file
  workers: int = 1                # processes that look at texts

  def __post_init__(self):
    require(self.per_prompt >= 1, f'per_prompt is {self.per_prompt}; keep 1 sample of a problem at least.')
    require(re.fullmatch('[a-z][a-z0-9_]*', self.name),
            f'name is {self.name!r}; use small letters, digits and _, as the files take it.')
    require(re.fullmatch(r'[0-9]+\.[0-9]+\.[0-9]+', self.version),
            f"version is {self.version!r}; it must be three numbers, such as '1.0.0'.")
    require(bool(self.judge) == bool(self.judged),
            f'judged is {list(self.judged)} and judge has {len(self.judge)} options; give both, or neither.')
    require('samples' not in self.merge, "merge names a source 'samples', which is what is sampled; call it otherwise.")
    require(self.window >= 8 and 0 < self.overlap <= 1,
            f'window {self.window} must be 8 letters at least and overlap {self.overlap} in (0, 1].')
    require(min(self.chunk, self.shard, self.workers) >= 1,
            f'chunk {self.chunk}, shard {self.shard} and workers {self.workers} must be positive.')
