"""Trains the small base model of a toy world on generated text, from random weights, in minutes.

  python -m experiments.pretrain --config configs/toy_base.py:trial --workdir /tmp/base

The result is a model directory, `workdir/model`. It is reused where the same config, seed and text
made it. A base that has not learned to take its own steps is trained further, up to a limit:
reinforcement has nothing to build on otherwise.
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
from r1jax.training.accumulate import NonFiniteError

log = logging.getLogger('r1jax')

TEMPLATE = templates.TEMPLATES['plain']


def text_of(cfg, workdir):
  """The tokenizer's path and one long i32 array of the documents' tokens, both kept in workdir by content."""
  texts = worlds.documents(cfg.world, cfg.seed, cfg.documents)
  name = hashlib.sha256(json.dumps([cfg.vocab, texts]).encode()).hexdigest()[:16]
  path = os.path.join(workdir, 'text', name)
  if not os.path.exists(os.path.join(path, 'tokens.npy')):
    os.makedirs(path, exist_ok=True)
    lines = [line for text in texts for part in text for line in part.split('\n')]
    tokenizers.train(lines, os.path.join(path, 'tokenizer.model'), cfg.vocab)
    tokenizer = tokenizers.load(os.path.join(path, 'tokenizer.model'))
    # The same for transformers, which reads no SentencePiece model exactly as it is.
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
  """One schedule over random windows of the text. Round 0 is the main one; later ones are short and gentle."""
  steps = cfg.gate.extra_steps if round_ else cfg.steps
  # A short round refines what is there: from the full rate it would first have to unlearn.
  rate = cfg.optimizer.learning_rate * (0.3 if round_ else 1.0)
  optimizer = optimizer_lib.make(dataclasses.replace(cfg.optimizer, learning_rate=rate), steps, specs)
  opt_state = jax.jit(optimizer.init)(params)
  rng = np.random.default_rng([cfg.seed, round_])
  with tqdm.trange(steps, desc=f'base {cfg.world}, round {round_}', mininterval=1) as bar:
    for i in bar:
      interrupt.raise_if_stopped('the base is not trained to its end, and begins anew; run the same command again.')
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
  """{kind: share of right steps} among those the model takes in its own responses to held-out problems."""
  gate = cfg.gate
  asked = worlds.gate_problems(cfg.world, cfg.seed, gate.problems)
  prompts = [tokenizer.encode(TEMPLATE.format(p)) for p, _ in asked]
  engine = sampling.Engine(
    model,
    tokenizer,
    parallel.make_mesh(config_lib.Mesh()),
    max_prompt=max(map(len, prompts)),
    max_response=cfg.max_response,
  )
  keys = sampling.row_keys(jax.random.key(cfg.seed), len(asked), gate.samples)
  out = engine.sample(params, prompts, keys, sampling.Sampling())
  taken, right = collections.Counter(), collections.Counter()
  for (_, steps), responses, lengths in zip(asked, out.tokens, out.lengths):
    for tokens, length in zip(responses, lengths):
      for kind, is_right in steps(tokenizer.decode(tokens[:length])):
        taken[kind] += 1
        right[kind] += is_right
  return {kind: round(right[kind] / max(taken[kind], 1), 4) for kind in gate.steps}


@exclusive
def run(cfg, workdir):
  """Trains, or reuses, the base. Returns (model directory, info dict)."""
  runtime.set_up_process()
  tokenizer_path, stream = text_of(cfg, workdir)
  path = os.path.join(workdir, 'model')
  tokenizer = tokenizers.load(tokenizer_path)
  # A multiple of 64, as matrix units like it; and worlds and seeds then share their compiled programs.
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
    short = {kind: share for kind, share in accuracies[-1].items() if share < cfg.gate.steps[kind]}
    if not short:
      break
  else:
    log.warning(
      'after %d rounds the base takes too few of these steps right: %s, short of %s; RL will be weak.',
      cfg.gate.rounds + 1,
      short,
      dict(cfg.gate.steps),
    )
  if os.path.exists(info_path):
    os.remove(info_path)  # never the description of one model beside another
  config = families.for_export(families.to_hf(model), 'float32') | {'eos_token_id': tokenizer.eos[0]}
  hf.save(path, model, params, config, tokenizers.files(os.path.dirname(tokenizer_path)))
  info = {'made_by': made_by, 'step_accuracy': accuracies, 'parameters': params_lib.count(specs)}
  json_files.write_json(info_path, info)
  return path, info


@exclusive
def run_pretrain(cfg, workdir):
  """`run`, and its workdir/summary.json. Returns the summary."""
  began = time.perf_counter()
  _, info = run(cfg, workdir)
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
  cli.main(run_pretrain, config_lib.Pretrain, 'Where the model directory goes.', describe)
