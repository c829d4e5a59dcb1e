"""The real programs of a run at their largest shapes, lowered for devices that need not exist.

They are those of `experiments/rl.py`, `sft.py`, `reward_model.py`, `generate.py` and `cold_start.py`.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from r1jax import checkpoint, losses, models, parallel
from r1jax import config as config_lib
from r1jax.config import require
from r1jax.data import rows as rows_lib
from r1jax.planning import sampler
from r1jax.planning.sampler import has_sampling, sampling
from r1jax.rewards.neural import model as scoring
from r1jax.training import accumulate, critic, distill, lora, lowering, policy
from r1jax.training import optimizer as optimizer_lib
from r1jax.training import reward as reward_lib
from r1jax.training import sft as sft_lib
from r1jax.training import state as state_lib
from r1jax.typed import shape_struct

SCORER_TOKENS = 8192  # maximum length of a reward model that has no path yet: the paper's

# Phase -> its programs; those of 'sample' depend on the settings, see `sampler.names`.
PHASES = {
  'sft': ('sft/accumulate', 'sft/apply'),
  'reward_model': ('reward_model/accumulate', 'reward_model/apply'),
  'update': ('update/accumulate', 'update/apply'),
  'sample': ('sample/weights', 'sample/prefill', 'sample/compact', 'sample/decode'),
  'logprobs': ('logprobs',),
  'rewards': ('rewards',),
  'critic': ('critic/values', 'critic/accumulate', 'critic/apply'),
}


def phases(cfg):
  """The phases of a run, names in PHASES.

  A config.SFT samples if it evaluates its own responses.
  """
  if isinstance(cfg, config_lib.SFT):
    return ['sft'] + ['sample'] * has_sampling(cfg)
  if not isinstance(cfg, config_lib.RL):
    return ['reward_model' if isinstance(cfg, config_lib.RewardModel) else 'sample']
  logprobs = ['logprobs'] * bool(policy.logprob_passes(cfg))
  return ['sample'] + ['rewards'] * bool(reward_models(cfg)) + logprobs + ['update'] + ['critic'] * cfg.has_critic


def names(phases_, cfg):
  """Names of the programs that a run has in these phases."""
  return [name for phase in phases_ for name in (sampler.names(cfg) if phase == 'sample' else PHASES[phase])]


@dataclasses.dataclass(frozen=True)
class Setting:
  """The shapes and shardings of a run; every array is a ShapeDtypeStruct with its sharding.

  Attributes:
    cfg: config of the run.
    model: ModelConfig.
    mesh: over the devices to compile for.
    sampler_mesh: the sampler's, over the same devices.
    state: TrainState; with only parameters for a run that only samples.
    trainer: accumulate.Trainer; None for a run that only samples.
    microbatch, totals: arguments of the trainer's `accumulate`.
    critic: Trainer of PPO's value network, whose TrainState is `state.critic`; None if there is none.
    scorers: (Scorer, parameters, maximum tokens of a row) for each reward model that scores rollouts.
  """

  cfg: Any
  model: models.ModelConfig
  mesh: jax.sharding.Mesh
  sampler_mesh: jax.sharding.Mesh
  state: state_lib.TrainState
  trainer: accumulate.Trainer | None = None
  microbatch: Any = None
  totals: Any = None
  critic: accumulate.Trainer | None = None
  scorers: tuple = ()


def as_generate(cfg):
  """A config.Generate for the way of a config.ColdStart that samples the most tokens at a time."""
  tokens = lambda r: (r.slots or r.prefill * r.samples) * (r.max_prompt + r.max_response)
  sampling_ways = [way for way in cfg.ways.values() if way.way != 'traces' and not way.path and not way.endpoint]
  require(sampling_ways, 'ways: none of them samples from a model, so there is nothing to plan.')
  way = max(sampling_ways, key=lambda way: tokens(way.rollout))
  return config_lib.Generate(
    cfg.seed, way.model, cfg.data, way.rollout, cfg.reward, mesh=cfg.mesh, topology=cfg.topology
  )


def sampler_mesh(cfg):
  """The config.Mesh that a run samples on; zeros if it is the same as for training."""
  return getattr(cfg, 'sampler_mesh', config_lib.Mesh(*[0] * 5))


def setting(cfg, model, devices):
  """The Setting of a run.

  Args:
    cfg: config of the run.
    model: ModelConfig.
    devices: to compile for.

  Raises:
    ConfigError: the mesh does not match the devices, or parameters or batches do not divide over it.
  """
  mesh = parallel.make_mesh(cfg.mesh, devices)
  sample_mesh = parallel.make_mesh(parallel.with_default_sizes(sampler_mesh(cfg), cfg.mesh), devices, 'sampler_mesh')
  if has_sampling(cfg):
    s, shards = sampling(cfg), parallel.batch_shards(sample_mesh)
    require(
      s.slots % shards == 0,
      f'rollout.slots is {s.slots}, which does not divide over {shards} devices of the batch axes; set it to a '
      f'multiple of {shards}, or use a smaller mesh.',
    )
    require(
      s.slots or s.prompts % shards == 0,
      f'{s.prompts} prompts sampled at a time do not divide over {shards} devices of the batch axes; '
      f'set rollout.chunk (or rollout.prompts) to a multiple of {shards}, or use a smaller mesh.',
    )
  if isinstance(cfg, config_lib.Generate):
    state = state_lib.abstract_state(models.specs(model), None, mesh, sampling(cfg).precision.loaded)
    return Setting(cfg, model, mesh, sample_mesh, state)
  scalar = shape_struct((), jnp.float32, parallel.replicated(mesh))
  if isinstance(cfg, config_lib.RL):
    reference = cfg.train if cfg.loss.kl_coef else None
    state, trainer = _state_and_trainer(cfg, model, mesh, policy.make_trainer, cfg.train, reference)
    batch, totals = (
      lowering.rollout_microbatch(cfg, mesh, replayed=model),
      losses.Totals(scalar, scalar, cfg.rollout.max_response),
    )
    value_trainer = None
    if cfg.has_critic:
      # Of the policy's shape, if it begins as a model that is not here.
      begin = checkpoint.open_model(cfg.critic.path).cfg if cfg.critic.path else model
      value_trainer, value_state = critic.make(cfg, begin, mesh)
      state = state.replace(critic=value_state)
    if teachers := teacher_models(cfg, model):
      trainer = distill.with_teachers(trainer, cfg, model, teachers, map(str, range(len(teachers))))
      frozen = [distill.abstract(distill.fitted(teacher, model), cfg, mesh) for teacher in teachers]
      state = state.replace(frozen=(state.frozen or {}) | {'teachers': frozen})
    scorers = _scorers(cfg, model, devices)
    return Setting(cfg, model, mesh, sample_mesh, state, trainer, batch, totals, value_trainer, scorers)
  lib = reward_lib if isinstance(cfg, config_lib.RewardModel) else sft_lib
  model = dataclasses.replace(model, head='score') if lib is reward_lib else model
  state, trainer = _state_and_trainer(cfg, model, mesh, lib.make_trainer, cfg)
  return Setting(cfg, model, mesh, sample_mesh, state, trainer, lib.abstract_microbatch(cfg, mesh), scalar)


def _state_and_trainer(cfg, model, mesh, make_trainer, dtypes, reference=None):
  """(TrainState, Trainer).

  Args:
    dtypes: config section with `param_dtype`.
    reference: config.Train of the reference policy; None if there is none.
  """
  adapters = getattr(cfg, 'lora', config_lib.LoRA())  # a reward model has none
  optimizer = optimizer_lib.make(cfg.optimizer, 1, lora.specs(adapters, model), dtypes.param_dtype)
  options = (reference.reference_dtype, reference.reference_memory) if reference else ()
  state = lora.abstract_state(adapters, model, optimizer, mesh, dtypes.param_dtype, *options)
  return state, make_trainer(cfg, model, optimizer, mesh)


def rows_of(cfg):
  """Rows of one example of a config.SFT or config.RewardModel: two for a preference pair."""
  return 2 if getattr(cfg, 'objective', '') == 'pairs' else 1


def reward_models(cfg):
  """The options of each reward model that a config.RL uses."""
  return [
    cfg.reward.options.get(name, {})
    for name in cfg.reward.names()
    if cfg.reward.function(name) in ('preference', 'process')
  ]


def teacher_models(cfg, model):
  """The ModelConfigs of a config.RL's teachers: those of its paths, or one of its preset or the policy's shape.

  Raises ConfigError for an unknown preset.
  """
  settings = cfg.distill
  if not settings.coef or settings.paths:
    return [checkpoint.open_model(path).cfg for path in settings.paths]
  require(
    settings.preset in ('', *models.PRESETS),
    f"distill.preset is {settings.preset!r}; use '' for the policy's shape, or one of {', '.join(models.PRESETS)}.",
  )
  return [models.PRESETS[settings.preset] if settings.preset else model]


def _scorers(cfg, model, devices):
  """Setting.scorers, with the shardings of `neural.model.load`. One without a path gets the policy's shape."""
  mesh, out = parallel.make_mesh(config_lib.Mesh(), devices), []
  for options in reward_models(cfg):
    shape, tokens = dataclasses.replace(model, head='score'), SCORER_TOKENS
    if options.get('path'):
      path = scoring.directory(options['path'])
      source, tokens = checkpoint.open_model(path), scoring.read_about(path).max_length
      shape, params = source.cfg, source.abstract(mesh)
    else:
      params = state_lib.abstract_state(models.specs(shape), None, mesh).params
    dtype = options.get('dtype') or params['embed'].dtype.name
    out.append((scoring.Scorer(shape, mesh, dtype, options.get('batch', 16)), params, tokens))
  return tuple(out)


def microbatches(cfg):
  """Microbatches in one optimizer step of RL."""
  rows, groups = policy.microbatch_shape(cfg)
  return math.ceil(cfg.rollout.prompts // cfg.train.minibatches / groups) * math.ceil(cfg.rollout.samples / rows)


def lower(name, s):
  """Lowers one program as the run would compile it, and adds up what else is in memory while it runs.

  Args:
    name: one of the programs in PHASES.
    s: Setting.

  Returns:
    jax.stages.Lowered, and a dict of bytes on a device:
    - resident_beside_bytes: arrays in memory that are not arguments of the program;
    - state_bytes: everything that stays in memory between programs;
    - critic_bytes: the value network's part of that.
  """
  build = {'rewards': _rewards, 'logprobs': _logprobs, 'sample': sampler.lower, 'critic': _critic}
  lowered, used, extra = build.get(name.split('/')[0], _update)(name, s)
  state = _tree_bytes(s.state) + sum(_tree_bytes(params) for _, params, _ in s.scorers)
  if s.trainer is None:  # only the sampler's copy of the parameters stays
    state, used = 0, None
  return lowered, {
    'resident_beside_bytes': state - _tree_bytes(used) + _tree_bytes(extra),
    'state_bytes': state,
    'critic_bytes': _tree_bytes(s.state.critic),
  }


def device_bytes(x):
  """Bytes of a ShapeDtypeStruct in the memory of one device, without padding."""
  if x.sharding.memory_kind == 'pinned_host':
    return 0
  return math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize


def _tree_bytes(tree):
  return sum(device_bytes(x) for x in jax.tree.leaves(tree))


# Each of these returns jax.stages.Lowered, the part of the state among its arguments, and other arrays in memory.


def _update(name, s):
  policy_state = s.state.trained()
  if name.endswith('/accumulate'):
    used = (s.state.params, s.state.frozen)
    return lowering.lower_accumulate(s.trainer, s.state, s.microbatch, s.totals), used, None
  load, moe = None, s.model.moe
  if moe:
    shape = (s.model.layers - s.model.dense_layers + s.model.mtp, moe.experts)
    load = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=parallel.replicated(s.mesh))
  return lowering.lower_apply(s.trainer, policy_state, load), policy_state, None


def _critic(name, s):
  state = s.state.critic
  if name.endswith('/apply'):
    return lowering.lower_apply(s.critic, state), state, None
  if name.endswith('/values'):
    return lowering.lower_values(state.params, s.cfg, s.critic.loss_fn), state.params, None
  return lowering.lower_accumulate(s.critic, state, s.microbatch, s.totals), state.params, None


def _rewards(name, s):
  """The largest reward model, on rows of its maximum length."""
  del name
  scorer, params, length = max(s.scorers, key=lambda scorer: _tree_bytes(scorer[1]))
  ids = lambda *sizes: jax.ShapeDtypeStruct((scorer.batch, *sizes), jnp.int32, sharding=scorer.sharding)
  return scorer.program.lower(params, ids(rows_lib.padded(length)), ids(), ids(1)), params, None


def _logprobs(name, s):
  del name
  # The policy's pass, if there is one, needs at least as much memory: its parameters are not narrower.
  only_reference = policy.logprob_passes(s.cfg) == ['ref']
  params = s.state.reference_policy() if only_reference else s.state.model()
  policy_params, reference = (tree and state_lib.move_to_memory(tree, 'device') for tree in (params, s.state.reference))
  lowered = lowering.lower_logprobs(policy_params, s.cfg, lora.whole(s.trainer.loss_fn).logprobs)
  # A reference kept in host memory is copied to the device for its pass, in addition to everything else.
  offloaded = s.cfg.train.reference_memory == 'host' and params is not s.state.reference
  return lowered, params, reference if offloaded else None
