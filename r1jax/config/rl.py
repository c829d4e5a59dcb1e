"""The settings of a run of `experiments/rl.py`; other runs share most of the classes."""

import dataclasses

from r1jax.config.conversion import require, require_float
from r1jax.config.distill import Distill
from r1jax.config.lora import LoRA
from r1jax.config.loss import Loss
from r1jax.config.problems import Data
from r1jax.config.reward import Reward

# What each layer keeps for the backward pass: 'none' recomputes nothing and keeps everything; 'full' keeps only the
# layer's input; 'attention' also the output of attention; 'qkv' also the inputs of attention; 'products' also what all
# other products with weights give, but for experts'.
REMAT = ('none', 'full', 'attention', 'qkv', 'products')
ATTENTION = ('auto', 'xla', 'chunked', 'splash', 'cudnn')
MAX_RESPONSES = 10_000_000  # of one rollout
# Settings that records of older runs lack, and the values that they were made with: 'section.key' or, of a config.SFT,
# 'key' -> value.
ADDED = {
  'rollout.weight_dtype': '',
  'rollout.cache_dtype': '',
  'loss.average': '',
  'loss.ratio_cap': 0.0,
  'loss.mis_low': 0.0,
  'loss.mis_high': 0.0,
  'loss.mis_level': 'token',
  'loss.sequence_mask': 0.0,
  'loss.tv_mask': 0.0,
  'critic.path': '',
  'critic.learning_rate': 1e-5,
  'critic.warmup': 0,
  'critic.clip': 0.2,
  'critic.gamma': 1.0,
  'critic.gae_lambda': 0.95,
  'loss.drop_zero_variance': False,
  'data.drop_solved': 0.0,
  'train.routing_replay': False,
  'distill.coef': 0.0,
  'distill.objective': 'reverse_kl',
  'distill.path': '',
  'distill.path_by_kind': {},
  'distill.preset': '',
  'lora.rank': 0,
  'lora.alpha': 32.0,
  'lora.targets': [],
  'lora.path': '',
  'mtp_coef': 0.0,
}


@dataclasses.dataclass(frozen=True)
class Model:
  path: str  # a Hugging Face directory, a GGUF file, an imported model or the folder of a run
  dtype: str = 'float32'  # of the computation; train.param_dtype is that of the parameters
  remat: str = 'none'  # rematerialization: one of REMAT
  attention: str = 'auto'  # implementation without a KV cache: one of ATTENTION; 'auto' goes by platform and length
  preset: str = ''  # model shape to plan for when there is no path: a key of r1jax.models.PRESETS

  def __post_init__(self):
    require_float('model.dtype', self.dtype)
    for key, known in (('remat', REMAT), ('attention', ATTENTION)):
      require(getattr(self, key) in known, f'model.{key} is {getattr(self, key)!r}; known: {", ".join(known)}.')


@dataclasses.dataclass(frozen=True)
class Rollout:
  prompts: int  # distinct problems in one rollout
  samples: int  # G, the group size: responses per problem
  max_prompt: int  # tokens; problems with longer prompts are dropped and counted
  max_response: int  # tokens
  temperature: float = 1.0
  top_p: float = 1.0
  top_k: int = 0  # 0: off
  min_p: float = 0.0
  stop: tuple[str, ...] = ()  # strings that end a response
  # Of the layers' matrices while sampling: 'int8', 'int4', or '' for model.dtype.
  weight_dtype: str = ''
  cache_dtype: str = ''  # of keys and values while sampling: 'int8', or '' for model.dtype
  chunk: int = 0  # prompts sampled at a time, while workers grade the previous chunk; 0: all at once
  # Rows decoded at a time. When one has ended, another one that waits takes its place; `chunk` then only bounds how
  # many prompts are prefilled at a time. 0: all rows of a chunk at once.
  slots: int = 0

  def __post_init__(self):
    require(
      self.prompts * self.samples <= MAX_RESPONSES,
      f'rollout.prompts {self.prompts:,} x rollout.samples {self.samples:,} is more than {MAX_RESPONSES:,} responses '
      'in one rollout; lower one of them.',
    )
    require(
      not isinstance(self.stop, str) and all(self.stop),
      f'rollout.stop is {self.stop!r}; it must be a list of strings that are not empty, '
      "such as ('\\n\\n',), or () for none.",
    )
    require(
      self.weight_dtype in ('', 'int8', 'int4'),
      f"rollout.weight_dtype is {self.weight_dtype!r}; use 'int8', 'int4', or '' for model.dtype.",
    )
    require(
      self.cache_dtype in ('', 'int8'),
      f"rollout.cache_dtype is {self.cache_dtype!r}; use 'int8', or '' for model.dtype.",
    )
    require(
      self.chunk == 0 or self.prompts % self.chunk == 0,
      f'rollout.prompts {self.prompts} does not divide into chunks of {self.chunk}; set rollout.chunk to a divisor.',
    )

  @property
  def restricted(self):
    """Whether tokens are left out of the distribution that is sampled from."""
    return self.top_p < 1 or self.top_k > 0 or self.min_p > 0

  @property
  def prefill(self):
    """Prompts that are run at a time."""
    return self.chunk or self.prompts

  @property
  def call(self):
    """Prompts of one call of the engine: with slots all, as it lets rows wait itself."""
    return self.prompts if self.slots else self.prefill


@dataclasses.dataclass(frozen=True)
class Critic:
  """The value network of PPO; without effect unless loss.advantage is 'gae'."""

  path: str = ''  # a policy or a reward model that it begins as; '': the policy's model.path
  learning_rate: float = 1e-5  # otherwise its optimizer has the settings of `optimizer`
  warmup: int = 0  # steps at the begin of the run in which only the critic learns
  clip: float = 0.2  # how far a value may move in the updates of one rollout before its loss is held; 0: off
  gamma: float = 1.0  # discount of a token
  gae_lambda: float = 0.95  # 1: returns less values; 0: differences of neighbouring values


@dataclasses.dataclass(frozen=True)
class Optimizer:
  learning_rate: float
  schedule: str = 'constant'  # 'constant', 'linear' or 'cosine'
  warmup: int = 0  # optimizer steps
  final_fraction: float = 0.0  # learning rate of the last step as a share of learning_rate; for 'linear' and 'cosine'
  b1: float = 0.9
  b2: float = 0.95
  eps: float = 1e-8
  weight_decay: float = 0.0
  grad_clip: float = 1.0  # maximum global norm of the gradient; 0: off
  name: str = 'adam'  # 'adam', or 'muon' (Muon for matrices, Adam for the rest)
  moment_dtype: str = 'float32'  # in which the moments are stored; they are computed in float32

  def __post_init__(self):
    require(
      self.schedule in ('constant', 'linear', 'cosine'),
      f"optimizer.schedule is {self.schedule!r}; use 'constant', 'linear' or 'cosine'.",
    )
    require(self.name in ('adam', 'muon'), f"optimizer.name is {self.name!r}; use 'adam' or 'muon'.")
    require_float('optimizer.moment_dtype', self.moment_dtype)
    # bfloat16 has 8 significant bits: a moment that changes by less than 2^-9 of itself in a step would not change.
    require(
      self.moment_dtype == 'float32' or max(self.b1, self.b2) <= 0.99,
      f"optimizer.b1 {self.b1} and optimizer.b2 {self.b2} must not exceed 0.99 with optimizer.moment_dtype 'bfloat16', "
      "which rounds smaller changes away; use 'float32'.",
    )


@dataclasses.dataclass(frozen=True)
class Train:
  minibatches: int = 1  # optimizer steps per pass over a rollout; each minibatch has whole groups
  microbatch: int = 0  # responses per forward and backward pass; 0: the whole minibatch
  # Each group is sorted by length and cut into this many slices, which are padded separately. It keeps a few long
  # responses from lengthening the padding of all.
  length_slices: int = 1
  epochs: int = 1  # passes over one rollout
  logit_chunk: int = 1024  # positions whose logits are in memory at one time
  # Mixture of experts: change of the routers' load-balancing biases per optimizer step (DeepSeek-V3: 1e-3); 0: frozen.
  balance_rate: float = 0.0
  # The policy's passes send each token to the experts that the sampler sent it to (arXiv 2510.11370).
  routing_replay: bool = False
  reference_refresh: int = 0  # every so many steps the policy becomes the reference policy; 0: never
  # Of the stored parameters, except those of routers. bfloat16 loses updates below 2^-9 of the parameter. With
  # lora.rank, of the model that is adapted; adapters, and a critic beside them, are float32.
  param_dtype: str = 'float32'
  grad_dtype: str = 'float32'  # in which gradients of microbatches are accumulated; 'param': param_dtype
  reference_dtype: str = 'float32'  # of the reference policy's parameters
  reference_memory: str = 'device'  # where the reference policy is between uses: 'device' or 'host'

  def __post_init__(self):
    require_dtypes(self, 'train.')
    require_float('train.reference_dtype', self.reference_dtype)
    require(
      self.reference_memory in ('device', 'host'),
      f"train.reference_memory is {self.reference_memory!r}; use 'device' or 'host'.",
    )


@dataclasses.dataclass(frozen=True)
class Evaluation:
  every: int  # steps
  problems: int  # held-out problems
  samples: int  # responses per problem: k of pass@1, cons@k and any@k
  final_problems: int = 0  # these two are for the evaluations before and after the run; 0: as during the run
  final_samples: int = 0
  temperature: float = 1.0
  top_p: float = 1.0


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  every: int  # steps
  keep: int = 2  # how many of the newest checkpoints are kept
  keep_every: int = 0  # checkpoints of steps that are multiples of this are never deleted; 0: none


@dataclasses.dataclass(frozen=True)
class Mesh:
  data: int = 1
  fsdp: int = -1  # -1: all remaining devices
  expert: int = 1  # splits the experts of a layer, and the batch
  tp: int = 1
  seq: int = 1  # splits the tokens of a sequence, except in decoding


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
  topology: str = ''  # TPU slice that the mesh is meant for, such as 'v5e:4x4'; used by experiments/plan.py
  sampler_mesh: Mesh = Mesh(*[0] * 5)  # mesh of the same devices for sampling; an axis of 0 is as in `mesh`
  critic: Critic = Critic()
  distill: Distill = Distill()
  lora: LoRA = LoRA()

  def __post_init__(self):
    rollout, train = self.rollout, self.train
    require(
      rollout.samples > 1 or self.loss.advantage in ('none', 'gae', 'zero'),
      f'rollout.samples is {rollout.samples}: a group of one has no advantage ({self.loss.advantage!r}); '
      'set rollout.samples to 2 or more.',
    )
    require(
      rollout.prompts % train.minibatches == 0,
      f'{rollout.prompts * rollout.samples} samples in a rollout ({rollout.prompts} prompts x {rollout.samples}) do '
      f'not divide into {train.minibatches} minibatches of whole groups; '
      f'set rollout.prompts to a multiple of {train.minibatches}.',
    )
    require(
      rollout.samples % train.length_slices == 0,
      f'{rollout.samples} samples per prompt do not divide into {train.length_slices} length slices; '
      'set train.length_slices to a divisor.',
    )
    if train.microbatch:
      self._check_microbatch()
    if not self.lora.rank:
      require_gradient_sum(train, self.model.remat, 'train.')
    self._check_critic()
    self._check_distill()
    self.lora.check(self.optimizer, train.balance_rate, 'train.balance_rate')
    if self.lora.rank and self.loss.kl_coef:
      self._check_base_as_reference()
    require(
      not (self.reward.step_credit and self.loss.name == 'gspo'),
      "reward.step_credit gives each token its own advantage, but loss.name 'gspo' has one ratio per response; "
      "use 'grpo', 'dr_grpo', 'dapo', 'cispo' or 'reinforce'.",
    )
    require(
      self.reward.overlong_buffer < rollout.max_response,
      f'reward.overlong_buffer {self.reward.overlong_buffer} must be below '
      f'rollout.max_response {rollout.max_response}.',
    )

  @property
  def has_critic(self):
    """Whether the run is PPO, with a value network."""
    return self.loss.advantage == 'gae'

  def _check_critic(self):
    loss, critic = self.loss, self.critic
    require(
      self.has_critic or not critic.path,
      f"critic.path is set, but loss.advantage {loss.advantage!r} has no critic; set loss.advantage to 'gae' for PPO.",
    )
    if not self.has_critic:
      return
    require(
      loss.name != 'gspo',
      "loss.advantage 'gae' gives each token its own advantage, but loss.name 'gspo' has one ratio per response; use "
      "'grpo', 'dr_grpo', 'dapo' or 'reinforce'.",
    )
    require(
      not self.reward.step_credit,
      f"reward.step_credit is {self.reward.step_credit}, but with loss.advantage 'gae' the critic gives credit to "
      'tokens; set one of them only.',
    )
    require(
      critic.warmup < self.steps,
      f'critic.warmup {critic.warmup} leaves none of the {self.steps} steps to the policy; lower it, or raise steps.',
    )

  def _check_distill(self):
    require(
      not (self.distill.coef and self.loss.drop_zero_variance),
      f'loss.drop_zero_variance leaves out groups whose rewards are all equal, but distill.coef is '
      f'{self.distill.coef}, and a teacher scores these groups too; set one of them only.',
    )
    if self.loss.advantage != 'zero':
      return
    require(
      self.distill.coef,
      "loss.advantage 'zero' learns nothing from rewards, and distill.coef is 0; set distill.coef and a teacher, or "
      "another advantage, such as 'group'.",
    )
    in_reward = self.loss.kl_coef if self.loss.kl_place == 'reward' else 0.0
    for key, value in (
      ('reward.step_credit', self.reward.step_credit),
      ('loss.resample_limit', self.loss.resample_limit),
      ("loss.kl_coef (with loss.kl_place 'reward')", in_reward),
    ):
      require(
        not value, f"{key} is {value}, but loss.advantage 'zero' learns nothing from rewards; set one of them only."
      )

  def _check_base_as_reference(self):
    train, begin = self.train, f'with lora.rank {self.lora.rank} the reference policy is the model that is adapted'
    require(
      not train.reference_refresh,
      f'train.reference_refresh is {train.reference_refresh}, but {begin}, which never changes; set it to 0.',
    )
    require(
      train.reference_memory == 'device',
      f"train.reference_memory is {train.reference_memory!r}, but {begin}, which each pass reads; use 'device'.",
    )
    require(
      train.reference_dtype in ('float32', train.param_dtype),
      f'train.reference_dtype is {train.reference_dtype!r}, but {begin}, kept in train.param_dtype '
      f'{train.param_dtype!r}; set that to {train.reference_dtype!r} too, or drop train.reference_dtype.',
    )

  def _check_microbatch(self):
    rollout, train = self.rollout, self.train
    minibatch = rollout.prompts * rollout.samples // train.minibatches
    slice_size = rollout.samples // train.length_slices
    require(
      minibatch % train.microbatch == 0,
      f'a minibatch of {minibatch} samples does not divide into microbatches of {train.microbatch}; '
      f'set train.microbatch to a divisor of {minibatch}.',
    )
    require(
      train.microbatch % slice_size == 0 or slice_size % train.microbatch == 0,
      f'train.microbatch {train.microbatch} neither divides nor is a multiple of the {slice_size} samples in a length '
      f'slice of a group (rollout.samples {rollout.samples} / train.length_slices {train.length_slices}); '
      'choose one that does.',
    )


def require_dtypes(settings, prefix=''):
  """Raises ConfigError for an unknown param_dtype or grad_dtype; prefix: dotted path of `settings`, for the message."""
  require_float(f'{prefix}param_dtype', settings.param_dtype)
  require(
    settings.grad_dtype in ('float32', 'param'),
    f"{prefix}grad_dtype is {settings.grad_dtype!r}; use 'float32' or 'param'.",
  )


def require_gradient_sum(settings, remat, prefix=''):
  """Raises ConfigError if the gradients cannot be accumulated in the grad_dtype of `settings`; prefix: as above."""
  require(
    settings.param_dtype == 'float32' or settings.grad_dtype == 'param' or remat == 'none',
    f"{prefix}grad_dtype 'float32' does not work with {prefix}param_dtype {settings.param_dtype!r} and model.remat "
    f"{remat!r}, which accumulates gradients in the dtype of the parameters; set {prefix}grad_dtype to 'param'.",
  )


def check_context(rollout, context, name='rollout', model='the model'):
  """Raises ConfigError if prompt and response together exceed the context (tokens) of a model, named so."""
  need = rollout.max_prompt + rollout.max_response
  require(
    need <= context,
    f'{name}.max_prompt {rollout.max_prompt} + {name}.max_response {rollout.max_response} = {need} '
    f"tokens exceed {model}'s context of {context}; lower {name}.max_response by {need - context}.",
  )
