"""Speed and memory of reading a checkpoint; see `experiments.benchmark`, which runs it as `import`.

A bfloat16 checkpoint of random bits is written to a temporary directory. It is read as training does, and by
safetensors.numpy.load_file, in separate processes, alternately, with the files in the page cache.
"""

import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from r1jax import config as config_lib
from r1jax import models, parallel
from r1jax import params as params_lib
from r1jax.checkpoint import families, hf, safetensors_files
from r1jax.runs import json_files, runtime


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
  code = f'import json; from experiments import benchmark_import as b; print(json.dumps(b.{name}(*{args!r})))'
  process = subprocess.run([sys.executable, '-c', code], stdout=subprocess.PIPE, check=True, text=True)
  return json.loads(process.stdout)


def run(f):
  """Benchmark `import`; f: flags."""
  preset = f.preset if f['preset'].present else 'qwen2_5_1_5b'
  with tempfile.TemporaryDirectory() as path:
    size = make_checkpoint(path, models.PRESETS[preset])
    runs = [(run_in_process('read_once', path), run_in_process('import_once', path)) for _ in range(1 + f.repeats)][1:]
  plain, ours = (min((run[i] for run in runs), key=lambda r: r['seconds']) for i in (0, 1))
  peak = [max(run[i]['peak'] for run in runs) for i in (0, 1)]
  print(
    json.dumps(
      {
        'bench': 'import',
        'preset': preset,
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
