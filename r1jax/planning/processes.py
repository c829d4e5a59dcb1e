"""Programs compiled one at a time, each in a process of its own, with what was found kept in a folder."""

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
import time

from r1jax import config as config_lib
from r1jax.planning import compiled as compiled_lib
from r1jax.planning import programs, topology

# Read by the TPU compiler and its runtime, which otherwise look for a TPU machine, and for a lock.
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
  """A program that could not be compiled, for another reason than its memory."""


@dataclasses.dataclass(frozen=True)
class Job:
  """One program to compile.

  Attributes:
    config: of config.RL or config.SFT, as a dict. model: ModelConfig. topology: a slice's name.
    program: one of programs.PHASES' programs.
    cache: folder of results. critic: whether a value network is there too.
  """

  config: dict
  model: object
  topology: str
  program: str
  cache: str
  critic: bool = False


def run(job, watch=lambda seconds: None):
  """The result of a job, a dict (see `compile_`), from a process of its own.

  Args:
    watch: called about every second with the seconds since the start.

  Raises:
    ConfigError: as `programs.setting`. PlanError.
  """
  began = time.monotonic()
  with tempfile.TemporaryDirectory() as folder:
    paths = [os.path.join(folder, name) for name in ('job', 'result', 'log')]
    with open(paths[0], 'wb') as f:
      pickle.dump(job, f)
    search = os.pathsep.join(p for p in sys.path if p)
    with open(paths[2], 'wb') as log:
      child = subprocess.Popen(
        [sys.executable, '-m', 'r1jax.planning.processes', *paths[:2]],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env=os.environ | ENVIRONMENT | {'PYTHONPATH': search},
      )
    try:
      while True:
        try:
          code = child.wait(timeout=1)
          break
        except subprocess.TimeoutExpired:
          watch(time.monotonic() - began)
    finally:
      child.kill()
      child.wait()
    if code:
      with open(paths[2], encoding='utf-8', errors='replace') as f:
        lines = [line.strip() for line in f if line.strip()] or ['no message']
      raise PlanError(
        f'{job.program} for {job.topology} was not compiled: {lines[-1][:300]} (status {code}); '
        'a negative status is a signal, 9 mostly too little memory.'
      )
    with open(paths[1], encoding='utf-8') as f:
      result = json.load(f)
  if 'error' in result:
    raise config_lib.ConfigError(result['error'])
  return result


def compile_(job):
  """Lowers and compiles a job's program, or finds what was kept of it.

  Returns:
    dict with the fields of `compiled.memory`, those of `programs.lower`, refused (None, or the compiler's first line),
    compile_cpu_seconds, rss_bytes, dot_flops (None where the text cannot be had) and open_loops as
    `compiled.dot_flops`, kernels (how many Pallas kernels, whose FLOPs are not among them).
  """
  cfg = config_lib.of_run(job.config)
  place = topology.devices(topology.find(job.topology))
  lowered, stays = programs.lower(job.program, programs.setting(cfg, job.model, place, job.critic))
  versions = [importlib.metadata.version(name) for name in ('jax', 'jaxlib', 'libtpu')]
  # With the source of what reads the figures off, so that none outlives a change of it.
  what = [job.topology, versions, inspect.getsource(compiled_lib), lowered.as_text()]
  key = hashlib.sha256(json.dumps(what).encode()).hexdigest()
  path = os.path.join(job.cache, key + '.json')
  if os.path.exists(path):
    with open(path, encoding='utf-8') as f:
      return json.load(f) | stays | {'cached': True}
  began = time.process_time()
  found = _compiled(lowered)
  found |= {
    'compile_cpu_seconds': time.process_time() - began,
    'versions': versions,
    'rss_bytes': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
  }
  os.makedirs(job.cache, exist_ok=True)
  with open(f'{path}.{os.getpid()}', 'w', encoding='utf-8') as f:
    json.dump(found, f)
  os.replace(f'{path}.{os.getpid()}', path)
  return found | stays | {'cached': False}


def _compiled(lowered):
  unknown = {'dot_flops': None, 'open_loops': 0, 'kernels': 0}
  try:
    compiled = lowered.compile()
  except Exception as error:  # the runtime's own class, which jax does not export
    needed = compiled_lib.refused(str(error))
    if needed is None:
      raise
    # What of it are arguments the compiler does not say.
    return unknown | {
      'argument_bytes': None,
      'temp_bytes': None,
      'code_bytes': None,
      'peak_bytes': needed,
      'compiler_peak_bytes': None,
      'refused': str(error).splitlines()[0],
    }
  found = compiled_lib.memory(compiled) | {'refused': None}
  try:
    text = compiled.as_text()
  except Exception:  # some programs have no text (a check in the compiler's printer fails); all else is there
    return found | unknown
  flops, open_loops = compiled_lib.dot_flops(text)
  return found | {'dot_flops': flops, 'open_loops': open_loops, 'kernels': text.count('"tpu_custom_call"')}


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
