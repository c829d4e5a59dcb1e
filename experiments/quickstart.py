"""Quickstart: trains a small base model on generated text, runs R1-Zero on it, and prints a before/after table.

  scripts/quickstart [--seed N] [--workdir D] [--world trial|chain]

The base goes to D/base, the run to D. A job that was killed resumes where it was; a finished base is reused.
"""

import json
import os
import time

from absl import app, flags

from configs import r1_zero, toy_base
from experiments import pretrain, rl
from r1jax import config as config_lib
from r1jax.runs import cli, json_files
from r1jax.runs.workdir import working_in

VARIANTS = {'trial': 'toy', 'chain': 'toy_chain'}
ROWS = (
  'pass@1',
  'pass@1_t0.6',
  'greedy',
  'any@16',
  'cons@16',
  'format',
  'length_mean',
  'reflection_rate',
  'language_consistency',
  'truncated_fraction',
)


def quickstart(world, seed, workdir):
  """Runs the whole job and returns its summary."""
  with working_in(workdir):
    return _run(world, seed, workdir)


def _run(world, seed, workdir):
  began = time.perf_counter()
  base_config, config = toy_base.get_config(world), r1_zero.get_config(VARIANTS[world])
  base_config.seed = config.seed = seed
  base, info = pretrain.train_or_reuse(
    config_lib.convert(base_config, config_lib.Pretrain), os.path.join(workdir, 'base')
  )
  base_seconds = time.perf_counter() - began
  config.model.path = base
  summary = rl.run_rl(config_lib.convert(config, config_lib.RL), workdir)
  summary['seconds'] = {'base': base_seconds, **summary['seconds'], 'total': time.perf_counter() - began}
  summary['base_step_accuracy'] = info['step_accuracy']
  json_files.write_json(os.path.join(workdir, 'summary.json'), summary)
  return summary


def table(summary):
  """The metrics of base and trained policy, as a text table."""
  lines = [f'{"":22}{"base":>8}{"after RL":>10}']
  for name in ROWS:
    before, after = summary['base'][name], summary['final'][name]
    show = (lambda x: f'{x:.1f}') if name == 'length_mean' else (lambda x: f'{100 * x:.1f}%')
    lines.append(f'{name:22}{show(before):>8}{show(after):>10}')
  lines.append(f'{"length_ratio":22}{"":8}{summary["length_ratio"]:>10.2f}')
  return '\n'.join(lines)


def main(_):
  workdir = _WORKDIR.value or os.path.join('runs', f'quickstart_{_WORLD.value}_{_SEED.value}')
  with cli.errors_in_one_line():
    summary = quickstart(_WORLD.value, _SEED.value, workdir)
  print(f'\n{table(summary)}\n')
  print('seconds: ' + json.dumps({name: round(s) for name, s in summary['seconds'].items()}))
  print(f'{workdir}: summary.json, report.html, plots/, metrics.jsonl, tb/, samples/')


if __name__ == '__main__':
  _SEED = flags.DEFINE_integer('seed', 0, 'Seed of the base, its text, and the RL run.')
  _WORKDIR = flags.DEFINE_string('workdir', None, 'The folder for everything; default runs/quickstart_WORLD_SEED.')
  _WORLD = flags.DEFINE_enum('world', 'trial', list(VARIANTS), 'Toy world: trial and error, or chained arithmetic.')
  app.run(main)
