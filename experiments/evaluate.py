"""Evaluates a policy on held-out problems: figures, and samples for the report.

  python -m experiments.evaluate --config configs/r1_zero.py:toy --config.model.path=DIR --workdir D

The config is one of `experiments.rl`; its data, rollout, reward and eval say what is asked and how it is graded.
"""

import contextlib
import os
import time

from absl import app, flags
from ml_collections import config_flags

from experiments import common, rl
from experiments.workdir import alone
from r1jax import config as config_lib
from r1jax.sampling import Sampling


@alone
def run_evaluate(cfg, workdir):
  """eval.final_samples responses to each of eval.final_problems, and a greedy one. Returns and writes summary.json."""
  began = time.perf_counter()
  problems, samples = cfg.eval.final_problems or cfg.eval.problems, cfg.eval.final_samples or cfg.eval.samples
  with contextlib.closing(common.start(cfg, workdir)) as run, common.ends_together():
    params = run.source.load(run.abstract.params)
    run.writer.resume(0)
    found, rows = rl.evaluate(run, params, 0, problems, samples)
    greedy, _ = rl.evaluate(run, params, 0, problems, 1, Sampling(0.0))
    found |= rl.accuracies(greedy, 'greedy')
    run.writer.samples(0, rows)
    run.writer.write(0, {f'eval/{name}': x for name, x in found.items()})
  summary = {
    'final': found,
    'problems': len({row['id'] for row in rows}),
    'samples': samples,
    'seed': cfg.seed,
    'seconds': time.perf_counter() - began,
    'config': config_lib.to_dict(cfg),
  }
  common.write_json(os.path.join(workdir, 'summary.json'), summary)
  return summary


def main(_):
  with common.errors_in_one_line():
    summary = run_evaluate(config_lib.convert(_CONFIG.value, config_lib.RL), _WORKDIR.value)
  print(', '.join(f'{name} {x:.3f}' for name, x in summary['final'].items()))


if __name__ == '__main__':
  # Unlocked, so that a mistyped --config.KEY reaches `convert`, which names the nearest known one.
  _CONFIG = config_flags.DEFINE_config_file('config', lock_config=False, accept_new_attributes=True)
  flags.mark_flag_as_required('config')
  _WORKDIR = flags.DEFINE_string('workdir', None, 'Where figures and samples go.', required=True)
  app.run(main, flags_parser=common.parse_flags)
