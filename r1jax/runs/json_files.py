"""JSON files of a run, each written whole or not at all; of several processes the first writes."""

import json
import os
import socket

from r1jax import config as config_lib
from r1jax import parallel
from r1jax.metrics.writer import RecordError, is_number, read_object


def write_json(path, value):
  """Writes JSON under a temporary name and renames it; the first process alone."""
  if not parallel.is_primary():
    return
  with open(path + '.tmp', 'w', encoding='utf-8') as f:
    json.dump(value, f, indent=2, ensure_ascii=False)
    f.write('\n')
  os.replace(path + '.tmp', path)


def write_shared(path, value):
  """As write_json, where jobs that know nothing of each other may write the same file at once."""
  own = f'{path}.{socket.gethostname()}.{os.getpid()}'
  write_json(own, value)
  if parallel.is_primary():
    os.replace(own, path)


def write_config(workdir, cfg):
  """workdir/config.json: a run's config, its model's path so that it holds from any folder."""
  config = config_lib.to_dict(cfg)
  if config['model']['path']:
    config['model']['path'] = os.path.abspath(config['model']['path'])
  write_json(os.path.join(workdir, 'config.json'), config)


def figures_once(path, make, anew):
  """The figures in `path`, a JSON object: made, and kept there, where they are not yet, or `anew` is set.

  make: function that returns {name: number}, or {'metrics': such, 'seconds': number}.

  Raises:
    RecordError: what is there holds no figures.
  """
  if anew or not parallel.broadcast_from_primary(os.path.exists(path)):
    value = make()
    write_json(path, value)
    return json.loads(json.dumps(value))
  found = read_object(path)
  figures = found.get('metrics', found)
  if not isinstance(figures, dict) or not all(map(is_number, [*figures.values(), found.get('seconds')])):
    raise RecordError(
      f'{path} holds no figures, and those of the base cannot be made again from here; mend it, or '
      'begin anew in another --workdir.'
    )
  return found
