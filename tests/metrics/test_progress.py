"""The bar shows the latest value of each metric."""

import io

from r1jax.metrics import progress


def test_bar_keeps_the_last_accuracy_between_evaluations():
  stream = io.StringIO()
  with progress.Progress(10, first=4, file=stream) as bar:
    bar.update({'eval/pass@1': 0.5, 'reward/mean': 1.25, 'response/length_mean': 31.4})
    bar.update({'reward/mean': 0.75})
  last = stream.getvalue().split('\r')[-1]
  assert 'reward=0.75' in last and 'accuracy=0.5' in last and 'length=31.4' in last
  assert '6/10' in last


def test_fractional_progress_shows_the_remaining_time():
  stream = io.StringIO()
  with progress.fraction(8, 'evaluation', file=stream) as bar:
    bar.start_t -= 100  # as if it had started then: nothing is shown in the first seconds
    bar.delay = 0
    bar.at(0.5)
    bar.at(2.0)
    bar.refresh()
  assert 'evaluation:  25%' in stream.getvalue() and '01:40<05:00' in stream.getvalue()
  quick = io.StringIO()
  with progress.fraction(8, 'evaluation', file=quick) as bar:
    bar.at(8)
  assert not quick.getvalue().strip()
