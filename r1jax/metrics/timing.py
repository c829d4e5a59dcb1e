"""How long the parts of a step take."""

import contextlib
import time


class Stopwatch:
  """`with clock('update'): ...` adds the seconds within to `clock.seconds['update']`."""

  def __init__(self):
    self.seconds = {}

  @contextlib.contextmanager
  def __call__(self, name):
    began = time.perf_counter()
    try:
      yield
    finally:
      self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began

  def metrics(self):
    """time/NAME of each part, and time/step of all."""
    return {f'time/{name}': s for name, s in self.seconds.items()} | {'time/step': sum(self.seconds.values())}
