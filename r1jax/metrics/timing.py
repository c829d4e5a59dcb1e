"""Measures the time of the phases of a step."""

import contextlib
import time


class Stopwatch:
  """`with clock('update'): ...` adds the seconds spent in the block to `clock.seconds['update']`."""

  def __init__(self):
    self.seconds, self._processor = {}, time.process_time()

  @contextlib.contextmanager
  def __call__(self, name):
    start = time.perf_counter()
    try:
      yield
    finally:
      self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

  def metrics(self):
    """Seconds as metrics: time/NAME of each phase, time/step of all; time/processor, of all threads."""
    total = {'time/step': sum(self.seconds.values()), 'time/processor': time.process_time() - self._processor}
    return {f'time/{name}': s for name, s in self.seconds.items()} | total
