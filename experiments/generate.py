"""Samples of a policy for each problem, graded, as JSON Lines: for rejection sampling, distillation and cold start.

  python -m experiments.generate --config configs/generate.py:toy --config.model.path=DIR --workdir D

D/samples holds files of rollout.prompts problems each, in the order of problem and sample; a row is the problem with
prompt, response, tokens, stop, sample, reward, parts and correct. A command that was ended at any moment goes on with
the files that are missing when it is given again, and ends with the same bytes.

Many devices work on one file after another; of several processes each writes its own files. Jobs that know nothing of
each other share the files of one D by --config.parts=8 --config.part=0 and so on. In the policy's place may stand an
endpoint (config.endpoint: url, model, ...).
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
from r1jax.runs import cli, grading, json_files, runtime
from r1jax.runs import problems as problems_lib
from r1jax.runs import settings as settings_lib
from r1jax.runs.workdir import working_in

log = logging.getLogger('r1jax')

SAMPLES = 'samples'  # the folder of a run's files


def start(cfg, workdir):
  """The policy of a config.Generate, and the graders, which are to be closed.

  Raises:
    ConfigError, ModelDirError, TokenizerError: before anything compiles.
  """
  engine, tokenizer, params = _model(cfg) if cfg.model.path else _teacher(cfg, workdir)
  r, (grader, models) = cfg.rollout, grading.graders(cfg.reward)
  make = lambda template: rollout.Sampler(engine, tokenizer, template, grader, cfg.reward, r.chunk or r.prompts, models)
  draws = sampling.Sampling(r.temperature, r.top_p, r.top_k, r.min_p)
  return Policy(make, params, r.samples, draws, jax.random.key(cfg.seed), cfg.reward, r.max_prompt), grader


def name_of(cfg):
  """What tells the policy of a config.Generate from others: the model's digest, or the endpoint's name."""
  config_lib.require(
    bool(cfg.model.path) != bool(cfg.endpoint.get('url')),
    f'model.path and endpoint.url are {"both set" if cfg.model.path else "empty"}; samples come from one of the two.',
  )
  if cfg.model.path:
    return checkpoint.open_model(cfg.model.path).digest
  return f'{cfg.endpoint.get("model", "")} at {cfg.endpoint["url"]}'


def _model(cfg):
  source = checkpoint.open_model(cfg.model.path)
  config_lib.require(source.cfg.head == 'tokens', f'{cfg.model.path} is a reward model; a policy must write.')
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
  # Kept as they are sampled with, and that alone.
  return engine, tokenizer, engine.weights(source.load(source.abstract(mesh, cfg.model.dtype)))


def _teacher(cfg, workdir):
  """An endpoint, whose answers are kept in the workdir, as engine and tokenizer; and no parameters."""
  r, options = cfg.rollout, dict(cfg.endpoint)
  config_lib.require(
    jax.process_count() == 1,
    'several processes would ask the endpoint the same; start them by '
    'themselves, each with its own --config.part of --config.parts.',
  )
  config_lib.require(
    not r.top_k and not r.min_p and not r.stop,
    'rollout.top_k, min_p and stop are for a model; what the endpoint knows of them goes into endpoint.extra.',
  )
  url, model = options.pop('url'), options.pop('model', '')
  rewards.check_options('endpoint', endpoint.Endpoint, options)
  options.setdefault('cache', os.path.join(workdir, 'answers'))
  options['extra'] = ({'top_p': r.top_p} if r.top_p < 1 else {}) | dict(options.get('extra') or {})
  teacher = Teacher(
    endpoint.Endpoint(url, model, temperature=r.temperature, max_tokens=r.max_response, whole=True, **options)
  )
  return teacher, teacher, None


def problems_of(cfg, policy, template, own_template=True):
  """The problems of a config whose prompts are short enough, and {why: how many} of those dropped.

  own_template: a problem that names a template goes by it, in place of `template`.
  """
  found = problems_lib.load_problems(cfg.data, cfg.reward)
  some = getattr(found, cfg.split)
  config_lib.require(some, f'the data has no problems in split {cfg.split!r}.')
  if cfg.problems and cfg.data.source == 'mixture' and cfg.split == 'train':
    drawn = order.Mixture(some, cfg.data.parts, cfg.seed).batch(0, cfg.problems)
    some = list({(p['id'], p['problem']): p for p in drawn}.values())  # a small part may come round again
  elif cfg.problems and cfg.split == 'train':
    some = order.batch(some, cfg.seed, 0, min(cfg.problems, len(some)))
  some = some[: cfg.problems or None]
  if not own_template:
    some = [{k: v for k, v in p.items() if k != 'template'} for p in some]
  fit = [p for p in some if policy.fits(p, template)]
  config_lib.require(fit, f'all {len(some)} prompts exceed rollout.max_prompt {cfg.rollout.max_prompt}; raise it.')
  dropped = found.dropped | {'long': len(some) - len(fit)}
  if any(dropped.values()):
    log.warning('problems dropped: %s; %d are left.', dropped, len(fit))
  return fit, dropped


def write(cfg, folder, problems, begin):
  """Writes the files that are missing, of this command's part.

  Args:
    cfg: with rollout.prompts, part and parts.
    folder: of the files.
    problems: all of them.
    begin: function from some problems and the number of their file to one that waits, and returns the file's rows.
  """
  size, processes = cfg.rollout.prompts, jax.process_count()
  out = shards.Shards(folder, -(-len(problems) // size))
  numbers = range(cfg.part, out.count, cfg.parts)
  own = [(n // cfg.parts) % processes == jax.process_index() for n in numbers]
  done = parallel.sum_across_processes(np.array([mine and out.done(n) for mine, n in zip(own, numbers)], np.int32))
  todo = [(n, mine) for n, mine, there in zip(numbers, own, done) if not there]
  pending = collections.deque()

  def finish(number, mine, rows):
    rows = rows()  # all processes wait for it
    if mine:
      out.write(number, rows)
    bar.update()

  with tqdm.tqdm(total=len(done), initial=len(done) - len(todo), unit='file', disable=not parallel.is_primary()) as bar:
    for number, mine in todo:
      if interrupt.stop_requested():
        break
      pending.append((number, mine, begin(problems[number * size : (number + 1) * size], number)))
      if len(pending) > 1:  # while workers grade one file, the devices sample the next
        finish(*pending.popleft())
    for one in pending:
      finish(*one)
  parallel.sum_across_processes(np.int32(0))  # all have written
  interrupt.raise_if_stopped(f'{bar.n} of {len(done)} files are written; run the same command again for the others.')


class Figures:
  """Counts over samples that come in order, by kind."""

  def __init__(self):
    self._counts = collections.defaultdict(collections.Counter)
    self._sums = collections.defaultdict(collections.Counter)
    self._solved = False

  def add(self, row):
    begins = row['sample'] == 0
    solves = row['correct'] and (begins or not self._solved)
    self._solved = row['correct'] or not begins and self._solved
    own = row.get('kind')
    for kind in dict.fromkeys(('all', own if isinstance(own, str) else 'all')):
      self._counts[kind].update({'problems': begins, 'samples': 1, 'solved': solves, f'stop/{row["stop"]}': 1})
      self._sums[kind].update({'pass@1': row['correct'], 'reward': row['reward'], 'tokens': row['tokens']})
      self._sums[kind].update({f'parts/{name}': x for name, x in row['parts'].items()})

  def result(self):
    """{kind, or 'all': how many problems, samples, problems with a right one, and of each end; means over samples}."""
    return {
      kind: dict(count) | {name: x / count['samples'] for name, x in self._sums[kind].items()}
      for kind, count in self._counts.items()
    }


def settings(cfg, policy):
  """What all commands that write into one folder must agree on."""
  whole = config_lib.to_dict(cfg)
  own = {name: whole[name] for name in ('seed', 'data', 'rollout', 'split', 'problems')}
  if not cfg.data.evaluation:  # samples without are the same as before there was such a setting
    del own['data']['evaluation']
  del own['rollout']['chunk']  # as many at a time as the memory takes
  how = (*config_lib.CLIENT_OPTIONS, 'url', 'model')  # the last two are the policy
  asked = {k: v for k, v in whole['endpoint'].items() if k not in how}
  return (
    own
    | {'dtype': cfg.model.dtype, 'reward': settings_lib.reward_identity(cfg.reward), 'policy': policy}
    | ({'endpoint': asked} if asked else {})
  )


def run_generate(cfg, workdir):
  """Samples to the end. Returns the summary; None where files of other parts are missing yet."""
  with working_in(workdir, part=cfg.part):
    return _run(cfg, workdir)


def _run(cfg, workdir):
  template, folder, name = problems_lib.template_of('data', cfg.data), os.path.join(workdir, SAMPLES), name_of(cfg)
  settings_lib.require_same_settings(os.path.join(workdir, 'generate.json'), settings(cfg, name))
  policy, grader = start(cfg, workdir)
  with grader, runtime.exit_together():
    problems, dropped = problems_of(cfg, policy, template)
    write(cfg, folder, problems, sampled(policy, template))
  try:
    paths = shards.files(folder)
  except data.DataError as error:
    log.info('part %d of %d is done; %s', cfg.part, cfg.parts, error)
    return None
  figures = Figures()
  for row in shards.read(folder):
    figures.add(row)
  summary = {
    'figures': figures.result(),
    'dropped': dropped,
    'files': len(paths),
    'sha256': shards.digest(paths),
    'policy': name,
    'seed': cfg.seed,
    'config': config_lib.to_dict(cfg),
  }
  json_files.write_shared(os.path.join(workdir, 'summary.json'), summary)
  return summary


def sampled(policy, template):
  """For `write`: begins to sample problems by a policy. Says how many responses were given up."""

  def begin(problems, number):
    pending = policy.start(problems, template, number)

    def rows():
      found, timeouts = pending.result()
      if timeouts:
        log.warning('%d of %d responses took longer than reward.timeout and score 0.', timeouts, len(found))
      return found

    return rows

  return begin


def describe(summary, workdir):
  if not summary:  # files of other parts are missing yet
    return ''
  f = summary['figures']['all']
  return (
    f'{workdir}/{SAMPLES}: {f["samples"]} samples of {f["problems"]} problems, {summary["files"]} files, '
    f'{f["pass@1"]:.1%} right, {f["solved"]} problems solved'
  )


if __name__ == '__main__':
  cli.main(run_generate, config_lib.Generate, 'Where everything is kept.', describe)
