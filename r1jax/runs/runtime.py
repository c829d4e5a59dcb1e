"""Process-wide settings of a run, and how an error ends one process of several."""

import contextlib
import ctypes
import logging
import os
import sys
import traceback

from absl import logging as absl_logging
import jax

from r1jax import parallel
from r1jax.parallel import interrupt
from r1jax.runs.cli import USER_ERRORS, out_of_memory_message

log = logging.getLogger('r1jax')


def set_up_process():
  """Sets up logging, the compilation cache and the allocator; to be called first by every command.

  Also connects to the other processes of the run, if there are any.

  Messages of r1jax go to standard error; those of other libraries only from warnings on.
  Compiled programs are cached in JAX_COMPILATION_CACHE_DIR, by default ~/.cache/r1jax/programs.

  XLA on CPU allocates the temporaries of a program anew at every call; unmapping them and faulting them in again took a
  third of the processor time of a toy run, so malloc is told to keep freed memory. Per-thread arenas return memory
  whatever the threshold, so only one arena is allowed. Without glibc nothing is changed.
  """
  absl_logging.set_verbosity(absl_logging.WARNING)  # Orbax logs every detail of every save
  parallel.connect()
  if not log.handlers:
    log.setLevel(logging.INFO if not jax.distributed.is_initialized() or parallel.is_primary() else logging.ERROR)
    log.addHandler(logging.StreamHandler())
    log.propagate = False
  cache = os.environ.get('JAX_COMPILATION_CACHE_DIR') or os.path.join(
    os.path.expanduser('~'), '.cache', 'r1jax', 'programs'
  )
  jax.config.update('jax_compilation_cache_dir', cache)
  if 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS' not in os.environ:
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.3)
  libc = ctypes.CDLL(None)
  if hasattr(libc, 'mallopt'):
    trim_threshold, mmap_threshold, arena_max, int_max = -1, -3, -8, 2**31 - 1
    libc.mallopt(arena_max, 1)
    libc.mallopt(mmap_threshold, 2**28)  # larger blocks are returned at once; otherwise memory use doubles
    libc.mallopt(trim_threshold, int_max)


@contextlib.contextmanager
def exit_together():
  """Within, an error in one of several processes ends that process at once, with one line if it is a user error.

  Nothing is closed or waited for: other processes may already be gone, and the rest wait for this one until their own
  connection fails.
  """
  try:
    yield
  except BaseException as error:
    if jax.process_count() == 1 or isinstance(error, interrupt.Interrupted):
      raise
    process = f'process {jax.process_index()} of {jax.process_count()}'
    if isinstance(error, jax.errors.JaxRuntimeError) and out_of_memory_message(error):
      print(f'error: {process}: {out_of_memory_message(error)}', file=sys.stderr, flush=True)
      os._exit(1)
    if isinstance(error, jax.errors.JaxRuntimeError):
      message = f'{process} lost another process or its device ({str(error).splitlines()[0]:.200})'
    elif isinstance(error, USER_ERRORS):
      message = f'{process}: {error}'
    else:
      message = f'{process}: {error!r}'
      traceback.print_exc()
    print(
      f'error: {message}; start all processes with the same command again to resume from the last checkpoint.',
      file=sys.stderr,
      flush=True,
    )
    os._exit(1)


class NoWriter:
  """Stands in for the Writer in every process but the first, and writes nothing."""

  write = samples = resume = close = lambda self, *_: None
