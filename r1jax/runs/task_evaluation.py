"""Evaluates models on tasks, for experiments/evaluate.py."""

import contextlib
import dataclasses
import io
import os

import jax
import numpy as np

from r1jax import checkpoint, evaluation, parallel, rollout
from r1jax import config as config_lib
from r1jax.evaluation import runner, tables
from r1jax.evaluation import samples as samples_lib
from r1jax.metrics import progress
from r1jax.parallel import interrupt
from r1jax.runs import grading, json_files, policies, runtime, settings, tasks
from r1jax.runs.workdir import exclusive
from r1jax.sampling import Engine, SamplingParams


@dataclasses.dataclass(frozen=True)
class Run:
  """One run of a model: its checkpoint, what samples from it, and its random key."""

  label: str
  number: int
  source: checkpoint.Source
  tokenizer: object
  engines: dict[int, Engine]  # by tokens of a response
  seed: int

  @property
  def first_engine(self):
    return next(iter(self.engines.values()))


@exclusive
def run_tasks(cfg, workdir):
  """Samples and grades what is missing in W, and writes the tables. Returns the table (see `evaluation.tables`).

  Args:
    cfg: config.Evaluate. workdir: W.

  Raises:
    ConfigError, DataError, ModelDirError, TokenizerError: before anything compiles.
    RecordError: a file in W is damaged.
  """
  runtime.set_up_process()
  chosen = cfg.chosen()
  for task in chosen.values():
    grading.check_graders(task.reward(cfg.workers, cfg.timeout))
  problems = [tasks.load(cfg, name) for name in chosen]
  runs = [
    open_run(cfg, label, number, path, problems)
    for label, paths in cfg.runs().items()
    for number, path in enumerate(paths)
  ]
  for name, identity in identities(cfg, problems, runs).items():
    settings.require_same_settings(os.path.join(workdir, f'{name}.json'), identity)
  with runtime.exit_together():
    for run in runs:
      evaluate_run(cfg, workdir, run, problems)
    table = tables.write(workdir, list(cfg.runs()), list(chosen))
    if parallel.is_primary():
      summary = {'seed': cfg.seed, 'config': config_lib.to_dict(cfg)}
      json_files.write_json(os.path.join(workdir, 'summary.json'), summary)
    return table


def open_run(cfg, label, number, path, problems):
  """Opens a Run without loading its parameters, and checks that it can take all prompts."""
  source, mesh = policies.open_policy(path), parallel.make_mesh(cfg.mesh)
  tokenizer, engines = source.load_tokenizer(cfg.chat_template or None), {}
  for task in problems:
    limits = cfg.rollout_of(task.task)
    config_lib.check_context(limits, source.cfg.context, model=label)
    task.check_prompts(tokenizer, limits.max_prompt)
    engine = policies.make_engine(source.cfg, tokenizer, mesh, cfg.model.dtype, limits)
    engine.require_divisible(limits.call)
    engines.setdefault(limits.max_response, engine)
  return Run(label, number, source, tokenizer, engines, cfg.seed + number)


def identities(cfg, problems, runs):
  """{name: what the results of a task or of a model in a folder depend on}."""
  how = ('prompts', 'chunk', 'slots', 'max_prompt', 'samples', 'max_response')  # the last two follow by task
  shared = {key: value for key, value in config_lib.to_dict(cfg.rollout).items() if key not in how}
  shared |= {'seed': cfg.seed, 'dtype': cfg.model.dtype, 'chat_template': cfg.chat_template}
  out = {}
  for task in problems:
    limits = cfg.rollout_of(task.task)
    out[f'task.{task.name}'] = shared | {
      'samples': limits.samples,
      'max_response': limits.max_response,
      'template': task.task.template,
      'split': task.task.split,
      'reward': settings.reward_identity(task.task.reward()),
      'problems': task.identity(),
    }
  for run in runs:
    out.setdefault(f'model.{run.label}', {'runs': []})['runs'].append(run.source.digest)
  return out


def evaluate_run(cfg, workdir, run, problems):
  """Samples and grades what is missing of all tasks with one Run; its parameters are loaded only if anything is."""
  weights, folder = None, os.path.join(workdir, run.label)
  if parallel.is_primary():
    os.makedirs(folder, exist_ok=True)
  for task in problems:
    path = os.path.join(folder, f'{task.name}.jsonl')
    first = first_missing(cfg, run, task, path)
    if first < len(task.problems):
      weights = policies.load_weights(run.source, run.first_engine) if weights is None else weights
      evaluate_task(cfg, run, weights, task, path, first)


def first_missing(cfg, run, task, path):
  """The number of the first problem without samples of this run; drops unfinished chunks."""
  ids, done = [p['id'] for p in task.problems], 0
  if parallel.is_primary():
    runs = len(cfg.runs()[run.label])
    done = samples_lib.resume(path, ids, runs, cfg.rollout_of(task.task).samples, cfg.rollout.prompts)
  done = int(parallel.sum_across_processes(np.int32(done)))
  return min(max(done - run.number * len(ids), 0), len(ids))


def evaluate_task(cfg, run, weights, task, path, first):
  """Appends the samples of one task from problem `first` on, a chunk of problems at a time."""
  limits, reward = cfg.rollout_of(task.task), task.task.reward(cfg.workers, cfg.timeout)
  engine, count = run.engines[limits.max_response], len(task.problems)
  call = min(limits.call, -(-count // engine.shards) * engine.shards)
  key = evaluation.key(jax.random.key(run.seed))
  sampling = SamplingParams(limits.temperature, limits.top_p, limits.top_k, limits.min_p)
  grader, models = grading.make_graders(reward)
  shown = None if parallel.is_primary() else io.StringIO()
  label = f'{run.label}, {task.name}'
  with contextlib.closing(grader), progress.fraction(count, label, shown) as bar:
    sampler = rollout.Sampler(engine, run.tokenizer, task.template, grader, reward, call, models)
    for number in range(first, count, limits.prompts):
      interrupt.raise_if_stopped(f'{number} of {count} problems of {label} are done; run the same command again.')
      rows = evaluation.graded(
        sampler,
        weights,
        task.problems[number : number + limits.prompts],
        number,
        samples=limits.samples,
        sampling=sampling,
        key=key,
        seed=run.seed,
        split=task.task.split,
        watch=lambda done, number=number: runner.watch(bar, min(number + done, count)),
      )
      if parallel.is_primary():
        samples_lib.append(path, rows)
