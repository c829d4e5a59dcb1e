"""Builds and evaluates RL runs, for experiments/rl.py and experiments/evaluate.py."""

import dataclasses
import logging
import time

import jax

from r1jax import checkpoint, data, evaluation, parallel, rollout
from r1jax import config as config_lib
from r1jax.data import order
from r1jax.metrics.writer import Writer
from r1jax.rewards import neural
from r1jax.runs import loop
from r1jax.runs.critic import new_critic_state, open_critic
from r1jax.runs.grading import make_graders
from r1jax.runs.policies import first_params, load_frozen, make_engine, open_adapter, open_policy, sampler_mesh
from r1jax.runs.problems import check_languages, get_template, load_problems
from r1jax.runs.runtime import NoWriter, set_up_process
from r1jax.runs.settings import fingerprint
from r1jax.runs.teachers import Teachers, open_teachers
from r1jax.sampling import SamplingParams
from r1jax.training import critic, distill, lora, policy
from r1jax.training import optimizer as optimizer_lib
from r1jax.training import state as state_lib
from r1jax.training.accumulate import Trainer

log = logging.getLogger('r1jax')


@dataclasses.dataclass(frozen=True)
class Run:
  """Everything an RL run needs; built by `make_run`."""

  cfg: config_lib.RL
  workdir: str
  key: jax.Array
  source: checkpoint.Source
  problems: data.Problems
  sampler: rollout.Sampler
  trainer: Trainer
  critic: Trainer | None
  critic_source: checkpoint.Source | None
  teachers: Teachers | None
  adapter: checkpoint.Adapter | None
  store: checkpoint.Store
  writer: Writer | NoWriter
  abstract: state_lib.TrainState
  dropped: dict
  draws: order.Draws

  def close(self):
    self.sampler.grader.close()
    self.writer.close()
    self.store.close()  # last, as it raises if a save still in progress fails

  def save(self, step, state):
    """Starts saving the state before `step`, and the position in the order of problems."""
    self.store.save(step, state.saved(), self.draws.position())

  def restore_or_init(self):
    """(state, next step) of the newest checkpoint; without one, the base model's weights and step 0."""
    state, step = self.store.restore(self.abstract.saved()) or (None, 0)
    if state:
      self.draws.go_to(step, self.store.notes(step))
    else:
      like = self.abstract.saved().replace(critic=None)
      state = state_lib.new_state(self.first_params(), self.trainer.optimizer, like)
      if self.critic:
        state = state.replace(critic=new_critic_state(self.critic, self.abstract.critic, self.critic_source))
    return state.replace(frozen=self.load_frozen()), step

  def load_frozen(self):
    """What the loss reads and no step changes: the model that is adapted, and teachers; None without them."""
    frozen = load_frozen(self.source, self.abstract) or {}
    if self.teachers:
      frozen |= self.teachers.load(self.source.cfg, self.cfg, self.trainer.mesh)
    return frozen or None

  def first_params(self):
    """What is trained, at step 0."""
    return first_params(self.cfg, self.source, self.abstract, self.adapter)

  def first_model(self):
    """The parameters of the whole model at step 0."""
    frozen, params = load_frozen(self.source, self.abstract), self.first_params()
    return frozen['base'].attach(params) if frozen else params


def make_run(cfg, workdir):
  """Checks a config against its model and data, and builds what a run needs.

  Args:
    cfg: config.RL.
    workdir: the run's folder.

  Raises:
    ConfigError, DataError, ModelDirError, TokenizerError: before anything compiles.
  """
  set_up_process()
  source = open_policy(cfg.model.path)
  critic_source = open_critic(cfg, source)
  adapter = open_adapter(cfg.lora, source)
  tokenizer = source.load_tokenizer(cfg.data.chat_template or None)
  config_lib.check_context(cfg.rollout, source.cfg.context)
  template = get_template('data', cfg.data)
  problems, dropped = load_fitting_problems(cfg, tokenizer, template)
  teachers = open_teachers(cfg, source, tokenizer, problems.train)
  mesh = parallel.make_mesh(cfg.mesh)
  updates = (cfg.steps - cfg.critic.warmup * cfg.has_critic) * cfg.train.minibatches * cfg.train.epochs
  optimizer = optimizer_lib.make(cfg.optimizer, updates, lora.specs(cfg.lora, source.cfg), cfg.train.param_dtype)
  engine = make_engine(source.cfg, tokenizer, sampler_mesh(cfg), cfg.model.dtype, cfg.rollout)
  store = loop.open_store(workdir, cfg.checkpoint, fingerprint(cfg, source, critic_source, teachers, adapter))
  grader, reward_models = make_graders(cfg.reward)
  step_scores = neural.process.by_step(reward_models['process']) if cfg.reward.step_credit else None
  chunk = cfg.rollout.call
  engine.require_divisible(chunk)
  reference = (cfg.train.reference_dtype, cfg.train.reference_memory) if cfg.loss.kl_coef else ()
  abstract = lora.abstract_state(cfg.lora, source.cfg, optimizer, mesh, cfg.train.param_dtype, *reference)
  value_trainer, value_state = critic.make(cfg, critic_source.cfg, mesh) if critic_source else (None, None)
  trainer = policy.make_trainer(cfg, source.cfg, optimizer, mesh)
  if teachers:
    trainer = distill.with_teachers(trainer, cfg, source.cfg, teachers.models, teachers.names)
  return Run(
    cfg=cfg,
    workdir=workdir,
    key=jax.random.key(cfg.seed),
    source=source,
    problems=problems,
    sampler=rollout.Sampler(engine, tokenizer, template, grader, cfg.reward, chunk, reward_models, step_scores),
    trainer=trainer,
    critic=value_trainer,
    critic_source=critic_source,
    teachers=teachers,
    adapter=adapter,
    store=store,
    writer=loop.open_writer(workdir),
    abstract=abstract.replace(critic=value_state),
    dropped=dropped,
    draws=order.Draws(problems.train, cfg.data, cfg.seed, cfg.rollout.prompts),
  )


def load_fitting_problems(cfg, tokenizer, template):
  """Loads the data.Problems of a config.RL whose prompts have at most rollout.max_prompt tokens.

  Returns:
    data.Problems, and {reason: number of dropped problems}.
  """
  problems = load_problems(cfg.data, cfg.reward)
  check_languages(cfg.reward, problems, cfg.data.language)
  encode = lambda problem: rollout.encode_prompt(tokenizer, template, problem)[1]
  train, long_train = data.drop_long(problems.train, encode, cfg.rollout.max_prompt)
  held_out, long_held_out = data.drop_long(problems.held_out, encode, cfg.rollout.max_prompt)
  dropped = problems.dropped | {'long': long_train, 'long_held_out': long_held_out}
  if any(dropped.values()):
    log.warning('problems dropped: %s; left: %d for training, %d held out.', dropped, len(train), len(held_out))
  return dataclasses.replace(problems, train=train, held_out=held_out), dropped


def evaluate(run, params, problems, samples, sampling=None):
  """Evaluates the policy on held-out problems.

  The key depends on the seed alone, so that all steps are evaluated on the same draws.

  Args:
    problems: number of problems.
    samples: responses to each.
    sampling: SamplingParams; by default that of cfg.eval.

  Returns:
    {metric: number}, and the graded responses as rows.
  """
  cfg = run.cfg
  return evaluation.evaluate(
    run.sampler,
    params,
    run.problems.held_out[:problems],
    samples=samples,
    reward=cfg.reward,
    sampling=sampling or SamplingParams(cfg.eval.temperature, cfg.eval.top_p),
    language=cfg.data.language,
    key=evaluation.key(run.key),
    batch=min(cfg.rollout.prompts, problems, len(run.problems.held_out)),
  )


def full_evaluation(run, params, step):
  """Evaluates before and after the run: with cfg.eval's sampling, at temperature 0.6 and top-p 0.95 as in the paper,
  and greedily.

  Returns:
    {'metrics': {metric: number}, 'seconds': float}.
  """
  began, cfg = time.perf_counter(), run.cfg.eval
  problems, samples = cfg.final_problems or cfg.problems, cfg.final_samples or cfg.samples
  metrics, rows = evaluate(run, params, problems, samples)
  run.writer.samples(step, rows)
  cooler, _ = evaluate(run, params, problems, samples, SamplingParams(0.6, 0.95))
  greedy, _ = evaluate(run, params, problems, 1, SamplingParams(0.0))
  metrics |= accuracies(greedy, 'greedy') | accuracies(cooler, 'pass@1_t0.6')
  return {'metrics': metrics, 'seconds': time.perf_counter() - began}


def accuracies(metrics, name):
  """The pass@1 of an evaluation, of all problems and by kind or language, under another name."""
  return {key.replace('pass@1', name): x for key, x in metrics.items() if key.endswith('pass@1')}
