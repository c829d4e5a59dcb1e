"""What a run needs of a TPU slice, without a TPU: its real programs compiled for it, their memory, and a roofline.

  pip install -e .[plan]
  python -m experiments.plan --config configs/r1_zero.py:qwen2_5_7b [--topology v5e:4x4] [--mesh fsdp=4,tp=4] \\
      [--program update,sample] [--price 1.2] [--json F] [--config.train.microbatch=4 ...]
  python -m experiments.plan --config configs/distill.py:qwen2_5_math_7b    (or of SFT, sampling, a reward model)
  python -m experiments.plan --config configs/r1.py:deepseek_v3/final                          (a stage of a recipe)
  python -m experiments.plan ... --topology v5e:2x4,v5e:4x4 --search

The model is that of --config.model.path, or of --config.model.preset; mesh and slice are the config's where not given.
What was compiled before is looked up, not compiled again.
"""

import concurrent.futures
import dataclasses
import math
import os
import sys
import threading
import time

from absl import app, flags
import jax
from ml_collections import config_flags

from r1jax import checkpoint, models, parallel
from r1jax import config as config_lib
from r1jax.planning import processes, programs, roofline, topology, verdict
from r1jax.runs import cli, json_files

GB = 1e9
GIB = topology.GIB


def model_of(cfg):
  """The ModelConfig of the config's model directory, or of its preset."""
  if cfg.model.path:
    return checkpoint.open_model(cfg.model.path).cfg
  config_lib.require(
    cfg.model.preset in models.PRESETS,
    f'model.preset is {cfg.model.preset!r}; known: {", ".join(models.PRESETS)}; or pass a model '
    'directory with --config.model.path=DIR.',
  )
  return models.PRESETS[cfg.model.preset]


def mesh_of(text, default):
  """config.Mesh from 'fsdp=4,tp=4', axes not named having one device; `default` where the text is empty."""
  if not text:
    return default
  known = {f.name: 1 for f in dataclasses.fields(config_lib.Mesh)}
  for part in text.split(','):
    axis, _, size = part.partition('=')
    config_lib.require(
      axis in known and size.lstrip('-').isdigit(),
      f'--mesh {text!r}: {part!r} is no AXIS=SIZE; axes: {", ".join(known)}.',
    )
    known[axis] = int(size)
  return config_lib.Mesh(**known)


def sizes(mesh, chips):
  """{axis: size} of a config.Mesh, -1 filled in; ConfigError where it does not match the chips."""
  found = {f.name: getattr(mesh, f.name) for f in dataclasses.fields(mesh)}
  product = 1
  for n in found.values():
    product *= abs(n)
  fills = [axis for axis, n in found.items() if n == -1]
  if len(fills) == 1 and chips % product == 0:
    found[fills[0]] = chips // product
    product = chips
  config_lib.require(
    product == chips and min(found.values()) > 0,
    f'mesh {found} does not match the {chips} chips of the slice; let one axis be -1 and the others divide {chips}.',
  )
  return found


def folder():
  """Where results are kept: beside compiled programs (see `runtime.set_up_process`)."""
  cache = os.environ.get('JAX_COMPILATION_CACHE_DIR')
  return os.path.join(cache or os.path.join(os.path.expanduser('~'), '.cache', 'r1jax'), 'plans')


def say(name, what):
  print(f'{name}: {what}', file=sys.stderr, flush=True)


def compile_all(names, cfg, model, slice_, cache, critic=False):
  """Compiles programs, each in its own process, as many at a time as there are processors.

  Returns:
    {program: result}.
  """
  config, over = config_lib.to_dict(cfg), threading.Event()

  def one(name):
    began, last = time.monotonic(), 0

    def watch(seconds):
      nonlocal last
      if over.is_set():
        raise processes.PlanError(f'{name} was given up')
      if seconds >= last + 20 or not last:
        last = seconds
        say(name, f'compiling, {seconds:.0f} s')

    result = processes.run(processes.Job(config, model, slice_.name, name, cache, critic), watch)
    how = (
      'known from before'
      if result['cached']
      else (f'{result["compile_cpu_seconds"]:.0f} s of processor time, {result["rss_bytes"] / GB:.1f} GB')
    )
    say(name, f'{time.monotonic() - began:.0f} s ({how})')
    return result

  with concurrent.futures.ThreadPoolExecutor(min(4, len(os.sched_getaffinity(0)))) as pool:
    futures = {name: pool.submit(one, name) for name in names}
    try:
      done, _ = concurrent.futures.wait(futures.values(), return_when=concurrent.futures.FIRST_EXCEPTION)
      for future in done:
        future.result()
    finally:
      over.set()
  return {name: future.result() for name, future in futures.items()}


def describe(found, slice_):
  """One entry of the JSON's `programs` for each compiled program."""
  out = []
  for name, r in found.items():
    total = r['peak_bytes'] + r['resident_beside_bytes']
    out.append(
      {
        'name': name,
        **{
          key: r[key]
          for key in (
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
        },
        'total_bytes': total,
        'verdict': verdict.judge(total, slice_.chip.limit) if not r['refused'] else verdict.ORDER[-1],
      }
    )
  return out


def table(rows, cfg, model, slice_, shards):
  """The lines of the table of programs. shards: {phase: parts that its batch is cut into}."""
  head = ('program', 'arguments', 'temporaries', 'peak', 'beside', 'total', 'of limit', 'TFLOP', 'by hand', 'verdict')
  size = lambda n: '?' if n is None else f'{n / GB:.2f}'
  cells, notes = [head], []
  for row in rows:
    hand = roofline.by_hand(cfg, model, row['name'])
    # What a kernel computes is not among a program's products: attention, and of a mixture the experts.
    if hand and row['kernels']:
      hand = None if model.moe else hand | {'attention': 0}
    hand = hand and sum(hand.values()) / slice_.chips
    open_ = '/turn' if row['open_loops'] else ''
    cells.append(
      (
        row['name'],
        *(size(row[k]) for k in ('argument_bytes', 'temp_bytes', 'peak_bytes', 'resident_beside_bytes', 'total_bytes')),
        f'{100 * row["total_bytes"] / slice_.chip.limit:.0f} %',
        'unknown' if row['dot_flops'] is None else f'{row["dot_flops"] / 1e12:.4g}{open_}',
        f'{hand / 1e12:.4g}' if hand else '',
        row['verdict'],
      )
    )
    if row['verdict'] != verdict.ORDER[0]:
      over = row['total_bytes'] - slice_.chip.limit
      by = f' by {over / GB:.2f} GB' if over > 0 else ''
      parts = shards[row['name'].split('/')[0]]
      notes.append(
        f'{row["name"]}: {row["verdict"]}{by}; '
        f'{verdict.remedy(row["name"], row["total_bytes"], cfg, model, slice_, parts)}'
      )
  widths = [max(len(c[i]) for c in cells) for i in range(len(head))]
  lines = [
    '  '.join(c.ljust(w) if i in (0, len(head) - 1) else c.rjust(w) for i, (c, w) in enumerate(zip(c, widths)))
    for c in cells
  ]
  return lines + notes


def costs(phases, cfg, slice_, price):
  """The roofline as {name: number}."""
  seconds = sum(p.seconds for p in phases)
  tokens = cfg.rollout.prompts * cfg.rollout.samples * cfg.rollout.max_response
  hours = cfg.steps * seconds * slice_.chips / 3600
  out = {'step_seconds': seconds, 'tokens_a_day': tokens * 86400 / seconds, 'steps': cfg.steps, 'chip_hours': hours}
  return out | ({'price': price, 'cost': hours * price} if price else {})


def plan(cfg, model, slice_, wanted, cache, price=0.0, critic=False):
  """Compiles the phases `wanted` (all the run has where empty) and returns the JSON's dict and the table's lines.

  Args:
    critic: add a value network with its optimizer, as PPO has one, and say what it costs.
  """
  check_context(cfg, model)
  config_lib.require(not critic or isinstance(cfg, config_lib.RL), '--critic compares RL with PPO; this is no RL.')
  mesh = sizes(cfg.mesh, slice_.chips)
  present = programs.phases(cfg, critic)
  for phase in wanted:
    config_lib.require(phase in present, f'--program {phase!r}; this run has: {", ".join(present)}.')
  rows = describe(compile_all(programs.names(wanted or present, cfg), cfg, model, slice_, cache, critic), slice_)
  sampler = sizes(parallel.with_default_sizes(programs.sampler_mesh(cfg), cfg.mesh), slice_.chips)
  trains = isinstance(cfg, config_lib.RL)
  phases = phases_of(cfg, model, slice_, sampler)
  shards = {
    phase: math.prod((sampler if phase == 'sample' else mesh)[a] for a in parallel.BATCH_AXES)
    for phase in programs.PHASES
  }
  cost = (costs if trains else other_costs)(phases, cfg, slice_, price)
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
    slice_line(slice_, mesh, sampler),
    *heading(cfg),
    *table(rows, cfg, model, slice_, shards),
    f'verdict: {out["verdict"]}',
  ]
  if critic and any(not r['name'].startswith('critic') for r in rows):
    out['without_critic'] = without = without_critic(rows)
    told = (
      f'{what} {b / GB:.2f} against {a / GB:.2f} GB, {100 * (1 - b / a):.0f} % less' for what, (a, b) in without.items()
    )
    lines.append(
      'GRPO against PPO, which has a value network and its optimizer: ' + '; '.join(told) + '. Its time is '
      'not in the bounds below.'
    )
  return out, [*lines, '', *(bounds if trains else other_bounds)(phases, cost, slice_)]


def phases_of(cfg, model, slice_, sampler):
  """The roofline of one step of a run; of a config.Generate, of one file of samples. sampler: {axis: size}."""
  if isinstance(cfg, config_lib.Generate):
    return roofline.sampling_phases(cfg, model, slice_, sampler)
  if isinstance(cfg, config_lib.RewardModel):
    model = dataclasses.replace(model, head='score')
  if isinstance(cfg, config_lib.RL):
    return roofline.step(cfg, model, slice_, sampler)
  return [roofline.labelled_step(cfg, model, slice_)]


def check_context(cfg, model):
  """Raises ConfigError where a run's rows exceed the context that its model has, or is given."""
  if isinstance(cfg, config_lib.RL | config_lib.Generate):
    return config_lib.check_context(cfg.rollout, model.context)
  context = getattr(cfg, 'context', 0) or model.context
  config_lib.require(
    cfg.data.max_length <= context,
    f"data.max_length {cfg.data.max_length} exceeds the model's context of {context} tokens; lower "
    f'it, or in SFT set context to {cfg.data.max_length}.',
  )
  if isinstance(cfg, config_lib.SFT) and cfg.eval.problems:
    config_lib.check_context(cfg.eval, context, 'eval')


def without_critic(rows):
  """{'peak', 'resident': (bytes with a value network, bytes without)}: while a program runs, and between them."""
  rest = [r for r in rows if not r['name'].startswith('critic')]
  own = rows[0]['critic_bytes']
  return {
    'peak': (max(r['total_bytes'] for r in rows), max(r['total_bytes'] for r in rest) - own),
    'resident': (rows[0]['state_bytes'], rows[0]['state_bytes'] - own),
  }


def divided(cfg, shards):
  """cfg with what is computed at a time, microbatch and rollout.chunk, raised to whole multiples of `shards`."""
  up = lambda n: -(-n // shards) * shards
  if isinstance(cfg, config_lib.SFT | config_lib.RewardModel):
    return dataclasses.replace(cfg, microbatch=up(cfg.microbatch or cfg.batch))
  chunk = programs.sampling(cfg).prompts
  if isinstance(cfg, config_lib.Generate):
    return dataclasses.replace(cfg, rollout=dataclasses.replace(cfg.rollout, chunk=up(chunk)))
  groups, rows = programs.microbatch_shape(cfg)
  return dataclasses.replace(
    cfg,
    rollout=dataclasses.replace(cfg.rollout, chunk=up(chunk)),
    train=dataclasses.replace(cfg.train, microbatch=up(groups) * rows),
  )


def search(cfg, model, slices, wanted, cache, price, critic=False):
  """Plans every mesh fsdp x tp of every slice. Returns {'tried', 'smallest', 'fastest'} and lines that sum it up.

  Microbatches and sampled chunks grow where a mesh needs that (see `divided`); data joins several slices. The smallest
  that fits has the fewest chips, then the most room; the fastest the least step time by the roofline.
  """
  tried, lines = [], []
  for slice_ in slices:
    for tp in (2**i for i in range((slice_.chips // slice_.slices).bit_length())):
      mesh = config_lib.Mesh(data=slice_.slices, fsdp=slice_.chips // slice_.slices // tp, tp=tp)
      name = f'{slice_.name} fsdp={mesh.fsdp},tp={mesh.tp}'
      try:
        here = on_mesh(divided(cfg, mesh.data * mesh.fsdp), mesh, mesh)
        out, _ = plan(here, model, slice_, wanted, cache, price, critic)
      except (config_lib.ConfigError, processes.PlanError) as error:
        lines.append(f'{name}: {error}')
        continue
      tried.append(out)
      tiles = (
        f'train.microbatch={here.train.microbatch} and rollout.chunk={here.rollout.chunk}'
        if isinstance(here, config_lib.RL)
        else f'rollout.chunk={here.rollout.chunk}'
        if isinstance(here, config_lib.Generate)
        else f'microbatch={here.microbatch}'
      )
      lines.append(
        f'{name}: {out["verdict"]}, {_most(out) / GB:.2f} GB with {tiles}, '
        f'{out["bound"]["step_seconds"]:.3g} s a step at least'
      )
      print(lines[-1], file=sys.stderr, flush=True)
  fit = [out for out in tried if out['verdict'] != verdict.ORDER[-1]]
  found = {
    'smallest': min(fit, key=lambda out: (out['chips'], _most(out)), default=None),
    'fastest': min(fit, key=lambda out: out['bound']['step_seconds'], default=None),
  }
  told = lambda out: f'{out["topology"]} fsdp={out["mesh"]["fsdp"]},tp={out["mesh"]["tp"]}' if out else 'none fits'
  return found | {'tried': tried}, [*lines, *(f'{how}: {told(out)}' for how, out in found.items())]


def _most(out):
  return max(p['total_bytes'] for p in out['programs'])


PEAK = (
  'peak: arguments, new results and temporaries; beside: the rest of parameters, moments and reference, which '
  'stay. TFLOP: of the compiled products, loops in full (/turn: of one turn), without kernels.'
)


def slice_line(slice_, mesh, sampler):
  told = lambda mesh: ' x '.join(f'{axis} {n}' for axis, n in mesh.items() if n > 1) or 'one device'
  shape = told(mesh) if sampler == mesh else f'{told(mesh)} (sampling: {told(sampler)})'
  return (
    f'{slice_.name}: {slice_.chips} chips, {shape}; a program may use {slice_.chip.limit / GB:.2f} GB '
    f'({slice_.chip.limit / GIB:.2f} GiB) of each. GB are 10^9 bytes, all figures per chip.'
  )


def on_mesh(cfg, mesh, sampler):
  """cfg with these config.Mesh for training and, where it has one of its own, for sampling."""
  own = {'sampler_mesh': sampler} if hasattr(cfg, 'sampler_mesh') else {}
  return dataclasses.replace(cfg, mesh=mesh, **own)


def heading(cfg):
  if isinstance(cfg, config_lib.Generate):
    s, r = programs.sampling(cfg), cfg.rollout
    return [
      f'sampler: {s.prompts * s.samples} rows ({s.prompts} prompts x {s.samples}), {r.max_prompt} + {r.max_response} '
      'tokens, the cache full; a step below is a file of samples.',
      PEAK,
      '',
    ]
  if not isinstance(cfg, config_lib.RL):
    return labelled_heading(cfg)
  groups, rows = programs.microbatch_shape(cfg)
  s, r = programs.sampling(cfg), cfg.rollout
  return [
    f'update: {programs.microbatches(cfg)} microbatches of {groups * rows} rows, {r.max_prompt} + {r.max_response} '
    f'tokens; sampler: {s.prompts * s.samples} rows ({s.prompts} prompts x {s.samples}), the cache full.',
    PEAK,
    '',
  ]


def labelled_heading(cfg):
  e, size, times = cfg.eval, cfg.microbatch or cfg.batch, programs.rows_of(cfg)
  if isinstance(cfg, config_lib.RewardModel):
    return [f'step: {cfg.batch // size} microbatches of {size * times} rows of {cfg.data.max_length} tokens.', PEAK, '']
  sampled = (
    f'; sampler: {e.batch * max(e.samples, e.final_samples)} rows, {e.max_prompt} + {e.max_response} tokens'
    if e.problems
    else ''
  )
  return [
    f'step: {cfg.batch // size} microbatches of {size} packed rows of {cfg.data.max_length} tokens{sampled}.',
    PEAK,
    '',
  ]


def other_costs(phases, cfg, slice_, price):
  """As `costs`; how many steps there are, the texts or problems decide."""
  seconds = sum(p.seconds for p in phases)
  if isinstance(cfg, config_lib.Generate):
    tokens = cfg.rollout.prompts * cfg.rollout.samples * cfg.rollout.max_response
  else:
    tokens = cfg.batch * programs.rows_of(cfg) * cfg.data.max_length
  hours = seconds * slice_.chips / 3600 * 1e9 / tokens
  return {'step_seconds': seconds, 'tokens_a_day': tokens * 86400 / seconds, 'chip_hours_a_billion': hours} | (
    {'price': price, 'cost_a_billion': hours * price} if price else {}
  )


def other_bounds(phases, cost, slice_):
  chip, flops, moved = slice_.chip, sum(p.flops for p in phases), sum(p.bytes for p in phases)
  priced = f', {cost["cost_a_billion"]:.3g} at {cost["price"]:g} a chip-hour' if 'price' in cost else ''
  return [
    f'step: {cost["step_seconds"]:.3g} s at least ({flops / 1e12:.3g} TFLOP, {moved / GB:.3g} GB a chip); '
    f'{cost["tokens_a_day"]:.3g} tokens a day at most; a billion tokens: {cost["chip_hours_a_billion"]:.3g} '
    f'chip-hours{priced}.',
    f'Assumed: {chip.flops / 1e12:g} TFLOP/s and {chip.bandwidth / 1e12:g} TB/s a chip, all of it; no time on '
    'the network or the host; rows full, each counted as one text, responses of the full length; testing not '
    'counted.',
  ]


def bounds(phases, cost, slice_):
  chip = slice_.chip
  lines = [f'{p.name}: {p.seconds:.3g} s ({p.flops / 1e12:.3g} TFLOP, {p.bytes / GB:.3g} GB a chip)' for p in phases]
  lines.append(
    f'step: {cost["step_seconds"]:.3g} s at least; {cost["tokens_a_day"]:.3g} response tokens a day at '
    f'most; {cost["steps"]} steps: {cost["chip_hours"]:.3g} chip-hours'
    + (f', {cost["cost"]:.3g} at {cost["price"]:g} a chip-hour' if 'cost' in cost else '')
    + '.'
  )
  return [
    *lines,
    f'Assumed: {chip.flops / 1e12:g} TFLOP/s and {chip.bandwidth / 1e12:g} TB/s a chip, all of it; no time on '
    'the network, the host or for rewards; each response of the full length, all rows live to the end; masked '
    'scores cost nothing; for each token a chip reads the weights that it holds and half of its full cache.',
  ]


def main(_):
  jax.config.update('jax_platforms', 'cpu')  # with its compiler there, JAX would look for a TPU
  with cli.errors_in_one_line():
    cfg = config_lib.of_run(_CONFIG.value)
    if isinstance(cfg, config_lib.ColdStart):
      cfg = programs.as_generate(cfg)
    slices = [topology.find(name) for name in _TOPOLOGY.value or [cfg.topology]]
    config_lib.require(len(slices) == 1 or _SEARCH.value, '--topology: one slice, or several to --search.')
    topology.require_compiler()
    cfg = on_mesh(cfg, mesh_of(_MESH.value, cfg.mesh), mesh_of(_MESH.value, programs.sampler_mesh(cfg)))
    rest = (_PROGRAM.value, _CACHE.value or folder(), _PRICE.value, _CRITIC.value)
    try:
      model = model_of(cfg)
      out, lines = search(cfg, model, slices, *rest) if _SEARCH.value else plan(cfg, model, slices[0], *rest)
    except processes.PlanError as error:
      sys.exit(f'error: {error}')
    print('\n'.join(lines))
    if _JSON.value:
      json_files.write_json(_JSON.value, out)


if __name__ == '__main__':
  _CONFIG = config_flags.DEFINE_config_file('config', lock_config=False, accept_new_attributes=True)
  flags.mark_flag_as_required('config')
  _TOPOLOGY = flags.DEFINE_list('topology', [], 'A TPU slice, as v5e:4x4; several to --search.')
  _SEARCH = flags.DEFINE_bool('search', False, 'Try every fsdp x tp of the slices: the smallest and the fastest.')
  _MESH = flags.DEFINE_string('mesh', '', "For training and sampling, as fsdp=4,tp=4; '': the config's.")
  _PROGRAM = flags.DEFINE_list('program', [], f'Of {", ".join(programs.PHASES)}; all that the run has where empty.')
  _JSON = flags.DEFINE_string('json', '', 'File for the figures.')
  _CRITIC = flags.DEFINE_bool('critic', False, 'Add a value network with its optimizer, as PPO has; and compare.')
  _PRICE = flags.DEFINE_float('price', 0.0, 'Of a chip-hour.', lower_bound=0.0)
  _CACHE = flags.DEFINE_string('cache', '', "Folder of results; '': beside that of compiled programs.")
  app.run(main, flags_parser=cli.parse_flags)
