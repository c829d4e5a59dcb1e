"""Plans every mesh of several slices, to find the smallest slice that fits and the fastest."""

import dataclasses
import sys

from r1jax import config as config_lib
from r1jax.planning import meshes, planner, processes, programs, verdict
from r1jax.training import policy


def search(cfg, model, slices, selected, cache, price):
  """Plans every mesh fsdp x tp of every slice; several equal slices are joined along 'data'.

  Microbatches and rollout.chunk grow where a mesh needs that, see `round_up_batches`. The smallest plan that fits has
  the fewest chips, then the least memory; the fastest has the least step time by the roofline.

  Args:
    slices: list of topology.Topology; for the other arguments see `planner.plan`.

  Returns:
    {'tried', 'smallest', 'fastest'}, and lines that summarise it.
  """
  tried, lines = [], []
  for slice_ in slices:
    for tp in (2**i for i in range((slice_.chips // slice_.slices).bit_length())):
      mesh = config_lib.Mesh(data=slice_.slices, fsdp=slice_.chips // slice_.slices // tp, tp=tp)
      name = f'{slice_.name} fsdp={mesh.fsdp},tp={mesh.tp}'
      try:
        candidate = meshes.with_meshes(round_up_batches(cfg, mesh.data * mesh.fsdp), mesh, mesh)
        out, _ = planner.plan(candidate, model, slice_, selected, cache, price)
      except (config_lib.ConfigError, processes.PlanError) as error:
        lines.append(f'{name}: {error}')
        continue
      tried.append(out)
      lines.append(
        f'{name}: {out["verdict"]}, {_largest(out) / 1e9:.2f} GB with {_batch_settings(candidate)}, '
        f'a step takes at least {out["bound"]["step_seconds"]:.3g} s'
      )
      print(lines[-1], file=sys.stderr, flush=True)
  fitting = [out for out in tried if out['verdict'] != verdict.ORDER[-1]]
  best = {
    'smallest': min(fitting, key=lambda out: (out['chips'], _largest(out)), default=None),
    'fastest': min(fitting, key=lambda out: out['bound']['step_seconds'], default=None),
  }
  show = lambda out: f'{out["topology"]} fsdp={out["mesh"]["fsdp"]},tp={out["mesh"]["tp"]}' if out else 'none fits'
  return best | {'tried': tried}, [*lines, *(f'{name}: {show(out)}' for name, out in best.items())]


def round_up_batches(cfg, shards):
  """cfg with what is computed at a time (microbatch, rollout.chunk and slots) rounded up to a multiple of `shards`."""
  up = lambda n: -(-n // shards) * shards
  if isinstance(cfg, config_lib.SFT | config_lib.RewardModel):
    return dataclasses.replace(cfg, microbatch=up(cfg.microbatch or cfg.batch))
  rollout = dataclasses.replace(cfg.rollout, chunk=up(programs.sampling(cfg).prompts), slots=up(cfg.rollout.slots))
  cfg = dataclasses.replace(cfg, rollout=rollout)
  if isinstance(cfg, config_lib.Generate):
    return cfg
  rows, groups = policy.microbatch_shape(cfg)
  return dataclasses.replace(cfg, train=dataclasses.replace(cfg.train, microbatch=up(groups) * rows))


def _batch_settings(cfg):
  if isinstance(cfg, config_lib.RL | config_lib.Generate):
    slots = f' and rollout.slots={cfg.rollout.slots}' if cfg.rollout.slots else ''
    training = f'train.microbatch={cfg.train.microbatch} and ' if isinstance(cfg, config_lib.RL) else ''
    return f'{training}rollout.chunk={cfg.rollout.chunk}{slots}'
  return f'microbatch={cfg.microbatch}'


def _largest(out):
  return max(p['total_bytes'] for p in out['programs'])
