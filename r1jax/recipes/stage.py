"""Stages of a recipe: their inputs from earlier stages, their status, and the lineage of a result.

The folder of a stage is W/NAME. `stage.json`, written before its experiment starts, records the config and the digest
of every input. `summary.json`, which every experiment writes last, shows that it has finished. A stage is done if both
exist and the record agrees with the current recipe. A stage may therefore also be run by the command of its experiment,
on another machine.
"""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import re
from typing import Any

from r1jax import config as config_lib
from r1jax.checkpoint import source, store
from r1jax.config import CLIENT_OPTIONS, flat

RECORD, SUMMARY, OLD = 'stage.json', 'summary.json', 'old'
REFERENCE = 'stage:'  # a text 'stage:NAME' or 'stage:NAME/FILE' in a config refers to the output of an earlier stage
DONE, STALE, BEGUN, TO_DO = 'done', 'stale', 'begun', 'to do'
# Settings that affect how a stage runs and is monitored, but not its result; `eval` does affect that of an evaluation.
_NO_EFFECT = re.compile(
  r'(checkpoint|eval|mesh|sampler_mesh|topology|part|parts)(\.|$)|(.*\.)?(workers|microbatch|logit_chunk'
  r'|length_slices|reference_memory|remat|attention|rollout\.(chunk|slots)'
  rf'|(endpoint|judge|options\.\w+)\.({"|".join(CLIENT_OPTIONS)}))$'
)
_FILE_KEYS = re.compile(r'path$|(^|\.)(samples|examples|evaluation\.\d+)$')  # keys whose values are paths
EVALUATE = 'evaluate'  # the experiment of evaluations
CONFIG = 'stage_config.py'  # config file in the stage's folder, for running its experiment as a separate command
_NOT_DIGESTED = {'tb', 'plots', 'evaluation', RECORD, SUMMARY, CONFIG, 'report.html', 'metrics.jsonl'}


@dataclasses.dataclass(frozen=True)
class Stage:
  """A stage of a recipe. The stage NAME/evaluation is the evaluation of stage NAME's model.

  Attributes:
    name: also its folder within the workdir.
    experiment: a key of experiments.recipe.EXPERIMENTS.
    config: nested dict for the experiment's config class, with references.
    about: description for the report.
    output: path within its folder that a reference to the stage resolves to; '' is the folder.
  """

  name: str
  experiment: str
  config: dict
  about: str = ''
  output: str = ''

  @property
  def inputs(self):
    """{config key: (stage it refers to, path in that stage's folder or '')}."""
    references = {
      key: value
      for key, value in flat(self.config, lists=True).items()
      if isinstance(value, str) and value.startswith(REFERENCE)
    }
    return {key: tuple(value.removeprefix(REFERENCE).partition('/')[::2]) for key, value in references.items()}


@dataclasses.dataclass(frozen=True)
class Status:
  """Status of a stage.

  Attributes:
    state: DONE, STALE (made with other settings or inputs), BEGUN (can be resumed) or TO_DO.
    why: reasons, a phrase each.
  """

  state: str
  why: tuple[str, ...] = ()


def map_texts(tree, change):
  """A copy of the tree as plain dicts and lists, with the function `change` applied to each text."""
  if hasattr(tree, 'items'):
    return {key: map_texts(value, change) for key, value in tree.items()}
  if isinstance(tree, (list, tuple)):
    return [map_texts(value, change) for value in tree]
  return change(tree) if isinstance(tree, str) else tree


def check(stages):
  """Raises ConfigError if a stage refers to one that does not come before it."""
  before = []
  for stage in stages:
    for key, (name, _) in stage.inputs.items():
      config_lib.require(
        name in before,
        f"stage {stage.name}: {key} is '{REFERENCE}{name}', which is not one of the "
        f'stages before it ({", ".join(before) or "there are none"}).',
      )
    before.append(stage.name)


def path_of(stages, workdir, name, file=''):
  """The absolute path that 'stage:NAME/FILE' refers to. stages: {name: Stage}."""
  stage = stages[name]
  if stage.experiment == 'external':  # stays where it is
    return os.path.abspath(os.path.join(stage.config['path'], file))
  return os.path.abspath(os.path.join(workdir, name, file or stage.output))


def resolved(stage, stages, workdir):
  """The stage's config with paths in place of references."""

  def change(text):
    if not text.startswith(REFERENCE):
      return text
    name, _, file = text.removeprefix(REFERENCE).partition('/')
    return path_of(stages, workdir, name, file)

  return map_texts(stage.config, change)


def digest(path):
  """SHA-256 of the content at `path`; '' if there is nothing.

  For the folder of a run, this is the digest in the manifest of its newest checkpoint. Otherwise it covers names, sizes
  and contents of all files; of a file above 16 MiB, it reads 64 KiB at each of 256 places.
  """
  path = pathlib.Path(path)
  if (path / source.CHECKPOINTS).is_dir():
    steps = [p / store.MANIFEST for p in (path / source.CHECKPOINTS).iterdir() if store.STEP.fullmatch(p.name)]
    if steps:
      return json.loads(max(steps, key=lambda p: int(p.parent.name[5:])).read_text())['sha256']
  path = path / 'model' if (path / 'model').is_dir() else path
  files = (
    [path]
    if path.is_file()
    else sorted(
      p
      for p in path.rglob('*')
      if p.is_file()
      and not set(p.relative_to(path).parts) & _NOT_DIGESTED
      and not p.name.startswith('.')
      and not p.name.endswith('.tmp')
    )
  )
  sha256 = hashlib.sha256()
  for file in files:
    sha256.update(f'{file.relative_to(path) if file != path else ""} {file.stat().st_size}\n'.encode())
    for piece in source.pieces(file):
      sha256.update(piece)
  return sha256.hexdigest() if files else ''


def files(stage):
  """{config key: path} of the texts in a stage's config that name something on disk, references excluded."""
  texts = {
    key: value
    for key, value in flat(stage.config, lists=True).items()
    if isinstance(value, str) and value and not value.startswith(REFERENCE)
  }
  return {
    key: value
    for key, value in texts.items()
    if (_FILE_KEYS.search(key) or os.sep in value) and '\n' not in value and os.path.exists(value)
  }


def record(stage, stages, workdir):
  """The content of `stage.json` for a stage that starts now."""
  inputs = {}
  for key, (name, file) in stage.inputs.items():
    path = path_of(stages, workdir, name, file)
    inputs[key] = {'stage': name, 'path': os.path.relpath(path, workdir), 'digest': digest(path)}
  external_files = {key: {'path': os.path.abspath(path), 'digest': digest(path)} for key, path in files(stage).items()}
  return {
    'stage': stage.name,
    'experiment': stage.experiment,
    'about': stage.about,
    'output': stage.output,
    'config': map_texts(stage.config, str),
    'inputs': inputs,
    'files': external_files,
  }


def read(workdir, name, file=RECORD):
  """The JSON object in W/NAME/FILE, or None if there is no such file. Raises ConfigError if it does not parse."""
  return load(workdir, name, file) if os.path.exists(os.path.join(workdir, name, file)) else None


def load(workdir, name, file=RECORD) -> dict[str, Any]:
  """Like `read`, for a file that exists."""
  path = os.path.join(workdir, name, file)
  try:
    with open(path, encoding='utf-8') as f:
      return json.load(f)
  except ValueError as error:
    raise config_lib.ConfigError(
      f'{path}: {error}; repair it, or delete {os.path.dirname(path)} to run the stage again.'
    ) from error


def status(stage, stages, workdir, before, digest=digest):
  """The Status of a stage.

  Args:
    before: {name: Status} of the stages before it.
    digest: function from a path to its digest.
  """
  saved = read(workdir, stage.name)
  unfinished_inputs = [
    f'input {name} ({key}) is {before[name].state}'
    for key, (name, _) in stage.inputs.items()
    if before[name].state != DONE
  ]
  if saved is None:
    return Status(TO_DO, tuple(unfinished_inputs))
  why = (
    changes(
      saved,
      stage,
      stages,
      workdir,
      skip={key for key, (name, _) in stage.inputs.items() if before[name].state != DONE},
      digest=digest,
    )
    + unfinished_inputs
  )
  if why:
    return Status(STALE, tuple(why))
  return Status(DONE if os.path.exists(os.path.join(workdir, stage.name, SUMMARY)) else BEGUN)


def _affects_result(experiment, key):
  """Whether a setting affects the result of an experiment."""
  return not _NO_EFFECT.match(key) or (experiment == EVALUATE and key.startswith('eval.'))


def changes(saved, stage, stages, workdir, skip=(), digest=digest):
  """The differences between a stage's record and its current settings and inputs, a phrase each.

  Args:
    saved: the record.
    skip: config keys of inputs that are not compared.
    digest: function from a path to its digest.
  """
  old, new = (
    {key: value for key, value in flat({'experiment': e, **c}, lists=True).items() if _affects_result(e, key)}
    for e, c in ((saved['experiment'], saved['config']), (stage.experiment, stage.config))
  )
  added = lambda key: config_lib.ADDED.get('.'.join(key.split('.')[-2:]), 'absent')  # of a record that lacks the key
  show = lambda values, key: repr(values[key]) if key in values else 'absent'
  old = {key: value for key in new if (value := added(key)) != 'absent'} | old
  # JSON has turned tuples into lists; flat() has flattened both, except empty ones.
  same = lambda key: show(old, key).replace('()', '[]') == show(new, key).replace('()', '[]')
  differences = [
    f'{key} was {show(old, key)}, is {show(new, key)}' for key in sorted(old.keys() | new.keys()) if not same(key)
  ]
  changed = {phrase.split(' ')[0] for phrase in differences}
  for key, (name, file) in stage.inputs.items():
    if key not in changed and key not in skip and key in saved['inputs']:
      now = digest(path_of(stages, workdir, name, file))
      if now != saved['inputs'][key]['digest']:
        differences.append(f'input {name} ({key}) has changed')
  for key, path in files(stage).items():
    old_file = saved['files'].get(key)
    if key not in changed and (old_file is None or digest(path) != old_file['digest']):
      differences.append(f'{key}: the content of {path} has changed')
  return differences


def statuses(stages, workdir):
  """{name: Status} of all stages, in order. stages: {name: Stage}."""
  result, cached_digest = {}, functools.cache(digest)  # several stages may use the same model
  for name, stage in stages.items():
    result[name] = status(stage, stages, workdir, result, cached_digest)
  return result


def set_aside(workdir, name):
  """Moves W/NAME to W/old/NAME-N, rather than deleting results that took time. Returns the new path."""
  folder = os.path.join(workdir, OLD)
  os.makedirs(folder, exist_ok=True)
  base = os.path.join(folder, name.replace('/', '-'))
  n = next(n for n in range(1, 10**6) if not os.path.exists(f'{base}-{n}'))
  os.rename(os.path.join(workdir, name), f'{base}-{n}')
  return f'{base}-{n}'


def find(path):
  """(workdir, stage name) of a path at or below a stage's folder, such as a checkpoint.

  The name of a stage that was set aside is old/NAME-N.
  """
  resolved_path = pathlib.Path(path).resolve()
  for folder in (resolved_path, *resolved_path.parents):
    if (folder / RECORD).exists():
      if folder.parent.name == OLD:
        return str(folder.parents[1]), f'{OLD}/{folder.name}'
      name = load(folder.parent, folder.name)['stage']
      return str(folder.parents[name.count('/')]), name
  raise config_lib.ConfigError(f'{path} is not in a stage of a recipe: no {RECORD} there or in a folder above it.')


def lineage(workdir, name):
  """The stage and all stages that its result was made from, each once, according to their records.

  Returns:
    list of dicts: 'stage', 'depth', 'experiment', 'seed', 'config' (path of the record), 'path', 'digest' (current),
    'inputs' {key: {'stage', 'path', 'digest', 'changed' (since it was used)}}, 'files' {key: {'path', 'digest', ...}}.
  """
  absolute = lambda path: os.path.normpath(os.path.join(workdir, path))

  def with_change(entry):
    path = absolute(entry['path'])
    return entry | {'path': path, 'changed': digest(path) != entry['digest']}

  entries, queue, visited = [], [(name, 0)], set()
  while queue:
    name, depth = queue.pop(0)
    if name in visited:
      continue
    visited.add(name)
    saved = read(workdir, name)
    if saved is None:
      entries.append(
        {
          'stage': name,
          'depth': depth,
          'experiment': 'gone: its folder has no record',
          'seed': None,
          'config': '',
          'path': os.path.join(workdir, name),
          'digest': '',
          'inputs': {},
          'files': {},
        }
      )
      continue
    is_external = saved['experiment'] == 'external'
    path = saved['config']['path'] if is_external else absolute(os.path.join(name, saved['output']))
    entries.append(
      {
        'stage': name,
        'depth': depth,
        'experiment': saved['experiment'],
        'seed': saved['config'].get('seed'),
        'config': absolute(os.path.join(name, RECORD)),
        'path': path,
        'digest': digest(path),
        'inputs': {key: with_change(entry) for key, entry in saved['inputs'].items()},
        'files': {key: with_change(entry) for key, entry in saved['files'].items()},
      }
    )
    queue += [(entry['stage'], depth + 1) for entry in saved['inputs'].values()]
  return entries
