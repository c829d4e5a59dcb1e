"""Trains the small base model of a toy world on generated text, from random weights, in minutes.

  python -m experiments.pretrain --config configs/toy_base.py:trial --workdir /tmp/base

The result is the model directory `workdir/model`. It is reused if it was made from the same config, seed and text. A
base that gets too few of its own reasoning steps right is trained further, up to a limit, as RL would otherwise have
nothing to build on.
"""

import collections
import dataclasses
import functools
import hashlib
import json
import logging
import os
import time

import jax
import numpy as np
import tqdm

from r1jax import config as config_lib
from r1jax import models, parallel, sampling, templates, tokenizers
from r1jax import params as params_lib
from r1jax.checkpoint import families, hf
from r1jax.data.toy import worlds
from r1jax.parallel import interrupt
from r1jax.runs import cli, json_files, runtime
from r1jax.runs.workdir import exclusive
from r1jax.training import lm
from r1jax.training import optimizer as optimizer_lib
from r1jax.training.finite import NonFiniteError

log = logging.getLogger('r1jax')

TEMPLATE = templates.TEMPLATES['plain']


def prepare_text(cfg, workdir):
  """Generates the training text and its tokenizer, both cached in workdir by a hash of the text.

  Returns:
    the tokenizer's path, and the tokens of all documents, i32[N].
  """
  texts = worlds.documents(cfg.world, cfg.seed, cfg.documents)
  name = hashlib.sha256(json.dumps([cfg.vocab, texts]).encode()).hexdigest()[:16]
  path = os.path.join(workdir, 'text', name)
  if not os.path.exists(os.path.join(path, 'tokens.npy')):
    os.makedirs(path, exist_ok=True)
    lines = [line for text in texts for part in text for line in part.split('\n')]
    tokenizers.train(lines, os.path.join(path, 'tokenizer.model'), cfg.vocab)
    tokenizer = tokenizers.load(os.path.join(path, 'tokenizer.model'))
    # A copy for transformers, which does not read SentencePiece models exactly.
    tokenizers.to_tokenizer_json(os.path.join(path, 'tokenizer.model'), os.path.join(path, 'tokenizer.json'))
    json_files.write_json(os.path.join(path, 'tokenizer_config.json'), tokenizers.transformers_config(tokenizer))
    rows = []
    for problem, response in texts:
      rows += [tokenizer.encode(TEMPLATE.format({'problem': problem})), tokenizer.encode(response), tokenizer.eos[:1]]
    with open(os.path.join(path, 'tokens.tmp'), 'wb') as f:
      np.save(f, np.concatenate(rows).astype(np.int32))
    os.replace(os.path.join(path, 'tokens.tmp'), os.path.join(path, 'tokens.npy'))
  return os.path.join(path, 'tokenizer.model'), np.load(os.path.join(path, 'tokens.npy'))


def train(cfg, model, specs, params, stream, round_):
  """Trains one round on random windows of the text; rounds after 0 are short, with a lower learning rate.

  Args:
    stream: tokens, i32[N].
    round_: number of the round.

  Returns:
    the new parameters.
  """
  steps = cfg.gate.extra_steps if round_ else cfg.steps
  # A short round refines the model; at the full learning rate it would first lose some of what was learned.
  rate = cfg.optimizer.learning_rate * (0.3 if round_ else 1.0)
  optimizer = optimizer_lib.make(dataclasses.replace(cfg.optimizer, learning_rate=rate), steps, specs)
  opt_state = jax.jit(optimizer.init)(params)
  rng = np.random.default_rng([cfg.seed, round_])
  with tqdm.trange(steps, desc=f'base {cfg.world}, round {round_}', mininterval=1) as bar:
    for i in bar:
      interrupt.raise_if_stopped(
        'training of the base is not saved; run the same command again to start it from the beginning.'
      )
      starts = rng.integers(0, len(stream) - cfg.length, size=cfg.batch)
      tokens = stream[starts[:, None] + np.arange(cfg.length)]
      params, opt_state, loss = lm.step(
        params, opt_state, tokens, cfg=model, optimizer=optimizer, balance_rate=cfg.balance_rate
      )
      if i % 50 == 49 or i + 1 == steps:
        bar.set_postfix(loss=f'{float(loss):.3f}')
        if not np.isfinite(float(loss)):
          raise NonFiniteError(f'base training: the loss is {float(loss)} at step {i}; lower optimizer.learning_rate.')
  return params


def step_accuracy(cfg, model, params, tokenizer):
  """{kind of step: share that is right} of the steps in the model's responses to held-out problems."""
  gate = cfg.gate
  problems = worlds.gate_problems(cfg.world, cfg.seed, gate.problems)
  prompts = [tokenizer.encode(TEMPLATE.format(p)) for p, _ in problems]
  engine = sampling.Engine(
    model,
    tokenizer,
    parallel.make_mesh(config_lib.Mesh()),
    max_prompt=max(map(len, prompts)),
    max_response=cfg.max_response,
  )
  keys = sampling.row_keys(jax.random.key(cfg.seed), len(problems), gate.samples)
  out = engine.sample(params, prompts, keys, sampling.SamplingParams())
  total, right = collections.Counter(), collections.Counter()
  for (_, check_steps), responses, lengths in zip(problems, out.tokens, out.lengths):
    for tokens, length in zip(responses, lengths):
      for kind, is_right in check_steps(tokenizer.decode(tokens[:length])):
        total[kind] += 1
        right[kind] += is_right
  return {kind: round(right[kind] / max(total[kind], 1), 4) for kind in gate.steps}


@exclusive
def train_or_reuse(cfg, workdir):
  """Trains the base, or reuses an existing one. Returns (model directory, content of base.json)."""
  runtime.set_up_process()
  tokenizer_path, stream = prepare_text(cfg, workdir)
  path = os.path.join(workdir, 'model')
  tokenizer = tokenizers.load(tokenizer_path)
  # A multiple of 64 suits matrix units, and lets worlds and seeds share their compiled programs.
  model = dataclasses.replace(models.PRESETS[cfg.preset], vocab=-(-tokenizer.vocab // 64) * 64)
  text = os.path.basename(os.path.dirname(tokenizer_path))
  made_by = {'pretrain': config_lib.to_dict(cfg), 'model': dataclasses.asdict(model), 'text': text}
  made_by = json.loads(json.dumps(made_by))
  info_path = os.path.join(workdir, 'base.json')
  if os.path.exists(info_path) and os.path.isdir(path):
    with open(info_path) as f:
      info = json.load(f)
    if info['made_by'] == made_by:
      log.info('base model reused: %s', path)
      return path, info
  specs = models.specs(model)
  params = jax.jit(functools.partial(params_lib.init, specs))(jax.random.key(cfg.seed))
  accuracies = []
  for round_ in range(cfg.gate.rounds + 1):
    params = train(cfg, model, specs, params, stream, round_)
    accuracies.append(step_accuracy(cfg, model, params, tokenizer))
    failed = {kind: share for kind, share in accuracies[-1].items() if share < cfg.gate.steps[kind]}
    if not failed:
      break
  else:
    log.warning(
      'after %d rounds the step accuracy of the base is too low: %s, required: %s; RL will be weak.',
      cfg.gate.rounds + 1,
      failed,
      dict(cfg.gate.steps),
    )
  if os.path.exists(info_path):
    os.remove(info_path)  # so that it never describes a different model
  config = families.for_export(families.to_hf(model), 'float32') | {'eos_token_id': tokenizer.eos[0]}
  hf.save(path, model, params, config, tokenizers.files(os.path.dirname(tokenizer_path)))
  info = {'made_by': made_by, 'step_accuracy': accuracies, 'parameters': params_lib.count(specs)}
  json_files.write_json(info_path, info)
  return path, info


@exclusive
def run_pretrain(cfg, workdir):
  """Trains the base, or reuses an existing one, and writes workdir/summary.json. Returns the summary."""
  began = time.perf_counter()
  _, info = train_or_reuse(cfg, workdir)
  summary = {
    'final': {f'step_accuracy/{kind}': x for kind, x in info['step_accuracy'][-1].items()},
    'rounds': len(info['step_accuracy']),
    'parameters': info['parameters'],
    'seed': cfg.seed,
    'seconds': time.perf_counter() - began,
    'config': config_lib.to_dict(cfg),
  }
  json_files.write_json(os.path.join(workdir, 'summary.json'), summary)
  return summary


def describe(summary, workdir):
  return f'{os.path.join(workdir, "model")}: {summary["parameters"]} parameters, right steps {summary["final"]}'


if __name__ == '__main__':
  cli.main(run_pretrain, config_lib.Pretrain, 'The folder for the model directory.', describe)
