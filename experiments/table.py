"""Compares groups of RL runs, such as objectives with several seeds each, in a Markdown table.

  python -m experiments.table GRPO=W1,W2,W3 PPO=V1,V2,V3 --metric=eval/pass@1 --level=0.8

Each argument is a label and the folders of finished runs. The columns: each --metric at the end (mean of the runs,
lowest and highest), the first step at which the first of them reaches --level (likewise; of how many runs, if not of
all), seconds of the processor a step (median), and the most memory that a process has used.
"""

import os
import statistics

from absl import app, flags

from experiments import curves
from r1jax import config as config_lib
from r1jax.metrics import writer
from r1jax.runs import cli


def spread(values):
  """'mean (lowest to highest)' of some numbers."""
  mean = f'{statistics.mean(values):.3g}'
  return mean if len(values) == 1 else f'{mean} ({min(values):.3g} to {max(values):.3g})'


def reached(records, metric, level):
  """The first step at which the metric is at least `level`; None if it never is."""
  return next((r['step'] for r in records if r.get(metric) is not None and r[metric] >= level), None)


def peak_memory(folder):
  """GB, of a run's summary."""
  path = os.path.join(folder, 'summary.json')
  config_lib.require(os.path.exists(path), f'{path} is missing: the run has not ended. Run its command again.')
  memory = writer.read_object(path).get('peak_memory_gb')
  config_lib.require(writer.is_number(memory) and memory, f'{path} has no peak_memory_gb; it is of an older run.')
  return memory


def at_end(label, runs, metric):
  """The last values of a metric, one for each run."""
  known = [[r[metric] for r in records if r.get(metric) is not None] for records in runs]
  config_lib.require(all(known), f'a run of {label} has no metric {metric!r}; docs/metrics.md lists them.')
  return [values[-1] for values in known]


def row(label, runs, memory, metrics, level):
  """One line of the table. runs: records of each run. memory: GB of each."""
  ends = [spread(at_end(label, runs, metric)) for metric in metrics]
  steps = [step for records in runs if (step := reached(records, metrics[0], level)) is not None]
  when = spread(steps) if steps else 'never'
  when += f', {len(steps)} of {len(runs)} runs' if 0 < len(steps) < len(runs) else ''
  seconds = [[r['time/processor'] for r in records if 'time/processor' in r] for records in runs]
  config_lib.require(all(seconds), f'a run of {label} has no time/processor; it is an older one.')
  cells = [label, *ends, when, spread([statistics.median(s) for s in seconds]), f'{max(memory):.2f}']
  return f'| {" | ".join(cells)} |'


def table(arguments, metrics, level):
  """The lines of the table of the runs that `arguments` name (see `curves.read`)."""
  ends = [f'{metric} at the end' for metric in metrics]
  columns = ['', *ends, f'steps to {level:g}', 'processor seconds a step', 'peak memory, GB']
  lines = [f'| {" | ".join(columns)} |'.replace('|  |', '| |'), '|---' * len(columns) + '|']
  for argument, (label, runs) in zip(arguments, curves.read(arguments).items()):
    folders = argument.partition('=')[2].split(',')
    memory = [peak_memory(folder) for folder in folders]
    lines.append(row(label, runs, memory, metrics, level))
  return lines


def main(argv):
  with cli.errors_in_one_line():
    print('\n'.join(table(argv[1:], flags.FLAGS.metric, flags.FLAGS.level)))


if __name__ == '__main__':
  flags.DEFINE_multi_string('metric', ['eval/pass@1'], 'Name of a metric; may be given several times.')
  flags.DEFINE_float('level', 0.8, 'The value to reach.')
  app.run(main)
