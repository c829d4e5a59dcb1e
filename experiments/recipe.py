"""Runs a recipe: stages that hand models and data on to each other, each an experiment with a config.

  python -m experiments.recipe --config configs/r1.py:toy --workdir W
  python -m experiments.recipe --config configs/r1.py:toy --workdir W --status
  python -m experiments.recipe --config configs/r1.py:toy --workdir W --only reasoning
      [--config.stages.reasoning.config.steps=100]
  python -m experiments.recipe --config configs/r1.py:toy --workdir W --command reasoning
  python -m experiments.recipe --lineage W/final

Each stage has the folder W/NAME. What is done is skipped; what was made under other settings or from other inputs is
moved to W/old and made anew, saying what changed; what was begun goes on. Killed at any moment, the same command ends
with the same numbers. W/summary.json holds every stage's figures and W/report.html shows them.
"""

import gc
import logging
import os
import pprint
import shlex
import time
import typing

from absl import app, flags
import jax
from ml_collections import config_flags

from experiments import cold_start, curate, evaluate, generate, pretrain, reward_model, rl, sft, toy_files
from r1jax import config as config_lib
from r1jax.metrics import recipe_report
from r1jax.recipes import settings
from r1jax.recipes import stage as stage_lib
from r1jax.recipes import summary as summary_lib
from r1jax.recipes.stage import BEGUN, DONE, STALE, Stage
from r1jax.runs import cli, json_files, runtime
from r1jax.runs.workdir import exclusive, working_in

log = logging.getLogger('r1jax')


class Experiment(typing.NamedTuple):
  run: typing.Callable  # (config, workdir) -> summary; resumable; writes workdir/summary.json last
  config: type  # a class of r1jax.config
  output: str = ''  # what of its folder later stages take; '': the folder
  module: str = ''  # for its plain command


def run_external(cfg, workdir):
  """Nothing is made: a model directory, file or folder from outside takes part under a name."""
  config_lib.require(os.path.exists(cfg.path), f'path {cfg.path!r} is not there.')
  runtime.set_up_process()
  os.makedirs(workdir, exist_ok=True)
  summary = {'path': os.path.abspath(cfg.path)}
  json_files.write_json(os.path.join(workdir, stage_lib.SUMMARY), summary)
  return summary


EXPERIMENTS = {
  'external': Experiment(run_external, settings.External),
  'pretrain': Experiment(pretrain.run_pretrain, config_lib.Pretrain, 'model', 'pretrain'),
  'rl': Experiment(rl.run_rl, config_lib.RL, '', 'rl'),
  'reward_model': Experiment(reward_model.run_reward_model, config_lib.RewardModel, '', 'reward_model'),
  'cold_start': Experiment(cold_start.run_cold_start, config_lib.ColdStart, '', 'cold_start'),
  'sft': Experiment(sft.run_sft, config_lib.SFT, '', 'sft'),
  'generate': Experiment(generate.run_generate, config_lib.Generate, '', 'generate'),
  'curate': Experiment(curate.run_curate, config_lib.Curate, '', 'curate'),
  'toy_files': Experiment(toy_files.run_toy_files, settings.ToyFiles, '', 'toy_files'),
  'evaluate': Experiment(evaluate.run_evaluate, config_lib.RL, '', 'evaluate'),
}


def expand(cfg):
  """{name: Stage} of a settings.Recipe, in order: its stages, behind each its evaluation. Every stage has its seed.

  Raises ConfigError for unknown experiments and for references to no earlier stage.
  """
  stages = {}
  for name, part in cfg.stages.items():
    config_lib.require(
      part.experiment in EXPERIMENTS,
      f'stages.{name}.experiment is {part.experiment!r}; known: {", ".join(EXPERIMENTS)}.',
    )
    config_lib.require(
      part.config.get('seed', 0) in (0, cfg.seed),
      f"stages.{name}.config.seed is {part.config.get('seed')}, but all stages have the recipe's; set --config.seed.",
    )
    stages[name] = Stage(
      name, part.experiment, _seeded(part.config, cfg.seed), part.about, EXPERIMENTS[part.experiment].output
    )
    if part.evaluation:
      config = _seeded(cfg.evaluations[part.evaluation], cfg.seed)
      config['model'] = config['model'] | {'path': stage_lib.REFERENCE + name}
      stages[f'{name}/{summary_lib.EVALUATION}'] = Stage(f'{name}/{summary_lib.EVALUATION}', 'evaluate', config)
  stage_lib.check(stages.values())
  return stages


def _seeded(config, seed):
  config = stage_lib.replaced(config, str)
  return config | ({'seed': seed} if 'seed' in config else {})


def select(stages, only=(), first='', last=''):
  """The names that --only, --from and --until leave, evaluations with their stages; what is given where it is used."""
  names = [name for name in stages if '/' not in name]
  for flag, wanted in (('--only', only), ('--from', [first]), ('--until', [last])):
    for name in filter(None, wanted):
      config_lib.require(name in names, f'{flag} {name}: no such stage; there are {", ".join(names)}.')
  names = names[names.index(first) if first else 0 : names.index(last) + 1 if last else None]
  names = [name for name in names if not only or name in only]
  names = [name for name in stages if name.split('/')[0] in names]
  used = {other for name in names for other, _ in stages[name].inputs.values()} | set(only)
  return [name for name in names if stages[name].experiment != 'external' or name in used]


def convert(stage, stages, workdir):
  """The config of a stage's experiment, with paths in place of references. An error names the stage."""
  try:
    return config_lib.convert(stage_lib.resolved(stage, stages, workdir), EXPERIMENTS[stage.experiment].config)
  except config_lib.ConfigError as error:
    raise config_lib.ConfigError(f'stage {stage.name}: {error}') from error


def begin(stage, stages, workdir, status):
  """Makes a stage's folder ready: what is stale goes out of the way, and the record says what is being made.

  Returns the plain command that runs it; '' where there is none.
  """
  folder = os.path.join(workdir, stage.name)
  if os.path.isdir(folder):
    with working_in(folder):
      pass  # nothing that runs is moved out of the way
  if status.state == STALE:
    log.info(
      '  %s is stale: %s; moved to %s.', stage.name, '; '.join(status.why), stage_lib.set_aside(workdir, stage.name)
    )
  os.makedirs(folder, exist_ok=True)
  if status.state != BEGUN:
    # Into an empty folder but for what the stage's folder holds of its own: an evaluation lies within its stage's.
    json_files.write_json(os.path.join(folder, stage_lib.RECORD), stage_lib.record(stage, stages, workdir))
  return write_command(stage, stages, workdir)


def write_command(stage, stages, workdir):
  """W/NAME/stage_config.py, a config file of the stage by itself, and the command that runs it; '' without one."""
  module = EXPERIMENTS[stage.experiment].module
  if not module:
    return ''
  path = os.path.join(workdir, stage.name, stage_lib.CONFIG)
  config = pprint.pformat(stage_lib.resolved(stage, stages, workdir), width=110, sort_dicts=False)
  text = (
    f'"""Written by experiments.recipe: stage {stage.name}."""\nfrom ml_collections import ConfigDict\n\n\n'
    f'def get_config():\n  return ConfigDict({config})\n'
  )
  os.makedirs(os.path.dirname(path), exist_ok=True)
  with open(path + '.tmp', 'w', encoding='utf-8') as f:
    f.write(text)
  os.replace(path + '.tmp', path)
  return f'python -m experiments.{module} --config {shlex.quote(path)} --workdir {shlex.quote(os.path.dirname(path))}'


def run_stage(stage, stages, workdir, status):
  """Runs one stage to its end and notes how long that took, since it last went on."""
  cfg = convert(stage, stages, workdir)
  begin(stage, stages, workdir, status)
  began, folder = time.perf_counter(), os.path.join(workdir, stage.name)
  EXPERIMENTS[stage.experiment].run(cfg, folder)
  path = os.path.join(folder, stage_lib.RECORD)
  saved = stage_lib.read(workdir, stage.name)
  json_files.write_json(path, saved | {'seconds': round(time.perf_counter() - began, 1)})
  gc.collect()  # arrays of the stage before in reference cycles


@exclusive
def run_recipe(cfg, workdir, only=(), first='', last=''):
  """Runs what is not done of the chosen stages. Returns W/summary.json.

  Args:
    cfg: settings.Recipe.
    only, first, last: names of stages, as for `select`.

  Raises:
    ConfigError: before anything runs where a config cannot work; where a stage needs one that is neither done nor
      chosen; in one of several processes; and what the experiments raise.
  """
  runtime.set_up_process()
  config_lib.require(
    jax.process_count() == 1,
    'a recipe runs in one process; on a pod start each stage by the command that --command NAME prints, on every host.',
  )
  stages = expand(cfg)
  names = select(stages, only, first, last)
  for name in names:
    convert(stages[name], stages, workdir)
  os.makedirs(workdir, exist_ok=True)
  for place, name in enumerate(names, 1):
    stage, found = stages[name], stage_lib.statuses(stages, workdir)
    if found[name].state == DONE:
      continue
    for key, (other, _) in stage.inputs.items():
      config_lib.require(
        found[other].state == DONE,
        f'stage {name} needs {other} ({key}), which is '
        f'{found[other].state}{_because(found[other])}; run {other} first, such as by --until {name}.',
      )
    log.info(
      '[%d/%d] %s (%s)%s', place, len(names), name, stage.experiment, ' goes on' if found[name].state == BEGUN else ''
    )
    run_stage(stage, stages, workdir, found[name])
    write_summary(cfg, stages, workdir)
  summary = write_summary(cfg, stages, workdir)
  recipe_report.make(workdir)
  return summary


def write_summary(cfg, stages, workdir):
  """Writes W/summary.json from what the stages left so far. Returns it."""
  summary = summary_lib.collect(cfg, stages, stage_lib.statuses(stages, workdir), workdir)
  json_files.write_json(os.path.join(workdir, stage_lib.SUMMARY), summary)
  return summary


def _because(status):
  return f' ({"; ".join(status.why)})' if status.why else ''


def table(stages, found, workdir):
  """The stage table, as text."""
  rows = [('stage', 'experiment', 'status', 'seconds', 'from', '')]
  for name, stage in stages.items():
    inputs = dict.fromkeys(other for other, _ in stage.inputs.values())
    saved = stage_lib.read(workdir, name) or {}
    status = found[name]
    if '/' in name:
      if status.state in (DONE, stage_lib.TO_DO):
        continue  # said only where it is not as its stage is
      inputs = {}
    seconds = saved.get('seconds') if status.state == DONE else None
    rows.append(
      (
        name,
        stage.experiment,
        status.state,
        '' if seconds is None else f'{seconds:.0f}',
        ', '.join(inputs),
        '; '.join(status.why) if status.state == STALE else '',
      )
    )
  widths = [max(len(row[i]) for row in rows) for i in range(5)]
  return '\n'.join(
    '  '.join(
      (*(cell.rjust(w) if i == 3 else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths))), row[5])
    ).rstrip()
    for row in rows
  )


def lineage_text(entries):
  """The entries of stage.lineage, as text."""
  lines = []
  for e in entries:
    indent = '  ' * e['depth']
    seed = '' if e['seed'] is None else f', seed {e["seed"]}'
    lines.append(f'{indent}{e["stage"]} ({e["experiment"]}{seed})')
    lines.append(f'{indent}  made: {e["path"]}  {e["digest"][:16]}')
    lines += [f'{indent}  config: {e["config"]}'] if e['config'] else []
    for kind in ('inputs', 'files'):
      for key, of in e[kind].items():
        by = f' of {of["stage"]}' if 'stage' in of else ''
        changed = ' CHANGED SINCE' if of['changed'] else ''
        lines.append(f'{indent}  {key}: {of["path"]}{by}  {of["digest"][:16]}{changed}')
  return '\n'.join(lines)


def main(_):
  with cli.errors_in_one_line():
    if _LINEAGE.value:
      print(lineage_text(stage_lib.lineage(*stage_lib.find(_LINEAGE.value))))
      return
    config_lib.require(_CONFIG.value is not None and _WORKDIR.value, 'pass --config and --workdir, or --lineage PATH.')
    config_lib.require('stages' in _CONFIG.value, '--config is of a stage, which its experiment runs; not a recipe.')
    cfg, workdir = config_lib.convert(_CONFIG.value, settings.Recipe), _WORKDIR.value
    if _COMMAND.value:
      print(command(cfg, workdir, _COMMAND.value))
    elif _STATUS.value:
      stages = expand(cfg)
      for stage in stages.values():
        if stage.experiment != 'external':  # a path may yet have to be named
          convert(stage, stages, workdir)
      print(table(stages, stage_lib.statuses(stages, workdir), workdir))
    else:
      summary, stages = run_recipe(cfg, workdir, _ONLY.value, _FROM.value, _UNTIL.value), expand(cfg)
      print(f'\n{table(stages, stage_lib.statuses(stages, workdir), workdir)}\n\n{summary_lib.text(summary)}')
      print(f'\n{workdir}: summary.json, report.html, a folder for each stage')


def command(cfg, workdir, name):
  """Makes a stage's folder ready and returns the plain command that runs it: a job of its own, as on a pod."""
  stages = expand(cfg)
  config_lib.require(
    name in stages, f'--command {name}: no such stage; there are {", ".join(n for n in stages if "/" not in n)}.'
  )
  found, stage = stage_lib.statuses(stages, workdir), stages[name]
  config_lib.require(EXPERIMENTS[stage.experiment].module, f'stage {name} runs nothing ({stage.experiment}).')
  convert(stage, stages, workdir)
  for key, (other, _) in stage.inputs.items():
    config_lib.require(
      found[other].state == DONE,
      f'stage {name} needs {other} ({key}), which is {found[other].state}{_because(found[other])}; run {other} first.',
    )
  config_lib.require(
    found[name].state != DONE, f'stage {name} is done; delete {os.path.join(workdir, name)} to run it again.'
  )
  return begin(stage, stages, workdir, found[name])


if __name__ == '__main__':
  # Unlocked, so that a mistyped --config.KEY reaches `convert`, which names the nearest known one.
  _CONFIG = config_flags.DEFINE_config_file('config', lock_config=False, accept_new_attributes=True)
  _WORKDIR = flags.DEFINE_string('workdir', None, 'Where every stage has its folder.')
  _ONLY = flags.DEFINE_list('only', [], 'Run these stages only.')
  _FROM = flags.DEFINE_string('from', '', 'Run no stage before this one; what is done is skipped all the same.')
  _UNTIL = flags.DEFINE_string('until', '', 'Run no stage behind this one.')
  _STATUS = flags.DEFINE_bool('status', False, 'Print the table of stages and run nothing.')
  _COMMAND = flags.DEFINE_string('command', '', 'Print the command that runs this stage as a job of its own.')
  _LINEAGE = flags.DEFINE_string('lineage', '', 'Print all that the result at this path came from.')
  app.run(main, flags_parser=cli.parse_flags)
