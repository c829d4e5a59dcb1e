"""Supervised fine-tuning: texts packed side by side, loss on responses alone.

  python -m experiments.sft --config configs/sft.py:cold_start --config.model.path=DIR --config.data.path=FILE \\
      --workdir D

For cold start, the second SFT of R1 and its students (configs/sft.py, configs/distill.py). The run's folder D is a
model for `--config.model.path=D`. A run killed at any moment goes on from its last checkpoint when the same command
is given again, and ends with the same numbers.
"""

import contextlib
import dataclasses
import io
import logging
import math
import os
import time

import jax
import jax.numpy as jnp
import numpy as np

from r1jax import checkpoint, data, evaluation, models, parallel, rollout, sampling, tokenizers
from r1jax import config as config_lib
from r1jax.checkpoint import families
from r1jax.data import packing, reader
from r1jax.data import sft as data_lib
from r1jax.metrics.plots import plot
from r1jax.metrics.progress import Progress
from r1jax.metrics.report import report
from r1jax.metrics.writer import Writer
from r1jax.runs import cli, grading, json_files, runtime
from r1jax.runs import problems as problems_lib
from r1jax.runs.workdir import exclusive, save_on_interrupt
from r1jax.training import optimizer as optimizer_lib
from r1jax.training import sft as sft_lib
from r1jax.training import state as state_lib
from r1jax.training.accumulate import Trainer

log = logging.getLogger('r1jax')

SHOWN = {'loss': 'train/loss', 'held out': 'eval/loss', 'accuracy': 'eval/pass@1'}


@dataclasses.dataclass(frozen=True)
class Run:
  """Everything the loop needs, made from its config; see `start`."""

  cfg: config_lib.SFT
  workdir: str
  steps: int
  key: jax.Array
  source: checkpoint.Source
  tokenizer: tokenizers.Tokenizer
  train: data_lib.Corpus
  held_out: data_lib.Corpus
  packing: packing.Packing
  problems: list
  dropped: dict
  trainer: Trainer
  sampler: rollout.Sampler | None
  store: checkpoint.Store
  writer: Writer
  abstract: state_lib.TrainState

  def close(self):
    if self.sampler:
      self.sampler.grader.close()
    self.writer.close()
    self.store.close()  # last: it raises where a save in flight fails

  def batch(self, step):
    """The PackedBatch of a step, and how many texts it holds."""
    size = self.cfg.batch
    rows = [self.packing.row(number) for number in range(step * size, (step + 1) * size)]
    return packed(self.train, rows, self.cfg.data.max_length), sum(map(len, rows))

  def save(self, step, state):
    """Begins to save the state before `step`."""
    self.store.save(step, state)

  def restore_or_init(self):
    """The newest checkpoint's state and the step to go on with; the model directory's at step 0."""
    restored = self.store.restore(self.abstract)
    if restored:
      return restored
    return state_lib.new_state(self.source.load(self.abstract.params), self.trainer.optimizer, self.abstract), 0


def packed(corpus, rows, length):
  return sft_lib.PackedBatch(*packing.pack([[corpus.text(place) for place in row] for row in rows], length))


def start(cfg, workdir):
  """Checks a config against its model and data, and builds what a run needs.

  Raises:
    ConfigError, DataError, ModelDirError, TokenizerError: before anything compiles.
  """
  runtime.set_up_process()
  source = open_base(cfg)
  specs = models.specs(source.cfg)
  tokenizer = source.load_tokenizer(cfg.data.chat_template or None)
  template = problems_lib.template_of('data', cfg.data)
  encode = lambda row: rollout.encode_prompt(tokenizer, template, row)
  problems = to_answer(cfg, source)
  asked = frozenset(map(reader.text_key, problems))
  train, held_out, dropped = data_lib.load(cfg.data, tokenizer, encode, os.path.join(workdir, 'texts'), asked)
  rows = packing.Packing(train.lengths, cfg.data.max_length, cfg.seed)
  steps = math.ceil(rows.rows(cfg.epochs) / cfg.batch)
  log.info(
    '%d texts to train on, %d held out; dropped: %s; %d rows an epoch, %d steps',
    len(train),
    len(held_out),
    dropped,
    rows.rows(1),
    steps,
  )
  mesh = parallel.make_mesh(cfg.mesh)
  optimizer = optimizer_lib.make(cfg.optimizer, steps, specs, cfg.param_dtype)
  trainer = sft_lib.make_trainer(cfg, source.cfg, optimizer, mesh)
  sampler = answering(cfg, source) if problems else None
  os.makedirs(workdir, exist_ok=True)
  store = checkpoint.Store(
    os.path.join(workdir, checkpoint.CHECKPOINTS), cfg.checkpoint, fingerprint(cfg, source, train, steps)
  )
  return Run(
    cfg,
    workdir,
    steps,
    jax.random.key(cfg.seed),
    source,
    tokenizer,
    train,
    held_out,
    rows,
    problems,
    dropped,
    trainer,
    sampler,
    store,
    Writer(workdir) if parallel.is_primary() else runtime.NoWriter(),
    state_lib.abstract_state(specs, optimizer, mesh, cfg.param_dtype),
  )


def open_base(cfg):
  """The Source to begin from, with the context that the config gives it."""
  config_lib.require(
    cfg.model.path,
    'model.path is empty; pass a model directory, or the folder of a run, with '
    '--config.model.path=DIR. `experiments/pretrain.py` makes small ones.',
  )
  source = checkpoint.open_model(cfg.model.path)
  config_lib.require(source.cfg.head == 'tokens', f'{cfg.model.path} is a reward model; a policy needs an unembedding.')
  if cfg.context:
    model = dataclasses.replace(source.cfg, context=cfg.context)
    said = {'max_position_embeddings': families.to_hf(model)['max_position_embeddings']}
    source = dataclasses.replace(source, cfg=model, config=source.config | said)
  config_lib.require(
    cfg.data.max_length <= source.cfg.context,
    f"data.max_length {cfg.data.max_length} exceeds the model's context of {source.cfg.context} "
    f'tokens; lower it, or set context to {cfg.data.max_length} to train the model for that.',
  )
  return source


def to_answer(cfg, source):
  """The held-out problems that are answered and graded; [] where none are asked."""
  if not cfg.eval.problems:
    return []
  config_lib.check_context(cfg.eval, source.cfg.context, 'eval')
  template = problems_lib.template_of('problems', cfg.problems)
  tokenizer = source.load_tokenizer(cfg.problems.chat_template or None)
  found = problems_lib.load_problems(cfg.problems, cfg.reward)
  problems_lib.check_languages(cfg.reward, found, cfg.problems.language)
  problems, long = data.drop_long(
    found.held_out, lambda p: rollout.encode_prompt(tokenizer, template, p)[1], cfg.eval.max_prompt
  )
  config_lib.require(
    problems,
    'no problem is held out to answer; set problems.eval_path or problems.eval_fraction, or eval.problems to 0.',
  )
  if long:
    log.warning('%d held-out problems exceed eval.max_prompt and are not asked.', long)
  return problems


def answering(cfg, source):
  """The rollout.Sampler that answers and grades problems."""
  template = problems_lib.template_of('problems', cfg.problems)
  tokenizer = source.load_tokenizer(cfg.problems.chat_template or None)
  engine = sampling.Engine(
    source.cfg,
    tokenizer,
    parallel.make_mesh(parallel.with_default_sizes(cfg.sampler_mesh, cfg.mesh), name='sampler_mesh'),
    max_prompt=cfg.eval.max_prompt,
    max_response=cfg.eval.max_response,
    dtype=jnp.dtype(cfg.model.dtype),
  )
  grader, by_model = grading.graders(cfg.reward)
  return rollout.Sampler(engine, tokenizer, template, grader, cfg.reward, cfg.eval.batch, by_model)


def fingerprint(cfg, source, train, steps):
  """What a checkpoint must agree on with the run that restores it: the base, shapes, texts and their order."""
  whole = config_lib.to_dict(cfg)
  parts = {name: whole[name] for name in ('seed', 'batch', 'optimizer')}
  del parts['optimizer']['moment_dtype']  # dtypes are compared with the arrays
  if cfg.balance_rate:  # a run without one is the same as before it was kept here
    parts['balance_rate'] = cfg.balance_rate
  # More epochs go on under a constant rate; under any other the rate at every step follows from their number.
  parts['steps'] = steps if cfg.optimizer.schedule != 'constant' else 'any'
  return parts | {'texts': train.digest, 'model': source.config, 'base': source.digest}


def evaluate(run, params, texts, problems, samples):
  """{'loss', 'entropy'} of held-out texts, and where problems are asked `evaluation.evaluate`'s figures and its rows.

  Args:
    texts: how many; 0: all. problems, samples: how many, and answers to each.
  """
  cfg, size = run.cfg, run.cfg.microbatch or run.cfg.batch
  chosen = run.held_out.lengths[: texts or None]
  rows = packing.Packing(chosen, cfg.data.max_length, cfg.seed)
  count = rows.rows(1)
  pieces = (
    packed(run.held_out, [rows.row(i) for i in range(first, min(first + size, count))], cfg.data.max_length)
    for first in range(0, count, size)
  )
  metrics, answers = sft_lib.evaluate(run.trainer, params, pieces, size), []
  if run.sampler:
    some = run.problems[:problems]
    found, answers = evaluation.evaluate(
      run.sampler,
      params,
      some,
      samples=samples,
      reward=cfg.reward,
      sampling=sampling.Sampling(cfg.eval.temperature, cfg.eval.top_p),
      language=cfg.problems.language,
      key=evaluation.key(run.key),
      batch=min(cfg.eval.batch, len(some)),
    )
    metrics |= found
  return metrics, answers


def full_evaluation(run, params, step):
  """The figures before and after the run: all held-out texts, the final number of problems."""
  e = run.cfg.eval
  metrics, rows = evaluate(run, params, 0, e.final_problems or e.problems, e.final_samples or e.samples)
  if rows:
    run.writer.samples(step, rows)
  return metrics


def train_step(run, state, step):
  """Returns state, metrics."""
  began = time.perf_counter()
  batch, texts = run.batch(step)
  state, metrics = sft_lib.update(run.trainer, state, batch, run.cfg, step)
  seconds = time.perf_counter() - began
  tokens, answers = int((batch.segments > 0).sum()), int(batch.response.sum())
  return state, metrics | {
    'train/texts': texts,
    'train/response_tokens': answers,
    'train/fill': tokens / batch.tokens.size,
    'time/step': seconds,
    'throughput/train_tokens_per_second': tokens / seconds,
  }


def loop(run):
  """The run from its last checkpoint on. Returns the figures before and after."""
  cfg, workdir = run.cfg, run.workdir
  state, first = run.restore_or_init()
  config_lib.require(
    first <= run.steps,
    f'{workdir} holds a run of {first} steps already, but epochs {cfg.epochs} '
    f'are {run.steps}; raise epochs, or use another --workdir.',
  )
  json_files.write_config(workdir, cfg)
  run.writer.resume(first)
  bar = Progress(run.steps, first, label='SFT', shown=SHOWN, file=None if parallel.is_primary() else io.StringIO())
  with jax.transfer_guard('disallow'), bar:
    base = json_files.figures_once(
      os.path.join(workdir, 'eval_base.json'), lambda: full_evaluation(run, state.params, 0), anew=not first
    )
    for step in range(first, run.steps):
      metrics = {}
      with save_on_interrupt(run, state, step, first, run.steps):
        if step and step % cfg.eval.every == 0:
          found, rows = evaluate(run, state.params, cfg.eval.texts, cfg.eval.problems, cfg.eval.samples)
          metrics |= {f'eval/{name}': x for name, x in found.items()}
          if rows:
            run.writer.samples(step, rows)
        elif not step:
          metrics |= {f'eval/{name}': x for name, x in base.items()}
      state, trained = train_step(run, state, step)
      metrics |= trained
      run.writer.write(step, metrics)
      bar.update(metrics)
      if (step + 1) % cfg.checkpoint.every == 0 or step + 1 == run.steps:
        run.save(step + 1, state)
    run.store.wait()
    final = full_evaluation(run, state.params, run.steps)
    run.writer.write(run.steps, {f'eval/{name}': x for name, x in final.items()})
  return base, final


@exclusive
def run_sft(cfg, workdir):
  """Trains to the end, evaluates before and after, writes summary.json, plots and report. Returns the summary."""
  began = time.perf_counter()
  with contextlib.closing(start(cfg, workdir)) as run, runtime.exit_together():
    base, final = loop(run)
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
  json_files.write_json(os.path.join(workdir, 'summary.json'), summary)
  if parallel.is_primary():
    plot(workdir)
    report(workdir)
  return summary


def describe(summary, workdir):
  change = lambda name: f'{name} {summary["base"][name]:.3f} to {summary["final"][name]:.3f}'
  return f'{workdir}: ' + ', '.join(change(name) for name in ('loss', 'pass@1') if name in summary['final'])


if __name__ == '__main__':
  cli.main(run_sft, config_lib.SFT, 'Where the run keeps everything.', describe)
