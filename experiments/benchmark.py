"""Speed and memory of sampling, training, log-probs, import and grading on this machine, as one JSON line.

  python -m experiments.benchmark sample|train|logprobs [--model.path=DIR | --preset=NAME] [--dtype=bfloat16] ...
  python -m experiments.benchmark sample --temperature=0.6 --top_p=0.95
  python -m experiments.benchmark sample --ends=geometric     (responses end at random, mean a quarter of the limit)
  python -m experiments.benchmark import             (or --preset=...; needs disk space for the files, and memory)
  python -m experiments.benchmark math                        (or code: rewards, by --workers processes)

Without --model.path or --preset the model is random: 8 layers, width 512, 8/2 heads, MLP 1536, vocabulary 8192. Prompts
are random tokens. `experiments.benchmark_torch` does the same work with transformers and torch.

Tokens of `sample` are new tokens. Tokens of `train` and `logprobs` are all positions of the [prompts x samples,
prompt + new] batch, however often a prompt is really computed; `response_tok_s` counts responses alone. The bound is
the time of the weight products alone, with the same shapes in the same run; it includes reading the weights.

`math` and `code` grade --items responses: 2 kB of text with various answers, or short programs with three asserts.
"""

import dataclasses
import functools
import json
import os
import resource
import statistics
import sys
import time

from absl import app, flags
import jax
import numpy as np

from configs import r1_zero
from experiments import benchmark_grading, benchmark_import
from r1jax import checkpoint, models, parallel, sampling
from r1jax import config as config_lib
from r1jax import params as params_lib
from r1jax.batch import RolloutBatch
from r1jax.runs import cli, runtime
from r1jax.training import optimizer as optimizer_lib
from r1jax.training import policy
from r1jax.training import state as state_lib


def timed(run, repeats, trace=''):
  """[(wall seconds, processor seconds)] of `repeats` calls after a first one, and the wall seconds of that first.

  trace: a folder for the profile of one more call; '': none.
  """

  def once():
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu

  first, times = once(), [once() for _ in range(repeats)]
  if trace:
    with jax.profiler.trace(trace):
      run()
  return times, first[0]


def bound(model, rows, passes, calls, dtype='float32'):
  """Seconds for the weight products of `rows` tokens, `calls` times: forward (passes=1), or with backward (3)."""
  head, kv = model.heads * model.head_dim, model.kv_heads * model.head_dim
  layer = [
    (model.embed, head),
    (model.embed, kv),
    (model.embed, kv),
    (head, model.embed),
    (model.embed, model.mlp),
    (model.embed, model.mlp),
    (model.mlp, model.embed),
  ]
  shapes = layer * model.layers + [(model.embed, model.vocab)]
  key = jax.random.key(0)
  weights = [jax.random.normal(key, s, dtype) for s in shapes]
  inputs = {n: jax.random.normal(key, (rows, n), dtype) for n in {d for s in shapes for d in s}}

  @jax.jit
  def products(weights, inputs):
    out = []
    for w in weights:
      x, g = inputs[w.shape[0]], inputs[w.shape[1]]
      out.append(x @ w)
      if passes == 3:
        out += [g @ w.T, x.T @ g]
    return [o[:1, :1] for o in jax.lax.optimization_barrier(out)]

  times, _ = timed(lambda: jax.block_until_ready(products(weights, inputs)), 5)
  return calls * min(wall for wall, _ in times)


class Tokenizer:
  """Only end-of-sequence ids: none, or one id in `mean`, as a random model samples nearly uniformly."""

  def __init__(self, vocab, mean):
    self.eos = tuple(range(3, 3 + vocab // mean)) if mean else ()


def sample(model, params, mesh, f):
  """Benchmark `sample`; f: flags.

  Returns:
    tokens of each call; their times and the seconds of the first, as `timed`; arguments of `bound`.
  """
  engine = sampling.Engine(
    model,
    Tokenizer(model.vocab, f.new_tokens // 4 if f.ends == 'geometric' else 0),
    mesh,
    max_prompt=f.prompt_tokens,
    max_response=f.new_tokens,
    precision=sampling.Precision(f.dtype),
    slots=f.slots,
  )
  prompts = np.random.default_rng(0).integers(3, model.vocab, (f.prompts, f.prompt_tokens)).tolist()
  weights = engine.prepare_params(params)
  lengths = []

  def run():
    keys = sampling.row_keys(jax.random.key(len(lengths)), f.prompts, f.samples)
    out = engine.sample(weights, prompts, keys, sampling.SamplingParams(f.temperature, f.top_p))
    lengths.append(out.lengths)

  times, first = timed(run, f.repeats, f.trace)
  tokens = [int(n.sum()) for n in lengths[1:]]
  steps = statistics.mean(int(n.max()) for n in lengths[1:])
  share = statistics.mean(n.sum() / (n.size * n.max()) for n in lengths[1:])  # of rows that are still live
  return tokens, times, first, dict(rows=f.prompts * f.samples, passes=1, calls=steps * share)


def train(model, params, mesh, f):
  """Benchmark `train`: one optimizer step of GRPO with a KL term, whose reference log-probs are given; as `sample`."""
  cfg, batch = _training(model, f)
  optimizer = optimizer_lib.make(cfg.optimizer, cfg.steps, models.specs(model))
  abstract = state_lib.abstract_state(models.specs(model), optimizer, mesh)
  state = [state_lib.new_state(params, optimizer, abstract)]
  trainer = policy.make_trainer(cfg, model, optimizer, mesh)

  def run():
    state[0], _ = policy.update(trainer, state[0], batch, cfg, 0)
    jax.block_until_ready(state[0].params)

  times, first = timed(run, f.repeats, f.trace)
  return _tokens(f), times, first, _products(cfg, f, passes=3)


def logprobs(model, params, mesh, f):
  """Benchmark `logprobs`: the log-probs of a rollout, as of the reference and the old policy; as `sample`."""
  cfg, batch = _training(model, f)
  trainer = policy.make_trainer(cfg, model, optimizer_lib.make(cfg.optimizer, cfg.steps, models.specs(model)), mesh)
  times, first = timed(lambda: policy.logprobs(params, batch, cfg, trainer.loss_fn.logprobs), f.repeats, f.trace)
  return _tokens(f), times, first, _products(cfg, f, passes=1)


def _training(model, f):
  """A config.RL of the benchmark's sizes, and a random RolloutBatch."""
  config = r1_zero.get_config('gsm8k')
  config.model.update(path='random', dtype=f.dtype, remat=f.remat)
  config.rollout.update(
    prompts=f.prompts, samples=f.samples, max_prompt=f.prompt_tokens, max_response=f.new_tokens, chunk=0
  )
  config.train.update(microbatch=f.microbatch, logit_chunk=f.logit_chunk)
  config.loss.kl_coef = 0.04
  cfg = config_lib.convert(config, config_lib.RL)
  rng = np.random.default_rng(0)
  shape = (f.prompts, f.samples, f.new_tokens)
  logp = np.full(shape, -np.log(model.vocab), np.float32)
  batch = RolloutBatch(
    prompts=rng.integers(3, model.vocab, (f.prompts, f.prompt_tokens), dtype=np.int32),
    prompt_lengths=np.full(f.prompts, f.prompt_tokens, np.int32),
    tokens=rng.integers(3, model.vocab, shape, dtype=np.int32),
    lengths=np.full(shape[:2], f.new_tokens, np.int32),
    loss_mask=np.ones(shape, bool),
    sampler_logp=logp,
    ref_logp=logp,
    advantage=rng.standard_normal((*shape[:2], 1)).astype(np.float32),
  )
  return cfg, batch


def _tokens(f):
  return [f.prompts * f.samples * (f.prompt_tokens + f.new_tokens)] * f.repeats


def _products(cfg, f, passes):
  rows, groups = policy.microbatch_shape(cfg)
  positions = groups * (f.prompt_tokens + rows * f.new_tokens)
  return dict(rows=positions, passes=passes, calls=f.prompts * f.samples // (rows * groups))


RUNS = {'sample': sample, 'train': train, 'logprobs': logprobs}


def open_model(f, mesh):
  """(ModelConfig, parameters in float32) of --model.path or --preset."""
  path = f['model.path'].value
  config_lib.require(not (path and f['preset'].present), 'both --model.path and --preset are set; leave one out.')
  source = checkpoint.open_model(path) if path else None
  model = source.cfg if source else models.PRESETS[f.preset]
  config_lib.require(not (model.moe or model.mla), 'the bound is that of a dense model without MLA; use another one.')
  if source:
    return model, source.load(source.abstract(mesh, 'float32'))
  specs = models.specs(model)
  init = jax.jit(functools.partial(params_lib.init, specs), out_shardings=parallel.shardings(specs, mesh))
  return model, init(jax.random.key(0))


def report(name, model, result, f):
  """Prints the JSON line. result: as `sample` returns it."""
  tokens, times, first, products = result
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # before the bound is measured, which takes memory too
  rate = [n / wall for n, (wall, _) in zip(tokens, times)]
  best = min(wall for wall, _ in times)
  sizes = ('prompts', 'samples', 'prompt_tokens', 'new_tokens', 'dtype')
  settings = {'sample': ('temperature', 'top_p', 'ends', 'slots')}.get(name, ('microbatch', 'logit_chunk', 'remat'))
  line = {'bench': name, 'model': f['model.path'].value or f.preset, 'shape': dataclasses.asdict(model)}
  line |= {key: f[key].value for key in sizes + settings}
  line |= {
    'tokens': tokens,
    'tok_s_best': round(max(rate), 1),
    'tok_s_median': round(statistics.median(rate), 1),
    'tok_per_cpu_s': round(max(n / cpu for n, (_, cpu) in zip(tokens, times)), 1),
  }
  if name != 'sample':
    line['response_tok_s'] = round(max(rate) * f.new_tokens / (f.prompt_tokens + f.new_tokens), 1)
  line |= {
    'compile_s': round(first - best, 2),
    'fraction_of_bound': round(bound(model, **products, dtype=f.dtype) / best, 3),
    'peak_rss_mb': round(peak / 1024, 1),
    'device': jax.devices()[0].device_kind,
    'cores': len(os.sched_getaffinity(0)),
    'load1': round(os.getloadavg()[0], 2),
    'jax': jax.__version__,
  }
  print(json.dumps(line))


def main(argv):
  name, f = argv[1] if len(argv) == 2 else None, flags.FLAGS
  if name == 'import':
    benchmark_import.run(f)
  elif name in ('math', 'code'):
    benchmark_grading.run(name, f, timed)
  elif name in RUNS:
    with cli.errors_in_one_line():
      runtime.set_up_process()
      mesh = parallel.make_mesh(config_lib.Mesh())
      model, params = open_model(f, mesh)
      report(name, model, RUNS[name](model, params, mesh, f), f)
  else:
    sys.exit('usage: python -m experiments.benchmark sample|train|logprobs|import|math|code [--flags]; see --help.')


def define_sizes():
  """The flags that experiments.benchmark_torch has too."""
  flags.DEFINE_string('model.path', '', 'A model directory, file or run; empty for random weights of --preset.')
  flags.DEFINE_enum(
    'preset', 'bench', list(models.PRESETS), 'Shape of the random model, or of the checkpoint (import).'
  )
  flags.DEFINE_enum('dtype', 'float32', ['float32', 'bfloat16'], 'Of the computation; training keeps float32 weights.')
  flags.DEFINE_integer('prompts', 8, 'Number of prompts.')
  flags.DEFINE_integer('samples', 8, 'Responses to each prompt.')
  flags.DEFINE_integer('prompt_tokens', 64, 'Tokens of a prompt.')
  flags.DEFINE_integer('new_tokens', 128, 'Maximum tokens of a response.')
  flags.DEFINE_float('temperature', 1.0, 'sample: temperature.')
  flags.DEFINE_float('top_p', 1.0, 'sample: top-p.')
  flags.DEFINE_integer('microbatch', 8, 'train, logprobs: responses per forward and backward.')
  flags.DEFINE_integer('repeats', 3, 'Timed calls, after one that is not timed.')


if __name__ == '__main__':
  define_sizes()
  flags.DEFINE_enum('ends', 'full', ['full', 'geometric'], 'sample: responses run to the limit, or end at random.')
  flags.DEFINE_integer('slots', 0, 'sample: rows decoded at a time, refilled; 0: all in lock step.', lower_bound=0)
  flags.DEFINE_integer('logit_chunk', 1024, 'train, logprobs: positions whose logits are in memory at a time.')
  flags.DEFINE_enum('remat', 'products', list(models.POLICIES), 'train: what the backward pass computes again.')
  flags.DEFINE_string('trace', '', 'sample, train, logprobs: folder for a profile of one more call, for XProf.')
  flags.DEFINE_integer('items', 1000, 'math, code: responses to grade.')
  flags.DEFINE_integer('workers', 2, 'math, code: worker processes.')
  app.run(main)
