"""Draws one metric of several groups of runs over their steps: the mean of each group, and the range of its runs.

  python -m experiments.curves --metric=reward/math/mean r1jax=W1,W2,W3 trl=T1,T2,T3 --output=curves.svg

Each argument is a label and the folders of runs, such as those of several seeds. docs/metrics.md lists the metrics.
"""

import pathlib

from absl import app, flags

from r1jax import config as config_lib
from r1jax.metrics import plots, writer
from r1jax.runs import cli


def read(arguments):
  """{label: list with the records of each run} of arguments 'LABEL=FOLDER,FOLDER'. Raises ConfigError, RecordError."""
  groups = {}
  for argument in arguments:
    label, _, folders = argument.partition('=')
    names = folders.split(',')
    config_lib.require(
      label and all(names), f'{argument!r} is no group of runs; write a label and folders, such as trl=T1,T2.'
    )
    config_lib.require(label not in groups, f'the label {label!r} is given twice; put all its folders after one.')
    groups[label] = [writer.read_metrics(name) for name in names]
  config_lib.require(groups, 'there are no runs; write labels and folders, such as r1jax=W1,W2 trl=T1,T2.')
  return groups


def draw(arguments, metric, output):
  """Draws the metric of the runs that `arguments` name (see `read`) into the file `output`, .svg or .png."""
  config_lib.require(
    pathlib.Path(output).suffix in ('.svg', '.png'), f'--output is {output!r}; it must end in .svg or .png.'
  )
  plots.write(plots.compare(read(arguments), metric), output)


def main(argv):
  with cli.errors_in_one_line():
    draw(argv[1:], flags.FLAGS.metric, flags.FLAGS.output)


if __name__ == '__main__':
  flags.DEFINE_string('metric', 'reward/mean', 'Name of the metric.')
  flags.DEFINE_string('output', None, 'The file to write, .svg or .png.', required=True)
  app.run(main)
