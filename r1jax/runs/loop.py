"""What the training loops of experiments/rl.py, sft.py and reward_model.py share."""

import io
import os

from r1jax import checkpoint, parallel
from r1jax import config as config_lib
from r1jax.metrics.plots import plot
from r1jax.metrics.progress import Progress
from r1jax.metrics.report import report
from r1jax.metrics.writer import Writer
from r1jax.runs import json_files, runtime


def open_store(workdir, cfg, fingerprint):
  """The checkpoint.Store of a run's folder, which is made if needed. cfg: config.Checkpoint."""
  os.makedirs(workdir, exist_ok=True)
  return checkpoint.Store(os.path.join(workdir, checkpoint.CHECKPOINTS), cfg, fingerprint)


def open_writer(workdir):
  """The metrics Writer of the first process; the other processes write nothing."""
  return Writer(workdir) if parallel.is_primary() else runtime.NoWriter()


def progress_bar(steps, first_step, **kwargs):
  """The Progress bar of the first process; the other processes show nothing."""
  return Progress(steps, first_step, file=None if parallel.is_primary() else io.StringIO(), **kwargs)


def begin(run, first_step, steps, setting):
  """Checks that a run may go on from `first_step`, then writes its config.json and drops metrics of later steps.

  Args:
    run: with cfg, workdir and writer.
    first_step: step of the restored checkpoint; 0 without one.
    steps: steps that the config asks for.
    setting: config key that determines the number of steps, for the error message.

  Raises:
    ConfigError: the run has already done more steps than the config asks for.
  """
  config_lib.require(
    first_step <= steps,
    f'{run.workdir} already holds a run of {first_step} steps, but {setting} asks for {steps}; '
    f'raise {setting}, or use another --workdir.',
  )
  # Only now: a refused command must not overwrite the config that the checkpoints were made with.
  json_files.write_config(run.workdir, run.cfg)
  run.writer.resume(first_step)


def checkpoint_is_due(cfg, step, steps):
  """Whether to save after `step`: every cfg.every steps, and after the last one. cfg: config.Checkpoint."""
  return (step + 1) % cfg.every == 0 or step + 1 == steps


def finish(workdir, summary):
  """Writes summary.json, the plots and the report of a finished run."""
  json_files.write_json(os.path.join(workdir, 'summary.json'), summary)
  if parallel.is_primary():
    plot(workdir)
    report(workdir)
