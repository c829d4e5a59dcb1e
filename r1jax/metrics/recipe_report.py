"""One self-contained HTML page about a recipe: its stages, the same problems after each of them, and the changes.

It is made from the working directory alone: summary.json, and for each stage its metrics.jsonl and the samples of its
evaluation. As in `report`, model output enters the page only as data.

  python -m r1jax.metrics.recipe_report WORKDIR
"""

import pathlib
import sys

import matplotlib
from matplotlib.figure import Figure
import numpy as np

from r1jax.config import flat
from r1jax.metrics import plots, report, writer

EVALUATION = 'evaluation'  # a stage's subdirectory, and its key in summary.json
# Columns of an evaluation that come before the kinds: name -> heading.
SHOWN = {
  'pass@1': 'accuracy',
  'greedy': 'greedy',
  'format': 'well formed',
  'language_consistency': 'language',
  'length_mean': 'tokens',
}
CURVES = ('accuracy', 'length', 'rewards', 'behaviour')  # panels of a stage's training
MAX_FIGURES = 60  # lines of a stage's own figures


def make(workdir):
  """Writes workdir/report.html atomically and returns its path.

  Raises:
    writer.RecordError: summary.json is missing, or a record does not parse.
  """
  workdir = pathlib.Path(workdir)
  summary = _read_summary(workdir / 'summary.json')
  stages, evaluated = summary['stages'], _evaluated(summary)
  reader = report.reader(
    {name: rows for name in evaluated for rows in writer.read_samples(workdir / name / EVALUATION).values()}
  )
  kinds = _kinds(evaluated)
  text = report.page('recipe.html.j2').render(
    name=workdir.resolve().name,
    seed=summary['seed'],
    seconds=summary['seconds'],
    kinds=kinds,
    done=sum(stage['status'] == 'done' for stage in stages.values()),
    total=len(stages),
    stages=[_stage(workdir, name, stages) for name in stages],
    evaluated=[
      {
        'name': name,
        'cells': [_show(e.get(key), key) for key in SHOWN],
        'kinds': [_show(e['kinds'].get(kind, {}).get('correct')) for kind in kinds],
      }
      for name, e in evaluated.items()
    ],
    columns=list(SHOWN.values()),
    parts=parts(evaluated),
    by_kind=[_kind(kind, evaluated) for kind in kinds],
    charts=[
      (f'chart{i}', title, plots.svg(figure, f'chart{i}'))
      for i, (title, figure) in enumerate(charts(evaluated).items())
    ],
    comparisons=[comparison(name, c) for name, c in summary['comparisons'].items() if c['problems']],
    reader=reader,
    data=report.script_json(reader),
    column='stage',
    samples_shown=report.SAMPLES,
  )
  path = workdir / 'report.html'
  writer.replace_text(path, text)
  return path


def _read_summary(path):
  try:
    summary = writer.read_object(path)
  except OSError as error:
    raise writer.RecordError(f'{path}: {error}; pass the working directory of a recipe.') from error
  if missing := {'stages', 'seed', 'seconds', 'comparisons'} - summary.keys():
    raise writer.RecordError(f'{path} has no {", ".join(sorted(missing))}; pass the working directory of a recipe.')
  return summary


def _stage(workdir, name, stages):
  """What the page shows of a stage."""
  stage, folder = stages[name], workdir / name
  sources = lambda other: {source.split('/')[0] for source in other['inputs'].values()}
  return {
    'name': name,
    **stage,
    'takes': sorted(set(stage['inputs'].values())),
    'used_by': [user for user, other in stages.items() if name in sources(other)],
    'rows': figures(stage['figures']),
    'curves': curves(folder, name),
    'report': f'{name}/report.html' if (folder / 'report.html').exists() else '',
  }


def _kind(kind, evaluated):
  """The table of one kind of problem: a row for each stage."""
  keys = ('correct', 'format', 'language', 'length')
  return {
    'kind': kind,
    'rows': [
      {'name': name, 'cells': [_show(e['kinds'].get(kind, {}).get(key), key) for key in keys]}
      for name, e in evaluated.items()
    ],
  }


def _evaluated(summary):
  return {name: stage[EVALUATION] for name, stage in summary['stages'].items() if stage[EVALUATION]}


def _kinds(evaluated):
  return list(dict.fromkeys(kind for e in evaluated.values() for kind in e['kinds']))


def _show(value, key='pass@1'):
  if value is None:
    return '–'
  return f'{value:.1f}' if key.startswith('length') else f'{100 * value:.1f}%'


def figures(summary):
  """[(name, text)] of a stage's own summary, nested names joined; long lists are left out."""
  rows = []
  for name, value in flat(summary).items():
    if value in (None, {}) or (isinstance(value, list) and len(str(value)) > 200):
      continue
    if isinstance(value, bool) or not isinstance(value, (int, float)):
      rows.append((name, str(value)))
    else:
      rows.append((name, f'{value:.4g}' if isinstance(value, float) else f'{value:,}'))
  return rows[:MAX_FIGURES]


def curves(folder, name):
  """[(id, title, svg)] of a stage's training; empty if it has not trained."""
  if not (folder / writer.METRICS).exists():
    return []
  panels = [panel for panel in plots.PANELS if panel.name in CURVES]
  drawn = plots.figures(writer.read_metrics(folder), panels)
  return [
    (f'{name}-{key}', figure.axes[0].get_title(loc='left'), plots.svg(figure, f'{name}-{key}'))
    for key, figure in drawn.items()
  ]


def parts(evaluated):
  """The table of reward parts: their names, and a row for each stage."""
  names = list(dict.fromkeys(name for e in evaluated.values() for name in e['parts']))
  show = lambda x: '–' if x is None else f'{x:.3f}'
  return {
    'names': names,
    'rows': [{'name': name, 'cells': [show(e['parts'].get(part)) for part in names]} for name, e in evaluated.items()],
  }


def comparison(name, c):
  """The texts in the row of a comparison."""
  scale, unit = (1, ' tokens') if c['figure'] == 'length' else (100, ' points')
  show = lambda x: f'{x:.1f}' if scale == 1 else f'{100 * x:.1f}%'
  low, high = (scale * x for x in c['interval'])
  return {
    'name': name.replace('_', ' '),
    'what': c['figure'] + (f' of {c["kind"]}' if c['kind'] else ''),
    'first': f'{c["first"]} {show(c["first_mean"])}',
    'second': f'{c["second"]} {show(c["second_mean"])}',
    'difference': f'{scale * c["difference"]:+.1f}{unit}',
    'interval': f'{low:+.1f} to {high:+.1f}',
    'problems': c['problems'],
  }


def charts(evaluated):
  """{title: Figure} over the stages: accuracy of each kind, format and language, length."""
  accuracy = {kind: [e['kinds'].get(kind, {}).get('correct') for e in evaluated.values()] for kind in _kinds(evaluated)}
  lines = {
    'Accuracy': accuracy or {'all': [e.get('pass@1') for e in evaluated.values()]},
    'Form and language': {
      label: [e.get(key) for e in evaluated.values()]
      for label, key in (('well formed', 'format'), ('language consistency', 'language_consistency'))
    },
    'Response length': {'tokens': [e.get('length_mean') for e in evaluated.values()]},
  }
  return {
    title: _chart(title, list(evaluated), curves_, share=title != 'Response length')
    for title, curves_ in lines.items()
    if evaluated
  }


def _chart(title, names, lines, share):
  with matplotlib.rc_context(plots.STYLE):
    figure = Figure(figsize=(6.4, 3.6), layout='constrained')
    axes = figure.add_subplot()
    for index, (label, values) in enumerate(lines.items()):
      values = np.array([np.nan if x is None else x for x in values], float) * (100 if share else 1)
      axes.plot(
        range(len(names)),
        values,
        marker='o',
        markersize=4,
        linewidth=1.8,
        label=plots.plain(label),
        color=plots.COLOURS[index % len(plots.COLOURS)],
      )
    axes.set_xticks(range(len(names)), names, rotation=35, ha='right')
    axes.set(title=title, ylabel='% of responses' if share else 'tokens')
    axes.set_ylim(*(-2, 102) if share else (0, 1.1 * max(np.nanmax(axes.get_ylim()), 1)))
    axes.set_axisbelow(True)
    if len(lines) > 1:
      axes.legend(loc='upper left', bbox_to_anchor=(1, 1))
  return figure


def main(arguments):
  if len(arguments) != 1:
    sys.exit('usage: python -m r1jax.metrics.recipe_report WORKDIR')
  try:
    print(make(arguments[0]))
  except writer.RecordError as error:
    sys.exit(str(error))


if __name__ == '__main__':
  main(sys.argv[1:])
