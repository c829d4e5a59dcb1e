"""Speed and memory of sampling, training, import and grading on this machine, as one JSON line.

  python -m experiments.benchmark sample
  python -m experiments.benchmark sample --ends=geometric     (responses end at random, mean a quarter of the limit)
  python -m experiments.benchmark sample --prompt_tokens=512
  python -m experiments.benchmark train
  python -m experiments.benchmark import             (or --preset=...; needs disk space for the files, and memory)
  python -m experiments.benchmark math                        (or code: rewards, by --workers processes)

Tokens of `sample` are new tokens; tokens of `train` are all positions of the [prompts x samples, prompt + new] batch,
however often a prompt is really computed. The bound is the time of the weight products alone, with the same shapes in
the same run. The model is random: 8 layers, width 512, 8/2 heads, MLP 1536, vocabulary 8192, float32.

`import` reads a bfloat16 checkpoint of random bits from a temporary directory, and compares the time with that of
safetensors.numpy.load_file. Both run in separate processes, alternately, with the files in the page cache.

`math` and `code` grade --items responses: 2 kB of text with various answers, or short programs with three asserts.
"""

import dataclasses
import functools
import json
import math
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

from absl import app, flags
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from configs import r1_zero
from r1jax import config as config_lib
from r1jax import models, parallel, sampling
from r1jax import params as params_lib
from r1jax.batch import RolloutBatch
from r1jax.checkpoint import families, hf, safetensors_files
from r1jax.rewards.workers import pool
from r1jax.runs import json_files, runtime
from r1jax.training import optimizer as optimizer_lib
from r1jax.training import policy
from r1jax.training import state as state_lib

MODEL = models.PRESETS['bench']


def timed(run, repeats):
  """[(wall seconds, processor seconds)] of `repeats` calls after a first one, and the wall seconds of that first."""

  def once():
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu

  first = once()
  return [once() for _ in range(repeats)], first[0]


def bound(rows, passes, calls):
  """Seconds for the weight products of `rows` tokens, `calls` times: forward (passes=1), or with backward (3)."""
  head, kv = MODEL.heads * MODEL.head_dim, MODEL.kv_heads * MODEL.head_dim
  layer = [
    (MODEL.embed, head),
    (MODEL.embed, kv),
    (MODEL.embed, kv),
    (head, MODEL.embed),
    (MODEL.embed, MODEL.mlp),
    (MODEL.embed, MODEL.mlp),
    (MODEL.mlp, MODEL.embed),
  ]
  shapes = layer * MODEL.layers + [(MODEL.embed, MODEL.vocab)]
  key = jax.random.key(0)
  weights = [jax.random.normal(key, s) for s in shapes]
  inputs = {n: jax.random.normal(key, (rows, n)) for n in {d for s in shapes for d in s}}

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

  def __init__(self, mean):
    self.eos = tuple(range(3, 3 + MODEL.vocab // mean)) if mean else ()


def sample(params, mesh, f):
  """Benchmark `sample`: (tokens of each call, its times, seconds of the first call, bound in seconds); f: flags."""
  engine = sampling.Engine(
    MODEL,
    Tokenizer(f.new_tokens // 4 if f.ends == 'geometric' else 0),
    mesh,
    max_prompt=f.prompt_tokens,
    max_response=f.new_tokens,
    slots=f.slots,
  )
  prompts = np.random.default_rng(0).integers(3, MODEL.vocab, (f.prompts, f.prompt_tokens)).tolist()
  lengths = []

  def run():
    keys = sampling.row_keys(jax.random.key(len(lengths)), f.prompts, f.samples)
    lengths.append(engine.sample(params, prompts, keys, sampling.SamplingParams()).lengths)

  times, first = timed(run, f.repeats)
  tokens = [int(n.sum()) for n in lengths[1:]]
  steps = statistics.mean(int(n.max()) for n in lengths[1:])
  return (
    tokens,
    times,
    first,
    bound(f.prompts * f.samples, 1, 1) * steps * statistics.mean(n.sum() / (n.size * n.max()) for n in lengths[1:]),
  )


def train(params, mesh, f):
  """Benchmark `train`; see `sample`."""
  config = r1_zero.get_config('gsm8k')
  config.model.update(path='random', dtype='float32', remat='none')
  config.rollout.update(
    prompts=f.prompts, samples=f.samples, max_prompt=f.prompt_tokens, max_response=f.new_tokens, chunk=0
  )
  config.train.update(microbatch=f.microbatch, logit_chunk=f.logit_chunk)
  config.loss.kl_coef = 0.04
  cfg = config_lib.convert(config, config_lib.RL)
  specs = models.specs(MODEL)
  optimizer = optimizer_lib.make(cfg.optimizer, cfg.steps, specs)
  abstract = state_lib.abstract_state(specs, optimizer, mesh)
  state = [state_lib.new_state(params, optimizer, abstract)]
  trainer = policy.make_trainer(cfg, MODEL, optimizer, mesh)
  rng = np.random.default_rng(0)
  shape = (f.prompts, f.samples, f.new_tokens)
  batch = RolloutBatch(
    prompts=rng.integers(3, MODEL.vocab, (f.prompts, f.prompt_tokens), dtype=np.int32),
    prompt_lengths=np.full(f.prompts, f.prompt_tokens, np.int32),
    tokens=rng.integers(3, MODEL.vocab, shape, dtype=np.int32),
    lengths=np.full(shape[:2], f.new_tokens, np.int32),
    loss_mask=np.ones(shape, bool),
    sampler_logp=np.full(shape, -9.0, np.float32),
    advantage=rng.standard_normal((*shape[:2], 1)).astype(np.float32),
  )
  batch = batch.replace(ref_logp=policy.logprobs(state[0].params, batch, cfg, trainer.loss_fn.logprobs))

  def run():
    state[0], _ = policy.update(trainer, state[0], batch, cfg, 0)
    jax.block_until_ready(state[0].params)

  times, first = timed(run, f.repeats)
  total = f.prompts * f.samples * (f.prompt_tokens + f.new_tokens)
  rows = f.microbatch // f.samples * (f.prompt_tokens + f.samples * f.new_tokens)
  return [total] * f.repeats, times, first, bound(rows, 3, f.prompts * f.samples // f.microbatch)


def make_checkpoint(path, cfg):
  """Writes a Hugging Face directory of random finite bfloat16, tensor by tensor; returns the bytes of parameters."""
  tensors = [t for by_index in families.tensors(cfg).values() for t in by_index.values()]
  with open(pathlib.Path(path) / 'model.safetensors', 'wb') as file:
    file.write(safetensors_files.header([(t.name, np.dtype(jnp.bfloat16), t.shape) for t in tensors]))
    rng = np.random.default_rng(0)
    for t in tensors:
      bits = rng.integers(0, 2**16, math.prod(t.shape), dtype=np.uint16)
      bits &= 0xBFFF  # keeps the exponent below that of infinity
      file.write(bits.data)
  json_files.write_json(os.path.join(path, 'config.json'), families.to_hf(cfg))
  return 2 * sum(math.prod(t.shape) for t in tensors)


def import_once(path):
  """Loads a model directory as training does; returns seconds, bytes read and peak memory of the process."""
  runtime.set_up_process()
  mesh = parallel.make_mesh(config_lib.Mesh())
  touch_memory(path)
  start = time.perf_counter()
  config = hf.read_config(path)
  cfg = families.from_hf(config, path)
  specs = models.specs(cfg)
  abstract = params_lib.abstract(
    specs, hf.dtypes(cfg, hf.open_files(path, cfg, config)), parallel.shardings(specs, mesh)
  )
  params, count = hf.load(path, cfg, config, abstract)
  jax.block_until_ready(params)
  return {'seconds': time.perf_counter() - start, 'bytes': count, 'peak': peak_rss()}


def read_once(path):
  """The same for the safetensors library alone; reads a byte of each page, as it maps files into memory."""
  touch_memory(path)
  start = time.perf_counter()
  arrays = [safetensors.numpy.load_file(file) for file in sorted(pathlib.Path(path).glob('*.safetensors'))]
  sum(int(x.reshape(-1).view(np.uint8)[::4096].sum()) for file in arrays for x in file.values())
  return {'seconds': time.perf_counter() - start, 'peak': peak_rss()}


def touch_memory(path):
  """Allocates and frees twice the size of the files.

  A virtual machine returns unused memory to its host. Getting it back takes longer than either way of reading, and only
  the first of the two would pay for it.
  """
  size = sum(file.stat().st_size for file in pathlib.Path(path).glob('*.safetensors'))
  subprocess.run([sys.executable, '-c', f'n = {2 * size}; b"x" * n'], check=True)


def peak_rss():
  """Peak resident bytes. Not ru_maxrss, which starts from that of the parent process."""
  status = pathlib.Path('/proc/self/status').read_text()
  return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith('VmHWM')))


def run_in_process(name, *args):
  """Calls a function of this module in a separate process and returns its result."""
  code = f'import json; from experiments import benchmark as b; print(json.dumps(b.{name}(*{args!r})))'
  process = subprocess.run([sys.executable, '-c', code], stdout=subprocess.PIPE, check=True, text=True)
  return json.loads(process.stdout)


def run_import(f):
  """Benchmark `import`; f: flags."""
  with tempfile.TemporaryDirectory() as path:
    size = make_checkpoint(path, models.PRESETS[f.preset])
    runs = [(run_in_process('read_once', path), run_in_process('import_once', path)) for _ in range(1 + f.repeats)][1:]
  plain, ours = (min((run[i] for run in runs), key=lambda r: r['seconds']) for i in (0, 1))
  peak = [max(run[i]['peak'] for run in runs) for i in (0, 1)]
  print(
    json.dumps(
      {
        'bench': 'import',
        'preset': f.preset,
        'parameter_bytes': size,
        'bytes_read': ours['bytes'],
        'seconds': round(ours['seconds'], 2),
        'plain_seconds': round(plain['seconds'], 2),
        'ratio': round(ours['seconds'] / plain['seconds'], 3),
        'gb_s': round(size / ours['seconds'] / 1e9, 2),
        'seconds_of_each': [[round(r['seconds'], 2) for r in pair] for pair in runs],
        'peak_rss_over_parameters': round(peak[1] / size, 3),
        'plain_peak_rss_over_parameters': round(peak[0] / size, 3),
        'cores': len(os.sched_getaffinity(0)),
        'load1': round(os.getloadavg()[0], 2),
        'jax': jax.__version__,
      }
    )
  )


ANSWERS = (
  ('{}', '{}'),
  (r'\frac{{{}}}{{7}}', '{}/7'),
  ('{}.50', '{}.5'),
  (r'{} \text{{ cm}}', '{}'),
  ('x = {}', '{}'),
  (r'\{{1, {}\}}', r'\{{{}, 1\}}'),
  (r'{}\sqrt{{2}}', r'\sqrt{{2}} \cdot {}'),
  ('({}, 3)', '({}, 3)'),
)


def math_items(count):
  """Responses of 2 kB; every other one is correct."""
  think = 'Let me see: 17 times 24 is 408, so the rest follows from the second equation. ' * 25
  forms = [ANSWERS[i % len(ANSWERS)] for i in range(count)]
  return [
    {
      'prompt': '',
      'answer': gold.format(i + 2),
      'response': f'<think>{think}</think><answer>{pred.format(i + 2 + i // len(ANSWERS) % 2)}</answer>',
    }
    for i, (pred, gold) in enumerate(forms)
  ]


def code_items(count):
  """Short programs; every other one is correct."""
  # All different, because equal programs would be run only once.
  program = '# {}\ndef f(n):\n    total = {}\n    for i in range(n):\n        total += i * i\n    return total\n'
  asserts = ['assert f(3) == 5', 'assert f(0) == 0', 'assert f(100) == 328350']
  return [{'prompt': '', 'program': program.format(i, i % 2), 'asserts': asserts} for i in range(count)]


def run_grading(name, f):
  """Benchmarks `math` and `code`; f: flags."""
  items = {'math': math_items, 'code': code_items}[name](f.items)
  with pool.Grader({name: {}}, f.workers, timeout=60.0) as grader:
    grader.submit(items[: f.workers]).result()  # waits until the workers have started
    times, _ = timed(lambda: grader.submit(items).result(), f.repeats)
    scores = grader.submit(items).result()
  best = min(wall for wall, _ in times)
  print(
    json.dumps(
      {
        'bench': name,
        'items': f.items,
        'workers': f.workers,
        'seconds': round(best, 2),
        'items_s': round(f.items / best, 1),
        'right': float(scores.parts[name].mean()),
        'timeouts': scores.timeouts,
        'cores': len(os.sched_getaffinity(0)),
        'load1': round(os.getloadavg()[0], 2),
      }
    )
  )


def main(argv):
  name = argv[1] if len(argv) == 2 else None
  if name not in ('sample', 'train', 'import', 'math', 'code'):
    sys.exit('usage: python -m experiments.benchmark sample|train|import|math|code [--flags]; see --help.')
  f = flags.FLAGS
  if name == 'import':
    run_import(f)
    return
  if name in ('math', 'code'):
    run_grading(name, f)
    return
  runtime.set_up_process()
  mesh = parallel.make_mesh(config_lib.Mesh())
  init = jax.jit(
    functools.partial(params_lib.init, models.specs(MODEL)), out_shardings=parallel.shardings(models.specs(MODEL), mesh)
  )
  params = init(jax.random.key(0))
  tokens, times, first, seconds = {'sample': sample, 'train': train}[name](params, mesh, f)
  rate = [n / wall for n, (wall, _) in zip(tokens, times)]
  print(
    json.dumps(
      {
        'bench': name,
        'model': dataclasses.asdict(MODEL),
        'prompts': f.prompts,
        'samples': f.samples,
        'prompt_tokens': f.prompt_tokens,
        'new_tokens': f.new_tokens,
        'ends': f.ends,
        'tokens': tokens,
        'tok_s_best': round(max(rate), 1),
        'tok_s_median': round(statistics.median(rate), 1),
        'tok_per_cpu_s': round(max(n / cpu for n, (_, cpu) in zip(tokens, times)), 1),
        'compile_s': round(first - min(wall for wall, _ in times), 2),
        'fraction_of_bound': round(seconds / min(wall for wall, _ in times), 3),
        'peak_rss_mb': round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        'device': jax.devices()[0].device_kind,
        'cores': os.cpu_count(),
        'load1': round(os.getloadavg()[0], 2),
        'jax': jax.__version__,
      }
    )
  )


if __name__ == '__main__':
  flags.DEFINE_integer('prompts', 8, 'Number of prompts.')
  flags.DEFINE_integer('samples', 8, 'Responses to each prompt.')
  flags.DEFINE_integer('prompt_tokens', 64, 'Tokens of a prompt.')
  flags.DEFINE_integer('new_tokens', 128, 'Maximum tokens of a response.')
  flags.DEFINE_enum('ends', 'full', ['full', 'geometric'], 'sample: responses run to the limit, or end at random.')
  flags.DEFINE_integer('slots', 0, 'sample: rows decoded at a time, refilled; 0: all in lock step.', lower_bound=0)
  flags.DEFINE_integer('microbatch', 8, 'train: responses per forward and backward.')
  flags.DEFINE_integer('logit_chunk', 1024, 'train: positions whose logits are in memory at a time.')
  flags.DEFINE_integer('repeats', 3, 'Timed calls, after one that is not timed.')
  flags.DEFINE_enum('preset', 'qwen2_5_1_5b', list(models.PRESETS), 'import: the shape of the checkpoint.')
  flags.DEFINE_integer('items', 1000, 'math, code: responses to grade.')
  flags.DEFINE_integer('workers', 2, 'math, code: worker processes.')
  app.run(main)
