"""What a checkpoint, or a folder, must agree on with the command that goes on with it."""

import json
import os

from r1jax import config as config_lib
from r1jax.checkpoint import store as store_lib
from r1jax.runs.json_files import write_shared


def reward_identity(reward):
  """A config.Reward as a dict, less how it is computed, which may change, and what of kinds it does not have."""
  found = {k: v for k, v in config_lib.to_dict(reward).items() if k not in ('workers', 'timeout')}
  found = {
    k: v
    for k, v in found.items()
    if v or k not in ('parts_by_kind', 'accuracy_by_kind', 'functions', 'start_step', 'thresholds')
  }
  less = lambda options: {k: v for k, v in options.items() if k not in config_lib.CLIENT_OPTIONS}
  return found | {'options': {name: less(options) for name, options in found['options'].items()}}


def fingerprint(cfg, source):
  """What a checkpoint must agree on with the run that restores it: the base, shapes, data and objective."""
  whole = config_lib.to_dict(cfg)
  parts = {name: whole[name] for name in ('seed', 'data', 'rollout', 'loss', 'optimizer')}
  parts['reward'] = reward_identity(cfg.reward)
  parts['reward'].pop('thresholds', None)
  if not parts['data']['parts']:
    del parts['data']['parts']  # a run without them is the same as before there were any
  if not parts['data']['evaluation']:
    del parts['data']['evaluation']
  del parts['optimizer']['moment_dtype']  # dtypes are compared with the arrays
  del parts['rollout']['chunk']
  parts['train'] = {name: whole['train'][name] for name in ('minibatches', 'epochs', 'reference_refresh')}
  # More steps go on under a constant rate; under any other the rate at every step follows from their number.
  parts['steps'] = cfg.steps if cfg.optimizer.schedule != 'constant' else 'any'
  return parts | {'model': source.config, 'base': source.digest}


def require_same_settings(path, settings):
  """Keeps in `path` what a folder was begun with, for all commands that go on in it.

  Raises ConfigError, naming what differs, where it was begun with other settings.
  """
  settings = json.loads(json.dumps(settings))
  if os.path.exists(path):
    with open(path, encoding='utf-8') as f:
      lines = store_lib.difference(json.load(f), settings)
    config_lib.require(
      not lines,
      f'{os.path.dirname(path)} was begun with other settings: {"; ".join(lines[:4])}; go '
      'back to those, or use another --workdir.',
    )
    return
  os.makedirs(os.path.dirname(path), exist_ok=True)
  write_shared(path, settings)
