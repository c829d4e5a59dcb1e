"""Trains a reward model: on preference pairs, on safety labels, or on the steps of solutions (process rewards).

  python -m experiments.reward_model --config configs/reward_model.py:toy_preference --workdir D
  python -m experiments.reward_model --config configs/reward_model.py:helpful --config.model.path=DIR \\
      --config.data.path=pairs.jsonl --workdir D

The base is a policy, whose unembedding is replaced by a new head with one output per token, or an existing reward
model; with an empty model.path it is random weights. The result is D/model, and its metrics on held-out examples are in
D/summary.json and D/plots. If a run is killed at any moment, the same command resumes it and ends with the same
numbers.
"""

import contextlib
import dataclasses
import hashlib
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
from r1jax.metrics.writer import Writer
from r1jax.rewards.neural.model import ABOUT, MODEL, About, Scorer
from r1jax.runs import cli, json_files, loop, runtime
from r1jax.runs.workdir import exclusive, save_on_interrupt
from r1jax.training import optimizer as optimizer_lib
from r1jax.training import reward as reward_lib
from r1jax.training import state as state_lib
from r1jax.training.accumulate import Trainer

log = logging.getLogger('r1jax')

SHOWN = {'loss': 'train/loss', 'accuracy': 'train/accuracy', 'held out': 'eval/accuracy'}


@dataclasses.dataclass(frozen=True)
class Run:
  """Everything a run needs; built by `make_run`."""

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
  writer: Writer | runtime.NoWriter
  abstract: state_lib.TrainState

  def save(self, step, state):
    """Starts saving the state before `step`."""
    self.store.save(step, state)

  def restore_or_init(self):
    """(state, next step) of the newest checkpoint; without one, the initial parameters and step 0."""
    restored = self.store.restore(self.abstract)
    return restored or (state_lib.new_state(init_params(self), self.trainer.optimizer, self.abstract), 0)

  def close(self):
    self.writer.close()
    self.store.close()


def make_tokenizer(cfg, workdir, items):
  """Trains a tokenizer on the training texts, cached in workdir by a hash of the texts. Returns its path."""
  config_lib.require(
    jax.process_count() == 1,
    'model.path is empty, and only a single process can train a tokenizer; set model.path to use several processes.',
  )
  texts = [turn['content'] for item in items for turn in item['turns']] + [t for item in items for t in item['texts']]
  name = hashlib.sha256(json.dumps([cfg.vocab, texts]).encode()).hexdigest()[:16]
  path = os.path.join(workdir, 'tokenizer', name, 'tokenizer.model')
  if not os.path.exists(path):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    lines = [line[i : i + 1000] for text in texts for line in text.split('\n') for i in range(0, len(line), 1000)]
    try:
      tokenizers.train(lines, path + '.tmp', cfg.vocab)
    except RuntimeError as error:  # raised by the library when the texts have more distinct characters than ids
      raise config_lib.ConfigError(
        f'no tokenizer of {cfg.vocab} ids can be trained on these texts ('
        f'{str(error).strip().splitlines()[-1]:.300}); raise vocab.'
      ) from error
    os.replace(path + '.tmp', path)
  return path


def open_base(cfg, workdir, items):
  """Opens the base model. Returns (Source, or None for random weights; ModelConfig with head 'score'; tokenizer)."""
  if cfg.model.path:
    source = checkpoint.open_model(cfg.model.path)
    return source, dataclasses.replace(source.cfg, head='score'), source.load_tokenizer(cfg.data.chat_template or None)
  config_lib.require(
    cfg.model.preset in models.PRESETS,
    f'model.path is empty and model.preset is {cfg.model.preset!r}; pass a model directory with '
    f'--config.model.path=DIR, or a preset for random weights: {", ".join(models.PRESETS)}.',
  )
  tokenizer = tokenizers.load(make_tokenizer(cfg, workdir, items))
  preset = models.PRESETS[cfg.model.preset]
  return None, dataclasses.replace(preset, vocab=-(-tokenizer.vocab // 64) * 64, head='score'), tokenizer


def make_run(cfg, workdir):
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
  log.info('%d examples for training, %d held out; dropped or truncated: %s', len(train), len(held_out), dropped)
  specs, mesh = models.specs(model), parallel.make_mesh(cfg.mesh)
  steps = math.ceil(cfg.epochs * len(train) / cfg.batch)
  optimizer = optimizer_lib.make(cfg.optimizer, steps, specs, cfg.param_dtype)
  trainer = reward_lib.make_trainer(cfg, model, optimizer, mesh)
  store = loop.open_store(workdir, cfg.checkpoint, fingerprint(cfg, model, source, train, steps))
  return Run(
    cfg=cfg,
    workdir=workdir,
    steps=steps,
    source=source,
    model=model,
    tokenizer=tokenizer,
    encoder=encoder,
    train=train,
    held_out=held_out,
    dropped=dropped,
    trainer=trainer,
    scorer=Scorer(model, mesh, cfg.model.dtype, cfg.microbatch or cfg.batch, cfg.model.attention),
    store=store,
    writer=loop.open_writer(workdir),
    abstract=state_lib.abstract_state(specs, optimizer, mesh, cfg.param_dtype),
  )


def fingerprint(cfg, model, source, train, steps):
  """What a checkpoint must agree on with the run that restores it: base model, shapes, examples and objective."""
  full = config_lib.to_dict(cfg)
  parts = {name: full[name] for name in ('seed', 'objective', 'batch', 'data', 'optimizer', 'balance_rate')}
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


def init_params(run):
  """The initial parameters: those of the base, with random ones where it has none, such as the head."""
  key = jax.random.key(run.cfg.seed)
  return checkpoint.load_with_head(run.source, run.model, run.abstract.params, key)


def score(run, params, examples):
  """Scores examples. Returns for each example a list of one f32 array per row (a text or the steps of a solution)."""
  scores = iter(run.scorer(params, [row for example in examples for row in example.rows]))
  return [[next(scores) for _ in example.rows] for example in examples]


def compute_metrics(run, examples, scores, prior=None):
  """The metrics of `evaluation.scored` for the run's objective.

  Args:
    scores: of `score`.
    prior: for steps, the share of right steps by place in the training data (`scored.by_place`).
  """
  sizes = np.array([[row.size for row in example.rows] for example in examples])
  if run.cfg.objective == 'pairs':
    chosen, rejected = np.array(scores)[:, :, 0].T
    return scored.pairs(chosen, rejected, sizes[:, 0] - sizes[:, 1])
  labels = [example.labels[0] for example in examples]
  if run.cfg.objective == 'points':
    return scored.points(np.array(scores)[:, 0, 0], np.array(labels)[:, 0], sizes[:, 0])
  return scored.steps([s[0] for s in scores], labels, prior)


def full_evaluation(run, params):
  """Scores all held-out examples. Returns (metrics, scores)."""
  scores = score(run, params, run.held_out)
  prior = scored.by_place([e.labels[0] for e in run.train]) if run.cfg.objective == 'steps' else None
  return compute_metrics(run, run.held_out, scores, prior), scores


def train_step(run, state, step):
  """Trains on one batch. Returns (state, {metric: number})."""
  began = time.perf_counter()
  examples = order.batch(run.train, run.cfg.seed, step, run.cfg.batch)
  state, metrics = reward_lib.update(run.trainer, state, examples, run.cfg, step)
  seconds = time.perf_counter() - began
  tokens = sum(len(row.ids) for example in examples for row in example.rows)
  return state, metrics | {'time/step': seconds, 'throughput/train_tokens_per_second': tokens / seconds}


def train(run):
  """Trains from the last checkpoint to the end. Returns the final state."""
  cfg = run.cfg
  state, first_step = run.restore_or_init()
  loop.begin(run, first_step, run.steps, 'epochs')
  eval_examples = run.held_out[: cfg.eval.examples or None]
  bar = loop.progress_bar(run.steps, first_step, label=cfg.objective, shown=SHOWN)
  with jax.transfer_guard('disallow'), bar:
    for step in range(first_step, run.steps):
      metrics = {}
      with save_on_interrupt(run, state, step, first_step, run.steps):
        if step % cfg.eval.every == 0:
          eval_metrics = compute_metrics(run, eval_examples, score(run, state.params, eval_examples))
          metrics |= {f'eval/{name}': eval_metrics[name] for name in ('loss', 'accuracy')}
      state, train_metrics = train_step(run, state, step)
      metrics |= train_metrics
      run.writer.write(step, metrics)
      bar.update(metrics)
      if loop.checkpoint_is_due(cfg.checkpoint, step, run.steps):
        run.save(step + 1, state)
    run.store.wait()
  return state


def save(run, params, center):
  """Writes workdir/model: weights, config, tokenizer, and the About record that says how to score with it.

  Args:
    params: final parameters.
    center: mean score of the held-out texts, subtracted from scores; 0 except for pairs.
  """
  data = run.cfg.data
  about = About(run.cfg.objective, run.encoder.form, data.view, data.steps, data.max_length, data.chat_template, center)
  path = os.path.join(run.workdir, ABOUT)
  json_files.write_json(path, dataclasses.asdict(about))
  params = parallel.to_host(params)
  if parallel.is_primary():
    eos = run.tokenizer.eos[0]
    # transformers takes the score of the last token that is not padding. Texts end with EOS, so padding must differ.
    config = families.for_export(families.to_hf(run.model), params['embed'].dtype.name) | {
      'eos_token_id': eos,
      'pad_token_id': 0 if eos else 1,
    }
    with tokenizers.as_folder(run.tokenizer.path) as folder:
      files = [*tokenizers.files(folder), path]
      hf.save(os.path.join(run.workdir, MODEL), run.model, params, config, files)


@exclusive
def run_reward_model(cfg, workdir):
  """Trains to the end and scores the held-out examples. Writes model, summary.json and plots; returns the summary."""
  began = time.perf_counter()
  with contextlib.closing(make_run(cfg, workdir)) as run, runtime.exit_together():
    state = train(run)
    metrics, scores = full_evaluation(run, state.params)
    run.writer.write(run.steps, {f'eval/{name}': metrics[name] for name in ('loss', 'accuracy')})
    rows = [
      {
        'id': e.id,
        'scores': [s.tolist() for s in example_scores],
        'labels': e.labels.tolist(),
        'lengths': [row.size for row in e.rows],
      }
      for e, example_scores in zip(run.held_out, scores)
    ]
    run.writer.samples(run.steps, rows)
    center = (
      float(np.mean([s for example_scores in scores for s in example_scores])) if cfg.objective == 'pairs' else 0.0
    )
    save(run, state.params, center)
  summary = {
    'final': metrics,
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
    reward_plots.plot(workdir, metrics, tuple(zip(*pairs)) if pairs else None)
  return summary


def text(summary):
  """The main metrics in one line."""
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
  cli.main(run_reward_model, config_lib.RewardModel, 'The folder of the run.', describe)
