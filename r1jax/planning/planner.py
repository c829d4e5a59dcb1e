"""Plans a run on a slice: compiles its programs, judges their memory and adds lower bounds of time and cost."""

import dataclasses
import math

from r1jax import config as config_lib
from r1jax import parallel
from r1jax.planning import meshes, processes, programs, roofline, tables, verdict
from r1jax.training import sft

FIGURES = (
  'argument_bytes',
  'temp_bytes',
  'code_bytes',
  'peak_bytes',
  'compiler_peak_bytes',
  'resident_beside_bytes',
  'state_bytes',
  'critic_bytes',
  'compile_cpu_seconds',
  'rss_bytes',
  'dot_flops',
  'open_loops',
  'kernels',
  'refused',
)


def plan(cfg, model, slice_, selected, cache, price=0.0):
  """Plans a run on one slice.

  Args:
    cfg: config of the run.
    model: ModelConfig.
    slice_: topology.Topology.
    selected: names of phases to compile; empty for all of the run.
    cache: directory of cached results.
    price: of a chip-hour; 0 for none.

  Returns:
    dict for the JSON file, and the lines of the table.

  Raises:
    ConfigError: the run does not fit the model's context or the mesh, or has no such phase.
    PlanError: a program could not be compiled.
  """
  check_context(cfg, model)
  if isinstance(cfg, config_lib.SFT):
    sft.check_mtp(cfg, model)
  is_rl = isinstance(cfg, config_lib.RL)
  mesh = meshes.sizes(cfg.mesh, slice_.chips)
  known = programs.phases(cfg)
  for phase in selected:
    config_lib.require(phase in known, f'--program {phase!r} is unknown; this run has: {", ".join(known)}.')
  names = programs.names(selected or known, cfg)
  rows = describe(processes.compile_all(names, cfg, model, slice_, cache), slice_)
  sampler = meshes.sizes(parallel.with_default_sizes(programs.sampler_mesh(cfg), cfg.mesh), slice_.chips)
  phases = phases_of(cfg, model, slice_, sampler)
  shards = {
    phase: math.prod((sampler if phase == 'sample' else mesh)[a] for a in parallel.BATCH_AXES)
    for phase in programs.PHASES
  }
  cost = (rl_costs if is_rl else throughput_costs)(phases, cfg, slice_, price)
  out = {
    'topology': slice_.name,
    'chips': slice_.chips,
    'limit_bytes': slice_.chip.limit,
    'mesh': mesh,
    'sampler_mesh': sampler,
    'programs': rows,
    'verdict': verdict.worst(r['verdict'] for r in rows),
    'roofline': [dataclasses.asdict(p) for p in phases],
    'bound': cost,
  }
  lines = [
    tables.slice_line(slice_, mesh, sampler),
    *tables.heading(cfg),
    *tables.program_table(rows, cfg, model, slice_, shards),
    f'verdict: {out["verdict"]}',
  ]
  if is_rl and cfg.has_critic and any(not r['name'].startswith('critic') for r in rows):
    out['without_critic'] = without_critic(rows)
    lines.append(tables.critic_line(out['without_critic']))
  return out, [*lines, '', *(tables.rl_bounds if is_rl else tables.throughput_bounds)(phases, cost, slice_)]


def check_context(cfg, model):
  """Raises ConfigError if the rows of a run are longer than the context of its model."""
  if isinstance(cfg, config_lib.RL | config_lib.Generate):
    return config_lib.check_context(cfg.rollout, model.context)
  context = getattr(cfg, 'context', 0) or model.context
  config_lib.require(
    cfg.data.max_length <= context,
    f"data.max_length {cfg.data.max_length} exceeds the model's context of {context} tokens; lower "
    f'it, or for SFT set context to {cfg.data.max_length}.',
  )
  if isinstance(cfg, config_lib.SFT) and cfg.eval.problems:
    config_lib.check_context(cfg.eval, context, 'eval')


def describe(results, slice_):
  """One entry of the JSON's `programs` for each compiled program. results: {name: result of `processes.run`}."""
  out = []
  for name, result in results.items():
    total = result['peak_bytes'] + result['resident_beside_bytes']
    out.append(
      {
        'name': name,
        **{key: result[key] for key in FIGURES},
        'total_bytes': total,
        'verdict': verdict.judge(total, slice_.chip.limit) if not result['refused'] else verdict.ORDER[-1],
      }
    )
  return out


def phases_of(cfg, model, slice_, sampler):
  """The roofline of one step of a run; of a config.Generate, of one file of samples. sampler: {axis: size}."""
  if isinstance(cfg, config_lib.Generate):
    return roofline.sampling_phases(cfg, model, slice_, sampler)
  if isinstance(cfg, config_lib.RL):
    return roofline.step(cfg, model, slice_, sampler)
  if isinstance(cfg, config_lib.RewardModel):
    model = dataclasses.replace(model, head='score')
  return [roofline.supervised_step(cfg, model, slice_)]


def without_critic(rows):
  """{'peak', 'resident': (bytes with a value network, bytes without)}: while a program runs, and between programs."""
  rest = [r for r in rows if not r['name'].startswith('critic')]
  critic_bytes = rows[0]['critic_bytes']
  return {
    'peak': (max(r['total_bytes'] for r in rows), max(r['total_bytes'] for r in rest) - critic_bytes),
    'resident': (rows[0]['state_bytes'], rows[0]['state_bytes'] - critic_bytes),
  }


def rl_costs(phases, cfg, slice_, price):
  """The roofline of a config.RL as {name: number}."""
  seconds = sum(p.seconds for p in phases)
  tokens = cfg.rollout.prompts * cfg.rollout.samples * cfg.rollout.max_response
  hours = cfg.steps * seconds * slice_.chips / 3600
  out = {'step_seconds': seconds, 'tokens_a_day': tokens * 86400 / seconds, 'steps': cfg.steps, 'chip_hours': hours}
  return out | ({'price': price, 'cost': hours * price} if price else {})


def throughput_costs(phases, cfg, slice_, price):
  """As `rl_costs` for other runs, whose number of steps depends on the data: per billion tokens instead."""
  seconds = sum(p.seconds for p in phases)
  if isinstance(cfg, config_lib.Generate):
    tokens = cfg.rollout.prompts * cfg.rollout.samples * cfg.rollout.max_response
  else:
    tokens = cfg.batch * programs.rows_of(cfg) * cfg.data.max_length
  hours = seconds * slice_.chips / 3600 * 1e9 / tokens
  out = {'step_seconds': seconds, 'tokens_a_day': tokens * 86400 / seconds, 'chip_hours_a_billion': hours}
  return out | ({'price': price, 'cost_a_billion': hours * price} if price else {})
