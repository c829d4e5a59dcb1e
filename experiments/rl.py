"""Reinforcement learning from rule rewards: R1-Zero's loop.

  python -m experiments.rl --config configs/r1_zero.py:toy --config.model.path=DIR --workdir D

A run killed at any moment goes on from its last checkpoint when the same command is given again, and
ends with the same numbers.
"""

import contextlib
import io
import logging
import os
import time

import jax

from r1jax import config as config_lib
from r1jax import evaluation, keys, parallel, rollout
from r1jax.batch import Pending
from r1jax.metrics.plots import plot
from r1jax.metrics.progress import Progress
from r1jax.metrics.report import report
from r1jax.metrics.timing import Stopwatch
from r1jax.rollout.metrics import response_metrics, reward_metrics
from r1jax.runs import cli, json_files, runtime
from r1jax.runs.rl import start
from r1jax.runs.workdir import exclusive, save_on_interrupt
from r1jax.sampling import Sampling
from r1jax.training import policy
from r1jax.training import state as state_lib

log = logging.getLogger('r1jax')


def sample(run, params, step, key):
  """One step's rollout. With loss.resample_limit, groups all right or all wrong give way to others (DAPO).

  Returns:
    Rollout, its Pending Scores, and metrics of the filter: none without one.
  """
  cfg = run.cfg
  sampling = Sampling(cfg.rollout.temperature, cfg.rollout.top_p, cfg.rollout.top_k, cfg.rollout.min_p)
  draw = lambda extra: run.sampler.start(
    params, run.draws.next(step), cfg.rollout.samples, keys.fold_in(key, extra), sampling, step
  )
  drawn, scores = draw(0)
  if not cfg.loss.resample_limit:
    return drawn, scores, {}
  groups, extra = rollout.DynamicSampling(cfg.rollout.prompts, cfg.reward), 0
  groups.add(drawn, scores.result())
  while groups.missing() and extra < cfg.loss.resample_limit:
    extra += 1
    drawn, scores = draw(extra)
    groups.add(drawn, scores.result())
  drawn, scores = groups.result()
  return drawn, Pending(lambda: scores), groups.metrics() | {'rollout/extra_draws': extra}


def with_logprobs(run, state, batch):
  """The batch with the log-probs that the update needs: the reference policy's, and the sampling policy's."""
  cfg, fn = run.cfg, run.trainer.loss_fn.logprobs
  reference = state.reference and state_lib.in_memory(state.reference, 'device')  # a copy, if from the host's memory
  if reference:
    batch = batch.replace(ref_logp=policy.logprobs(reference, batch, cfg, fn).result())
  del reference
  if policy.needs_old_logp(cfg):
    batch = batch.replace(old_logp=policy.logprobs(state.params, batch, cfg, fn).result())
  return batch


def train_step(run, state, step):
  """Rollout, rewards, update. Returns state, metrics."""
  cfg, clock = run.cfg, Stopwatch()
  with clock('sample'):
    key = keys.fold_in(run.key, step)  # so that a resumed run is the same run
    drawn, pending, metrics = sample(run, state.params, step, key)
  with clock('logprobs'):  # on the device, while the workers grade
    batch = with_logprobs(run, state, drawn.batch)
  with clock('reward_wait'):
    scores = pending.result()
  with clock('update'):
    batch = rollout.assign_advantage(batch, scores, cfg)
    state, update_metrics = policy.update(run.trainer, state, batch, cfg, step)
    if cfg.train.reference_refresh and (step + 1) % cfg.train.reference_refresh == 0 and state.reference is not None:
      state = state.replace(reference=state_lib.refresh(state.params, state.reference))
  metrics |= update_metrics | reward_metrics(drawn, scores, cfg.reward) | response_metrics(drawn) | clock.metrics()
  for name, part in (('sample', 'sample'), ('train', 'update')):
    metrics[f'throughput/{name}_tokens_per_second'] = batch.lengths.sum() / clock.seconds[part]
  return state, {name: float(x) for name, x in metrics.items()}


def evaluate(run, params, step, problems, samples, sampling=None):
  """Held-out figures; the key depends on the seed alone, so that steps are compared on equal draws."""
  cfg = run.cfg
  return evaluation.evaluate(
    run.sampler,
    params,
    run.problems.held_out[:problems],
    samples=samples,
    reward=cfg.reward,
    sampling=sampling or Sampling(cfg.eval.temperature, cfg.eval.top_p),
    language=cfg.data.language,
    key=evaluation.key(run.key),
    batch=min(cfg.rollout.prompts, problems, len(run.problems.held_out)),
  )


def full_evaluation(run, params, step):
  """The table's figures: k samples at temperature 1, the same as the paper at 0.6 and top-p 0.95, and greedy."""
  e = run.cfg.eval
  problems, samples = e.final_problems or e.problems, e.final_samples or e.samples
  metrics, rows = evaluate(run, params, step, problems, samples)
  run.writer.samples(step, rows)
  cooler, _ = evaluate(run, params, step, problems, samples, Sampling(0.6, 0.95))
  greedy, _ = evaluate(run, params, step, problems, 1, Sampling(0.0))
  return metrics | accuracies(greedy, 'greedy') | accuracies(cooler, 'pass@1_t0.6')


def accuracies(found, name):
  """pass@1 of an evaluation, of all problems and by kind or language, under another name."""
  return {key.replace('pass@1', name): x for key, x in found.items() if key.endswith('pass@1')}


def _progress(steps, first):
  return Progress(steps, first, file=None if parallel.is_primary() else io.StringIO())


def _base_to_final(run):
  """The run from its last checkpoint on. Returns the evaluations before and after: {'metrics', 'seconds'} each."""
  cfg, workdir = run.cfg, run.workdir
  state, first = run.restore_or_init()
  config_lib.require(
    first <= cfg.steps,
    f'{workdir} holds a run of {first} steps already; set steps to at least that, or use another --workdir.',
  )
  # Only now: another run's settings must not take the place of those its checkpoints were made with.
  json_files.write_config(workdir, cfg)
  run.writer.resume(first)
  if first:
    log.info('resumed at step %d', first)
  with jax.transfer_guard('disallow'), _progress(cfg.steps, first) as bar:
    # From step 0 the base is evaluated anew: `resume` has dropped its samples, and it may be another base.
    base = json_files.figures_once(
      os.path.join(workdir, 'eval_base.json'), lambda: _timed(full_evaluation, run, state.params, 0), anew=not first
    )
    for step in range(first, cfg.steps):
      metrics = {}
      with save_on_interrupt(run, state, step, first, cfg.steps):
        if step % cfg.eval.every == 0:
          found, rows = evaluate(run, state.params, step, cfg.eval.problems, cfg.eval.samples)
          metrics |= {f'eval/{name}': x for name, x in found.items()}
          if step:
            run.writer.samples(step, rows)
      state, trained = train_step(run, state, step)
      metrics |= trained
      run.writer.write(step, metrics)
      bar.update(metrics)
      if (step + 1) % cfg.checkpoint.every == 0 or step + 1 == cfg.steps:
        run.save(step + 1, state)
    run.store.wait()
    final = _timed(full_evaluation, run, state.params, cfg.steps)
    run.writer.write(cfg.steps, {f'eval/{name}': x for name, x in final['metrics'].items()})
  return base, final


@exclusive
def run_rl(cfg, workdir):
  """Trains to the end, evaluates before and after, writes summary.json, plots and report. Returns the summary."""
  began = time.perf_counter()
  with contextlib.closing(start(cfg, workdir)) as run, runtime.exit_together():
    base, final = _base_to_final(run)
  summary = {
    'base': base['metrics'],
    'final': final['metrics'],
    'length_ratio': final['metrics']['length_mean'] / base['metrics']['length_mean'],
    'seconds': {
      'evaluate_base': base['seconds'],
      'evaluate_final': final['seconds'],
      'rl': time.perf_counter() - began,
    },
    'dropped': run.dropped,
    'seed': cfg.seed,
    'config': config_lib.to_dict(cfg),
  }
  json_files.write_json(os.path.join(workdir, 'summary.json'), summary)
  if parallel.is_primary():
    plot(workdir)
    report(workdir)
  return summary


def _timed(evaluate_, run, params, step):
  began = time.perf_counter()
  metrics = evaluate_(run, params, step)
  return {'metrics': metrics, 'seconds': time.perf_counter() - began}


if __name__ == '__main__':
  cli.main(run_rl, config_lib.RL, 'Where the run keeps everything.')
