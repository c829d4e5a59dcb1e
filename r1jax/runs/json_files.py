"""JSON files of a run, each written atomically. With several processes, only the first one writes."""

import json
import os
import socket

from r1jax import config as config_lib
from r1jax import parallel
from r1jax.metrics.writer import RecordError, is_number, read_object


def write_json(path, value):
  """Writes JSON to a temporary file and renames it; only the first process does so."""
  if not parallel.is_primary():
    return
  with open(path + '.tmp', 'w', encoding='utf-8') as f:
    json.dump(value, f, indent=2, ensure_ascii=False)
    f.write('\n')
  os.replace(path + '.tmp', path)


def read_json(path):
  """The value in a file that `write_json` has written."""
  with open(path, encoding='utf-8') as f:
    return json.load(f)


def write_shared(path, value):
  """Like write_json, but safe where independent jobs may write the same file at the same time."""
  temporary = f'{path}.{socket.gethostname()}.{os.getpid()}'
  write_json(temporary, value)
  if parallel.is_primary():
    os.replace(temporary, path)


def write_config(workdir, cfg):
  """Writes a run's config to workdir/config.json, with model.path made absolute."""
  config = config_lib.to_dict(cfg)
  if config['model']['path']:
    config['model']['path'] = os.path.abspath(config['model']['path'])
  write_json(os.path.join(workdir, 'config.json'), config)


def cached_metrics(path, compute, recompute):
  """The metrics in the JSON file `path`, which is written first if it does not exist yet or `recompute` is set.

  Args:
    compute: function () -> {name: number}, or {'metrics': {name: number}, 'seconds': number}.
    recompute: whether to ignore an existing file.

  Raises:
    RecordError: the file exists but holds no metrics.
  """
  if recompute or not parallel.broadcast_from_primary(os.path.exists(path)):
    value = compute()
    write_json(path, value)
    return json.loads(json.dumps(value))
  record = read_object(path)
  metrics = record.get('metrics', record)
  if not isinstance(metrics, dict) or not all(map(is_number, [*metrics.values(), record.get('seconds')])):
    raise RecordError(
      f'{path} holds no metrics, and the base model can no longer be evaluated in this run; repair the file, or '
      'start again in another --workdir.'
    )
  return record
