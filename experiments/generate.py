"""Samples responses of a policy and grades them: for rejection sampling, distillation and cold start.

  python -m experiments.generate --config configs/generate.py:toy --config.model.path=DIR --workdir D

D/samples holds JSON Lines files of rollout.prompts problems each, in the order of problem and sample; a row is the
problem with prompt, response, tokens, stop, sample, reward, parts and correct. If a command is stopped at any moment,
the same command continues with the missing files and ends with the same bytes.

All devices work on one file after another; with several processes, each writes its own files. Independent jobs share
the files of one D with --config.parts=8 --config.part=0 and so on. An endpoint can take the place of the policy
(config.endpoint: url, model, ...).
"""

import collections
import logging
import os

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from r1jax import checkpoint, data, parallel, rewards, rollout, sampling
from r1jax import config as config_lib
from r1jax.data import order, shards
from r1jax.parallel import interrupt
from r1jax.recipes.policy import Policy, Teacher
from r1jax.rewards.neural import endpoint
from r1jax.runs import cli, grading, json_files, policies, runtime
from r1jax.runs import problems as problems_lib
from r1jax.runs import settings as settings_lib
from r1jax.runs.workdir import working_in

log = logging.getLogger('r1jax')

SAMPLES = 'samples'  # subfolder of the workdir that holds the files


def start(cfg, workdir):
  """Opens the policy of a config.Generate.

  Returns:
    Policy, and the Grader, which the caller closes.

  Raises:
    ConfigError, ModelDirError, TokenizerError: before anything compiles.
  """
  engine, tokenizer, params = _open_model(cfg) if cfg.model.path else _open_teacher(cfg, workdir)
  r, (grader, models) = cfg.rollout, grading.make_graders(cfg.reward)
  make_sampler = lambda template: rollout.Sampler(
    engine, tokenizer, template, grader, cfg.reward, r.chunk or r.prompts, models
  )
  settings = sampling.Sampling(r.temperature, r.top_p, r.top_k, r.min_p)
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
  engine = sampling.Engine(
    source.cfg,
    tokenizer,
    mesh,
    max_prompt=cfg.rollout.max_prompt,
    stop=cfg.rollout.stop,
    max_response=cfg.rollout.max_response,
    dtype=jnp.dtype(cfg.model.dtype),
  )
  # Only the copy that is sampled with stays in memory.
  return engine, tokenizer, engine.weights(source.load(source.abstract(mesh, cfg.model.dtype)))


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


class SampleStatistics:
  """Counts and means over graded samples, in all and by kind of problem; the samples of a problem come together."""

  def __init__(self):
    self._counts = collections.defaultdict(collections.Counter)
    self._sums = collections.defaultdict(collections.Counter)
    self._solved = False  # whether the current problem has a right sample

  def add(self, row):
    is_first = row['sample'] == 0
    newly_solved = row['correct'] and (is_first or not self._solved)
    self._solved = row['correct'] or not is_first and self._solved
    problem_kind = row.get('kind')
    for kind in dict.fromkeys(('all', problem_kind if isinstance(problem_kind, str) else 'all')):
      self._counts[kind].update({'problems': is_first, 'samples': 1, 'solved': newly_solved, f'stop/{row["stop"]}': 1})
      self._sums[kind].update({'pass@1': row['correct'], 'reward': row['reward'], 'tokens': row['tokens']})
      self._sums[kind].update({f'parts/{name}': x for name, x in row['parts'].items()})

  def result(self):
    """{kind or 'all': {name: value}}: counts of problems, samples, solved problems and stop reasons; means over samples
    of pass@1, reward, tokens and reward parts."""
    return {
      kind: dict(count) | {name: x / count['samples'] for name, x in self._sums[kind].items()}
      for kind, count in self._counts.items()
    }


def settings(cfg, policy):
  """The settings that all commands writing into one folder must have in common. policy: its `policy_name`."""
  full = config_lib.to_dict(cfg)
  shared = {name: full[name] for name in ('seed', 'data', 'rollout', 'split', 'problems')}
  if not cfg.data.evaluation:  # older folders lack this key
    del shared['data']['evaluation']
  del shared['rollout']['chunk']  # depends on memory only
  ignored = (*config_lib.CLIENT_OPTIONS, 'url', 'model')  # the last two are part of the policy's name
  endpoint_options = {k: v for k, v in full['endpoint'].items() if k not in ignored}
  return (
    shared
    | {'dtype': cfg.model.dtype, 'reward': settings_lib.reward_identity(cfg.reward), 'policy': policy}
    | ({'endpoint': endpoint_options} if endpoint_options else {})
  )


def run_generate(cfg, workdir):
  """Samples this command's part. Returns the summary, or None while files of other parts are missing."""
  with working_in(workdir, part=cfg.part):
    return _run(cfg, workdir)


def _run(cfg, workdir):
  template, folder = problems_lib.get_template('data', cfg.data), os.path.join(workdir, SAMPLES)
  name = policy_name(cfg)
  settings_lib.require_same_settings(os.path.join(workdir, 'generate.json'), settings(cfg, name))
  policy, grader = start(cfg, workdir)
  with grader, runtime.exit_together():
    problems, dropped = load_problems(cfg, policy, template)
    write_files(cfg, folder, problems, start_sampling(policy, template))
  try:
    paths = shards.files(folder)
  except data.DataError as error:
    log.info('part %d of %d is done; %s', cfg.part, cfg.parts, error)
    return None
  statistics = SampleStatistics()
  for row in shards.read(folder):
    statistics.add(row)
  summary = {
    'figures': statistics.result(),
    'dropped': dropped,
    'files': len(paths),
    'sha256': shards.digest(paths),
    'policy': name,
    'seed': cfg.seed,
    'config': config_lib.to_dict(cfg),
  }
  json_files.write_shared(os.path.join(workdir, 'summary.json'), summary)
  return summary


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


def describe(summary, workdir):
  if not summary:  # files of other parts are still missing
    return ''
  f = summary['figures']['all']
  return (
    f'{workdir}/{SAMPLES}: {f["samples"]} samples of {f["problems"]} problems, {summary["files"]} files, '
    f'{f["pass@1"]:.1%} right, {f["solved"]} problems solved'
  )


if __name__ == '__main__':
  cli.main(run_generate, config_lib.Generate, 'The folder for samples and summary.', describe)
