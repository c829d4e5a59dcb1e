"""What `experiments/rl.py` and `experiments/evaluate.py` are made of, from a config."""

import dataclasses
import logging
import os

import jax
import jax.numpy as jnp

from r1jax import checkpoint, data, models, parallel, rollout, sampling
from r1jax import config as config_lib
from r1jax.data import order
from r1jax.metrics.writer import Writer
from r1jax.rewards import neural
from r1jax.runs.grading import graders
from r1jax.runs.problems import check_languages, load_problems, template_of
from r1jax.runs.runtime import NoWriter, set_up_process
from r1jax.runs.settings import fingerprint
from r1jax.training import optimizer as optimizer_lib
from r1jax.training import policy
from r1jax.training import state as state_lib
from r1jax.training.accumulate import Trainer

log = logging.getLogger('r1jax')


@dataclasses.dataclass(frozen=True)
class Run:
  """Everything a run of RL needs; see `start`."""

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
  set_up_process()
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
    parallel.make_mesh(parallel.with_default_sizes(cfg.sampler_mesh, cfg.mesh), name='sampler_mesh'),
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
    Writer(workdir) if parallel.is_primary() else NoWriter(),
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
