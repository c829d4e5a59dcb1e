"""The real programs of a run, lowered for devices that need not exist: what `experiments/rl.py`, `sft.py`,
`reward_model.py`, `generate.py` and `cold_start.py` run at their largest."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp

from r1jax import checkpoint, models, parallel
from r1jax import config as config_lib
from r1jax.config import require
from r1jax.data import rows as rows_lib
from r1jax.models import layout
from r1jax.rewards.neural import model as scoring
from r1jax.sampling import decode, engine
from r1jax.sampling.logits import Restriction
from r1jax.training import critic as critic_lib
from r1jax.training import optimizer as optimizer_lib
from r1jax.training import policy, update
from r1jax.training import reward as reward_lib
from r1jax.training import sft as sft_lib
from r1jax.training import state as state_lib

SCORED = 8192  # tokens of a row that a reward model not given yet scores: the paper's

# Phase -> its programs.
PHASES = {
  'sft': ('sft/accumulate', 'sft/apply'),
  'reward_model': ('reward_model/accumulate', 'reward_model/apply'),
  'update': ('update/accumulate', 'update/apply'),
  'sample': ('sample/weights', 'sample/start', 'sample/reshape', 'sample/stretch'),
  'logprobs': ('logprobs',),
  'rewards': ('rewards',),
  'critic': ('critic/accumulate', 'critic/apply'),
}


def phases(cfg, critic=False):
  """The phases of a run; of a config.SFT, 'sample' where it is tested by its own answers.

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
  sampled_ = cfg.eval if isinstance(cfg, config_lib.SFT) else getattr(cfg, 'rollout', None)
  grows = sampled_ and len(set(capacities(sampled_.max_response))) > 1
  return [name for phase in phases_ for name in PHASES[phase] if name != 'sample/reshape' or grows]


@dataclasses.dataclass(frozen=True)
class Setting:
  """A run's shapes and layouts.

  Attributes:
    cfg: config.RL. model: ModelConfig. mesh: over the devices to compile for. sampler_mesh: the sampler's.
    state: TrainState of ShapeDtypeStructs. updater: update.Updater.
    critic: the value network's, without a reference; None where there is none.
    labelled: of SFT, sft.SFTUpdater, of a reward model, reward.ScoreUpdater; and labelled_shape, (rows of a
      microbatch, tokens of a row). None of the others.
    scorers: tuple of (Scorer, abstract parameters, tokens of a row) of the reward models that RL has beside it.
    alone: whether nothing stays but what is sampled with.
    prompts, rows: groups, and rows of a group, in a microbatch.
    chunk, samples: prompts, and rows of each, sampled together.
  """

  cfg: object
  model: models.ModelConfig
  mesh: jax.sharding.Mesh
  sampler_mesh: jax.sharding.Mesh
  state: state_lib.TrainState
  updater: update.Updater
  critic: state_lib.TrainState | None
  prompts: int
  rows: int
  chunk: int
  samples: int
  labelled: sft_lib.SFTUpdater | reward_lib.ScoreUpdater | None = None
  labelled_shape: tuple | None = None
  scorers: tuple = ()
  alone: bool = False


def as_generate(cfg):
  """The config.Generate of the way of a config.ColdStart that samples the most tokens at a time."""
  tokens = lambda r: (r.chunk or r.prompts) * r.samples * (r.max_prompt + r.max_response)
  sampled_ = [way for way in cfg.ways.values() if way.way != 'traces' and not way.path and not way.endpoint]
  require(sampled_, 'ways: none samples from a model; there is nothing to plan.')
  way = max(sampled_, key=lambda way: tokens(way.rollout))
  return config_lib.Generate(
    cfg.seed, way.model, cfg.data, way.rollout, cfg.reward, mesh=cfg.mesh, topology=cfg.topology
  )


def as_rl(cfg, shards):
  """The config.RL that samples, and keeps and moves parameters, as this run of another class does.

  shards: parts that a batch is cut into, which what is not sampled would have to divide over.
  """
  rollout, reward = config_lib.Rollout(shards, 1, 16, 16), config_lib.Reward({'format': 1.0}, 'format')
  if isinstance(cfg, config_lib.Generate):
    rollout, optimizer = cfg.rollout, config_lib.Optimizer(1.0)
    train = config_lib.Train(param_dtype=cfg.model.dtype, grad_dtype='param')
  else:
    optimizer = cfg.optimizer
    train = config_lib.Train(param_dtype=cfg.param_dtype, grad_dtype=cfg.grad_dtype, balance_rate=cfg.balance_rate)
  if isinstance(cfg, config_lib.SFT) and cfg.eval.problems:
    e = cfg.eval
    rollout = config_lib.Rollout(e.batch, max(e.samples, e.final_samples), e.max_prompt, e.max_response, top_p=e.top_p)
  return config_lib.RL(
    cfg.seed,
    1,
    cfg.model,
    config_lib.Data(source=''),
    rollout,
    reward,
    config_lib.Loss('grpo', advantage='none'),
    optimizer,
    train,
    config_lib.Evaluation(1, 1, rollout.samples),
    config_lib.Checkpoint(1),
    cfg.mesh,
    cfg.topology,
    sampler_mesh(cfg),
  )


def sampler_mesh(cfg):
  """The config.Mesh that a run samples on, or zeros where that is its only one."""
  return getattr(cfg, 'sampler_mesh', config_lib.Mesh(*[0] * 5))


def setting(cfg, model, devices, critic=False):
  """The Setting of a run. critic: with a value network of the policy's shape, optimizer and dtypes, for RL alone.

  Raises:
    ConfigError: a mesh that does not match the devices, parameters or batches that do not divide over it.
  """
  if isinstance(cfg, config_lib.RL):
    return dataclasses.replace(_setting(cfg, model, devices, critic), scorers=_scorers(cfg, model, devices))
  mesh = parallel.make_mesh(cfg.mesh, devices)
  sampling = parallel.make_mesh(parallel.or_else(sampler_mesh(cfg), cfg.mesh), devices, 'sampler_mesh')
  shards = math.lcm(*(parallel.batch_shards(m) for m in (mesh, sampling)))
  if isinstance(cfg, config_lib.RewardModel):
    model = dataclasses.replace(model, head='score')
  s = _setting(as_rl(cfg, shards), model, devices, critic)
  if isinstance(cfg, config_lib.Generate):
    return dataclasses.replace(s, state=s.state.replace(opt_state=()), alone=True)
  if isinstance(cfg, config_lib.RewardModel):
    updater = reward_lib.ScoreUpdater(cfg, model, s.updater.optimizer, mesh)
    shape = (updater.size * rows_of(cfg), rows_lib.padded(cfg.data.max_length))
  else:
    updater = sft_lib.SFTUpdater(cfg, model, s.updater.optimizer, mesh)
    shape = (updater.size, cfg.data.max_length)
  return dataclasses.replace(s, labelled=updater, labelled_shape=shape)


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
      specs = models.specs(shape)
      params = state_lib.abstract_state(specs, _optimizer(cfg, specs), mesh, False, config_lib.Train()).params
    dtype = options.get('dtype') or params['embed'].dtype.name
    out.append((scoring.Scorer(shape, mesh, dtype, options.get('batch', 16)), params, tokens))
  return tuple(out)


def _setting(cfg, model, devices, critic):
  mesh, specs = parallel.make_mesh(cfg.mesh, devices), models.specs(model)
  sampler_mesh = parallel.make_mesh(parallel.or_else(cfg.sampler_mesh, cfg.mesh), devices, 'sampler_mesh')
  train, optimizer = cfg.train, _optimizer(cfg, specs)
  state = state_lib.abstract_state(specs, optimizer, mesh, cfg.loss.kl_coef > 0, train)
  updater = update.Updater(cfg, model, optimizer, mesh)
  values = None
  if critic:
    specs = models.specs(as_critic(model))
    values = state_lib.abstract_state(specs, _optimizer(cfg, specs), mesh, False, train)
  chunk, samples = sampled(cfg)
  shards = parallel.batch_shards(sampler_mesh)
  require(
    chunk % shards == 0,
    f'{chunk} prompts sampled at a time do not divide over {shards} devices of the batch axes; '
    f'set rollout.chunk (or rollout.prompts) to a multiple of {shards}, or use a smaller mesh.',
  )
  return Setting(cfg, model, mesh, sampler_mesh, state, updater, values, *tile(cfg), chunk, samples)


def _optimizer(cfg, specs):
  steps = cfg.steps * cfg.train.minibatches * cfg.train.epochs
  return optimizer_lib.make(cfg.optimizer, steps, specs, cfg.train.param_dtype)


def as_critic(model):
  return dataclasses.replace(model, head='score', tied=False)


def tile(cfg):
  """(groups, rows of a group) in a microbatch."""
  rows, groups = update._tile(cfg.train, cfg.rollout.prompts // cfg.train.minibatches, cfg.rollout.samples)
  return groups, rows


def microbatches(cfg):
  """Microbatches in one optimizer step."""
  groups, rows = tile(cfg)
  return math.ceil(cfg.rollout.prompts // cfg.train.minibatches / groups) * math.ceil(cfg.rollout.samples / rows)


def sampled(cfg):
  """(prompts, samples of each) in the sampler's largest batch: training's, or an evaluation's."""
  if isinstance(cfg, config_lib.Generate):
    return cfg.rollout.chunk or cfg.rollout.prompts, cfg.rollout.samples
  return cfg.rollout.chunk or cfg.rollout.prompts, max(cfg.rollout.samples, cfg.eval.samples, cfg.eval.final_samples)


def lower(name, s):
  """One program as the run would compile it, and what it leaves lying beside it.

  Args:
    name: one of PHASES' programs. s: Setting.

  Returns:
    jax.stages.Lowered; and a dict of bytes on a device: resident_beside_bytes, what it holds beside the program's
    arguments; state_bytes, of all that stays between programs; and critic_bytes, the value network's part of that.
  """
  build = {
    'sft': _sft,
    'reward_model': _reward_model,
    'rewards': _rewards,
    'update': _update,
    'logprobs': _logprobs,
    'sample': _sample,
    'critic': _critic,
  }
  lowered, used, more = build[name.split('/')[0]](name, s)
  critic = _tree_bytes(s.critic)
  state = _tree_bytes(s.state) + critic + sum(_tree_bytes(params) for _, params, _ in s.scorers)
  if s.alone:
    state, used = 0, None
  return lowered, {
    'resident_beside_bytes': state - _tree_bytes(used) + _tree_bytes(more),
    'state_bytes': state,
    'critic_bytes': critic,
  }


def device_bytes(x):
  """Bytes of a ShapeDtypeStruct in one device's own memory, without the padding of its layout."""
  if x.sharding.memory_kind == 'pinned_host':
    return 0
  return math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize


def _tree_bytes(tree):
  return sum(device_bytes(x) for x in jax.tree.leaves(tree))


def _batch(s, graded):
  """A microbatch of the longest responses. graded: with all that the update reads; else as a log-prob pass has it."""
  of = lambda shape, dtype=jnp.float32: jax.ShapeDtypeStruct(shape, dtype, sharding=s.updater.sharding)
  p, g, rollout = s.prompts, s.rows, s.cfg.rollout
  tokens = (p, g, update.bucket(rollout.max_response, rollout.max_response))
  old = graded and s.updater.scores_itself()
  return policy.PolicyBatch(
    of((p, rollout.max_prompt), jnp.int32),
    of((p,), jnp.int32),
    of(tokens, jnp.int32),
    of((p, g), jnp.int32),
    of((p, g)) if graded else None,
    of(tokens),
    of(tokens) if old else None,
    of(tokens) if graded and s.state.reference is not None else None,
  )


# Each of these returns jax.stages.Lowered, the part of the state among its arguments, and what else stays beside them.


def _gradients(params, dtype):
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype if dtype == 'param' else jnp.dtype(dtype), sharding=x.sharding),
    params,
  )


def _critic(name, s):
  model = as_critic(s.model)
  grads = _gradients(s.critic.params, s.cfg.train.grad_dtype)
  if name == 'critic/apply':
    lowered = policy._apply.lower(
      s.critic,
      grads,
      None,
      optimizer=_optimizer(s.cfg, models.specs(model)),
      balance_rate=0.0,
      places=policy.places_of(s.critic),
    )
    return lowered, s.critic, None
  b = _batch(s, graded=True)
  batch = critic_lib.ValueBatch(b.prompts, b.prompt_lengths, b.responses, b.lengths, b.sampler_logp, b.sampler_logp)
  scalar = jax.ShapeDtypeStruct((), jnp.float32, sharding=s.updater.everywhere)
  lowered = critic_lib._accumulate.lower(
    s.critic.params,
    grads,
    batch,
    policy.Totals(scalar, scalar),
    cfg=model,
    options=s.updater.options,
    clip=0.2,
    places=policy.places_of(grads),
  )
  return lowered, s.critic.params, None


def _sft(name, s):
  if name == 'sft/apply':
    return _update('update/apply', s)
  grads = _gradients(s.state.params, s.cfg.train.grad_dtype)
  of = lambda dtype: jax.ShapeDtypeStruct(s.labelled_shape, dtype, sharding=s.labelled.sharding)
  batch = sft_lib.PackedBatch(of(jnp.int32), of(jnp.int32), of(jnp.int32), of(jnp.bool))
  count = jax.ShapeDtypeStruct((), jnp.float32, sharding=s.labelled.everywhere)
  lowered = sft_lib._accumulate.lower(
    s.state.params, grads, batch, count, cfg=s.model, options=s.labelled.options, places=policy.places_of(grads)
  )
  return lowered, s.state.params, None


def _reward_model(name, s):
  if name == 'reward_model/apply':
    return _update('update/apply', s)
  grads, (rows, tokens) = _gradients(s.state.params, s.cfg.train.grad_dtype), s.labelled_shape
  of = lambda *shape, dtype=jnp.int32: jax.ShapeDtypeStruct(shape, dtype, sharding=s.labelled.sharding)
  marks = rows_lib.padded(1, least=1)  # of steps there are more, which is little beside a row
  batch = reward_lib.ScoreBatch(of(rows, tokens), of(rows), of(rows, marks), of(rows, marks, dtype=jnp.float32))
  count = jax.ShapeDtypeStruct((), jnp.float32, sharding=s.labelled.everywhere)
  lowered = reward_lib._accumulate.lower(
    s.state.params,
    grads,
    batch,
    count,
    cfg=s.model,
    options=s.labelled.options,
    objective=s.labelled.objective,
    places=policy.places_of(grads),
  )
  return lowered, s.state.params, None


def _rewards(name, s):
  """The largest of the reward models scores its longest rows."""
  del name
  scorer, params, length = max(s.scorers, key=lambda one: _tree_bytes(one[1]))
  of = lambda *sizes: jax.ShapeDtypeStruct((scorer.batch, *sizes), jnp.int32, sharding=scorer.sharding)
  return scorer.program.lower(params, of(rows_lib.padded(length)), of(), of(1)), params, None


def _update(name, s):
  grads = _gradients(s.state.params, s.cfg.train.grad_dtype)
  if name == 'update/apply':
    load = None
    if s.model.moe:
      load = jax.ShapeDtypeStruct(
        (s.model.layers - s.model.dense_layers, s.model.moe.experts), jnp.float32, sharding=s.updater.everywhere
      )
    state = s.state.replace(reference=None)
    lowered = policy._apply.lower(
      state,
      grads,
      load,
      optimizer=s.updater.optimizer,
      balance_rate=s.cfg.train.balance_rate,
      places=policy.places_of(state),
    )
    return lowered, state, None
  scalar = jax.ShapeDtypeStruct((), jnp.float32, sharding=s.updater.everywhere)
  lowered = policy._accumulate.lower(
    s.state.params,
    grads,
    _batch(s, graded=True),
    policy.Totals(scalar, scalar),
    cfg=s.model,
    options=s.updater.options,
    loss=s.cfg.loss,
    max_response=s.cfg.rollout.max_response,
    places=policy.places_of(grads),
  )
  return lowered, s.state.params, None


def _logprobs(name, s):
  del name
  # The policy's own pass, where there is one, needs as much or more: its parameters are the wider.
  params = s.state.params if s.updater.scores_itself() or s.state.reference is None else s.state.reference
  own, reference = (tree and state_lib.in_memory(tree, 'device') for tree in (params, s.state.reference))
  lowered = policy.logprobs.lower(own, _batch(s, graded=False), cfg=s.model, options=s.updater.options)
  # A reference that comes from the host's memory lies beside all the rest in its own pass.
  visits = s.cfg.train.reference_memory == 'host' and params is not s.state.reference
  return lowered, params, reference if visits else None


def _sample(name, s):
  """The sampler's programs with all rows live: the cache grows to its full size, and then is decoded with."""
  rollout, mesh, dtype = s.cfg.rollout, s.sampler_mesh, jnp.dtype(s.cfg.model.dtype)
  p, g = s.chunk, s.samples
  by_prompt, everywhere = parallel.batch_sharding(mesh), parallel.replicated(mesh)
  of = lambda shape, dtype, sharding=by_prompt: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
  lengths, scalar = of((p,), jnp.int32), lambda dtype: of((), dtype, everywhere)
  lie = parallel.shardings(models.specs(s.model, stacked=False), mesh)
  copy = functools.partial(decode.weights, dtype=dtype)
  if name == 'sample/weights':
    return jax.jit(copy, out_shardings=lie).lower(s.state.params), s.state.params, None
  params = jax.tree.map(
    lambda x, to: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=to), jax.eval_shape(copy, s.state.params), lie
  )
  key = jax.eval_shape(lambda: jax.random.key(0)).dtype
  # Which ids end a response is in the program, but changes nothing that is measured here.
  static = dict(
    cfg=s.model, restriction=Restriction(rollout.top_p, rollout.top_k, rollout.min_p), eos=(0,), dtype=dtype, mesh=mesh
  )
  before, full = capacities(rollout.max_response)
  begin = lambda capacity: (
    (params, of((p, rollout.max_prompt), jnp.int32), lengths, of((p, g), key), scalar(jnp.float32)),
    static | {'capacity': capacity},
  )
  if name == 'sample/start':
    args, options = begin(min(engine.STRETCH, rollout.max_response))
    return decode.start.lower(*args, **options), None, None
  args, options = begin(before)
  place = lambda x, mesh, *axes: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout.sharding(x.shape, mesh, *axes))
  of_program = lambda program, *args, **options: decode.laid_out(program.eval_shape(*args, **options), mesh, place)
  prefix, carry, _ = of_program(decode.start, *args, **options)
  rows = of((p, g), jnp.int32)
  if name == 'sample/reshape':
    return decode.reshape.lower(carry, rows, capacity=full, mesh=mesh), None, (params, prefix)
  if full > before:
    carry = of_program(decode.reshape, carry, rows, capacity=full, mesh=mesh)
  lowered = decode.stretch.lower(
    params,
    prefix,
    lengths,
    carry,
    scalar(jnp.int32),
    scalar(jnp.int32),
    scalar(jnp.float32),
    length=engine.STRETCH,
    **static,
  )
  return lowered, None, None


def capacities(max_response):
  """Room in the cache before and after it last grows (tokens)."""
  before = full = min(engine.STRETCH, max_response)
  while full < max_response:
    before, full = full, min(engine.GROW * full, max_response)
  return before, full
