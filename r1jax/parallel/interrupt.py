"""SIGTERM and Ctrl-C ask a run to end where nothing is lost; Ctrl-C once more ends it at once.

A thread of its own reads the signals, as Python's handlers wait for a compilation or a device to come back.
"""

import contextlib
import multiprocessing
import os
import signal
import threading

import numpy as np

from r1jax.parallel import hosts

SIGNALS = (signal.SIGINT, signal.SIGTERM)

_asked = 0  # the number of the signal that came first; 0: none
_listening = False


class Interrupted(Exception):
  """A run ends as it was asked to; the message says where to go on. code: its exit status, 128 + the signal."""

  def __init__(self, said):
    super().__init__(f'stopped{f" by {signal.Signals(_asked).name}" if _asked else ""}: {said}')
    self.code = 128 + (_asked or signal.SIGTERM)


@contextlib.contextmanager
def signals_handled():
  """Within, the two signals are kept for `stop_requested` and `raise_if_stopped`.

  Does nothing within itself, or off the main thread.
  """
  global _asked, _listening
  if _listening or threading.current_thread() is not threading.main_thread():
    yield
    return
  read, write = os.pipe()
  os.set_blocking(write, False)
  _asked, _listening = 0, True
  before = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
  wakeup = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
  threading.Thread(target=_listen, args=(read,), daemon=True).start()
  try:
    yield
  finally:
    signal.set_wakeup_fd(wakeup)
    for number, handler in before.items():
      signal.signal(number, handler)
    os.close(write)
    _listening = False


def _listen(read):
  global _asked
  with open(read, 'rb', buffering=0) as file:
    while number := file.read(1):
      if number[0] not in SIGNALS:
        continue
      if _asked and number[0] == signal.SIGINT:
        os.write(2, b'\nended at once; run the same command again to go on from what is saved.\n')
        for child in multiprocessing.active_children():
          child.kill()
        os._exit(128 + signal.SIGINT)
      if not _asked:
        _asked = number[0]
        os.write(
          2, f'\n{signal.Signals(_asked).name}: ends after this step and saves; Ctrl-C (again) ends at once.\n'.encode()
        )


def stop_requested():
  """Whether any process of the run has been asked to end; all must call it."""
  return bool(hosts.sum_across_processes(np.int32(_asked > 0)))


def raise_if_stopped(said='run the same command again to continue from what was saved.'):
  """Raises Interrupted where the run has been asked to end; all processes must call it."""
  if stop_requested():
    raise Interrupted(said)
