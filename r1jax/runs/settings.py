"""The settings that a checkpoint or folder must have in common with the command that continues it."""

import json
import os

from r1jax import config as config_lib
from r1jax.checkpoint import store as store_lib
from r1jax.runs.json_files import write_shared

# Keys of config.Reward that are left out while empty, so that older checkpoints, which lack them, still match.
_OMITTED_IF_EMPTY = ('parts_by_kind', 'accuracy_by_kind', 'functions', 'start_step', 'thresholds')


def reward_identity(reward):
  """A config.Reward as a dict, without the settings that only say how it is computed (workers, timeouts, clients)."""
  identity = {
    key: value
    for key, value in config_lib.to_dict(reward).items()
    if key not in ('workers', 'timeout') and (value or key not in _OMITTED_IF_EMPTY)
  }
  drop_client = lambda options: {k: v for k, v in options.items() if k not in config_lib.CLIENT_OPTIONS}
  return identity | {'options': {name: drop_client(options) for name, options in identity['options'].items()}}


def drop_added(settings):
  """Drops from {section: {key: value}} the settings that older records lack, where they have no effect."""
  for name, off in config_lib.ADDED.items():
    section, _, key = name.rpartition('.')
    inner = settings.get(section, {}) if section else settings
    if inner.get(key) == off:
      del inner[key]


def lora_identity(cfg, base_dtype, adapter):
  """The part of a fingerprint that says which adapter is trained; {} for a run that trains the whole model.

  Args:
    cfg: config.LoRA. base_dtype: of the adapted model's parameters, which a checkpoint does not hold.
    adapter: checkpoint.Adapter that the run begins with, or None.
  """
  if not cfg.rank:
    return {}
  settings = {'rank': cfg.rank, 'alpha': cfg.alpha, 'targets': list(cfg.targets)}
  return {'lora': settings | {'base_dtype': base_dtype, 'start': adapter.digest if adapter else ''}}


def fingerprint(cfg, source, critic=None, teachers=None, adapter=None):
  """What a checkpoint must agree on with the RL run that restores it: base model, shapes, data and objective.

  source, critic: checkpoint.Source of the policy, and of the critic if there is one. teachers: Teachers, or None.
  adapter: as in `lora_identity`.
  """
  full = config_lib.to_dict(cfg)
  parts = {name: full[name] for name in ('seed', 'data', 'rollout', 'loss', 'optimizer')}
  parts['reward'] = reward_identity(cfg.reward)
  for key in ('parts', 'evaluation'):
    if not parts['data'][key]:
      del parts['data'][key]  # older checkpoints lack these keys
  del parts['optimizer']['moment_dtype']  # dtypes are compared with those of the arrays
  for key in ('chunk', 'slots'):  # how, not what is sampled
    del parts['rollout'][key]
  train = ('minibatches', 'epochs', 'reference_refresh', 'balance_rate', 'routing_replay')
  parts['train'] = {name: full['train'][name] for name in train}
  drop_added(parts)
  # With a constant learning rate a run may be made longer; any other schedule depends on the number of steps.
  parts['steps'] = cfg.steps if cfg.optimizer.schedule != 'constant' else 'any'
  if critic:
    settings = {key: value for key, value in full['critic'].items() if key != 'path'}
    parts['critic'] = settings | {'base': critic.digest}
  if teachers:
    parts['distill'] = teachers.identity()
  parts |= lora_identity(cfg.lora, cfg.train.param_dtype, adapter)
  return parts | {'model': source.config, 'base': source.digest}


def require_same_settings(path, settings):
  """Writes a folder's settings to `path` on the first call, and compares them on every later one.

  Raises ConfigError, naming what differs, if the folder was started with other settings.
  """
  settings = json.loads(json.dumps(settings))
  if os.path.exists(path):
    with open(path, encoding='utf-8') as f:
      differences = store_lib.difference(json.load(f), settings)
    config_lib.require(
      not differences,
      f'{os.path.dirname(path)} was started with other settings: {"; ".join(differences[:4])}; restore '
      'those settings, or use another --workdir.',
    )
    return
  os.makedirs(os.path.dirname(path), exist_ok=True)
  write_shared(path, settings)
