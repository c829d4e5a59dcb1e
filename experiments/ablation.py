"""Runs a recipe with several seeds, and compares some of its stages: the arms and studies of an ablation.

  python -m experiments.ablation --config configs/ablations.py:objectives --workdir W
      [--jobs 2] [--config.ablation.seeds='(0,)'] [--config.stages.ppo.config.steps=100]

The recipe of seed N has the folder W/seed_N, where `experiments.recipe` shows and runs it like any other. Each stage
runs in a process of its own. What is finished is not run again; killed at any moment, the same command continues.
Writes W/table.md, curves of each metric of the arms, and for each study W/STUDY, with the results of all seeds.
"""

from concurrent import futures
import dataclasses
import os
import shlex
import shutil
import subprocess
import sys

from absl import app, flags
from ml_collections import config_flags

from experiments import curves, recipe, reflection, search, table
from r1jax import config as config_lib
from r1jax.evaluation import tables
from r1jax.recipes import settings
from r1jax.recipes import stage as stage_lib
from r1jax.runs import cli
from r1jax.runs.workdir import exclusive

COMBINE = {'tasks': tables.combine, 'search': search.combine, 'reflection': reflection.combine}


def folder_of(workdir, seed):
  return os.path.join(workdir, f'seed_{seed}')


def command(arguments, workdir, seed, name):
  """The command that runs one stage of one seed. arguments: --config and its overrides."""
  seed_flags = [f'--config.seed={seed}', '--workdir', folder_of(workdir, seed), '--only', name]
  return ['python', '-m', 'experiments.recipe', *arguments, *seed_flags]


def expand(cfg, seed, workdir):
  """{name: Stage} of one seed. Raises ConfigError for a config that cannot work."""
  stages = recipe.expand(dataclasses.replace(cfg, seed=seed))
  for stage in stages.values():
    recipe.convert(stage, stages, folder_of(workdir, seed))
  return stages


def run_seed(cfg, seed, workdir, arguments):
  """Runs the stages of one seed that are not done, one after the other. Raises ConfigError where one fails."""
  stages, folder = expand(cfg, seed, workdir), folder_of(workdir, seed)
  for name in (name for name in recipe.select(stages) if '/' not in name):
    statuses = stage_lib.statuses(stages, folder)
    if all(status.state == stage_lib.DONE for key, status in statuses.items() if key.split('/')[0] == name):
      continue
    argv = [sys.executable, *command(arguments, workdir, seed, name)[1:]]
    if shutil.which('setpriv'):  # so that a stage ends with this process, even if that is killed
      argv = ['setpriv', '--pdeathsig', 'KILL', *argv]
    done = subprocess.run(argv)
    config_lib.require(done.returncode == 0, f'stage {name} of seed {seed} ended with exit status {done.returncode}.')


@exclusive
def run_ablation(cfg, workdir, arguments, jobs=1):
  """Runs all seeds, `jobs` at a time. Returns the table's lines.

  Args:
    cfg: settings.Recipe with an ablation. workdir: W. arguments: --config and its overrides, as typed.

  Raises:
    ConfigError: a config is invalid (before anything runs), or a stage failed (after the others of `jobs` have ended).
  """
  a = cfg.ablation
  config_lib.require(
    a.arms or a.studies, 'ablation.arms and studies are empty: this is no ablation. Run it with experiments.recipe.'
  )
  for seed in a.seeds:
    expand(cfg, seed, workdir)
  with futures.ThreadPoolExecutor(jobs) as pool:
    for done in [pool.submit(run_seed, cfg, seed, workdir, arguments) for seed in a.seeds]:
      done.result()
  lines = compare_arms(cfg, workdir) if a.arms else []
  for name in a.studies:
    folder = os.path.join(workdir, name)
    os.makedirs(folder, exist_ok=True)
    COMBINE[cfg.stages[name].experiment]([os.path.join(folder_of(workdir, seed), name) for seed in a.seeds], folder)
    with open(os.path.join(folder, 'table.md'), encoding='utf-8') as file:
      lines += ['', f'{cfg.stages[name].about}:', '', *file.read().splitlines()]
  lines += ['', '| stage | processor seconds since its last start, without grading processes |', '|---|---|']
  for name in cfg.stages:
    records = [stage_lib.read(folder_of(workdir, seed), name) or {} for seed in a.seeds]
    known = [record['processor_seconds'] for record in records if 'processor_seconds' in record]
    lines += [f'| {name} | {table.spread(known)} |'] if known else []  # none where a command of its own has run it
  typed = [f'    {shlex.join(command(arguments, workdir, a.seeds[0], name))}' for name in (*a.arms, *a.studies)]
  with open(os.path.join(workdir, 'table.md'), 'w', encoding='utf-8') as file:
    file.write('\n'.join([*lines, '', f'The commands of seed {a.seeds[0]}:', '', *typed, '']))
  return lines


def compare_arms(cfg, workdir):
  """Draws the curves of each metric. Returns the lines of the table."""
  a = cfg.ablation
  runs = [f'{arm}={",".join(os.path.join(folder_of(workdir, seed), arm) for seed in a.seeds)}' for arm in a.arms]
  for metric in a.metrics:
    curves.draw(runs, metric, os.path.join(workdir, f'{metric.replace("/", "_")}.svg'))
  return table.table(runs, a.metrics, a.level)


def main(_):
  with cli.errors_in_one_line():
    config = flags.FLAGS['config']
    overrides = config_flags.get_override_values(config)
    arguments = [
      f'--config={config_flags.get_config_filename(config)}',
      *(f'--config.{key}={value}' for key, value in overrides.items()),
    ]
    cfg = config_lib.convert(config.value, settings.Recipe)
    print('\n'.join(run_ablation(cfg, flags.FLAGS.workdir, arguments, flags.FLAGS.jobs)))
    print(f'\n{flags.FLAGS.workdir}: table.md, curves, a recipe for each seed')


if __name__ == '__main__':
  config_flags.DEFINE_config_file('config', lock_config=False, accept_new_attributes=True)
  flags.mark_flag_as_required('config')
  flags.DEFINE_string('workdir', None, 'Holds a folder for each seed.', required=True)
  flags.DEFINE_integer('jobs', 1, 'How many seeds run at a time, which share the machine.', lower_bound=1)
  app.run(main, flags_parser=cli.parse_flags)
