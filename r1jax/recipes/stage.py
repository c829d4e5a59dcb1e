"""Stages of a recipe: what each takes from earlier ones, whether it is done, and where a result came from.

A stage's folder W/NAME holds what its experiment leaves there. `stage.json`, written before the experiment begins, says
what is being made: the config, and the digest of every input. `summary.json`, which each experiment writes last, says
that it has been made. A stage is done where both are there and the first agrees with what the recipe says now; so a
stage may just as well be run by the plain command of its experiment, elsewhere.
"""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import re

from r1jax import config as config_lib
from r1jax.checkpoint import source, store
from r1jax.config import CLIENT_OPTIONS, flat

RECORD, SUMMARY, OLD = 'stage.json', 'summary.json', 'old'
REFERENCE = 'stage:'  # a text of a config 'stage:NAME' or 'stage:NAME/FILE' is what an earlier stage made
DONE, STALE, BEGUN, TO_DO = 'done', 'stale', 'begun', 'to do'
# Settings that say how a stage is run and watched, not what it makes; of an evaluation `eval` says what.
HOW = re.compile(
  r'(checkpoint|eval|mesh|sampler_mesh|topology|part|parts)(\.|$)|(.*\.)?(workers|microbatch|logit_chunk'
  r'|length_slices|reference_memory|remat|attention|rollout\.chunk'
  rf'|(endpoint|judge|options\.\w+)\.({"|".join(CLIENT_OPTIONS)}))$'
)
FILES = re.compile(r'path$|(^|\.)(samples|examples|evaluation\.\d+)$')  # keys of what lies on disk
EVALUATE = 'evaluate'  # the experiment of evaluations
CONFIG = 'stage_config.py'  # of its folder, for the plain command of its experiment
SKIPPED = {'tb', 'plots', 'evaluation', RECORD, SUMMARY, CONFIG, 'report.html', 'metrics.jsonl'}  # no part of a result


@dataclasses.dataclass(frozen=True)
class Stage:
  """A stage with its folder; NAME/evaluation is the evaluation of what stage NAME has made.

  Attributes:
    config: nested dict for the experiment's config class, with references.
    output: the part of its folder that a reference to it means; '' is the folder.
  """

  name: str
  experiment: str
  config: dict
  about: str = ''
  output: str = ''

  @property
  def inputs(self):
    """{key of the config: (stage, file in its folder or '')}."""
    refs = {
      key: value
      for key, value in flat(self.config, lists=True).items()
      if isinstance(value, str) and value.startswith(REFERENCE)
    }
    return {key: tuple(value.removeprefix(REFERENCE).partition('/')[::2]) for key, value in refs.items()}


@dataclasses.dataclass(frozen=True)
class Status:
  """state: DONE, STALE (made under other settings or from other inputs), BEGUN (can go on) or TO_DO; why: phrases."""

  state: str
  why: tuple[str, ...] = ()


def replaced(tree, change):
  """The tree as plain dicts and lists, each text put through `change`."""
  if hasattr(tree, 'items'):
    return {key: replaced(value, change) for key, value in tree.items()}
  if isinstance(tree, (list, tuple)):
    return [replaced(value, change) for value in tree]
  return change(tree) if isinstance(tree, str) else tree


def check(stages):
  """Raises ConfigError where a stage refers to one that does not come before it."""
  before = []
  for stage in stages:
    for key, (name, _) in stage.inputs.items():
      config_lib.require(
        name in before,
        f"stage {stage.name}: {key} is '{REFERENCE}{name}', which is none of the "
        f'stages before it ({", ".join(before) or "there are none"}).',
      )
    before.append(stage.name)


def path_of(stages, workdir, name, file=''):
  """The absolute path that 'stage:NAME/FILE' means. stages: {name: Stage}."""
  stage = stages[name]
  if stage.experiment == 'external':  # something from outside keeps its place
    return os.path.abspath(os.path.join(stage.config['path'], file))
  return os.path.abspath(os.path.join(workdir, name, file or stage.output))


def resolved(stage, stages, workdir):
  """The stage's config with paths in place of references."""

  def change(text):
    if not text.startswith(REFERENCE):
      return text
    name, _, file = text.removeprefix(REFERENCE).partition('/')
    return path_of(stages, workdir, name, file)

  return replaced(stage.config, change)


def digest(path):
  """SHA-256 of what lies at `path`; '' where nothing does.

  Of a run's folder that of its newest checkpoint, as the manifest has it. Else of all files: names, sizes and contents,
  of a file above 16 MiB its size and 64 KiB at 256 places.
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
      and not set(p.relative_to(path).parts) & SKIPPED
      and not p.name.startswith('.')
      and not p.name.endswith('.tmp')
    )
  )
  found = hashlib.sha256()
  for file in files:
    found.update(f'{file.relative_to(path) if file != path else ""} {file.stat().st_size}\n'.encode())
    for piece in source.pieces(file):
      found.update(piece)
  return found.hexdigest() if files else ''


def files(stage):
  """{key: path} of the config's texts that name something on disk and no stage."""
  named = {
    key: value
    for key, value in flat(stage.config, lists=True).items()
    if isinstance(value, str) and value and not value.startswith(REFERENCE)
  }
  return {
    key: value
    for key, value in named.items()
    if (FILES.search(key) or os.sep in value) and '\n' not in value and os.path.exists(value)
  }


def record(stage, stages, workdir):
  """What `stage.json` says of a stage that begins now."""
  inputs = {}
  for key, (name, file) in stage.inputs.items():
    path = path_of(stages, workdir, name, file)
    inputs[key] = {'stage': name, 'path': os.path.relpath(path, workdir), 'digest': digest(path)}
  outside = {key: {'path': os.path.abspath(path), 'digest': digest(path)} for key, path in files(stage).items()}
  return {
    'stage': stage.name,
    'experiment': stage.experiment,
    'about': stage.about,
    'output': stage.output,
    'config': replaced(stage.config, str),
    'inputs': inputs,
    'files': outside,
  }


def read(workdir, name, file=RECORD):
  """The object in W/NAME/FILE, or None. Raises ConfigError where it does not parse."""
  path = os.path.join(workdir, name, file)
  if not os.path.exists(path):
    return None
  try:
    with open(path, encoding='utf-8') as f:
      return json.load(f)
  except ValueError as error:
    raise config_lib.ConfigError(
      f'{path}: {error}; mend it, or delete {os.path.dirname(path)} to make it anew.'
    ) from error


def status(stage, stages, workdir, before, digest=digest):
  """The Status of a stage. before: {name: Status} of those before it. digest: of a path."""
  saved = read(workdir, stage.name)
  waits = [
    f'input {name} ({key}) is {before[name].state}'
    for key, (name, _) in stage.inputs.items()
    if before[name].state != DONE
  ]
  if saved is None:
    return Status(TO_DO, tuple(waits))
  why = (
    changes(
      saved,
      stage,
      stages,
      workdir,
      skip={key for key, (name, _) in stage.inputs.items() if before[name].state != DONE},
      digest=digest,
    )
    + waits
  )
  if why:
    return Status(STALE, tuple(why))
  return Status(DONE if os.path.exists(os.path.join(workdir, stage.name, SUMMARY)) else BEGUN)


def _makes(experiment, key):
  """Does a setting say what an experiment makes?"""
  return not HOW.match(key) or experiment == EVALUATE and key.startswith('eval.')


def changes(saved, stage, stages, workdir, skip=(), digest=digest):
  """What differs between the record of a stage and what it would be now, a phrase each; inputs `skip` are not read."""
  old, new = (
    {key: value for key, value in flat({'experiment': e, **c}, lists=True).items() if _makes(e, key)}
    for e, c in ((saved['experiment'], saved['config']), (stage.experiment, stage.config))
  )
  show = lambda values, key: repr(values[key]) if key in values else 'absent'
  # Through JSON a tuple has become a list; flat() has taken both apart, but for empty ones.
  same = lambda key: show(old, key).replace('()', '[]') == show(new, key).replace('()', '[]')
  found = [
    f'{key} was {show(old, key)}, is {show(new, key)}' for key in sorted(old.keys() | new.keys()) if not same(key)
  ]
  changed = {key.split(' ')[0] for key in found}
  for key, (name, file) in stage.inputs.items():
    if key not in changed and key not in skip and key in saved['inputs']:
      now = digest(path_of(stages, workdir, name, file))
      if now != saved['inputs'][key]['digest']:
        found.append(f'input {name} ({key}) has changed')
  for key, path in files(stage).items():
    was = saved['files'].get(key)
    if key not in changed and (was is None or digest(path) != was['digest']):
      found.append(f'{key}: the content of {path} has changed')
  return found


def statuses(stages, workdir):
  """{name: Status} in order. stages: {name: Stage}."""
  found, once = {}, functools.cache(digest)  # several stages may take one model
  for name, stage in stages.items():
    found[name] = status(stage, stages, workdir, found, once)
  return found


def set_aside(workdir, name):
  """Moves W/NAME to W/old/NAME-N; returns where. Nothing that took time is deleted."""
  folder = os.path.join(workdir, OLD)
  os.makedirs(folder, exist_ok=True)
  base = os.path.join(folder, name.replace('/', '-'))
  n = next(n for n in range(1, 10**6) if not os.path.exists(f'{base}-{n}'))
  os.rename(os.path.join(workdir, name), f'{base}-{n}')
  return f'{base}-{n}'


def find(path):
  """(workdir, stage name) of a path at or under a stage's folder, as a checkpoint is; of one set aside old/NAME-N."""
  at = pathlib.Path(path).resolve()
  for folder in (at, *at.parents):
    if (folder / RECORD).exists():
      if folder.parent.name == OLD:
        return str(folder.parents[1]), f'{OLD}/{folder.name}'
      name = read(folder.parent, folder.name)['stage']
      return str(folder.parents[name.count('/')]), name
  raise config_lib.ConfigError(f'{path} lies in no stage of a recipe: no {RECORD} there or in a folder above it.')


def lineage(workdir, name):
  """All that the result of a stage came from, itself first, each once.

  As the records have it, whatever a recipe says now.

  Returns:
    list of dicts: 'stage', 'depth', 'experiment', 'seed', 'config' (path), 'path', 'digest' (as it is now),
    'inputs' {key: {'stage', 'path', 'digest', 'changed': since it was used}}, 'files' {key: {'path', 'digest', ...}}.
  """
  at = lambda path: os.path.normpath(os.path.join(workdir, path))
  told = lambda entry: entry | {'path': at(entry['path']), 'changed': digest(at(entry['path'])) != entry['digest']}
  found, queue, seen = [], [(name, 0)], set()
  while queue:
    name, depth = queue.pop(0)
    if name in seen:
      continue
    seen.add(name)
    saved = read(workdir, name)
    if saved is None:
      found.append(
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
    path = saved['config']['path'] if saved['experiment'] == 'external' else at(os.path.join(name, saved['output']))
    found.append(
      {
        'stage': name,
        'depth': depth,
        'experiment': saved['experiment'],
        'seed': saved['config'].get('seed'),
        'config': at(os.path.join(name, RECORD)),
        'path': path,
        'digest': digest(path),
        'inputs': {key: told(entry) for key, entry in saved['inputs'].items()},
        'files': {key: told(entry) for key, entry in saved['files'].items()},
      }
    )
    queue += [(entry['stage'], depth + 1) for entry in saved['inputs'].values()]
  return found
