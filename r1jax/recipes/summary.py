"""The summary of a recipe: metrics of every stage, evaluations on the same problems after each, and comparisons."""

import os

import numpy as np

from r1jax.metrics import writer
from r1jax.recipes import stage as stage_lib

EVALUATION = 'evaluation'  # W/NAME/evaluation is the evaluation of stage NAME's model on held-out problems
FIGURES = ('correct', 'format', 'language', 'length')
COLUMNS = ('pass@1', 'greedy', 'format', 'language_consistency', 'length_mean')


def collect(cfg, stages, statuses, workdir):
  """The content of W/summary.json, from the results of the stages so far.

  Args:
    cfg: settings.Recipe.
    stages: {name: Stage}.
    statuses: {name: Status}.
    workdir: W.
  """
  stage_summaries = {}
  for name, stage in stages.items():
    if '/' in name:
      continue
    done, saved = statuses[name].state == stage_lib.DONE, stage_lib.read(workdir, name) or {}
    result = (stage_lib.read(workdir, name, stage_lib.SUMMARY) or {}) if done else {}
    evaluation = f'{name}/{EVALUATION}'
    evaluated = evaluation in stages and statuses[evaluation].state == stage_lib.DONE
    stage_summaries[name] = {
      'experiment': stage.experiment,
      'about': stage.about,
      'status': statuses[name].state,
      'why': list(statuses[name].why),
      'seconds': saved.get('seconds') if done else None,
      'inputs': {key: '/'.join(filter(None, source)) for key, source in stage.inputs.items()},
      'figures': {key: value for key, value in result.items() if key != 'config'},
      EVALUATION: evaluate(workdir, evaluation, cfg.groups) if evaluated else None,
    }
  rows = {
    name: read_rows(workdir, f'{name}/{EVALUATION}') for name, stage in stage_summaries.items() if stage[EVALUATION]
  }
  seconds = [(stage_lib.read(workdir, name) or {}).get('seconds') for name in stages]
  return {
    'seed': cfg.seed,
    'seconds': sum(s for s in seconds if s is not None),
    'stages': stage_summaries,
    'comparisons': {
      name: {
        'first': c.first,
        'second': c.second,
        'figure': c.figure,
        'kind': c.kind,
        **compare(rows[c.first], rows[c.second], c.figure, cfg.groups.get(c.kind, (c.kind,) if c.kind else ())),
      }
      for name, c in cfg.comparisons.items()
      if c.first in rows and c.second in rows
    },
  }


def read_rows(workdir, name):
  """All graded responses of an evaluation."""
  return [row for rows in writer.read_samples(os.path.join(workdir, name)).values() for row in rows]


def evaluate(workdir, name, groups):
  """The metrics of an evaluation, its mean reward parts, and the figures of each group and kind of problems.

  Args:
    groups: {group: kinds}; groups of which some kind was not evaluated are left out.
  """
  summary, rows = stage_lib.load(workdir, name, stage_lib.SUMMARY), read_rows(workdir, name)
  kinds = sorted({kind_of(row) for row in rows} - {''})
  evaluated_groups = {group: members for group, members in groups.items() if set(members) <= set(kinds)}
  evaluated_groups |= {kind: (kind,) for kind in kinds}
  parts = sorted({part for row in rows for part in row['parts']})
  return {
    **summary['final'],
    'problems': summary['problems'],
    'samples': summary['samples'],
    'seconds': summary['seconds'],
    'parts': {part: mean([row['parts'].get(part) for row in rows]) for part in parts},
    'kinds': {
      group: {'count': len({row['id'] for row in rows if kind_of(row) in members})}
      | {figure: mean([value(row, figure) for row in rows if kind_of(row) in members]) for figure in FIGURES}
      for group, members in evaluated_groups.items()
    },
  }


def kind_of(row):
  return row.get('kind') or ''


def value(row, figure):
  """The figure of a response (one of FIGURES or a reward part) as a number; None if it has none."""
  x = row.get(figure) if figure in FIGURES else row['parts'].get(figure)
  return None if x is None else float(x)


def mean(values):
  """The mean of the finite values; None if there are none."""
  values = [x for x in values if x is not None and np.isfinite(x)]
  return float(np.mean(values)) if values else None


def compare(first, second, figure, kinds=()):
  """The mean difference, second minus first, over the problems in both evaluations.

  Args:
    first, second: rows of two evaluations.
    figure: see settings.Comparison.
    kinds: of problems; () is all.

  Returns:
    {'first_mean', 'second_mean', 'difference', 'interval', 'problems'}: the 95% interval is that of the mean of paired
    differences, one per problem, as the samples of a problem are not independent of each other.
  """
  sides = []
  for rows in (first, second):
    by_problem = {}
    for row in rows:
      if (not kinds or kind_of(row) in kinds) and (x := value(row, figure)) is not None:
        by_problem.setdefault(row['id'], []).append(x)
    sides.append({name: float(np.mean(xs)) for name, xs in by_problem.items()})
  shared = [name for name in sides[0] if name in sides[1]]
  if not shared:
    return {'first_mean': None, 'second_mean': None, 'difference': None, 'interval': None, 'problems': 0}
  a, b = (np.array([side[name] for name in shared]) for side in sides)
  d = b - a
  spread = 1.959964 * float(d.std(ddof=1)) / np.sqrt(len(d)) if len(d) > 1 else float('inf')
  return {
    'first_mean': float(a.mean()),
    'second_mean': float(b.mean()),
    'difference': float(d.mean()),
    'interval': [float(d.mean() - spread), float(d.mean() + spread)],
    'problems': len(d),
  }


def text(summary):
  """The evaluations of all stages and the comparisons, as text."""
  evaluated = {name: stage[EVALUATION] for name, stage in summary['stages'].items() if stage[EVALUATION]}
  kinds = list(dict.fromkeys(kind for e in evaluated.values() for kind in e['kinds']))
  show = lambda name, x: '' if x is None else f'{x:.1f}' if name == 'length_mean' else f'{100 * x:.1f}%'
  rows = [('', *(name.removesuffix('_mean').removesuffix('_consistency') for name in COLUMNS), *kinds)]
  for name, e in evaluated.items():
    rows.append(
      (
        name,
        *(show(column, e.get(column)) for column in COLUMNS),
        *(show(kind, e['kinds'].get(kind, {}).get('correct')) for kind in kinds),
      )
    )
  widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
  lines = (
    ['  '.join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))]).rstrip() for row in rows]
    if evaluated
    else []
  )
  for name, c in summary['comparisons'].items():
    quantity = f'{c["figure"]}{" of " + c["kind"] if c["kind"] else ""}'
    if not c['problems']:
      lines.append(f'{name}: no problem in the evaluations of both {c["first"]} and {c["second"]} has {quantity}')
    else:
      scale = 1 if c['figure'] == 'length' else 100
      low, high = (scale * x for x in c['interval'])
      lines.append(
        f'{name}: {quantity}, {c["second"]} minus {c["first"]}: {scale * c["difference"]:+.1f} '
        f'(95%: {low:+.1f} to {high:+.1f}; {c["problems"]} problems)'
      )
  return '\n'.join([*lines, f'{summary["seconds"]:.0f} seconds in all stages'])
