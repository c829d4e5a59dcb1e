"""Samples and grades problems into files, for experiments/generate.py and experiments/cold_start.py."""

import collections
import logging
import os

import jax
import numpy as np
import tqdm

from r1jax import checkpoint, parallel, rewards, rollout, sampling
from r1jax import config as config_lib
from r1jax.data import order, shards
from r1jax.parallel import interrupt
from r1jax.recipes.policy import Policy, Teacher
from r1jax.rewards.neural import endpoint
from r1jax.runs import grading, policies
from r1jax.runs import problems as problems_lib
from r1jax.runs.settings import drop_added, reward_identity

log = logging.getLogger('r1jax')

SAMPLES = 'samples'  # subfolder of the workdir that holds the files


def make_policy(cfg, workdir):
  """Opens the policy of a config.Generate.

  Returns:
    Policy, and the Grader, which the caller closes.

  Raises:
    ConfigError, ModelDirError, TokenizerError: before anything compiles.
  """
  engine, tokenizer, params = _open_model(cfg) if cfg.model.path else _open_teacher(cfg, workdir)
  r, (grader, models) = cfg.rollout, grading.make_graders(cfg.reward)
  make_sampler = lambda template: rollout.Sampler(engine, tokenizer, template, grader, cfg.reward, r.call, models)
  settings = sampling.SamplingParams(r.temperature, r.top_p, r.top_k, r.min_p)
  return Policy(make_sampler, params, r.samples, settings, jax.random.key(cfg.seed), cfg.reward, r.max_prompt), grader


def policy_name(cfg):
  """Identifies the policy of a config.Generate: the model's digest, or the endpoint's model and URL."""
  config_lib.require(
    bool(cfg.model.path) != bool(cfg.endpoint.get('url')),
    f'model.path and endpoint.url are {"both set" if cfg.model.path else "empty"}; set exactly one of the two.',
  )
  if cfg.model.path:
    return checkpoint.open_model(cfg.model.path).digest
  return f'{cfg.endpoint.get("model", "")} at {cfg.endpoint["url"]}'


def _open_model(cfg):
  """Returns (engine, tokenizer, weights) of a model on the devices."""
  source = policies.open_policy(cfg.model.path)
  config_lib.check_context(cfg.rollout, source.cfg.context)
  tokenizer, mesh = source.load_tokenizer(cfg.data.chat_template or None), parallel.make_mesh(cfg.mesh)
  engine = policies.make_engine(source.cfg, tokenizer, mesh, cfg.model.dtype, cfg.rollout)
  return engine, tokenizer, policies.load_weights(source, engine)


def _open_teacher(cfg, workdir):
  """Returns (engine, tokenizer, None) of an endpoint: a Teacher is both, and its answers are cached in the workdir."""
  r, options = cfg.rollout, dict(cfg.endpoint)
  config_lib.require(
    jax.process_count() == 1,
    'several processes would send the endpoint the same requests; start them as '
    'independent jobs, each with its own --config.part of --config.parts.',
  )
  config_lib.require(
    not r.top_k and not r.min_p and not r.stop,
    'rollout.top_k, min_p and stop only apply to a model; put what the endpoint supports of them into endpoint.extra.',
  )
  url, model = options.pop('url'), options.pop('model', '')
  rewards.check_options('endpoint', endpoint.Endpoint, options)
  options.setdefault('cache', os.path.join(workdir, 'answers'))
  options['extra'] = ({'top_p': r.top_p} if r.top_p < 1 else {}) | dict(options.get('extra') or {})
  teacher = Teacher(
    endpoint.Endpoint(url, model, temperature=r.temperature, max_tokens=r.max_response, whole=True, **options)
  )
  return teacher, teacher, None


def load_problems(cfg, policy, template, own_template=True):
  """Loads the problems of a config.Generate whose prompts are short enough.

  Args:
    policy: Policy.
    template: prompt template.
    own_template: whether a problem that names a template uses that one instead.

  Returns:
    list of problems, and {reason: number of dropped problems}.
  """
  loaded = problems_lib.load_problems(cfg.data, cfg.reward)
  problems = getattr(loaded, cfg.split)
  config_lib.require(problems, f'the data has no problems in split {cfg.split!r}.')
  if cfg.problems and cfg.data.source == 'mixture' and cfg.split == 'train':
    drawn = order.Mixture(problems, cfg.data.parts, cfg.seed).batch(0, cfg.problems)
    problems = list({(p['id'], p['problem']): p for p in drawn}.values())  # a draw may repeat problems of a small part
  elif cfg.problems and cfg.split == 'train':
    problems = order.batch(problems, cfg.seed, 0, min(cfg.problems, len(problems)))
  problems = problems[: cfg.problems or None]
  if not own_template:
    problems = [{k: v for k, v in p.items() if k != 'template'} for p in problems]
  kept = [p for p in problems if policy.fits(p, template)]
  config_lib.require(kept, f'all {len(problems)} prompts exceed rollout.max_prompt {cfg.rollout.max_prompt}; raise it.')
  dropped = loaded.dropped | {'long': len(problems) - len(kept)}
  if any(dropped.values()):
    log.warning('problems dropped: %s; %d are left.', dropped, len(kept))
  return kept, dropped


def write_files(cfg, folder, problems, start_batch):
  """Writes the missing files of this command's part.

  Args:
    cfg: has rollout.prompts, part and parts.
    folder: of the files.
    problems: the problems of all parts.
    start_batch: function (problems of a file, number of the file) -> function () that waits for the file's rows and
      returns them.
  """
  size, processes = cfg.rollout.prompts, jax.process_count()
  out = shards.Shards(folder, -(-len(problems) // size))
  numbers = range(cfg.part, out.count, cfg.parts)
  assigned = [(n // cfg.parts) % processes == jax.process_index() for n in numbers]
  done = parallel.sum_across_processes(
    np.array([is_assigned and out.done(n) for is_assigned, n in zip(assigned, numbers)], np.int32)
  )
  todo = [(n, is_assigned) for n, is_assigned, is_done in zip(numbers, assigned, done) if not is_done]
  pending = collections.deque()

  def finish(number, is_assigned, wait):
    rows = wait()  # collective: every process waits for every file
    if is_assigned:
      out.write(number, rows)
    bar.update()

  with tqdm.tqdm(total=len(done), initial=len(done) - len(todo), unit='file', disable=not parallel.is_primary()) as bar:
    for number, is_assigned in todo:
      if interrupt.stop_requested():
        break
      pending.append((number, is_assigned, start_batch(problems[number * size : (number + 1) * size], number)))
      if len(pending) > 1:  # the devices sample one file while the workers grade the one before
        finish(*pending.popleft())
    for entry in pending:
      finish(*entry)
  parallel.sum_across_processes(np.int32(0))  # wait until all processes have written
  interrupt.raise_if_stopped(f'{bar.n} of {len(done)} files are written; run the same command again for the others.')


def settings(cfg, policy):
  """The settings that all commands writing into one folder must have in common. policy: its `policy_name`."""
  full = config_lib.to_dict(cfg)
  shared = {name: full[name] for name in ('seed', 'data', 'rollout', 'split', 'problems')}
  if not cfg.data.evaluation:  # older folders lack this key
    del shared['data']['evaluation']
  for key in ('chunk', 'slots'):  # how, not what is sampled
    del shared['rollout'][key]
  drop_added(shared)
  ignored = (*config_lib.CLIENT_OPTIONS, 'url', 'model')  # the last two are part of the policy's name
  endpoint_options = {k: v for k, v in full['endpoint'].items() if k not in ignored}
  return (
    shared
    | {'dtype': cfg.model.dtype, 'reward': reward_identity(cfg.reward), 'policy': policy}
    | ({'endpoint': endpoint_options} if endpoint_options else {})
  )


def start_sampling(policy, template):
  """A `start_batch` for `write_files` that samples from a policy and logs how many responses timed out in grading."""

  def start_batch(problems, number):
    pending = policy.start(problems, template, number)

    def wait():
      rows, timeouts = pending.result()
      if timeouts:
        log.warning('%d of %d responses took longer than reward.timeout and score 0.', timeouts, len(rows))
      return rows

    return wait

  return start_batch
