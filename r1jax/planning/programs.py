"""The real programs of a run, lowered for devices that need not exist: what `experiments/rl.py`, `sft.py`,
`reward_model.py`, `generate.py` and `cold_start.py` run at their largest."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from r1jax import checkpoint, losses, models, parallel
from r1jax import config as config_lib
from r1jax.config import require
from r1jax.data import rows as rows_lib
from r1jax.models import layout
from r1jax.rewards.neural import model as scoring
from r1jax.sampling import decode, engine
from r1jax.sampling.logits import Restriction
from r1jax.training import accumulate, lowering, policy
from r1jax.training import critic as critic_lib
from r1jax.training import optimizer as optimizer_lib
from r1jax.training import reward as reward_lib
from r1jax.training import sft as sft_lib
from r1jax.training import state as state_lib

SCORED = 8192  # tokens of a row that a reward model not given yet scores: the paper's

# Phase -> its programs.
PHASES = {
  'sft': ('sft/accumulate', 'sft/apply'),
  'reward_model': ('reward_model/accumulate', 'reward_model/apply'),
  'update': ('update/accumulate', 'update/apply'),
  'sample': ('sample/weights', 'sample/prefill', 'sample/compact', 'sample/decode'),
  'logprobs': ('logprobs',),
  'rewards': ('rewards',),
  'critic': ('critic/accumulate', 'critic/apply'),
}


def phases(cfg, critic=False):
  """The phases of a run; of a config.SFT, 'sample' where it is evaluated by its own answers.

  critic: and what PPO would add to it, a value network's update.
  """
  if isinstance(cfg, config_lib.SFT):
    return ['sft'] + ['sample'] * (cfg.eval.problems > 0)
  if not isinstance(cfg, config_lib.RL):
    return ['reward_model' if isinstance(cfg, config_lib.RewardModel) else 'sample']
  scored = cfg.loss.kl_coef > 0 or cfg.train.minibatches * cfg.train.epochs > 1
  return ['sample'] + ['rewards'] * bool(reward_models(cfg)) + ['logprobs'] * scored + ['update'] + ['critic'] * critic


def names(phases_, cfg):
  """The programs of these phases in a run."""
  s = sampling(cfg)
  grows = s and len(set(capacities(s.max_response))) > 1
  return [name for phase in phases_ for name in PHASES[phase] if name != 'sample/compact' or grows]


@dataclasses.dataclass(frozen=True)
class Sampling:
  """The sampler's largest batch.

  Attributes:
    prompts, samples: rows [prompts, samples] sampled together. max_prompt, max_response: tokens.
    restriction: logits.Restriction.
  """

  prompts: int
  samples: int
  max_prompt: int
  max_response: int
  restriction: Restriction


def sampling(cfg):
  """The Sampling of a run, whether training's or an evaluation's; None where nothing is sampled."""
  if isinstance(cfg, config_lib.RewardModel):
    return None
  if isinstance(cfg, config_lib.SFT):
    e = cfg.eval
    samples = max(e.samples, e.final_samples)
    return Sampling(e.batch, samples, e.max_prompt, e.max_response, Restriction(e.top_p)) if e.problems else None
  r = cfg.rollout
  samples = max(r.samples, cfg.eval.samples, cfg.eval.final_samples) if isinstance(cfg, config_lib.RL) else r.samples
  restriction = Restriction(r.top_p, r.top_k, r.min_p)
  return Sampling(r.chunk or r.prompts, samples, r.max_prompt, r.max_response, restriction)


@dataclasses.dataclass(frozen=True)
class Setting:
  """A run's shapes and layouts, every array a ShapeDtypeStruct with its sharding.

  Attributes:
    cfg: the run's. model: ModelConfig. mesh: over the devices to compile for. sampler_mesh: the sampler's.
    state: TrainState; of a run that samples only, its parameters alone.
    trainer: accumulate.Trainer, and the microbatch and totals that it takes; None of a run that samples only.
    critic: the same of a value network, with its TrainState in `state.critic`; None where there is none.
    scorers: tuple of (Scorer, parameters, tokens of a row) of the reward models that RL has beside it.
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
  """The config.Generate of the way of a config.ColdStart that samples the most tokens at a time."""
  tokens = lambda r: (r.chunk or r.prompts) * r.samples * (r.max_prompt + r.max_response)
  sampled = [way for way in cfg.ways.values() if way.way != 'traces' and not way.path and not way.endpoint]
  require(sampled, 'ways: none samples from a model; there is nothing to plan.')
  way = max(sampled, key=lambda way: tokens(way.rollout))
  return config_lib.Generate(
    cfg.seed, way.model, cfg.data, way.rollout, cfg.reward, mesh=cfg.mesh, topology=cfg.topology
  )


def sampler_mesh(cfg):
  """The config.Mesh that a run samples on, or zeros where that is its only one."""
  return getattr(cfg, 'sampler_mesh', config_lib.Mesh(*[0] * 5))


def setting(cfg, model, devices, critic=False):
  """The Setting of a run. critic: with a value network of the policy's shape, optimizer and dtypes, for RL alone.

  Raises:
    ConfigError: a mesh that does not match the devices, parameters or batches that do not divide over it.
  """
  mesh = parallel.make_mesh(cfg.mesh, devices)
  own = parallel.make_mesh(parallel.with_default_sizes(sampler_mesh(cfg), cfg.mesh), devices, 'sampler_mesh')
  if s := sampling(cfg):
    shards = parallel.batch_shards(own)
    require(
      s.prompts % shards == 0,
      f'{s.prompts} prompts sampled at a time do not divide over {shards} devices of the batch axes; '
      f'set rollout.chunk (or rollout.prompts) to a multiple of {shards}, or use a smaller mesh.',
    )
  if isinstance(cfg, config_lib.Generate):
    state = state_lib.abstract_state(models.specs(model), None, mesh, cfg.model.dtype)
    return Setting(cfg, model, mesh, own, state)
  scalar = jax.ShapeDtypeStruct((), jnp.float32, sharding=parallel.replicated(mesh))
  if isinstance(cfg, config_lib.RL):
    state, trainer = _trained(cfg, model, mesh, policy.make_trainer, cfg.train, cfg.train if cfg.loss.kl_coef else None)
    batch, totals = lowering.rollout_microbatch(cfg, mesh), losses.Totals(scalar, scalar, cfg.rollout.max_response)
    values = None
    if critic:
      other, values = _trained(cfg, as_critic(model), mesh, _value_trainer, cfg.train)
      state = state.replace(critic=other)
    return Setting(cfg, model, mesh, own, state, trainer, batch, totals, values, _scorers(cfg, model, devices))
  lib = reward_lib if isinstance(cfg, config_lib.RewardModel) else sft_lib
  model = dataclasses.replace(model, head='score') if lib is reward_lib else model
  state, trainer = _trained(cfg, model, mesh, lib.make_trainer, cfg)
  return Setting(cfg, model, mesh, own, state, trainer, lib.abstract_microbatch(cfg, mesh), scalar)


def _trained(cfg, model, mesh, make_trainer, dtypes, reference=None):
  """TrainState and Trainer. dtypes: what has `param_dtype`. reference: config.Train of a reference policy, or None."""
  specs = models.specs(model)
  optimizer = optimizer_lib.make(cfg.optimizer, 1, specs, dtypes.param_dtype)
  more = (reference.reference_dtype, reference.reference_memory) if reference else ()
  state = state_lib.abstract_state(specs, optimizer, mesh, dtypes.param_dtype, *more)
  return state, make_trainer(cfg, model, optimizer, mesh)


def _value_trainer(cfg, model, optimizer, mesh):
  options = models.ForwardOptions(cfg.model.dtype, cfg.model.remat, cfg.model.attention, mesh)
  return accumulate.Trainer(critic_lib.ValueLoss(model, options), optimizer, cfg.train.grad_dtype)


def rows_of(cfg):
  """Rows of one example of a config.SFT or config.RewardModel: a pair has two."""
  return 2 if getattr(cfg, 'objective', '') == 'pairs' else 1


def reward_models(cfg):
  """The options of the reward models that a config.RL asks."""
  return [
    cfg.reward.options.get(name, {})
    for name in cfg.reward.names()
    if cfg.reward.function(name) in ('preference', 'process')
  ]


def _scorers(cfg, model, devices):
  """Setting.scorers, as `neural.model.load` lays them out. One without a path is taken for the policy's shape."""
  mesh, out = parallel.make_mesh(config_lib.Mesh(), devices), []
  for options in reward_models(cfg):
    shape, tokens = dataclasses.replace(model, head='score'), SCORED
    if options.get('path'):
      path = scoring.directory(options['path'])
      source, tokens = checkpoint.open_model(path), scoring.read_about(path).max_length
      shape, params = source.cfg, source.abstract(mesh)
    else:
      params = state_lib.abstract_state(models.specs(shape), None, mesh).params
    dtype = options.get('dtype') or params['embed'].dtype.name
    out.append((scoring.Scorer(shape, mesh, dtype, options.get('batch', 16)), params, tokens))
  return tuple(out)


def as_critic(model):
  return dataclasses.replace(model, head='score', tied=False)


def microbatch_shape(cfg):
  """(groups, rows of a group) in a microbatch of RL."""
  rows, groups = policy.microbatch_shape(cfg.train, cfg.rollout.prompts // cfg.train.minibatches, cfg.rollout.samples)
  return groups, rows


def microbatches(cfg):
  """Microbatches in one optimizer step of RL."""
  groups, rows = microbatch_shape(cfg)
  return math.ceil(cfg.rollout.prompts // cfg.train.minibatches / groups) * math.ceil(cfg.rollout.samples / rows)


def lower(name, s):
  """One program as the run would compile it, and what it leaves lying beside it.

  Args:
    name: one of PHASES' programs. s: Setting.

  Returns:
    jax.stages.Lowered; and a dict of bytes on a device: resident_beside_bytes, what it holds beside the program's
    arguments; state_bytes, of all that stays between programs; and critic_bytes, the value network's part of that.
  """
  build = {'rewards': _rewards, 'logprobs': _logprobs, 'sample': _sample, 'critic': _critic}
  lowered, used, more = build.get(name.split('/')[0], _update)(name, s)
  state = _tree_bytes(s.state) + sum(_tree_bytes(params) for _, params, _ in s.scorers)
  if s.trainer is None:  # nothing stays but the copy that is sampled with
    state, used = 0, None
  return lowered, {
    'resident_beside_bytes': state - _tree_bytes(used) + _tree_bytes(more),
    'state_bytes': state,
    'critic_bytes': _tree_bytes(s.state.critic),
  }


def device_bytes(x):
  """Bytes of a ShapeDtypeStruct in one device's own memory, without the padding of its layout."""
  if x.sharding.memory_kind == 'pinned_host':
    return 0
  return math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize


def _tree_bytes(tree):
  return sum(device_bytes(x) for x in jax.tree.leaves(tree))


# Each of these returns jax.stages.Lowered, the part of the state among its arguments, and what else stays beside them.


def _update(name, s):
  alone = s.state.replace(reference=None, critic=None)
  if name.endswith('/accumulate'):
    return lowering.lower_accumulate(s.trainer, alone, s.microbatch, s.totals), s.state.params, None
  load, moe = None, s.model.moe
  if moe:
    shape = (s.model.layers - s.model.dense_layers, moe.experts)
    load = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=parallel.replicated(s.mesh))
  return lowering.lower_apply(s.trainer, alone, load), alone, None


def _critic(name, s):
  state = s.state.critic
  if name.endswith('/apply'):
    return lowering.lower_apply(s.critic, state), state, None
  of_tokens = s.microbatch.sampler_logp
  batch = s.microbatch.replace(values=of_tokens, returns=of_tokens, advantage=None, old_logp=None, ref_logp=None)
  return lowering.lower_accumulate(s.critic, state, batch, s.totals), state.params, None


def _rewards(name, s):
  """The largest of the reward models scores its longest rows."""
  del name
  scorer, params, length = max(s.scorers, key=lambda one: _tree_bytes(one[1]))
  of = lambda *sizes: jax.ShapeDtypeStruct((scorer.batch, *sizes), jnp.int32, sharding=scorer.sharding)
  return scorer.program.lower(params, of(rows_lib.padded(length)), of(), of(1)), params, None


def _logprobs(name, s):
  del name
  # The policy's own pass, where there is one, needs as much or more: its parameters are the wider.
  params = s.state.params if policy.needs_old_logp(s.cfg) or s.state.reference is None else s.state.reference
  own, reference = (tree and state_lib.in_memory(tree, 'device') for tree in (params, s.state.reference))
  lowered = lowering.lower_logprobs(own, s.cfg, s.trainer.loss_fn.logprobs)
  # A reference that comes from the host's memory lies beside all the rest in its own pass.
  visits = s.cfg.train.reference_memory == 'host' and params is not s.state.reference
  return lowered, params, reference if visits else None


def _sample(name, s):
  """The sampler's programs with all rows live: the cache grows to its full size, and then is decoded with."""
  shapes, mesh, dtype = sampling(s.cfg), s.sampler_mesh, jnp.dtype(s.cfg.model.dtype)
  p, g = shapes.prompts, shapes.samples
  by_prompt, everywhere = parallel.batch_sharding(mesh), parallel.replicated(mesh)
  of = lambda shape, dtype, sharding=by_prompt: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
  lengths, scalar = of((p,), jnp.int32), lambda dtype: of((), dtype, everywhere)
  shardings = parallel.shardings(models.specs(s.model, stacked=False), mesh)
  copy = functools.partial(decode.cast_weights, dtype=dtype)
  if name == 'sample/weights':
    return jax.jit(copy, out_shardings=shardings).lower(s.state.params), s.state.params, None
  params = jax.tree.map(
    lambda x, to: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=to), jax.eval_shape(copy, s.state.params), shardings
  )
  key = jax.eval_shape(lambda: jax.random.key(0)).dtype
  # Which ids end a response is in the program, but changes nothing that is measured here.
  options = decode.DecodeOptions(s.model, shapes.restriction, (0,), models.ForwardOptions(dtype, mesh=mesh))
  before, full = capacities(shapes.max_response)
  args = (params, of((p, shapes.max_prompt), jnp.int32), lengths, of((p, g), key), scalar(jnp.float32))
  if name == 'sample/prefill':
    return decode.prefill.lower(*args, options=options, capacity=min(engine.CHUNK, shapes.max_response)), None, None
  place = lambda x, mesh, *axes: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout.sharding(x.shape, mesh, *axes))
  of_program = lambda program, *args, **static: decode.constrain(program.eval_shape(*args, **static), mesh, place)
  prefix, state, _ = of_program(decode.prefill, *args, options=options, capacity=before)
  rows = of((p, g), jnp.int32)
  if name == 'sample/compact':
    return decode.compact.lower(state, rows, capacity=full, mesh=mesh), None, (params, prefix)
  if full > before:
    state = of_program(decode.compact, state, rows, capacity=full, mesh=mesh)
  lowered = decode.decode_chunk.lower(
    params,
    prefix,
    lengths,
    state,
    scalar(jnp.int32),
    scalar(jnp.int32),
    scalar(jnp.float32),
    length=engine.CHUNK,
    options=options,
  )
  return lowered, None, None


def capacities(max_response):
  """Room in the cache before and after it last grows (tokens)."""
  before = full = min(engine.CHUNK, max_response)
  while full < max_response:
    before, full = full, min(engine.GROW * full, max_response)
  return before, full
