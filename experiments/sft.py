"""Supervised fine-tuning: texts are packed into rows, and the loss is on response tokens only.

  python -m experiments.sft --config configs/sft.py:cold_start --config.model.path=DIR --config.data.path=FILE \\
      --workdir D

Used for the cold start, the second SFT of R1 and distillation (configs/sft.py, configs/distill.py). The run's folder D
can be passed on as a model with `--config.model.path=D`. If a run is killed at any moment, the same command resumes it
from its last checkpoint and ends with the same numbers.
"""

import contextlib
import dataclasses
import logging
import math
import os
import time

import jax
import numpy as np

from r1jax import checkpoint, data, evaluation, parallel, rollout, sampling, tokenizers
from r1jax import config as config_lib
from r1jax.checkpoint import families
from r1jax.data import packing, reader
from r1jax.data import sft as data_lib
from r1jax.metrics.writer import Writer
from r1jax.runs import cli, grading, json_files, loop, policies, runtime, settings
from r1jax.runs import problems as problems_lib
from r1jax.runs.workdir import exclusive, save_on_interrupt
from r1jax.training import lora
from r1jax.training import optimizer as optimizer_lib
from r1jax.training import sft as sft_lib
from r1jax.training import state as state_lib
from r1jax.training.accumulate import Trainer

log = logging.getLogger('r1jax')

SHOWN = {'loss': 'train/loss', 'held out': 'eval/loss', 'accuracy': 'eval/pass@1'}


@dataclasses.dataclass(frozen=True)
class Run:
  """Everything an SFT run needs; built by `make_run`."""

  cfg: config_lib.SFT
  workdir: str
  steps: int
  key: jax.Array
  source: checkpoint.Source
  adapter: checkpoint.Adapter | None
  tokenizer: tokenizers.Tokenizer
  train: data_lib.Corpus
  held_out: data_lib.Corpus
  packing: packing.Packing
  problems: list
  dropped: dict
  trainer: Trainer
  sampler: rollout.Sampler | None
  store: checkpoint.Store
  writer: Writer | runtime.NoWriter
  abstract: state_lib.TrainState

  def close(self):
    if self.sampler:
      self.sampler.grader.close()
    self.writer.close()
    self.store.close()  # last, as it raises if a save still in progress fails

  def batch(self, step):
    """The PackedBatch of a step, and the number of texts in it."""
    size = self.cfg.batch
    rows = [self.packing.row(index) for index in range(step * size, (step + 1) * size)]
    return pack_batch(self.train, rows, self.cfg.data.max_length), sum(map(len, rows))

  def save(self, step, state):
    """Starts saving the state before `step`."""
    self.store.save(step, state.saved())

  def restore_or_init(self):
    """(state, next step) of the newest checkpoint; without one, the base model's weights and step 0."""
    restored = self.store.restore(self.abstract.saved())
    if not restored:
      params = policies.first_params(self.cfg, self.source, self.abstract, self.adapter)
      restored = state_lib.new_state(params, self.trainer.optimizer, self.abstract.saved()), 0
    state, step = restored
    return state.replace(frozen=policies.load_frozen(self.source, self.abstract)), step


def pack_batch(corpus, rows, length):
  """The PackedBatch of rows of at most `length` tokens; each row is a list of indices of texts in the corpus."""
  return sft_lib.PackedBatch(*packing.pack([[corpus.text(index) for index in row] for row in rows], length))


def make_run(cfg, workdir):
  """Checks a config against its model and data, and builds what a run needs.

  Raises:
    ConfigError, DataError, ModelDirError, TokenizerError: before anything compiles.
  """
  runtime.set_up_process()
  source = open_base(cfg)
  adapter = policies.open_adapter(cfg.lora, source)
  tokenizer = source.load_tokenizer(cfg.data.chat_template or None)
  template = problems_lib.get_template('data', cfg.data)
  encode = lambda row: rollout.encode_prompt(tokenizer, template, row)
  problems = load_eval_problems(cfg, source)
  eval_keys = frozenset(map(reader.text_key, problems))
  train, held_out, dropped = data_lib.load(cfg.data, tokenizer, encode, os.path.join(workdir, 'texts'), eval_keys)
  rows = packing.Packing(train.lengths, cfg.data.max_length, cfg.seed)
  steps = math.ceil(rows.rows(cfg.epochs) / cfg.batch)
  log.info(
    '%d texts for training, %d held out; dropped: %s; %d rows per epoch, %d steps',
    len(train),
    len(held_out),
    dropped,
    rows.rows(1),
    steps,
  )
  mesh = parallel.make_mesh(cfg.mesh)
  optimizer = optimizer_lib.make(cfg.optimizer, steps, lora.specs(cfg.lora, source.cfg), cfg.param_dtype)
  trainer = sft_lib.make_trainer(cfg, source.cfg, optimizer, mesh)
  sampler = make_sampler(cfg, source) if problems else None
  store = loop.open_store(workdir, cfg.checkpoint, fingerprint(cfg, source, train, steps, adapter))
  return Run(
    cfg=cfg,
    workdir=workdir,
    steps=steps,
    key=jax.random.key(cfg.seed),
    source=source,
    adapter=adapter,
    tokenizer=tokenizer,
    train=train,
    held_out=held_out,
    packing=rows,
    problems=problems,
    dropped=dropped,
    trainer=trainer,
    sampler=sampler,
    store=store,
    writer=loop.open_writer(workdir),
    abstract=lora.abstract_state(cfg.lora, source.cfg, optimizer, mesh, cfg.param_dtype),
  )


def open_base(cfg):
  """The Source of the base model, with its context length changed to cfg.context if that is set."""
  source = policies.open_policy(cfg.model.path, cfg.mtp_coef > 0)
  sft_lib.check_mtp(cfg, source.cfg)
  if cfg.context:
    model = dataclasses.replace(source.cfg, context=cfg.context)
    hf_context = {'max_position_embeddings': families.to_hf(model)['max_position_embeddings']}
    source = dataclasses.replace(source, cfg=model, config=source.config | hf_context)
  config_lib.require(
    cfg.data.max_length <= source.cfg.context,
    f"data.max_length {cfg.data.max_length} exceeds the model's context of {source.cfg.context} "
    f'tokens; lower it, or set context to {cfg.data.max_length} to train the model for that length.',
  )
  return source


def load_eval_problems(cfg, source):
  """The held-out problems on which the evaluation samples and grades responses; [] if eval.problems is 0."""
  if not cfg.eval.problems:
    return []
  config_lib.check_context(cfg.eval, source.cfg.context, 'eval')
  template = problems_lib.get_template('problems', cfg.problems)
  tokenizer = source.load_tokenizer(cfg.problems.chat_template or None)
  loaded = problems_lib.load_problems(cfg.problems, cfg.reward)
  problems_lib.check_languages(cfg.reward, loaded, cfg.problems.language)
  problems, long = data.drop_long(
    loaded.held_out, lambda p: rollout.encode_prompt(tokenizer, template, p)[1], cfg.eval.max_prompt
  )
  config_lib.require(
    problems,
    'no problem is held out for evaluation; set problems.eval_path or problems.eval_fraction, or eval.problems to 0.',
  )
  if long:
    log.warning('dropped %d held-out problems whose prompts exceed eval.max_prompt.', long)
  return problems


def make_sampler(cfg, source):
  """The rollout.Sampler that samples and grades responses to the evaluation problems."""
  template = problems_lib.get_template('problems', cfg.problems)
  tokenizer = source.load_tokenizer(cfg.problems.chat_template or None)
  e = cfg.eval
  limits = config_lib.Rollout(e.batch, e.samples, max_prompt=e.max_prompt, max_response=e.max_response)
  engine = policies.make_engine(source.cfg, tokenizer, policies.sampler_mesh(cfg), cfg.model.dtype, limits)
  grader, reward_models = grading.make_graders(cfg.reward)
  return rollout.Sampler(engine, tokenizer, template, grader, cfg.reward, cfg.eval.batch, reward_models)


def fingerprint(cfg, source, train, steps, adapter=None):
  """What a checkpoint must agree on with the run that restores it: base model, shapes, texts and their order."""
  full = config_lib.to_dict(cfg)
  parts = {name: full[name] for name in ('seed', 'batch', 'optimizer')}
  del parts['optimizer']['moment_dtype']  # dtypes are compared with those of the arrays
  if cfg.balance_rate:  # older checkpoints lack this key
    parts['balance_rate'] = cfg.balance_rate
  if cfg.mtp_coef:
    parts['mtp_coef'] = cfg.mtp_coef
  # With a constant learning rate a run may be made longer; any other schedule depends on the number of steps.
  parts['steps'] = steps if cfg.optimizer.schedule != 'constant' else 'any'
  parts |= settings.lora_identity(cfg.lora, cfg.param_dtype, adapter)
  return parts | {'texts': train.digest, 'model': source.config, 'base': source.digest}


def evaluate(run, params, texts, problems, samples):
  """Evaluates the loss on held-out texts, and the accuracy on held-out problems if there are any.

  Args:
    texts: number of texts; 0 is all.
    problems: number of problems.
    samples: responses to each.

  Returns:
    {metric: number} with 'loss' and 'entropy' (nats per response token) and the metrics of `evaluation.evaluate`; and
    the graded responses as rows.
  """
  cfg, size = run.cfg, run.cfg.microbatch or run.cfg.batch
  rows = packing.Packing(run.held_out.lengths[: texts or None], cfg.data.max_length, cfg.seed)
  count = rows.rows(1)
  microbatches = (
    pack_batch(run.held_out, [rows.row(i) for i in range(first, min(first + size, count))], cfg.data.max_length)
    for first in range(0, count, size)
  )
  metrics, responses = sft_lib.evaluate(run.trainer, params, microbatches, size), []
  if run.sampler:
    chosen = run.problems[:problems]
    accuracy, responses = evaluation.evaluate(
      run.sampler,
      params,
      chosen,
      samples=samples,
      reward=cfg.reward,
      sampling=sampling.SamplingParams(cfg.eval.temperature, cfg.eval.top_p),
      language=cfg.problems.language,
      key=evaluation.key(run.key),
      batch=min(cfg.eval.batch, len(chosen)),
    )
    metrics |= accuracy
  return metrics, responses


def full_evaluation(run, params, step):
  """Evaluates before and after the run, on all held-out texts and the final number of problems. Returns the metrics."""
  cfg = run.cfg.eval
  metrics, rows = evaluate(run, params, 0, cfg.final_problems or cfg.problems, cfg.final_samples or cfg.samples)
  if rows:
    run.writer.samples(step, rows)
  return metrics


def train_step(run, state, step):
  """Trains on one batch. Returns (state, {metric: number})."""
  began = time.perf_counter()
  batch, texts = run.batch(step)
  state, metrics = sft_lib.update(run.trainer, state, batch, run.cfg, step)
  seconds = time.perf_counter() - began
  tokens, response_tokens = int((batch.segments > 0).sum()), int(batch.response.sum())
  return state, metrics | {
    'train/texts': texts,
    'train/response_tokens': response_tokens,
    'train/fill': tokens / batch.tokens.size,
    'time/step': seconds,
    'throughput/train_tokens_per_second': tokens / seconds,
  }


def train(run):
  """Trains from the last checkpoint to the end. Returns the `full_evaluation` before and after."""
  cfg = run.cfg
  state, first_step = run.restore_or_init()
  loop.begin(run, first_step, run.steps, 'epochs')
  base_path = os.path.join(run.workdir, 'eval_base.json')
  bar = loop.progress_bar(run.steps, first_step, label='SFT', shown=SHOWN)
  with jax.transfer_guard('disallow'), bar:
    base = json_files.cached_metrics(
      base_path, lambda: full_evaluation(run, state.model(), 0), recompute=not first_step
    )
    for step in range(first_step, run.steps):
      metrics = {}
      with save_on_interrupt(run, state, step, first_step, run.steps):
        if step and step % cfg.eval.every == 0:
          eval_metrics, rows = evaluate(run, state.model(), cfg.eval.texts, cfg.eval.problems, cfg.eval.samples)
          metrics |= {f'eval/{name}': x for name, x in eval_metrics.items()}
          if rows:
            run.writer.samples(step, rows)
        elif not step:
          metrics |= {f'eval/{name}': x for name, x in base.items()}
      state, train_metrics = train_step(run, state, step)
      metrics |= train_metrics
      run.writer.write(step, metrics)
      bar.update(metrics)
      if loop.checkpoint_is_due(cfg.checkpoint, step, run.steps):
        run.save(step + 1, state)
    run.store.wait()
    final = full_evaluation(run, state.model(), run.steps)
    run.writer.write(run.steps, {f'eval/{name}': x for name, x in final.items()})
  return base, final


@exclusive
def run_sft(cfg, workdir):
  """Trains to the end and evaluates before and after. Writes summary.json, plots and report; returns the summary."""
  began = time.perf_counter()
  with contextlib.closing(make_run(cfg, workdir)) as run, runtime.exit_together():
    base, final = train(run)
  lengths = run.train.lengths
  summary = {
    'base': base,
    'final': final,
    'steps': run.steps,
    'texts': len(run.train),
    'held_out': len(run.held_out),
    'tokens': int(lengths.sum()),
    'response_tokens': int(np.sum(lengths - run.train.starts)),
    'rows_an_epoch': run.packing.rows(1),
    'dropped': run.dropped,
    'seed': cfg.seed,
    'seconds': {'sft': time.perf_counter() - began},
    'config': config_lib.to_dict(cfg),
  }
  loop.finish(workdir, summary)
  return summary


def describe(summary, workdir):
  change = lambda name: f'{name} {summary["base"][name]:.3f} to {summary["final"][name]:.3f}'
  return f'{workdir}: ' + ', '.join(change(name) for name in ('loss', 'pass@1') if name in summary['final'])


if __name__ == '__main__':
  cli.main(run_sft, config_lib.SFT, 'The folder of the run.', describe)
