"""The lines that a plan prints: heading, table of programs, and lower bounds."""

from r1jax import config as config_lib
from r1jax.planning import programs, roofline, topology, verdict
from r1jax.training import policy

GB = 1e9
LEGEND = (
  'peak: arguments, new results and temporaries; resident: other parameters, moments and reference in memory. '
  'TFLOP: of the compiled matrix products with all iterations of loops (/iteration: of one), without kernels.'
)
HEAD = ('program', 'arguments', 'temporaries', 'peak', 'resident', 'total', 'of limit', 'TFLOP', 'analytic', 'verdict')
BYTES = ('argument_bytes', 'temp_bytes', 'peak_bytes', 'resident_beside_bytes', 'total_bytes')


def program_table(rows, cfg, model, slice_, shards):
  """The table of programs, followed by a remedy for each that does not fit well.

  Args:
    rows: result of `planner.describe`.
    cfg: config of the run.
    model: ModelConfig.
    slice_: topology.Topology.
    shards: {phase: number of devices over which its batch is split}.

  Returns:
    list of lines.
  """
  cells = [HEAD, *(_cells(row, cfg, model, slice_) for row in rows)]
  widths = [max(len(row[i]) for row in cells) for i in range(len(HEAD))]
  align = lambda i, text: text.ljust(widths[i]) if i in (0, len(HEAD) - 1) else text.rjust(widths[i])
  lines = ['  '.join(align(i, text) for i, text in enumerate(row)) for row in cells]
  return lines + [_remedy(row, cfg, model, slice_, shards) for row in rows if row['verdict'] != verdict.ORDER[0]]


def _cells(row, cfg, model, slice_):
  counted = roofline.analytic_flops(cfg, model, row['name'])
  # The FLOPs of kernels are not in dot_flops: attention, and the experts of a mixture.
  if counted and row['kernels']:
    counted = None if model.moe else counted | {'attention': 0}
  analytic = sum(counted.values()) / slice_.chips if counted else 0
  open_ = '/iteration' if row['open_loops'] else ''
  return (
    row['name'],
    *('?' if row[key] is None else f'{row[key] / GB:.2f}' for key in BYTES),
    f'{100 * row["total_bytes"] / slice_.chip.limit:.0f} %',
    'unknown' if row['dot_flops'] is None else f'{row["dot_flops"] / 1e12:.4g}{open_}',
    f'{analytic / 1e12:.4g}' if analytic else '',
    row['verdict'],
  )


def _remedy(row, cfg, model, slice_, shards):
  excess = row['total_bytes'] - slice_.chip.limit
  by = f' by {excess / GB:.2f} GB' if excess > 0 else ''
  remedy = verdict.remedy(row['name'], row['total_bytes'], cfg, model, slice_, shards[row['name'].split('/')[0]])
  return f'{row["name"]}: {row["verdict"]}{by}; {remedy}'


def slice_line(slice_, mesh, sampler):
  """What the slice is. mesh, sampler: {axis: size}."""
  show = lambda mesh: ' x '.join(f'{axis} {n}' for axis, n in mesh.items() if n > 1) or 'one device'
  shape = show(mesh) if sampler == mesh else f'{show(mesh)} (sampling: {show(sampler)})'
  limit = slice_.chip.limit
  return (
    f'{slice_.name}: {slice_.chips} chips, {shape}; a program may use {limit / GB:.2f} GB '
    f'({limit / topology.GIB:.2f} GiB) of each. GB are 10^9 bytes; all figures are per chip.'
  )


def heading(cfg):
  """The lines above the table: the shapes of the run."""
  return [_shapes(cfg), LEGEND, '']


def _shapes(cfg):
  if isinstance(cfg, config_lib.Generate):
    s, r = programs.sampling(cfg), cfg.rollout
    return (
      f'sampler: {_rows(s)}, {r.max_prompt} + {r.max_response} '
      'tokens with a full cache; a step below is one file of samples.'
    )
  if isinstance(cfg, config_lib.RL):
    rows, groups = policy.microbatch_shape(cfg)
    s, r = programs.sampling(cfg), cfg.rollout
    return (
      f'update: {programs.microbatches(cfg)} microbatches of {groups * rows} rows, {r.max_prompt} + {r.max_response} '
      f'tokens; sampler: {_rows(s)} with a full cache.'
    )
  e, size, length = cfg.eval, cfg.microbatch or cfg.batch, cfg.data.max_length
  if isinstance(cfg, config_lib.RewardModel):
    return f'step: {cfg.batch // size} microbatches of {size * programs.rows_of(cfg)} rows of {length} tokens.'
  sampler = (
    f'; sampler: {e.batch * max(e.samples, e.final_samples)} rows, {e.max_prompt} + {e.max_response} tokens'
    if e.problems
    else ''
  )
  return f'step: {cfg.batch // size} microbatches of {size} packed rows of {length} tokens{sampler}.'


def _rows(s):
  rows = f'{s.rows} rows'
  return f'{rows} (slots)' if s.slots else f'{rows} ({s.prompts} prompts x {s.samples})'


def critic_line(comparison):
  """What a value network costs. comparison: result of `planner.without_critic`."""
  phrases = (
    f'{name} {without / GB:.2f} against {with_critic / GB:.2f} GB, {100 * (1 - without / with_critic):.0f} % less'
    for name, (with_critic, without) in comparison.items()
  )
  return 'GRPO against PPO, which has a value network and its optimizer: ' + '; '.join(phrases) + '.'


def rl_bounds(phases, cost, slice_):
  """Lower bounds of RL, one line for each phase. phases: [roofline.Phase]. cost: result of `planner.rl_costs`."""
  lines = [f'{p.name}: {p.seconds:.3g} s ({p.flops / 1e12:.3g} TFLOP, {p.bytes / GB:.3g} GB a chip)' for p in phases]
  price = f', {cost["cost"]:.3g} at {cost["price"]:g} a chip-hour' if 'cost' in cost else ''
  return [
    *lines,
    f'step: at least {cost["step_seconds"]:.3g} s; at most {cost["tokens_a_day"]:.3g} response tokens per day; '
    f'{cost["steps"]} steps: {cost["chip_hours"]:.3g} chip-hours{price}.',
    f'Assumes {_rates(slice_.chip)}; no time for network, host or rewards; every response of maximum length, '
    'and all rows live to the end; masked scores are free; for each token a chip reads its shard of the weights and '
    'half of its full cache.',
  ]


def throughput_bounds(phases, cost, slice_):
  """Lower bounds of other runs. phases: [roofline.Phase]. cost: result of `planner.throughput_costs`."""
  flops, moved = sum(p.flops for p in phases), sum(p.bytes for p in phases)
  price = f', {cost["cost_a_billion"]:.3g} at {cost["price"]:g} a chip-hour' if 'price' in cost else ''
  return [
    f'step: at least {cost["step_seconds"]:.3g} s ({flops / 1e12:.3g} TFLOP, {moved / GB:.3g} GB a chip); '
    f'at most {cost["tokens_a_day"]:.3g} tokens per day; a billion tokens: {cost["chip_hours_a_billion"]:.3g} '
    f'chip-hours{price}.',
    f'Assumes {_rates(slice_.chip)}; no time for the network or the host; full rows, each counted as one text, and '
    'responses of maximum length; evaluation is not counted.',
  ]


def _rates(chip):
  return f'peak rates of {chip.flops / 1e12:g} TFLOP/s and {chip.bandwidth / 1e12:g} TB/s a chip'
