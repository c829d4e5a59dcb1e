"""The bar a person watches while a run trains."""
import sys

import tqdm

SHOWN = {'reward': 'reward/mean', 'accuracy': 'eval/pass@1', 'length': 'response/length_mean'}


class Progress:
  """A tqdm bar over steps with the latest reward, accuracy and length, the pace and the time left."""

  def __init__(self, total, first=0, *, label='RL', shown=None, file=None):
    """
    Args:
      total: steps of the whole run.
      first: steps done before this start; they count for the bar but not for the pace.
      label: text before the bar.
      shown: dict of short label -> metric name; SHOWN where None.
      file: text stream; standard error where None.
    """
    file = file or sys.stderr
    self._shown = SHOWN if shown is None else shown
    self._latest = {}
    # A log file gets a line now and then, a terminal a moving bar.
    self._bar = tqdm.tqdm(total=total, initial=first, desc=label, unit='step', file=file, dynamic_ncols=True,
                          mininterval=0.2 if file.isatty() else 20)

  def update(self, metrics, steps=1):
    """Advances by `steps` and shows `metrics` (name -> number); what is absent keeps its last value."""
    for label, name in self._shown.items():
      if name in metrics:
        self._latest[label] = f'{float(metrics[name]):.3g}'
    self._bar.set_postfix(self._latest, refresh=False)
    self._bar.update(steps)

  def note(self, text):
    """Prints a line above the bar."""
    self._bar.write(text, file=self._bar.fp)

  def close(self):
    self._bar.close()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()
