"""Evaluates models on tasks, such as benchmarks; or a policy on the held-out problems of a config of RL.

  python -m experiments.evaluate --config configs/evaluation.py:small --config.models.base=DIR --config.models.rl=RUN \\
      --workdir W
  python -m experiments.evaluate --config configs/r1_zero.py:toy --config.model.path=DIR --workdir D

With a config that has `tasks`, W/MODEL/TASK.jsonl holds every graded sample, and W/table.md, .json and .html the
results. If the command is stopped at any moment, the same command continues and ends with the same tables.

Of a config of `experiments.rl`, data, rollout, reward and eval are used; D has metrics, and samples for the report.
"""

import contextlib
import dataclasses
import os
import time

from r1jax import config as config_lib
from r1jax.evaluation import tables
from r1jax.runs import cli, json_files, runtime
from r1jax.runs.rl import accuracies, evaluate, make_run
from r1jax.runs.task_evaluation import run_tasks
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


def run(cfg, workdir):
  """`run_tasks` or `run_evaluate`, by the class of the config."""
  return (run_tasks if isinstance(cfg, config_lib.Evaluate) else run_evaluate)(cfg, workdir)


def describe(summary, workdir):
  if 'final' in summary:
    return ', '.join(f'{name} {x:.3f}' for name, x in summary['final'].items())
  return f'{tables.markdown(tables.sections(summary))}\n{workdir}: table.md, table.json, table.html, samples by model'


if __name__ == '__main__':
  cli.main(run, config_lib.of_evaluation, 'The folder for samples and results.', describe)
