"""The bar shows the latest of each number."""
import io

from r1jax.metrics import progress


def test_bar_keeps_the_last_accuracy_between_evaluations():
  stream = io.StringIO()
  with progress.Progress(10, first=4, file=stream) as bar:
    bar.update({'eval/pass@1': 0.5, 'reward/mean': 1.25, 'response/length_mean': 31.4})
    bar.update({'reward/mean': 0.75})
    bar.note('checkpoint saved')
  last = stream.getvalue().split('\r')[-1]
  assert 'reward=0.75' in last and 'accuracy=0.5' in last and 'length=31.4' in last
  assert '6/10' in last
  assert 'checkpoint saved' in stream.getvalue()
