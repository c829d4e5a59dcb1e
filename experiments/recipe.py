"""Runs a recipe: a pipeline of stages, each an experiment with a config, that pass models and data on to each other.

  python -m experiments.recipe --config configs/r1.py:toy --workdir W
  python -m experiments.recipe --config configs/r1.py:toy --workdir W --status
  python -m experiments.recipe --config configs/r1.py:toy --workdir W --only reasoning
      [--config.stages.reasoning.config.steps=100]
  python -m experiments.recipe --config configs/r1.py:toy --workdir W --command reasoning
  python -m experiments.recipe --lineage W/final

Each stage has the folder W/NAME. Finished stages are skipped; a stage made with other settings or inputs is moved to
W/old and run again, with a message that says what changed; an unfinished one is resumed. If the command is killed at
any moment, the same command continues and ends with the same numbers. W/summary.json holds the metrics of every stage,
and W/report.html shows them.
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

from experiments import (
  cold_start,
  curate,
  evaluate,
  generate,
  label_steps,
  pretrain,
  reflection,
  reward_model,
  rl,
  search,
  sft,
  toy_files,
)
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
  run: typing.Callable  # (config, workdir) -> summary; can be resumed; writes workdir/summary.json last
  config: type  # class of its config
  output: str = ''  # path in its folder that later stages use; '': the folder
  module: str = ''  # module of experiments that runs it as a separate command; '': none


def run_external(cfg, workdir):
  """Makes an existing model directory, file or folder available to other stages. Returns the summary."""
  config_lib.require(os.path.exists(cfg.path), f'path {cfg.path!r} does not exist.')
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
  'label_steps': Experiment(label_steps.run_label_steps, config_lib.LabelSteps, label_steps.LABELS, 'label_steps'),
  'cold_start': Experiment(cold_start.run_cold_start, config_lib.ColdStart, '', 'cold_start'),
  'sft': Experiment(sft.run_sft, config_lib.SFT, '', 'sft'),
  'generate': Experiment(generate.run_generate, config_lib.Generate, '', 'generate'),
  'curate': Experiment(curate.run_curate, config_lib.Curate, '', 'curate'),
  'toy_files': Experiment(toy_files.run_toy_files, settings.ToyFiles, '', 'toy_files'),
  'evaluate': Experiment(evaluate.run_evaluate, config_lib.RL, '', 'evaluate'),
  'tasks': Experiment(evaluate.run_tasks, config_lib.Evaluate, '', 'evaluate'),
  'search': Experiment(search.run_search, config_lib.Search, '', 'search'),
  'reflection': Experiment(reflection.run_reflection, config_lib.Reflection, '', 'reflection'),
}


def expand(cfg):
  """{name: Stage} of a settings.Recipe, in order, each stage followed by its evaluation; all have the recipe's seed.

  Raises ConfigError for an unknown experiment, and for a reference to anything but an earlier stage.
  """
  stages = {}
  for name, recipe_stage in cfg.stages.items():
    config_lib.require(
      recipe_stage.experiment in EXPERIMENTS,
      f'stages.{name}.experiment is {recipe_stage.experiment!r}; known: {", ".join(EXPERIMENTS)}.',
    )
    config_lib.require(
      recipe_stage.config.get('seed', 0) in (0, cfg.seed),
      f'stages.{name}.config.seed is {recipe_stage.config.get("seed")}, but all stages use the seed of the recipe; set '
      '--config.seed instead.',
    )
    stages[name] = Stage(
      name,
      recipe_stage.experiment,
      _with_seed(recipe_stage.config, cfg.seed),
      recipe_stage.about,
      EXPERIMENTS[recipe_stage.experiment].output,
    )
    if recipe_stage.evaluation:
      config = _with_seed(cfg.evaluations[recipe_stage.evaluation], cfg.seed)
      config['model'] = config['model'] | {'path': stage_lib.REFERENCE + name}
      stages[f'{name}/{summary_lib.EVALUATION}'] = Stage(f'{name}/{summary_lib.EVALUATION}', 'evaluate', config)
  stage_lib.check(stages.values())
  return stages


def _with_seed(config, seed):
  plain: dict[str, typing.Any] = {key: stage_lib.map_texts(value, str) for key, value in config.items()}
  if 'loss' in plain:
    plain['loss'] = config_lib.resolve_loss(plain['loss'])  # a record has the numbers
  return plain | ({'seed': seed} if 'seed' in plain else {})


def select(stages, only=(), first='', last=''):
  """The names of the stages to run, in order, with their evaluations; external ones only if another stage uses them.

  Args:
    stages: {name: Stage}.
    only: names to run, as of --only; () is all.
    first, last: names between which to run, as of --from and --until; '' is no limit.

  Raises:
    ConfigError: there is no stage of a given name.
  """
  names = [name for name in stages if '/' not in name]
  for flag, values in (('--only', only), ('--from', [first]), ('--until', [last])):
    for name in filter(None, values):
      config_lib.require(name in names, f'{flag} {name}: no such stage; there are {", ".join(names)}.')
  names = names[names.index(first) if first else 0 : names.index(last) + 1 if last else None]
  names = [name for name in names if not only or name in only]
  names = [name for name in stages if name.split('/')[0] in names]
  used = {other for name in names for other, _ in stages[name].inputs.values()} | set(only)
  return [name for name in names if stages[name].experiment != 'external' or name in used]


def convert(stage, stages, workdir):
  """The config of a stage's experiment, with references resolved to paths. Errors name the stage."""
  try:
    return config_lib.convert(stage_lib.resolved(stage, stages, workdir), EXPERIMENTS[stage.experiment].config)
  except config_lib.ConfigError as error:
    raise config_lib.ConfigError(f'stage {stage.name}: {error}') from error


def prepare_folder(stage, stages, workdir, status):
  """Prepares a stage's folder: sets a stale one aside, and writes the record and config file.

  Returns the command that runs the stage by itself; '' if there is none.
  """
  folder = os.path.join(workdir, stage.name)
  if os.path.isdir(folder):
    with working_in(folder):
      pass  # raises if a command is still running there
  if status.state == STALE:
    log.info(
      '  %s is stale: %s; moved to %s.', stage.name, '; '.join(status.why), stage_lib.set_aside(workdir, stage.name)
    )
  os.makedirs(folder, exist_ok=True)
  if status.state != BEGUN:
    json_files.write_json(os.path.join(folder, stage_lib.RECORD), stage_lib.record(stage, stages, workdir))
  return write_command(stage, stages, workdir)


def write_command(stage, stages, workdir):
  """Writes W/NAME/stage_config.py, a config file for the stage alone. Returns the command that runs it, or ''."""
  module = EXPERIMENTS[stage.experiment].module
  if not module:
    return ''
  path = os.path.join(workdir, stage.name, stage_lib.CONFIG)
  config = pprint.pformat(stage_lib.resolved(stage, stages, workdir), width=110, sort_dicts=False)
  text = (
    f'"""Written by experiments.recipe: stage {stage.name}."""\nfrom ml_collections import ConfigDict\n\n\n'
    'def _in_order(tree):\n  if not isinstance(tree, dict):\n    return tree\n'
    '  return ConfigDict({key: _in_order(value) for key, value in tree.items()}, sort_keys=False)\n\n\n'
    f'def get_config():\n  return _in_order({config})\n'
  )
  os.makedirs(os.path.dirname(path), exist_ok=True)
  with open(path + '.tmp', 'w', encoding='utf-8') as f:
    f.write(text)
  os.replace(path + '.tmp', path)
  return f'python -m experiments.{module} --config {shlex.quote(path)} --workdir {shlex.quote(os.path.dirname(path))}'


def run_stage(stage, stages, workdir, status):
  """Runs one stage to its end, and records the wall-clock and processor seconds since this start."""
  cfg = convert(stage, stages, workdir)
  prepare_folder(stage, stages, workdir, status)
  began, processor, folder = time.perf_counter(), time.process_time(), os.path.join(workdir, stage.name)
  EXPERIMENTS[stage.experiment].run(cfg, folder)
  path = os.path.join(folder, stage_lib.RECORD)
  saved = stage_lib.read(workdir, stage.name)
  assert saved is not None  # `prepare_folder` wrote it, or found it
  spent = {'seconds': time.perf_counter() - began, 'processor_seconds': time.process_time() - processor}
  json_files.write_json(path, saved | {name: round(x, 1) for name, x in spent.items()})
  gc.collect()  # frees arrays of the stage that are in reference cycles


@exclusive
def run_recipe(cfg, workdir, only=(), first='', last=''):
  """Runs those of the selected stages that are not done. Returns the content of W/summary.json.

  Args:
    cfg: settings.Recipe.
    workdir: W.
    only, first, last: names of stages, as for `select`.

  Raises:
    ConfigError: a config is invalid (before anything runs); a stage needs one that is neither done nor selected; there
      are several processes. Also whatever the experiments raise.
  """
  runtime.set_up_process()
  config_lib.require(
    jax.process_count() == 1,
    'a recipe runs in one process; on a pod, start each stage on every host by the command that --command NAME prints.',
  )
  stages = expand(cfg)
  names = select(stages, only, first, last)
  for name in names:
    convert(stages[name], stages, workdir)
  os.makedirs(workdir, exist_ok=True)
  for number, name in enumerate(names, 1):
    stage, statuses = stages[name], stage_lib.statuses(stages, workdir)
    if statuses[name].state == DONE:
      continue
    require_inputs(stage, statuses, f', for example with --until {name}')
    resumed = ' (resumed)' if statuses[name].state == BEGUN else ''
    log.info('[%d/%d] %s (%s)%s', number, len(names), name, stage.experiment, resumed)
    run_stage(stage, stages, workdir, statuses[name])
    write_summary(cfg, stages, workdir)
  summary = write_summary(cfg, stages, workdir)
  recipe_report.make(workdir)
  return summary


def write_summary(cfg, stages, workdir):
  """Writes W/summary.json from the results of the stages so far. Returns its content."""
  summary = summary_lib.collect(cfg, stages, stage_lib.statuses(stages, workdir), workdir)
  json_files.write_json(os.path.join(workdir, stage_lib.SUMMARY), summary)
  return summary


def require_inputs(stage, statuses, hint=''):
  """Raises ConfigError unless all inputs of a stage are done.

  Args:
    statuses: {name: Status} of all stages.
    hint: how to run the missing stage, for the message.
  """
  for key, (other, _) in stage.inputs.items():
    status = statuses[other]
    why = f' ({"; ".join(status.why)})' if status.why else ''
    config_lib.require(
      status.state == DONE,
      f'stage {stage.name} needs {other} ({key}), which is {status.state}{why}; run {other} first{hint}.',
    )


def table(stages, statuses, workdir):
  """The table of all stages, as text. statuses: {name: Status}."""
  rows = [('stage', 'experiment', 'status', 'seconds', 'from', '')]
  for name, stage in stages.items():
    inputs = dict.fromkeys(other for other, _ in stage.inputs.values())
    saved = stage_lib.read(workdir, name) or {}
    status = statuses[name]
    if '/' in name:  # an evaluation
      if status.state in (DONE, stage_lib.TO_DO):
        continue
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
  """The entries of `stage.lineage`, as text."""
  lines = []
  for e in entries:
    indent = '  ' * e['depth']
    seed = '' if e['seed'] is None else f', seed {e["seed"]}'
    lines.append(f'{indent}{e["stage"]} ({e["experiment"]}{seed})')
    lines.append(f'{indent}  made: {e["path"]}  {e["digest"][:16]}')
    lines += [f'{indent}  config: {e["config"]}'] if e['config'] else []
    for kind in ('inputs', 'files'):
      for key, source in e[kind].items():
        stage = f' of {source["stage"]}' if 'stage' in source else ''
        changed = ' CHANGED SINCE' if source['changed'] else ''
        lines.append(f'{indent}  {key}: {source["path"]}{stage}  {source["digest"][:16]}{changed}')
  return '\n'.join(lines)


def main(_):
  with cli.errors_in_one_line():
    if _LINEAGE.value:
      print(lineage_text(stage_lib.lineage(*stage_lib.find(_LINEAGE.value))))
      return
    config, workdir = _CONFIG.value, _WORKDIR.value
    if config is None or not workdir:
      raise config_lib.ConfigError('pass --config and --workdir, or --lineage PATH.')
    config_lib.require('stages' in config, '--config is not that of a recipe, but perhaps of a single stage.')
    cfg = config_lib.convert(config, settings.Recipe)
    if _COMMAND.value:
      print(stage_command(cfg, workdir, _COMMAND.value))
    elif _STATUS.value:
      stages = expand(cfg)
      for stage in stages.values():
        if stage.experiment != 'external':  # its path may not be set yet
          convert(stage, stages, workdir)
      print(table(stages, stage_lib.statuses(stages, workdir), workdir))
    else:
      summary, stages = run_recipe(cfg, workdir, _ONLY.value, _FROM.value, _UNTIL.value), expand(cfg)
      print(f'\n{table(stages, stage_lib.statuses(stages, workdir), workdir)}\n\n{summary_lib.text(summary)}')
      print(f'\n{workdir}: summary.json, report.html, a folder for each stage')


def stage_command(cfg, workdir, name):
  """Prepares a stage's folder and returns the command that runs it as a separate job, for example on a pod."""
  stages = expand(cfg)
  config_lib.require(
    name in stages, f'--command {name}: no such stage; there are {", ".join(n for n in stages if "/" not in n)}.'
  )
  statuses, stage = stage_lib.statuses(stages, workdir), stages[name]
  config_lib.require(
    EXPERIMENTS[stage.experiment].module, f'stage {name} ({stage.experiment}) has no command to run separately.'
  )
  convert(stage, stages, workdir)
  require_inputs(stage, statuses)
  config_lib.require(
    statuses[name].state != DONE, f'stage {name} is done; delete {os.path.join(workdir, name)} to run it again.'
  )
  return prepare_folder(stage, stages, workdir, statuses[name])


if __name__ == '__main__':
  # Not locked, so that a mistyped --config.KEY reaches `convert`, which suggests the nearest known key.
  _CONFIG = config_flags.DEFINE_config_file('config', lock_config=False, accept_new_attributes=True)
  _WORKDIR = flags.DEFINE_string('workdir', None, 'Holds the folders of all stages.')
  _ONLY = flags.DEFINE_list('only', [], 'Run only these stages.')
  _FROM = flags.DEFINE_string('from', '', 'Run no stage before this one; finished stages are skipped in any case.')
  _UNTIL = flags.DEFINE_string('until', '', 'Run no stage after this one.')
  _STATUS = flags.DEFINE_bool('status', False, 'Print the table of stages and run nothing.')
  _COMMAND = flags.DEFINE_string('command', '', 'Print the command that runs this stage as a separate job.')
  _LINEAGE = flags.DEFINE_string('lineage', '', 'Print everything that the result at this path was made from.')
  app.run(main, flags_parser=cli.parse_flags)
