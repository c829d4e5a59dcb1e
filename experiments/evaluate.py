"""Evaluates a policy on held-out problems: metrics, and samples for the report.

  python -m experiments.evaluate --config configs/r1_zero.py:toy --config.model.path=DIR --workdir D

Takes a config of `experiments.rl`, of which data, rollout, reward and eval are used.
"""

import contextlib
import dataclasses
import os
import time

from r1jax import config as config_lib
from r1jax.runs import cli, json_files, runtime
from r1jax.runs.rl import accuracies, evaluate, make_run
from r1jax.runs.workdir import exclusive
from r1jax.sampling import SamplingParams


def without_learning(cfg):
  """A config.RL without the models that only training needs: a critic and teachers."""
  loss = dataclasses.replace(cfg.loss, advantage='none', drop_zero_variance=False)
  return dataclasses.replace(cfg, loss=loss, critic=config_lib.Critic(), distill=config_lib.Distill())


@exclusive
def run_evaluate(cfg, workdir):
  """Samples eval.final_samples responses and a greedy one to each of eval.final_problems. Returns the summary, which it
  also writes to summary.json.
  """
  began, checkpoints = time.perf_counter(), os.path.join(workdir, 'checkpoints')
  config_lib.require(
    not os.path.isdir(checkpoints) or not os.listdir(checkpoints),
    f'{workdir} holds a training run, whose metrics, samples and summary.json an evaluation would replace; use another '
    '--workdir.',
  )
  problems, samples = cfg.eval.final_problems or cfg.eval.problems, cfg.eval.final_samples or cfg.eval.samples
  with contextlib.closing(make_run(without_learning(cfg), workdir)) as run, runtime.exit_together():
    params = run.first_model()
    run.writer.resume(0)
    metrics, rows = evaluate(run, params, problems, samples)
    greedy, _ = evaluate(run, params, problems, 1, SamplingParams(0.0))
    metrics |= accuracies(greedy, 'greedy')
    run.writer.samples(0, rows)
    run.writer.write(0, {f'eval/{name}': x for name, x in metrics.items()})
  summary = {
    'final': metrics,
    'problems': len({row['id'] for row in rows}),
    'samples': samples,
    'seed': cfg.seed,
    'seconds': time.perf_counter() - began,
    'config': config_lib.to_dict(cfg),
  }
  json_files.write_json(os.path.join(workdir, 'summary.json'), summary)
  return summary


def describe(summary, workdir):
  return ', '.join(f'{name} {x:.3f}' for name, x in summary['final'].items())


if __name__ == '__main__':
  cli.main(run_evaluate, config_lib.RL, 'The folder for metrics and samples.', describe)
