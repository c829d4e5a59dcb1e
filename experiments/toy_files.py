"""Writes what people give the recipe's toy world: preference pairs, and answers to open questions.

python -m experiments.toy_files --config configs/r1.py:toy/people --workdir D
"""

import os

from absl import app, flags
from ml_collections import config_flags

from experiments import common
from r1jax import config as config_lib
from r1jax import parallel
from r1jax.data.toy import files
from r1jax.recipes import settings


def run_toy_files(cfg, workdir):
  """Writes the files into workdir, and summary.json. Returns the summary."""
  common.prepare()
  summary = {}
  if parallel.first():
    summary = {'rows': files.write(workdir, cfg.seed, cfg.pairs, cfg.held_out_pairs, cfg.answers)}
    common.write_json(os.path.join(workdir, 'summary.json'), summary)
  return summary


def main(_):
  with common.errors_in_one_line():
    print(run_toy_files(config_lib.convert(_CONFIG.value, settings.ToyFiles), _WORKDIR.value))


if __name__ == '__main__':
  _CONFIG = config_flags.DEFINE_config_file('config', lock_config=False, accept_new_attributes=True)
  flags.mark_flag_as_required('config')
  _WORKDIR = flags.DEFINE_string('workdir', None, 'Where the files go.', required=True)
  app.run(main, flags_parser=common.parse_flags)
