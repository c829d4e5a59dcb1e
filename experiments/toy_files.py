"""Writes the human data of the recipe's toy world: preference pairs, and answers to open questions.

python -m experiments.toy_files --config configs/r1.py:toy/people --workdir D
"""

import os

from r1jax import parallel
from r1jax.data.toy import files
from r1jax.recipes import settings
from r1jax.runs import cli, json_files, runtime


def run_toy_files(cfg, workdir):
  """Writes the files and summary.json into workdir. Returns the summary."""
  runtime.set_up_process()
  summary = {}
  if parallel.is_primary():
    summary = {'rows': files.write(workdir, cfg.seed, cfg.pairs, cfg.held_out_pairs, cfg.answers)}
    json_files.write_json(os.path.join(workdir, 'summary.json'), summary)
  return summary


if __name__ == '__main__':
  cli.main(run_toy_files, settings.ToyFiles, 'The folder for the files.', lambda summary, workdir: str(summary))
