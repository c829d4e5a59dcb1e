"""Progress bars of a run."""

import sys
from typing import Any

import tqdm

SHOWN = {'reward': 'reward/mean', 'accuracy': 'eval/pass@1', 'length': 'response/length_mean'}


def fraction(total, label, file=None):
  """A tqdm bar over work that reports fractional progress; it is shown after three seconds.

  Args:
    total: amount of work.
    label: text before the bar.
    file: text stream; None for standard error.

  Returns:
    a context manager with `at(done)`, where done goes from 0 to total.
  """
  return _Fraction(
    total=total,
    desc=label,
    leave=False,
    **_pace(file or sys.stderr),
    delay=3,
    bar_format='{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}',
  )


class _Fraction(tqdm.tqdm):
  def at(self, done):
    self.update(done - self.n)


def _pace(file) -> dict[str, Any]:
  # A log file gets a line every 20 s, a terminal a moving bar.
  return dict(file=file, dynamic_ncols=True, mininterval=0.2 if file.isatty() else 20)


class Progress:
  """A tqdm bar over steps with the latest reward, accuracy and length, the speed and the remaining time."""

  def __init__(self, total, first=0, *, label='RL', shown=None, file=None):
    """
    Args:
      total: steps of the whole run.
      first: steps done before this process started; they count for the bar but not for the speed.
      label: text before the bar.
      shown: dict of short label -> metric name; None for SHOWN.
      file: text stream; None for standard error.
    """
    file = file or sys.stderr
    self._shown = SHOWN if shown is None else shown
    self._latest = {}
    self._bar = tqdm.tqdm(total=total, initial=first, desc=label, unit='step', **_pace(file))

  def update(self, metrics, steps=1):
    """Advances by `steps` and shows `metrics` (name -> number); absent metrics keep their last value."""
    for label, name in self._shown.items():
      if name in metrics:
        self._latest[label] = f'{float(metrics[name]):.3g}'
    self._bar.set_postfix(self._latest, refresh=False)
    self._bar.update(steps)

  def close(self):
    self._bar.close()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()
