"""Reinforcement learning with GRPO and its variants, or PPO: R1-Zero and the RL stages of R1.

  python -m experiments.rl --config configs/r1_zero.py:toy --config.model.path=DIR --workdir D

If a run is killed at any moment, the same command resumes it from its last checkpoint and ends with the same numbers.
"""

import contextlib
import logging
import os
import resource
import time

import jax

from r1jax import config as config_lib
from r1jax import keys, rollout
from r1jax.batch import Pending
from r1jax.metrics.timing import Stopwatch
from r1jax.rollout.metrics import response_metrics, reward_metrics
from r1jax.runs import cli, json_files, loop, runtime
from r1jax.runs.rl import evaluate, full_evaluation, make_run
from r1jax.runs.workdir import exclusive, save_on_interrupt
from r1jax.sampling import SamplingParams
from r1jax.training import critic, distill, lora, policy
from r1jax.training import state as state_lib

log = logging.getLogger('r1jax')


def sample(run, params, step, key):
  """Samples the rollout of one step.

  With loss.resample_limit, groups whose responses are all right or all wrong are replaced by further draws (DAPO).

  Returns:
    Rollout, its Pending Scores, and metrics of the dynamic sampling ({} without it).
  """
  cfg = run.cfg
  r = cfg.rollout
  sampling = SamplingParams(r.temperature, r.top_p, r.top_k, r.min_p, r.restricted, cfg.train.routing_replay)

  def draw(number):
    problems = run.draws.next(step)
    drawn, scores = run.sampler.start(params, problems, cfg.rollout.samples, keys.fold_in(key, number), sampling, step)
    return drawn, Pending(lambda: recorded(run, drawn, scores.result()))

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


def recorded(run, drawn, scores):
  """Returns the scores of a draw, after noting for data.drop_solved which of its responses are right."""
  if run.cfg.data.drop_solved:
    run.draws.record(drawn.problems, *rollout.right_responses(drawn, scores, run.cfg.reward))
  return scores


def with_logprobs(run, state, batch):
  """Adds what the update needs to a batch: log-probs of the reference policy and the old policy, a critic's values."""
  cfg, fn, passes = run.cfg, lora.whole(run.trainer.loss_fn).logprobs, policy.logprob_passes(run.cfg)
  if 'ref' in passes:
    reference = state_lib.move_to_memory(state.reference_policy(), 'device')  # may be on the host
    # It routes as it likes: with experts that its routers would not choose it would be another model. Replay is for
    # passes that are meant to be of the same policy.
    batch = batch.replace(ref_logp=policy.logprobs(reference, batch.without_experts(), cfg, fn))
    del reference
  if 'old' in passes:
    batch = batch.replace(old_logp=policy.logprobs(state.model(), batch, cfg, fn))
  return critic.with_values(run.critic, state.critic, batch, cfg) if run.critic else batch


def update(run, state, batch, step):
  """Updates the critic, if there is one, then the policy. Returns (state, metrics)."""
  cfg, metrics = run.cfg, {}
  if run.critic:
    value_state, metrics = critic.update(run.critic, state.critic, batch, cfg, step)
    state = state.replace(critic=value_state)
    if step < cfg.critic.warmup:
      return state, metrics
  state, policy_metrics = policy.update(run.trainer, state, batch, cfg, step)
  policy_metrics = distill.by_token(policy_metrics) if run.teachers else policy_metrics
  if cfg.train.reference_refresh and (step + 1) % cfg.train.reference_refresh == 0 and state.reference is not None:
    state = state.replace(reference=state_lib.refresh(state.params, state.reference))
  return state, metrics | policy_metrics


def train_step(run, state, step):
  """Samples a rollout, grades it and updates the policy. Returns (state, {metric: float})."""
  cfg, clock = run.cfg, Stopwatch()
  with clock('sample'):
    key = keys.fold_in(run.key, step)  # depends on the step alone, so that a resumed run draws the same
    drawn, pending, metrics = sample(run, state.model(), step, key)
  with clock('logprobs'):  # on the devices, while the workers grade
    batch = with_logprobs(run, state, drawn.batch)
  with clock('reward_wait'):
    scores = pending.result()
  with clock('update'):
    batch = rollout.assign_advantage(batch, scores, cfg)
    batch = batch.replace(teacher=run.teachers.of(drawn.problems)) if run.teachers else batch
    state, update_metrics = update(run, state, batch, step)
  metrics |= update_metrics | reward_metrics(drawn, scores, cfg.reward) | response_metrics(drawn) | clock.metrics()
  metrics |= run.draws.metrics()
  for name, timer in (('sample', 'sample'), ('train', 'update')):
    metrics[f'throughput/{name}_tokens_per_second'] = batch.lengths.sum() / clock.seconds[timer]
  return state, {name: float(x) for name, x in metrics.items()}


def train(run):
  """Trains from the last checkpoint to the end. Returns the `full_evaluation` before and after."""
  cfg = run.cfg
  state, first_step = run.restore_or_init()
  loop.begin(run, first_step, cfg.steps, 'steps')
  if first_step:
    log.info('resumed at step %d', first_step)
  base_path = os.path.join(run.workdir, 'eval_base.json')
  with jax.transfer_guard('disallow'), loop.progress_bar(cfg.steps, first_step) as bar:
    # A run that starts at step 0 evaluates the base again: its samples were dropped, and the base may have changed.
    base = json_files.cached_metrics(
      base_path, lambda: full_evaluation(run, state.model(), 0), recompute=not first_step
    )
    for step in range(first_step, cfg.steps):
      metrics = {}
      with save_on_interrupt(run, state, step, first_step, cfg.steps):
        if step % cfg.eval.every == 0:
          eval_metrics, rows = evaluate(run, state.model(), cfg.eval.problems, cfg.eval.samples)
          metrics |= {f'eval/{name}': x for name, x in eval_metrics.items()}
          if step:
            run.writer.samples(step, rows)
      state, train_metrics = train_step(run, state, step)
      metrics |= train_metrics
      run.writer.write(step, metrics)
      bar.update(metrics)
      if loop.checkpoint_is_due(cfg.checkpoint, step, cfg.steps):
        run.save(step + 1, state)
    run.store.wait()
    final = full_evaluation(run, state.model(), cfg.steps)
    run.writer.write(cfg.steps, {f'eval/{name}': x for name, x in final['metrics'].items()})
  return base, final


@exclusive
def run_rl(cfg, workdir):
  """Trains to the end and evaluates before and after. Writes summary.json, plots and report; returns the summary."""
  began = time.perf_counter()
  with contextlib.closing(make_run(cfg, workdir)) as run, runtime.exit_together():
    base, final = train(run)
  summary = {
    'base': base['metrics'],
    'final': final['metrics'],
    'length_ratio': final['metrics']['length_mean'] / base['metrics']['length_mean'],
    'seconds': {
      'evaluate_base': base['seconds'],
      'evaluate_final': final['seconds'],
      'rl': time.perf_counter() - began,
    },
    'peak_memory_gb': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,  # of this process
    'dropped': run.dropped,
    'seed': cfg.seed,
    'config': config_lib.to_dict(cfg),
  }
  loop.finish(workdir, summary)
  return summary


if __name__ == '__main__':
  cli.main(run_rl, config_lib.RL, 'The folder of the run.')
