"""Settings of a run's process, and its end where it is one of several."""

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
from r1jax.runs.cli import SAID_IN_ONE_LINE, out_of_memory_message

log = logging.getLogger('r1jax')


def set_up_process():
  """Settings of the process, for a main to call first: compiled programs and freed memory are kept.

  Joins the run's other processes, where there are any.

  Our own messages go to standard error, other libraries' from warnings on.
  Compiled programs go to the folder JAX_COMPILATION_CACHE_DIR, by default ~/.cache/r1jax/programs.

  XLA on CPU allocates each program's temporaries anew; unmapping and faulting them in again took a third of
  the processor time of a toy run. A thread's own arena returns them whatever the threshold, so there is to
  be one arena only. Without glibc the C library is left as it is.
  """
  absl_logging.set_verbosity(absl_logging.WARNING)  # orbax tells every detail of every save
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
    trim_threshold, mmap_threshold, arena_max, most = -1, -3, -8, 2**31 - 1
    libc.mallopt(arena_max, 1)
    libc.mallopt(mmap_threshold, 2**28)  # what is larger goes back at once, or memory doubles
    libc.mallopt(trim_threshold, most)


@contextlib.contextmanager
def exit_together():
  """An error in one of several processes ends it at once, with one line where it was written for a person.

  Nothing is closed or waited for: the others may be gone, and those that are not wait for this one until they miss it.
  """
  try:
    yield
  except BaseException as error:  # a lone process goes on to whoever handles it
    if jax.process_count() == 1 or isinstance(error, interrupt.Interrupted):
      raise
    at = f'process {jax.process_index()} of {jax.process_count()}'
    if isinstance(error, jax.errors.JaxRuntimeError) and out_of_memory_message(error):
      print(f'error: {at}: {out_of_memory_message(error)}', file=sys.stderr, flush=True)
      os._exit(1)
    if isinstance(error, jax.errors.JaxRuntimeError):
      said = f'{at} lost another one or its device ({str(error).splitlines()[0]:.200})'
    else:
      said = f'{at}: {error!r}' if not isinstance(error, SAID_IN_ONE_LINE) else f'{at}: {error}'
    if not isinstance(error, (*SAID_IN_ONE_LINE, jax.errors.JaxRuntimeError)):
      traceback.print_exc()
    print(
      f'error: {said}; give all processes the same command again to go on from the last checkpoint.',
      file=sys.stderr,
      flush=True,
    )
    os._exit(1)


class NoWriter:
  """The Writer of every process but the first."""

  write = samples = resume = close = lambda self, *_: None
