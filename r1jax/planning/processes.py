"""Compiles programs, each in a separate process, and caches the results in a directory."""

import concurrent.futures
import dataclasses
import hashlib
import importlib.metadata
import inspect
import json
import os
import pickle
import resource
import subprocess
import sys
import tempfile
import threading
import time

from r1jax import config as config_lib
from r1jax.planning import compiled as compiled_lib
from r1jax.planning import programs, topology

# For the TPU compiler and its runtime, which otherwise look for a TPU machine and for a lock.
ENVIRONMENT = {
  'JAX_PLATFORMS': 'cpu',
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'TPU_ACCELERATOR_TYPE': 'v5p-128',
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
  'TPU_STDERR_LOG_LEVEL': '3',
  'TPU_MIN_LOG_LEVEL': '3',
  'TF_CPP_MIN_LOG_LEVEL': '3',
}


class PlanError(RuntimeError):
  """A program could not be compiled, for another reason than its memory."""


@dataclasses.dataclass(frozen=True)
class Job:
  """One program to compile.

  Attributes:
    config: of the run, as a dict.
    model: ModelConfig.
    topology: name of a slice.
    program: one of the programs in programs.PHASES.
    cache: directory of cached results.
  """

  config: dict
  model: object
  topology: str
  program: str
  cache: str


def compile_all(names, cfg, model, slice_, cache):
  """Compiles programs, each in a separate process, at most four at a time; reports progress on standard error.

  Args:
    names: of programs.
    cfg: config of the run.
    model: ModelConfig.
    slice_: topology.Topology.
    cache: directory of cached results.

  Returns:
    {name: result of `run`}.

  Raises:
    ConfigError, PlanError: as `run`; the other programs are then abandoned.
  """
  config, abandoned = config_lib.to_dict(cfg), threading.Event()

  def compile_one(name):
    start, last = time.monotonic(), 0

    def watch(seconds):
      nonlocal last
      if abandoned.is_set():
        raise PlanError(f'{name} was abandoned because another program failed')
      if seconds >= last + 20 or not last:
        last = seconds
        _report(name, f'compiling, {seconds:.0f} s')

    result = run(Job(config, model, slice_.name, name, cache), watch)
    cost = (
      'cached'
      if result['cached']
      else f'{result["compile_cpu_seconds"]:.0f} s of processor time, {result["rss_bytes"] / 1e9:.1f} GB'
    )
    _report(name, f'{time.monotonic() - start:.0f} s ({cost})')
    return result

  with concurrent.futures.ThreadPoolExecutor(min(4, len(os.sched_getaffinity(0)))) as pool:
    futures = {name: pool.submit(compile_one, name) for name in names}
    try:
      done, _ = concurrent.futures.wait(futures.values(), return_when=concurrent.futures.FIRST_EXCEPTION)
      for future in done:
        future.result()
    finally:
      abandoned.set()
  return {name: future.result() for name, future in futures.items()}


def _report(name, message):
  print(f'{name}: {message}', file=sys.stderr, flush=True)


def run(job, watch=lambda seconds: None):
  """Runs a job in a separate process.

  Args:
    job: Job.
    watch: called about every second with the seconds since the start.

  Returns:
    dict, see `compile_`.

  Raises:
    ConfigError: the run does not fit the slice, see `programs.setting`.
    PlanError: the process failed.
  """
  start = time.monotonic()
  with tempfile.TemporaryDirectory() as folder:
    job_path, result_path, log_path = (os.path.join(folder, name) for name in ('job', 'result', 'log'))
    with open(job_path, 'wb') as f:
      pickle.dump(job, f)
    python_path = os.pathsep.join(p for p in sys.path if p)
    with open(log_path, 'wb') as log:
      child = subprocess.Popen(
        [sys.executable, '-m', 'r1jax.planning.processes', job_path, result_path],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env=os.environ | ENVIRONMENT | {'PYTHONPATH': python_path},
      )
    try:
      while True:
        try:
          code = child.wait(timeout=1)
          break
        except subprocess.TimeoutExpired:
          watch(time.monotonic() - start)
    finally:
      child.kill()
      child.wait()
    if code:
      with open(log_path, encoding='utf-8', errors='replace') as f:
        lines = [line.strip() for line in f if line.strip()] or ['no message']
      raise PlanError(
        f'{job.program} for {job.topology} was not compiled: {lines[-1][:300]} (exit status {code}); '
        'a negative status is a signal: -9 mostly means that the machine ran out of memory.'
      )
    with open(result_path, encoding='utf-8') as f:
      result = json.load(f)
  if 'error' in result:
    raise config_lib.ConfigError(result['error'])
  return result


def compile_(job):
  """Lowers and compiles a job's program, or looks up its cached result.

  Returns:
    dict with
    - the fields of `compiled.memory` and of `programs.lower`;
    - refused: None, or the first line of the compiler's out-of-memory error;
    - compile_cpu_seconds and rss_bytes of the compilation;
    - dot_flops (None if the compiled text is not available) and open_loops, see `compiled.dot_flops`;
    - kernels: the number of Pallas kernels, whose FLOPs are not in dot_flops;
    - cached: whether the result was looked up.
  """
  cfg = config_lib.of_run(job.config)
  devices = topology.devices(topology.find(job.topology))
  lowered, resident = programs.lower(job.program, programs.setting(cfg, job.model, devices))
  versions = [importlib.metadata.version(name) for name in ('jax', 'jaxlib', 'libtpu')]
  # The key includes the source that extracts the figures, so that cached results do not outlive a change to it.
  inputs = [job.topology, versions, inspect.getsource(compiled_lib), lowered.as_text()]
  key = hashlib.sha256(json.dumps(inputs).encode()).hexdigest()
  path = os.path.join(job.cache, key + '.json')
  if os.path.exists(path):
    with open(path, encoding='utf-8') as f:
      return json.load(f) | resident | {'cached': True}
  start = time.process_time()
  result = _compile(lowered)
  result |= {
    'compile_cpu_seconds': time.process_time() - start,
    'versions': versions,
    'rss_bytes': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
  }
  os.makedirs(job.cache, exist_ok=True)
  with open(f'{path}.{os.getpid()}', 'w', encoding='utf-8') as f:
    json.dump(result, f)
  os.replace(f'{path}.{os.getpid()}', path)
  return result | resident | {'cached': False}


def _compile(lowered):
  unknown = {'dot_flops': None, 'open_loops': 0, 'kernels': 0}
  try:
    compiled = lowered.compile()
  except Exception as error:  # the class is the runtime's and not exported by jax
    needed = compiled_lib.bytes_of_refusal(str(error))
    if needed is None:
      raise
    # The error has only the total.
    return unknown | {
      'argument_bytes': None,
      'temp_bytes': None,
      'code_bytes': None,
      'peak_bytes': needed,
      'compiler_peak_bytes': None,
      'refused': str(error).splitlines()[0],
    }
  memory = compiled_lib.memory(compiled) | {'refused': None}
  try:
    text = compiled.as_text()
  except Exception:  # for some programs a check in the compiler's printer fails
    return memory | unknown
  flops, open_loops = compiled_lib.dot_flops(text)
  return memory | {'dot_flops': flops, 'open_loops': open_loops, 'kernels': text.count('"tpu_custom_call"')}


def _main(job_path, result_path):
  with open(job_path, 'rb') as f:
    job = pickle.load(f)
  try:
    result = compile_(job)
  except config_lib.ConfigError as error:
    result = {'error': str(error)}
  with open(result_path, 'w', encoding='utf-8') as f:
    json.dump(result, f)


if __name__ == '__main__':
  # Pickled jobs name this module, not __main__.
  from r1jax.planning import processes

  processes._main(*sys.argv[1:])
