"""Trains a reward model: of preferences, of safety, or of the steps of solutions.

  python -m experiments.reward_model --config configs/reward_model.py:toy_preference --workdir D
  python -m experiments.reward_model --config configs/reward_model.py:helpful --config.model.path=DIR \\
      --config.data.path=pairs.jsonl --workdir D

The model is any policy with a new head of one number a token, a reward model trained on, or random where model.path is
empty. It lies in D/model at the end, and what it is worth on held-out examples in D/summary.json and D/plots. A run
killed at any moment goes on when the same command is given again, and ends with the same numbers.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import logging
import math
import os
import time

import jax
import numpy as np

from r1jax import checkpoint, models, parallel, tokenizers
from r1jax import config as config_lib
from r1jax import params as params_lib
from r1jax.checkpoint import families, hf
from r1jax.data import labelled, order
from r1jax.data.conversation import Encoder
from r1jax.evaluation import scored
from r1jax.metrics import reward_plots
from r1jax.metrics.progress import Progress
from r1jax.metrics.writer import Writer
from r1jax.rewards.neural.model import ABOUT, MODEL, About, Scorer
from r1jax.runs import cli, json_files, runtime
from r1jax.runs.workdir import exclusive, save_on_interrupt
from r1jax.training import optimizer as optimizer_lib
from r1jax.training import reward as reward_lib
from r1jax.training import state as state_lib
from r1jax.training.accumulate import Trainer

log = logging.getLogger('r1jax')

SHOWN = {'loss': 'train/loss', 'accuracy': 'train/accuracy', 'held out': 'eval/accuracy'}


@dataclasses.dataclass(frozen=True)
class Run:
  """Everything the loop needs, made from its config; see `start`."""

  cfg: config_lib.RewardModel
  workdir: str
  steps: int
  source: checkpoint.Source | None
  model: models.ModelConfig
  tokenizer: tokenizers.Tokenizer
  encoder: Encoder
  train: list
  held_out: list
  dropped: dict
  trainer: Trainer
  scorer: Scorer
  store: checkpoint.Store
  writer: Writer
  abstract: state_lib.TrainState

  def save(self, step, state):
    """Begins to save the state before `step`."""
    self.store.save(step, state)

  def close(self):
    self.writer.close()
    self.store.close()


def make_tokenizer(cfg, workdir, items):
  """The path of a tokenizer made from the training texts, kept in workdir by its content."""
  config_lib.require(
    jax.process_count() == 1,
    'model.path is empty, and a tokenizer is made by one process alone; give all processes a model.path.',
  )
  texts = [turn['content'] for item in items for turn in item['turns']] + [t for item in items for t in item['texts']]
  name = hashlib.sha256(json.dumps([cfg.vocab, texts]).encode()).hexdigest()[:16]
  path = os.path.join(workdir, 'tokenizer', name, 'tokenizer.model')
  if not os.path.exists(path):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    lines = [line[i : i + 1000] for text in texts for line in text.split('\n') for i in range(0, len(line), 1000)]
    try:
      tokenizers.train(lines, path + '.tmp', cfg.vocab)
    except RuntimeError as error:  # the library's word for texts of more characters than ids
      raise config_lib.ConfigError(
        f'no tokenizer of {cfg.vocab} ids can be made from these texts ('
        f'{str(error).strip().splitlines()[-1]:.300}); raise vocab.'
      ) from error
    os.replace(path + '.tmp', path)
  return path


def open_base(cfg, workdir, items):
  """Source or None, ModelConfig with head 'score', tokenizer."""
  if cfg.model.path:
    source = checkpoint.open_model(cfg.model.path)
    return source, dataclasses.replace(source.cfg, head='score'), source.load_tokenizer(cfg.data.chat_template or None)
  config_lib.require(
    cfg.model.preset in models.PRESETS,
    f'model.path is empty and model.preset is {cfg.model.preset!r}; pass a model directory with '
    f'--config.model.path=DIR, or for random weights a preset: {", ".join(models.PRESETS)}.',
  )
  tokenizer = tokenizers.load(make_tokenizer(cfg, workdir, items))
  shape = models.PRESETS[cfg.model.preset]
  return None, dataclasses.replace(shape, vocab=-(-tokenizer.vocab // 64) * 64, head='score'), tokenizer


def start(cfg, workdir):
  """Checks a config against its model and data, and builds what a run needs.

  Raises:
    ConfigError, DataError, ModelDirError, TokenizerError: before anything compiles.
  """
  runtime.set_up_process()
  items, held_items, dropped = labelled.load(cfg.data, cfg.objective)
  source, model, tokenizer = open_base(cfg, workdir, items)
  config_lib.require(
    cfg.data.max_length <= model.context,
    f"data.max_length {cfg.data.max_length} exceeds the model's context of {model.context} tokens; lower it.",
  )
  encoder = Encoder(tokenizer, cfg.data.form, cfg.data.max_length, cfg.data.steps)
  train, counts = labelled.encode(items, encoder, cfg.objective)
  held_out, held_counts = labelled.encode(held_items, encoder, cfg.objective)
  dropped |= counts | {f'{name}_held_out': n for name, n in held_counts.items()}
  config_lib.require(train and held_out, f'no example is left within data.max_length {cfg.data.max_length}; raise it.')
  log.info('%d examples to train on, %d held out; left out or cut: %s', len(train), len(held_out), dropped)
  specs, mesh = models.specs(model), parallel.make_mesh(cfg.mesh)
  steps = math.ceil(cfg.epochs * len(train) / cfg.batch)
  optimizer = optimizer_lib.make(cfg.optimizer, steps, specs, cfg.param_dtype)
  trainer = reward_lib.make_trainer(cfg, model, optimizer, mesh)
  os.makedirs(workdir, exist_ok=True)
  store = checkpoint.Store(
    os.path.join(workdir, checkpoint.CHECKPOINTS), cfg.checkpoint, fingerprint(cfg, model, source, train, steps)
  )
  scorer = Scorer(model, mesh, cfg.model.dtype, cfg.microbatch or cfg.batch, cfg.model.attention)
  writer = Writer(workdir) if parallel.is_primary() else runtime.NoWriter()
  abstract = state_lib.abstract_state(specs, optimizer, mesh, cfg.param_dtype)
  return Run(
    cfg,
    workdir,
    steps,
    source,
    model,
    tokenizer,
    encoder,
    train,
    held_out,
    dropped,
    trainer,
    scorer,
    store,
    writer,
    abstract,
  )


def fingerprint(cfg, model, source, train, steps):
  """What a checkpoint must agree on with the run that restores it: the base, shapes, examples and objective."""
  whole = config_lib.to_dict(cfg)
  parts = {name: whole[name] for name in ('seed', 'objective', 'batch', 'data', 'optimizer')}
  del parts['optimizer']['moment_dtype']
  digest = hashlib.sha256()
  for example in train:
    for row in example.rows:
      digest.update(row.ids.tobytes() + row.marks.tobytes())
    digest.update(example.labels.tobytes())
  parts['steps'] = steps if cfg.optimizer.schedule != 'constant' else 'any'
  return parts | {
    'model': families.to_hf(model),
    'base': source.digest if source else 'random',
    'examples': digest.hexdigest(),
  }


def first_params(run):
  """The base's parameters under a head of random numbers, the reward model's own, or all random."""
  like, specs, key = run.abstract.params, models.specs(run.model), jax.random.key(run.cfg.seed)
  of_base = models.specs(run.source.cfg) if run.source else {}
  known = {name: x for name, x in like.items() if name in of_base}
  new = {name: x for name, x in like.items() if name not in of_base}
  params = run.source.load(known) if known else {}
  if new:
    make = lambda key: jax.tree.map(
      lambda x, to: x.astype(to.dtype), params_lib.init({name: specs[name] for name in new}, key), new
    )
    params |= jax.jit(make, out_shardings=jax.tree.map(lambda x: x.sharding, new))(key)
  return params


def evaluate(run, params, examples):
  """Scores of examples, for each a list of one array a row."""
  found = iter(run.scorer(params, [row for example in examples for row in example.rows]))
  return [[next(found) for _ in example.rows] for example in examples]


def figures(run, examples, scores, prior=None):
  """What `evaluation.scored` says of them."""
  sizes = np.array([[row.size for row in example.rows] for example in examples])
  if run.cfg.objective == 'pairs':
    chosen, rejected = np.array(scores)[:, :, 0].T
    return scored.pairs(chosen, rejected, sizes[:, 0] - sizes[:, 1])
  labels = [example.labels[0] for example in examples]
  if run.cfg.objective == 'points':
    return scored.points(np.array(scores)[:, 0, 0], np.array(labels)[:, 0], sizes[:, 0])
  return scored.steps([s[0] for s in scores], labels, prior)


def full_evaluation(run, params):
  """The figures of all held-out examples, and their scores."""
  scores = evaluate(run, params, run.held_out)
  prior = scored.by_place([e.labels[0] for e in run.train]) if run.cfg.objective == 'steps' else None
  return figures(run, run.held_out, scores, prior), scores


def loop(run):
  """The run from its last checkpoint on. Returns the final state."""
  cfg = run.cfg
  restored = run.store.restore(run.abstract)
  state, first = restored or (state_lib.new_state(first_params(run), run.trainer.optimizer, run.abstract), 0)
  config_lib.require(
    first <= run.steps,
    f'{run.workdir} holds a run of {first} steps already, but epochs {cfg.epochs} '
    f'are {run.steps}; raise epochs, or use another --workdir.',
  )
  json_files.write_config(run.workdir, cfg)
  run.writer.resume(first)
  watched = run.held_out[: cfg.eval.examples or None]
  bar = Progress(
    run.steps, first, label=cfg.objective, shown=SHOWN, file=None if parallel.is_primary() else io.StringIO()
  )
  with jax.transfer_guard('disallow'), bar:
    for step in range(first, run.steps):
      metrics = {}
      with save_on_interrupt(run, state, step, first, run.steps):
        if step % cfg.eval.every == 0:
          found = figures(run, watched, evaluate(run, state.params, watched))
          metrics |= {f'eval/{name}': found[name] for name in ('loss', 'accuracy')}
      began = time.perf_counter()
      examples = order.batch(run.train, cfg.seed, step, cfg.batch)
      state, trained = reward_lib.update(run.trainer, state, examples, run.cfg, step)
      seconds = time.perf_counter() - began
      tokens = sum(len(row.ids) for example in examples for row in example.rows)
      metrics |= trained | {'time/step': seconds, 'throughput/train_tokens_per_second': tokens / seconds}
      run.writer.write(step, metrics)
      bar.update(metrics)
      if (step + 1) % cfg.checkpoint.every == 0 or step + 1 == run.steps:
        run.save(step + 1, state)
    run.store.wait()
  return state


def save(run, params, center):
  """Writes workdir/model: weights, config, tokenizer, and what its scores are about."""
  data = run.cfg.data
  about = About(run.cfg.objective, run.encoder.form, data.view, data.steps, data.max_length, data.chat_template, center)
  path = os.path.join(run.workdir, ABOUT)
  json_files.write_json(path, dataclasses.asdict(about))
  params = parallel.to_host(params)
  if parallel.is_primary():
    eos = run.tokenizer.eos[0]
    # transformers reads the score of the last token that is no padding; a text ends with eos, so padding is another.
    config = families.for_export(families.to_hf(run.model), params['embed'].dtype.name) | {
      'eos_token_id': eos,
      'pad_token_id': 0 if eos else 1,
    }
    files = tokenizers.files(os.path.dirname(run.tokenizer.path))
    hf.save(os.path.join(run.workdir, MODEL), run.model, params, config, [*files, path])


@exclusive
def run_reward_model(cfg, workdir):
  """Trains to the end, scores what is held out, writes model, summary.json and plots. Returns the summary."""
  began = time.perf_counter()
  with contextlib.closing(start(cfg, workdir)) as run, runtime.exit_together():
    state = loop(run)
    found, scores = full_evaluation(run, state.params)
    run.writer.write(run.steps, {f'eval/{name}': found[name] for name in ('loss', 'accuracy')})
    rows = [
      {
        'id': e.id,
        'scores': [s.tolist() for s in score],
        'labels': e.labels.tolist(),
        'lengths': [row.size for row in e.rows],
      }
      for e, score in zip(run.held_out, scores)
    ]
    run.writer.samples(run.steps, rows)
    center = float(np.mean([s for score in scores for s in score])) if cfg.objective == 'pairs' else 0.0
    save(run, state.params, center)
  summary = {
    'final': found,
    'steps': run.steps,
    'train': len(run.train),
    'held_out': len(run.held_out),
    'dropped': run.dropped,
    'parameters': params_lib.count(models.specs(run.model)),
    'seed': cfg.seed,
    'seconds': time.perf_counter() - began,
    'config': config_lib.to_dict(cfg),
  }
  json_files.write_json(os.path.join(workdir, 'summary.json'), summary)
  if parallel.is_primary():
    pairs = (
      [(float(row['scores'][0][0] - row['scores'][1][0]), row['lengths'][0] - row['lengths'][1]) for row in rows]
      if cfg.objective == 'pairs'
      else None
    )
    reward_plots.plot(workdir, found, tuple(zip(*pairs)) if pairs else None)
  return summary


def text(summary):
  """The figures that say most, in a line."""
  final = summary['final']
  low, high = final['interval']
  line = (
    f'{summary["held_out"]} held out: accuracy {final["accuracy"]:.3f} (95%: {low:.3f} to {high:.3f}), '
    f'calibration error {final["calibration"]["ece"]:.3f}'
  )
  if 'auc' in final:
    line += f', AUC {final["auc"]:.3f}, balanced accuracy {final["balanced_accuracy"]:.3f}'
  if 'first_error' in final:
    line += f', first error {final["first_error"]["accuracy"]:.3f} (F1 {final["first_error"]["f1"]:.3f})'
  return line


def describe(summary, workdir):
  return f'{os.path.join(workdir, MODEL)}: {text(summary)}'


if __name__ == '__main__':
  cli.main(run_reward_model, config_lib.RewardModel, 'Where the run keeps everything.', describe)
