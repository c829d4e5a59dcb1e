"""What the experiments share: from a config to a ready run."""

import ast
import contextlib
import ctypes
import dataclasses
import errno
import functools
import json
import logging
import os
import shlex
import socket
import sys
import traceback

from absl import flags
from absl import logging as absl_logging
import jax
import jax.numpy as jnp

from r1jax import checkpoint, data, models, parallel, rewards, rollout, sampling, templates, tokenizers
from r1jax import config as config_lib
from r1jax.checkpoint import store as store_lib
from r1jax.data import order
from r1jax.metrics.writer import RecordError, Writer
from r1jax.parallel import interrupt
from r1jax.recipes import dataset
from r1jax.rewards import needs, neural
from r1jax.rewards.workers import pool
from r1jax.training import optimizer as optimizer_lib
from r1jax.training import policy
from r1jax.training import state as state_lib
from r1jax.training.accumulate import NonFiniteError, Trainer

log = logging.getLogger('r1jax')

# Errors whose message is written for the person who typed the command; anything else is a defect of ours.
SAID_IN_ONE_LINE = (
  config_lib.ConfigError,
  data.DataError,
  checkpoint.ModelDirError,
  checkpoint.StoreError,
  tokenizers.TokenizerError,
  NonFiniteError,
  RecordError,
  pool.GradeError,
  neural.endpoint.EndpointError,
)


def parse_flags(argv):
  """For app.run's flags_parser: a mistyped flag, variant or config file ends the command with one line."""
  try:
    rest = flags.FLAGS(argv)
    list(flags.FLAGS.config or ())  # a config file that cannot be read says so when it is used
    return rest
  except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
    name, *near = str(error.args[0] if error.args else '').strip().splitlines() or ['']
    if isinstance(error, KeyError) and (said := missing_parent(name.strip('"\''), argv)):
      sys.exit(' '.join(['error:', said, *(f'({line})' for line in near)]))
    # ml_collections quotes a whole traceback; its last line is the message.
    sys.exit('error: ' + str(error).strip().splitlines()[-1].strip().removeprefix('ValueError: '))


def missing_parent(name, argv):
  """What to say of overrides as --config.a.b.c=d where a.b is not there; '' without such. name: b."""
  parent, inside = '', {}
  for text in argv[1:]:
    flag, _, value = text.partition('=')
    parts = flag.lstrip('-').split('.')
    if parts[0] == 'config' and name in parts[1:-1]:
      at = parts.index(name, 1) + 1
      parent = parent or '.'.join(parts[:at])
      if '.'.join(parts[:at]) == parent:
        of = functools.reduce(lambda found, key: found.setdefault(key, {}), parts[at:-1], inside)
        of[parts[-1]] = literal(value)
  if not parent:
    return ''
  plain = not set('"$`\\\n') & set(str(inside))
  whole = f'--{parent}="{inside}"' if plain else shlex.quote(f'--{parent}={inside}')
  return (
    f'the config has no {parent.removeprefix("config.")}; mend the name, or where it may be new, as an '
    f'option of a reward, set it whole: {whole}.'
  )


def literal(text):
  """The value of a flag: a Python literal, or else the text."""
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return text


def out_of_memory(error):
  """What to say of an error of the runtime that means so; '' for any other."""
  if 'RESOURCE_EXHAUSTED' not in str(error):
    return ''
  return (
    f'a device is out of memory: {str(error).splitlines()[0]:.300} Nothing saved is lost. Work on less at a time '
    '(train.microbatch, or microbatch; rollout.chunk), recompute more (model.remat=full) or use more devices; '
    '`python -m experiments.plan` with the same --config says what each program of a run needs, beside what.'
  )


@contextlib.contextmanager
def errors_in_one_line():
  """Ends the process with one line and code 1 for an error that the person who typed the command can mend."""
  try:
    yield
  except interrupt.Interrupted as error:
    if parallel.first():
      print(error, file=sys.stderr)
    sys.exit(error.code)
  except SAID_IN_ONE_LINE as error:
    sys.exit(f'error: {error}')
  except jax.errors.JaxRuntimeError as error:
    if not out_of_memory(error):
      raise
    sys.exit(f'error: {out_of_memory(error)}')
  except OSError as error:
    if error.filename is None and error.errno != errno.ENOSPC:
      raise  # no file of anybody's: a defect
    sys.exit(f'error: {error}; make room or mend the path, then run the same command again.')


@contextlib.contextmanager
def ends_together():
  """An error in one of several processes ends it at once, with one line where it was written for a person.

  Nothing is closed or waited for: the others may be gone, and those that are not wait for this one until they miss it.
  """
  try:
    yield
  except BaseException as error:  # a lone process goes on to whoever handles it
    if jax.process_count() == 1 or isinstance(error, interrupt.Interrupted):
      raise
    at = f'process {jax.process_index()} of {jax.process_count()}'
    if isinstance(error, jax.errors.JaxRuntimeError) and out_of_memory(error):
      print(f'error: {at}: {out_of_memory(error)}', file=sys.stderr, flush=True)
      os._exit(1)
    if isinstance(error, jax.errors.JaxRuntimeError):
      said = f'{at} lost another one or its device ({str(error).splitlines()[0]:.200})'
    else:
      said = f'{at}: {error!r}' if not isinstance(error, SAID_IN_ONE_LINE) else f'{at}: {error}'
    if not isinstance(error, (*SAID_IN_ONE_LINE, jax.errors.JaxRuntimeError)):
      traceback.print_exc()
    print(
      f'error: {said}; give all processes the same command again to go on from the last checkpoint.',
      file=sys.stderr,
      flush=True,
    )
    os._exit(1)


class Quiet:
  """The Writer of every process but the first."""

  write = samples = resume = close = lambda self, *_: None


def prepare():
  """Settings of the process, for a main to call first: compiled programs and freed memory are kept.

  Joins the run's other processes, where there are any.

  Our own messages go to standard error, other libraries' from warnings on.
  Compiled programs go to the folder JAX_COMPILATION_CACHE_DIR, by default ~/.cache/r1jax/programs.

  XLA on CPU allocates each program's temporaries anew; unmapping and faulting them in again took a third of
  the processor time of a toy run. A thread's own arena returns them whatever the threshold, so there is to
  be one arena only. Without glibc the C library is left as it is.
  """
  absl_logging.set_verbosity(absl_logging.WARNING)  # orbax tells every detail of every save
  parallel.connect()
  if not log.handlers:
    log.setLevel(logging.INFO if not jax.distributed.is_initialized() or parallel.first() else logging.ERROR)
    log.addHandler(logging.StreamHandler())
    log.propagate = False
  cache = os.environ.get('JAX_COMPILATION_CACHE_DIR') or os.path.join(
    os.path.expanduser('~'), '.cache', 'r1jax', 'programs'
  )
  jax.config.update('jax_compilation_cache_dir', cache)
  if 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS' not in os.environ:
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.3)
  libc = ctypes.CDLL(None)
  if hasattr(libc, 'mallopt'):
    trim_threshold, mmap_threshold, arena_max, most = -1, -3, -8, 2**31 - 1
    libc.mallopt(arena_max, 1)
    libc.mallopt(mmap_threshold, 2**28)  # what is larger goes back at once, or memory doubles
    libc.mallopt(trim_threshold, most)


@dataclasses.dataclass(frozen=True)
class Run:
  """Everything `experiments/rl.py` needs, made from its config; see `start`."""

  cfg: config_lib.RL
  workdir: str
  key: jax.Array
  source: checkpoint.Source
  problems: data.Problems
  sampler: rollout.Sampler
  trainer: Trainer
  store: checkpoint.Store
  writer: Writer
  abstract: state_lib.TrainState
  dropped: dict
  draws: order.Draws

  def close(self):
    self.sampler.grader.close()
    self.writer.close()
    self.store.close()  # last: it raises where a save in flight fails

  def save(self, step, state):
    """Begins to save the state before `step`, and which problems come next."""
    self.store.save(step, state, self.draws.position())

  def restore_or_init(self):
    """The newest checkpoint's state and the step to go on with; the model directory's at step 0."""
    restored = self.store.restore(self.abstract)
    if restored:
      self.draws.go_to(restored[1], self.store.notes(restored[1]))
      return restored
    params = self.source.load(self.abstract.params)
    return state_lib.new_state(params, self.trainer.optimizer, self.abstract), 0


def start(cfg, workdir):
  """Checks a config against its model and data, and builds what a run needs.

  Args:
    cfg: config.RL.
    workdir: where the run keeps everything.

  Raises:
    ConfigError, DataError, ModelDirError, TokenizerError: before anything compiles.
  """
  prepare()
  config_lib.require(
    cfg.model.path,
    'model.path is empty; pass a model directory with --config.model.path=DIR (config.json, *.safetensors, '
    'tokenizer.json or tokenizer.model). `scripts/quickstart` and `experiments/pretrain.py` make small ones.',
  )
  source = checkpoint.open_model(cfg.model.path)
  model = source.cfg
  config_lib.require(model.head == 'tokens', f'{cfg.model.path} is a reward model; a policy needs an unembedding.')
  specs = models.specs(model)
  tokenizer = source.load_tokenizer(cfg.data.chat_template or None)
  config_lib.check_context(cfg.rollout, model.context)
  template = template_of('data', cfg.data)
  problems = load_problems(cfg.data, cfg.reward)
  check_languages(cfg.reward, problems, cfg.data.language)
  encode = lambda p: rollout.encode_prompt(tokenizer, template, p)[1]
  train, long_train = data.drop_long(problems.train, encode, cfg.rollout.max_prompt)
  held_out, long_held_out = data.drop_long(problems.held_out, encode, cfg.rollout.max_prompt)
  dropped = problems.dropped | {'long': long_train, 'long_held_out': long_held_out}
  if any(dropped.values()):
    log.warning('problems dropped: %s; %d are left to train on, %d held out.', dropped, len(train), len(held_out))
  problems = dataclasses.replace(problems, train=train, held_out=held_out)

  mesh = parallel.make_mesh(cfg.mesh)
  updates = cfg.steps * cfg.train.minibatches * cfg.train.epochs
  optimizer = optimizer_lib.make(cfg.optimizer, updates, specs, cfg.train.param_dtype)
  engine = sampling.Engine(
    model,
    tokenizer,
    parallel.make_mesh(parallel.or_else(cfg.sampler_mesh, cfg.mesh), name='sampler_mesh'),
    max_prompt=cfg.rollout.max_prompt,
    max_response=cfg.rollout.max_response,
    stop=cfg.rollout.stop,
    dtype=jnp.dtype(cfg.model.dtype),
  )
  os.makedirs(workdir, exist_ok=True)
  store = checkpoint.Store(os.path.join(workdir, checkpoint.CHECKPOINTS), cfg.checkpoint, fingerprint(cfg, source))
  grader, by_model = graders(cfg.reward)
  steps = neural.process.by_step(by_model['process']) if cfg.reward.step_credit else None
  sampler = rollout.Sampler(
    engine, tokenizer, template, grader, cfg.reward, cfg.rollout.chunk or cfg.rollout.prompts, by_model, steps
  )
  return Run(
    cfg,
    workdir,
    jax.random.key(cfg.seed),
    source,
    problems,
    sampler,
    policy.make_trainer(cfg, model, optimizer, mesh),
    store,
    Writer(workdir) if parallel.first() else Quiet(),
    state_lib.abstract_state(
      specs,
      optimizer,
      mesh,
      cfg.train.param_dtype,
      cfg.train.reference_dtype if cfg.loss.kl_coef else None,
      cfg.train.reference_memory,
    ),
    dropped,
    order.Draws(train, cfg.data, cfg.seed, cfg.rollout.prompts),
  )


def load_problems(cfg, reward):
  """data.Problems of a config.Data, of which the rewards of a config.Reward can score every one.

  Others are malformed; training problems that hold one of cfg.evaluation are dropped, counted and said.
  """
  problems = data.load(cfg, needs.checker(reward))
  check_kinds(reward, problems)
  if not cfg.evaluation:
    return problems
  train, found = dataset.decontaminated(problems.train, cfg.evaluation)
  if found:
    log.warning(
      'dropped %d of %d training problems near ones of data.evaluation: %s.',
      sum(found.values()),
      len(problems.train),
      ', '.join(f'{count} of {entry}' for entry, count in found.items()),
    )
  if not train:
    raise data.DataError(
      f'all {len(problems.train)} training problems are near ones of data.evaluation '
      f'({", ".join(cfg.evaluation)}); check data.path.'
    )
  dropped = problems.dropped | {'contaminated': sum(found.values())}
  return dataclasses.replace(problems, train=train, dropped=dropped)


def template_of(name, data):
  """The Template that a config.Data or config.Imitated, by the name of `name`, asks for. Raises ConfigError."""
  parts = {f'{name}.parts.{part}': of.template for part, of in getattr(data, 'parts', {}).items() if of.template}
  for at, template in ({name: data.template} | parts).items():
    config_lib.require(
      template in templates.TEMPLATES, f'{at}.template is {template!r}; known: {", ".join(templates.TEMPLATES)}.'
    )
  return templates.TEMPLATES[data.template]


def check_kinds(cfg, problems):
  """Raises ConfigError where a config.Reward has no route for problems of some kind; warns of routes without problems.

  problems: data.Problems.
  """
  kinds = {p.get('kind') if isinstance(p.get('kind'), str) else None for p in problems.train + problems.held_out}
  lost = sorted(map(str, kinds - set(cfg.routes))) if not cfg.accuracy else []
  config_lib.require(
    not lost,
    f'no reward says whether problems of kind {", ".join(lost)} are solved: reward.accuracy is empty; add '
    f'reward.routes.{lost[0] if lost else ""} (there are: {", ".join(cfg.routes)}).',
  )
  if idle := set(cfg.routes) - kinds:
    log.warning(
      'reward.routes has %s, but no problem is of such a kind; there are: %s.',
      ', '.join(sorted(idle)),
      ', '.join(sorted(map(str, kinds))),
    )


def check_languages(cfg, problems, language):
  """Raises ConfigError for a language whose words the evaluation, or a part of a config.Reward, could not count.

  problems: data.Problems. language: of those that name none.
  """
  counted = problems.train if 'language' in map(cfg.function, cfg.names()) else []
  for name in {language, *(str(rewards.language_of(p)) for p in counted + problems.held_out)} - {''}:
    rewards.language_consistency('', name)


def graders(cfg):
  """Who scores the parts of a config.Reward: worker processes, and {part: function} for those a model scores.

  Raises ConfigError for what is no reward, or has no such options; and what opening a model raises.
  """
  options = {name: cfg.options.get(name, {}) for name in cfg.names()}
  by_model = {name: options.pop(name) for name in cfg.names() if cfg.function(name) in neural.NEURAL}
  for name in by_model:
    rewards.check_options(name, neural.NEURAL[cfg.function(name)], by_model[name])
  models = {name: neural.NEURAL[cfg.function(name)](**by_model[name]) for name in by_model}
  return pool.Grader(options, cfg.workers, cfg.timeout, cfg.uses), models


def what_is_asked(reward):
  """A config.Reward as a dict, less how it is computed, which may change, and what of kinds it does not have."""
  found = {k: v for k, v in config_lib.to_dict(reward).items() if k not in ('workers', 'timeout')}
  found = {k: v for k, v in found.items() if v or k not in ('routes', 'accuracies', 'uses', 'begin', 'bars')}
  less = lambda options: {k: v for k, v in options.items() if k not in config_lib.ASKING}
  return found | {'options': {name: less(options) for name, options in found['options'].items()}}


def fingerprint(cfg, source):
  """What a checkpoint must agree on with the run that restores it: the base, shapes, data and objective."""
  whole = config_lib.to_dict(cfg)
  parts = {name: whole[name] for name in ('seed', 'data', 'rollout', 'loss', 'optimizer')}
  parts['reward'] = what_is_asked(cfg.reward)
  parts['reward'].pop('bars', None)
  if not parts['data']['parts']:
    del parts['data']['parts']  # a run without them is the same as before there were any
  if not parts['data']['evaluation']:
    del parts['data']['evaluation']
  del parts['optimizer']['moment_dtype']  # dtypes are compared with the arrays
  del parts['rollout']['chunk']
  parts['train'] = {name: whole['train'][name] for name in ('minibatches', 'epochs', 'reference_refresh')}
  # More steps go on under a constant rate; under any other the rate at every step follows from their number.
  parts['steps'] = cfg.steps if cfg.optimizer.schedule != 'constant' else 'any'
  return parts | {'model': source.config, 'base': source.digest}


def begun_with(path, settings):
  """Keeps in `path` what a folder was begun with, for all commands that go on in it.

  Raises ConfigError, naming what differs, where it was begun with other settings.
  """
  settings = json.loads(json.dumps(settings))
  if os.path.exists(path):
    with open(path, encoding='utf-8') as f:
      lines = store_lib.difference(json.load(f), settings)
    config_lib.require(
      not lines,
      f'{os.path.dirname(path)} was begun with other settings: {"; ".join(lines[:4])}; go '
      'back to those, or use another --workdir.',
    )
    return
  os.makedirs(os.path.dirname(path), exist_ok=True)
  write_shared(path, settings)


def write_shared(path, value):
  """As write_json, where jobs that know nothing of each other may write the same file at once."""
  own = f'{path}.{socket.gethostname()}.{os.getpid()}'
  write_json(own, value)
  if parallel.first():
    os.replace(own, path)


def write_json(path, value):
  """Writes JSON under a temporary name and renames it; the first process alone."""
  if not parallel.first():
    return
  with open(path + '.tmp', 'w', encoding='utf-8') as f:
    json.dump(value, f, indent=2, ensure_ascii=False)
    f.write('\n')
  os.replace(path + '.tmp', path)


def write_config(workdir, cfg):
  """workdir/config.json: a run's config, its model's path so that it holds from any folder."""
  config = config_lib.to_dict(cfg)
  if config['model']['path']:
    config['model']['path'] = os.path.abspath(config['model']['path'])
  write_json(os.path.join(workdir, 'config.json'), config)
