"""The settings of a run of `experiments/rl.py`, whose parts other runs share."""

import dataclasses

from r1jax.config.conversion import require, require_float

# 'none' keeps everything; 'full' a layer's input only; the others that and attention's result, or its inputs too.
REMAT = ('none', 'full', 'attention', 'qkv')
ATTENTION = ('auto', 'xla', 'chunked', 'splash', 'cudnn')
MOST = 10_000_000  # responses of a rollout
# Options of rewards by model, and of endpoints, that say how they are asked, not what.
CLIENT_OPTIONS = ('cache', 'concurrency', 'timeout', 'deadline', 'retries', 'api_key_env', 'batch')


@dataclasses.dataclass(frozen=True)
class Model:
  path: str  # a Hugging Face directory, an imported model or a run's folder
  dtype: str = 'float32'  # of the computation; see train.param_dtype
  remat: str = 'none'  # what each layer keeps for the backward pass: REMAT
  attention: str = 'auto'  # without a cache: ATTENTION; 'auto' goes by platform and length
  preset: str = ''  # shapes to plan for without a path: a key of r1jax.models.PRESETS

  def __post_init__(self):
    require(self.dtype in ('float32', 'bfloat16'), f"model.dtype is {self.dtype!r}; use 'float32' or 'bfloat16'.")
    for key, known in (('remat', REMAT), ('attention', ATTENTION)):
      require(getattr(self, key) in known, f'model.{key} is {getattr(self, key)!r}; known: {", ".join(known)}.')


@dataclasses.dataclass(frozen=True)
class Part:
  """Problems of one sort in a mixture."""

  source: str  # these five as in Data
  path: str = ''
  eval_path: str = ''
  eval_fraction: float = 0.05
  name: str = ''
  weight: float = 1.0  # of a step's prompts, against the other parts'; 0 leaves the part out, unread
  start_step: int = 0  # step from which on it is drawn
  kind: str = ''  # of all its problems; '': each one's own, or else the part's name
  language: str = ''  # the same for the target of language consistency; where none is named, data.language
  template: str = ''  # in place of data.template
  answers: bool = True  # False: its rows need no 'answer'
  # The problem as a text with places for a row's fields, as '{problem}\n{asserts}'; '{asserts:1}' shows the first one.
  problem: str = ''
  fields: dict[str, str] = dataclasses.field(default_factory=dict)  # a row's name of a field -> ours
  filter: dict[str, tuple[str, ...]] = dataclasses.field(
    default_factory=dict
  )  # field -> values; path's rows with others
  eval_filter: dict[str, tuple[str, ...]] = dataclasses.field(
    default_factory=dict
  )  # or, here, eval_path's are left out


@dataclasses.dataclass(frozen=True)
class Data:
  source: str  # a key of r1jax.data.SOURCES: 'jsonl', 'tfds', a toy world; or 'mixture', of parts
  path: str = ''  # file or TFDS data_dir of the training problems
  eval_path: str = ''  # the same for held-out problems; '' holds out eval_fraction of path
  eval_fraction: float = 0.05  # by a hash of the problem's text
  name: str = ''  # TFDS builder name where source is 'tfds'
  template: str = 'plain'  # a key of r1jax.templates.TEMPLATES
  chat_template: str = ''  # a key of r1jax.tokenizers.CHAT_TEMPLATES in place of the model's own; '': its own
  language: str = 'en'  # target of language consistency, for problems that name none
  parts: dict[str, Part] = dataclasses.field(default_factory=dict)  # of source 'mixture'
  evaluation: tuple[str, ...] = ()  # as in Curate: training problems near a problem of these are dropped and counted

  def __post_init__(self):
    if self.source != 'mixture':
      require(
        not self.parts,
        f"data.parts names {', '.join(self.parts)}, but data.source is {self.source!r}; set it to 'mixture'.",
      )
      return
    require(
      not self.path and not self.eval_path,
      f'data.path {self.path or self.eval_path!r} would not be read: a mixture has data.parts.',
    )
    require(
      any(part.weight for part in self.parts.values()),
      "data.source is 'mixture', but data.parts holds no part with a weight; name some.",
    )
    begins = [part.start_step for part in self.parts.values() if part.weight]
    require(min(begins) == 0, f'no part of the mixture is drawn before step {min(begins)}; let one begin at 0.')


@dataclasses.dataclass(frozen=True)
class Rollout:
  prompts: int  # distinct problems in one rollout
  samples: int  # G, responses to each
  max_prompt: int  # tokens; longer prompts are dropped and counted
  max_response: int  # tokens
  temperature: float = 1.0
  top_p: float = 1.0
  top_k: int = 0  # 0: off
  min_p: float = 0.0
  stop: tuple[str, ...] = ()  # strings that end a response
  chunk: int = 0  # prompts sampled at a time while workers grade the ones before; 0: all

  def __post_init__(self):
    require(
      self.prompts * self.samples <= MOST,
      f'rollout.prompts {self.prompts:,} x rollout.samples {self.samples:,} '
      f'responses are more than {MOST:,} in one rollout; lower one of them.',
    )
    require(
      not isinstance(self.stop, str) and all(self.stop),
      f'rollout.stop is {self.stop!r}; it must be a list of '
      "texts that are not empty, such as ('\\n\\n',), or () for none.",
    )
    require(
      self.chunk == 0 or self.prompts % self.chunk == 0,
      f'rollout.prompts {self.prompts} does not divide into chunks of {self.chunk}; set rollout.chunk to a divisor.',
    )


@dataclasses.dataclass(frozen=True)
class Reward:
  parts: dict[str, float]  # name of a reward (a key of r1jax.rewards.REWARDS, or of functions) -> weight
  accuracy: str  # the part that says whether a response is right; '': none but those of a kind
  options: dict[str, dict] = dataclasses.field(default_factory=dict)  # part -> keyword arguments of its function
  gates: tuple[str, ...] = ()  # parts whose scores multiply the weighted sum
  step_credit: float = 0.0  # weight of the part 'process' as credit by step in the advantage; 0: none
  workers: int = 1  # processes that grade
  timeout: float = 5.0  # seconds of processor time for one response, after which it scores 0
  overlong_buffer: int = 0  # tokens before max_response over which DAPO's soft punishment grows; 0: off
  # Problems of several kinds: for those of a kind named here, its parts take the place of the part `accuracy`, and
  # may give another weight to one of `parts`. Where they are several, or all among `parts`, accuracy_by_kind names the
  # one that says whether a response is right ('': none can).
  parts_by_kind: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)  # kind -> {part: weight}
  accuracy_by_kind: dict[str, str] = dataclasses.field(default_factory=dict)  # kind -> part
  thresholds: dict[str, float] = dataclasses.field(default_factory=dict)  # part -> least score of a right response; 1
  functions: dict[str, str] = dataclasses.field(default_factory=dict)  # part -> its reward, where of another name
  start_step: dict[str, int] = dataclasses.field(default_factory=dict)  # part -> first step in which it counts; 0

  def __post_init__(self):
    require(self.parts or self.parts_by_kind, 'reward.parts is empty; name at least one reward and its weight.')
    require(
      self.accuracy in self.parts or not self.accuracy and self.parts_by_kind,
      f'reward.accuracy is {self.accuracy!r}, which is none of reward.parts ({", ".join(self.parts)}).',
    )
    known = f'reward.parts ({", ".join(self.parts)})' + (' or of reward.parts_by_kind' if self.parts_by_kind else '')
    for key in ('options', 'gates', 'thresholds', 'functions', 'start_step'):
      for name in getattr(self, key):
        require(
          name in self.names(),
          f'reward.{key} names {name!r}, which is none of {known}; '
          'add it there, with weight 0 if it is to add nothing.',
        )
    self._check_kinds()
    require(
      self.step_credit == 0 or 'process' in self.names(),
      f"reward.step_credit is {self.step_credit}; it needs 'process' among {known}, with weight 0 if its one "
      'score is to add nothing.',
    )
    for name in self.names():
      limit = self.options.get(name, {}).get('time_limit', 5.0) if self.function(name) == 'code' else 0
      require(
        not isinstance(limit, (int, float)) or limit < self.timeout,
        f"reward.timeout of {self.timeout} s ends a response's grading, but one test of {name!r} alone may take "
        f'{limit} s; set reward.timeout above the time of all its tests, such as 60.',
      )

  def _check_kinds(self):
    for kind, name in self.accuracy_by_kind.items():
      require(
        not name or name in self.weights(kind),
        f'reward.accuracy_by_kind names {name!r} for problems of kind '
        f'{kind!r}, whose parts are {", ".join(self.weights(kind))}.',
      )
    for kind in self.parts_by_kind:
      own = self._own(kind)
      require(
        len(own) == 1 or kind in self.accuracy_by_kind,
        f'reward.parts_by_kind.{kind} has {len(own)} parts of its own{" (" if own else ""}{", ".join(own)}'
        f"{')' if own else ''}; say in reward.accuracy_by_kind.{kind} which one is right or wrong ('' for none).",
      )

  def names(self):
    """Every part, of reward.parts or of a kind; a list."""
    return list(dict.fromkeys([*self.parts, *(name for parts in self.parts_by_kind.values() for name in parts)]))

  def function(self, name):
    """The reward that a part is: a key of r1jax.rewards.REWARDS or NEURAL, or module:function."""
    return self.functions.get(name, name)

  def weights(self, kind=None):
    """The parts of a problem of a kind, and their weights: {name: float}."""
    if kind not in self.parts_by_kind:
      return dict(self.parts)
    return {name: w for name, w in self.parts.items() if name != self.accuracy} | dict(self.parts_by_kind[kind])

  def accuracy_of(self, kind=None):
    """The part that says whether a response to a problem of a kind is right; '' where none can."""
    if kind in self.accuracy_by_kind:
      return self.accuracy_by_kind[kind]
    return self._own(kind)[0] if kind in self.parts_by_kind else self.accuracy

  def _own(self, kind):
    return [name for name in self.parts_by_kind[kind] if name not in self.parts or name == self.accuracy]


@dataclasses.dataclass(frozen=True)
class Loss:
  name: str  # a key of r1jax.losses.LOSSES
  advantage: str = 'group'  # a key of r1jax.losses.ADVANTAGES
  clip_low: float = 0.2
  clip_high: float = 0.2
  dual_clip: float = 0.0  # lower bound c of the objective where A < 0; 0: off
  kl_coef: float = 0.0
  kl_estimator: str = 'k3'  # 'k1', 'k2', 'k3'
  kl_place: str = 'loss'  # 'loss' or 'reward'
  tis_cap: float = 0.0  # cap of the trainer/sampler importance weight; 0: off
  entropy_coef: float = 0.0  # bonus, subtracted from the loss
  resample_limit: int = 0  # DAPO's dynamic sampling: rollouts a step may draw in place of groups all right or
  # all wrong, which fill up what is still missing then; 0: off

  def __post_init__(self):
    require(
      self.kl_estimator in ('k1', 'k2', 'k3'), f"loss.kl_estimator is {self.kl_estimator!r}; use 'k1', 'k2' or 'k3'."
    )
    require(self.kl_place in ('loss', 'reward'), f"loss.kl_place is {self.kl_place!r}; use 'loss' or 'reward'.")


@dataclasses.dataclass(frozen=True)
class Optimizer:
  learning_rate: float
  schedule: str = 'constant'  # 'constant', 'linear', 'cosine'
  warmup: int = 0  # optimizer steps
  final_fraction: float = 0.0  # of learning_rate at the last step, for 'linear' and 'cosine'
  b1: float = 0.9
  b2: float = 0.95
  eps: float = 1e-8
  weight_decay: float = 0.0
  grad_clip: float = 1.0  # global norm; 0: off
  name: str = 'adam'  # 'adam', or 'muon' for matrices with Adam for the rest
  moment_dtype: str = 'float32'  # of the kept moments; their arithmetic is float32

  def __post_init__(self):
    require(
      self.schedule in ('constant', 'linear', 'cosine'),
      f"optimizer.schedule is {self.schedule!r}; use 'constant', 'linear' or 'cosine'.",
    )
    require(self.name in ('adam', 'muon'), f"optimizer.name is {self.name!r}; use 'adam' or 'muon'.")
    require_float('optimizer.moment_dtype', self.moment_dtype)
    # bfloat16 holds 8 bits: a moment that moves by less than 2^-9 of itself a step would stay where it is.
    require(
      self.moment_dtype == 'float32' or max(self.b1, self.b2) <= 0.99,
      f"optimizer.b1 {self.b1} and optimizer.b2 {self.b2} must not exceed 0.99 with moment_dtype 'bfloat16', "
      "which rounds smaller changes away; use 'float32'.",
    )


@dataclasses.dataclass(frozen=True)
class Train:
  minibatches: int = 1  # optimizer steps per rollout, over whole groups
  microbatch: int = 0  # responses per forward and backward; 0: the whole minibatch
  length_slices: int = 1  # each group is cut by length into so many, padded apart: long tails cost less
  epochs: int = 1  # passes over one rollout
  logit_chunk: int = 1024  # positions whose logits exist at one time
  balance_rate: float = 0.0  # of a mixture's correction biases, an optimizer step (DeepSeek-V3: 1e-3); 0: frozen
  reference_refresh: int = 0  # steps between copies of the policy into the reference; 0: never
  param_dtype: str = 'float32'  # of the kept parameters, but routers'; an update below 2^-9 of a bfloat16 one is lost
  grad_dtype: str = 'float32'  # in which microbatches' gradients are added up; 'param': the parameters'
  reference_dtype: str = 'float32'  # of the reference policy's parameters
  reference_memory: str = 'device'  # where they lie between uses: 'device' or 'host'

  def __post_init__(self):
    for name in ('param_dtype', 'reference_dtype'):
      require_float(f'train.{name}', getattr(self, name))
    require(
      self.reference_memory in ('device', 'host'),
      f"train.reference_memory is {self.reference_memory!r}; use 'device' or 'host'.",
    )
    require(
      self.grad_dtype in ('float32', 'param'), f"train.grad_dtype is {self.grad_dtype!r}; use 'float32' or 'param'."
    )


@dataclasses.dataclass(frozen=True)
class Evaluation:
  every: int  # steps
  problems: int  # held-out problems
  samples: int  # k of pass@1, cons@k and any@k
  final_problems: int = 0  # for the evaluations before and after the run; 0: the same as problems
  final_samples: int = 0
  temperature: float = 1.0
  top_p: float = 1.0


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  every: int  # steps
  keep: int = 2  # newest ones kept
  keep_every: int = 0  # steps of those kept for good; 0: none


@dataclasses.dataclass(frozen=True)
class Mesh:
  data: int = 1
  fsdp: int = -1  # -1 fills with the devices left over
  expert: int = 1  # splits the experts of a layer, and the batch
  tp: int = 1
  seq: int = 1  # splits the tokens of a row, but for decoding


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
  topology: str = ''  # TPU slice that the mesh was planned for, as 'v5e:4x4'; for experiments/plan.py
  sampler_mesh: Mesh = Mesh(*[0] * 5)  # the same devices, for sampling; 0: as in mesh

  def __post_init__(self):
    r, u = self.rollout, self.train
    total = r.prompts * r.samples
    require(
      r.samples > 1 or self.loss.advantage == 'none',
      f'rollout.samples is {r.samples}: a group of one has no advantage ({self.loss.advantage!r}); '
      'set rollout.samples to 2 or more.',
    )
    require(
      r.prompts % u.minibatches == 0,
      f'{total} samples a rollout ({r.prompts} prompts x {r.samples}) do not divide into {u.minibatches} '
      f'minibatches of whole groups; set rollout.prompts to a multiple of {u.minibatches}.',
    )
    require(
      r.samples % u.length_slices == 0,
      f'{r.samples} samples a prompt do not divide into {u.length_slices} length slices; '
      'set train.length_slices to a divisor.',
    )
    if u.microbatch:
      mini, part = total // u.minibatches, r.samples // u.length_slices
      require(
        mini % u.microbatch == 0,
        f'a minibatch of {mini} samples does not divide into microbatches of {u.microbatch}; '
        f'set train.microbatch to a divisor of {mini}.',
      )
      require(
        u.microbatch % part == 0 or part % u.microbatch == 0,
        f'train.microbatch {u.microbatch} neither divides nor is a multiple of the {part} samples of a prompt '
        f'that stay together (rollout.samples {r.samples} / train.length_slices {u.length_slices}); '
        'choose one that does.',
      )
    require(
      u.param_dtype == 'float32' or u.grad_dtype == 'param' or self.model.remat == 'none',
      f"train.grad_dtype 'float32' does not go with train.param_dtype {u.param_dtype!r} and model.remat "
      f"{self.model.remat!r}, which adds gradients up in the parameters' dtype; set train.grad_dtype to 'param'.",
    )
    require(
      not (self.reward.step_credit and self.loss.name == 'gspo'),
      "reward.step_credit gives each token its own advantage, but loss.name 'gspo' has one ratio for a response; "
      "use 'grpo', 'dr_grpo', 'dapo' or 'reinforce'.",
    )
    require(
      self.reward.overlong_buffer < r.max_response,
      f'reward.overlong_buffer {self.reward.overlong_buffer} must be below rollout.max_response {r.max_response}.',
    )


def check_context(rollout, context, name='rollout'):
  """Raises ConfigError where prompt and response together exceed the model's context (tokens)."""
  need = rollout.max_prompt + rollout.max_response
  require(
    need <= context,
    f'{name}.max_prompt {rollout.max_prompt} + {name}.max_response {rollout.max_response} = {need} '
    f"tokens exceed the model's context of {context}; lower {name}.max_response by {need - context}.",
  )
