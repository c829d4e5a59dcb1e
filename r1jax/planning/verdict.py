"""Whether a program fits the memory of a chip, and the cheapest change that helps if it does not."""

from r1jax import models
from r1jax import params as params_lib
from r1jax.config import RL, SFT, Generate
from r1jax.planning import programs, roofline, topology
from r1jax.training import policy

FITS = 0.92  # of the limit; above it another version of the compiler may refuse the program
ORDER = ('fits', 'tight', 'does not fit')  # from best to worst


def judge(used, limit):
  """The verdict, one of ORDER, on a program that uses `used` of the `limit` bytes of a chip."""
  return 'fits' if used <= FITS * limit else 'tight' if used <= limit else 'does not fit'


def worst(verdicts):
  return max(verdicts, key=ORDER.index)


def remedy(name, used, cfg, model, slice_, shards):
  """The cheapest change that makes a program need less memory, as text.

  Args:
    name: one of the programs in programs.PHASES.
    used: bytes of a chip.
    cfg: config of the run.
    model: ModelConfig.
    slice_: topology.Topology.
    shards: number of devices over which a batch is split.
  """
  phase = name.split('/')[0]
  has_microbatches = phase != 'rewards' and not name.endswith('/apply')
  ways = _sampling(cfg, shards) if phase == 'sample' else _training(cfg, shards) if has_microbatches else []
  saved = 2 * 2 * params_lib.count(models.specs(model)) / slice_.chips  # two bytes for each of two moments
  if not isinstance(cfg, Generate) and cfg.optimizer.moment_dtype == 'float32' and used - saved <= slice_.chip.limit:
    ways.append('moments in bfloat16: --config.optimizer.moment_dtype=bfloat16')
  bigger = topology.larger(slice_, used / (FITS * slice_.chip.limit))
  needed = roofline.chips_needed(used, FITS * slice_.chip.limit, slice_.chips)
  ways.append(f'a larger slice: {bigger.name}' if bigger else f'a larger slice: {needed} chips or more')
  return ways[0]


def _training(cfg, shards):
  """Ways to make a training program smaller, the cheapest first."""
  if not isinstance(cfg, RL):
    return _labelled(cfg, shards)
  rows, groups = policy.microbatch_shape(cfg)
  ways = []
  if groups > shards:
    ways.append(f'more microbatches: --config.train.microbatch={max(shards, groups // 2 // shards * shards) * rows}')
  if rows > 1:
    slices = min(cfg.rollout.samples, 2 * cfg.train.length_slices)
    ways.append(
      f'more microbatches: --config.train.length_slices={slices} '
      f'--config.train.microbatch={groups * max(1, cfg.rollout.samples // slices)}'
    )
  if cfg.model.remat != 'full':
    ways.append('recomputation: --config.model.remat=full')
  return ways


def _labelled(cfg, shards):
  """The same for SFT and reward models."""
  size = cfg.microbatch or cfg.batch
  smaller = [n for n in range(shards, size, shards) if cfg.batch % n == 0]
  ways = [f'more microbatches: --config.microbatch={smaller[-1]}'] if smaller else []
  return ways + ['recomputation: --config.model.remat=full'] * (cfg.model.remat != 'full')


def _sampling(cfg, shards):
  """Ways to make the sampler's programs smaller."""
  if isinstance(cfg, SFT):
    smaller = cfg.eval.batch // 2 // shards * shards
    return [f'fewer rows at a time: --config.eval.batch={smaller}'] if smaller else []
  chunk, slots = programs.sampling(cfg).prompts, cfg.rollout.slots
  ways = []
  if slots > shards:
    ways.append(f'fewer rows at a time: --config.rollout.slots={max(shards, slots // 2 // shards * shards)}')
  smaller = [n for n in range(shards, chunk, shards) if cfg.rollout.prompts % n == 0]
  what = 'prompts' if slots else 'rows'
  return ways + ([f'fewer {what} at a time: --config.rollout.chunk={smaller[-1]}'] if smaller else [])
