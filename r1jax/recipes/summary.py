"""The figures of a recipe: of every stage, of the same problems after every stage, and of one stage against another."""

import os

import numpy as np

from r1jax.metrics import writer
from r1jax.recipes import stage as stage_lib

EVALUATION = 'evaluation'  # W/NAME/evaluation: what the model of stage NAME does with held-out problems
FIGURES = ('correct', 'format', 'language', 'length')
COLUMNS = ('pass@1', 'greedy', 'format', 'language_consistency', 'length_mean')


def collect(cfg, stages, statuses, workdir):
  """W/summary.json of what the stages have left so far.

  Args:
    cfg: settings.Recipe. stages: {name: Stage}. statuses: {name: Status}.
  """
  found = {}
  for name, stage in stages.items():
    if '/' in name:
      continue
    done, saved = statuses[name].state == stage_lib.DONE, stage_lib.read(workdir, name) or {}
    made = (stage_lib.read(workdir, name, stage_lib.SUMMARY) or {}) if done else {}
    evaluation = f'{name}/{EVALUATION}'
    evaluated = evaluation in stages and statuses[evaluation].state == stage_lib.DONE
    found[name] = {
      'experiment': stage.experiment,
      'about': stage.about,
      'status': statuses[name].state,
      'why': list(statuses[name].why),
      'seconds': saved.get('seconds') if done else None,
      'inputs': {key: '/'.join(filter(None, ref)) for key, ref in stage.inputs.items()},
      'figures': {key: value for key, value in made.items() if key != 'config'},
      EVALUATION: evaluate(workdir, evaluation, cfg.groups) if evaluated else None,
    }
  known = {name: rows_of(workdir, f'{name}/{EVALUATION}') for name, stage in found.items() if stage[EVALUATION]}
  seconds = [of for name in stages if (of := (stage_lib.read(workdir, name) or {}).get('seconds')) is not None]
  return {
    'seed': cfg.seed,
    'seconds': sum(seconds),
    'stages': found,
    'comparisons': {
      name: {
        'first': c.first,
        'second': c.second,
        'figure': c.figure,
        'kind': c.kind,
        **compare(known[c.first], known[c.second], c.figure, cfg.groups.get(c.kind, (c.kind,) if c.kind else ())),
      }
      for name, c in cfg.comparisons.items()
      if c.first in known and c.second in known
    },
  }


def rows_of(workdir, name):
  """Every graded response of an evaluation."""
  return [row for rows in writer.read_samples(os.path.join(workdir, name)).values() for row in rows]


def evaluate(workdir, name, groups):
  """The figures of an evaluation, its reward parts, and the figures of each group and kind of problems.

  Args:
    groups: {name: kinds}, of which those are shown whose kinds were all asked.
  """
  made, rows = stage_lib.read(workdir, name, stage_lib.SUMMARY), rows_of(workdir, name)
  kinds = sorted({kind_of(row) for row in rows} - {''})
  of = {name: some for name, some in groups.items() if set(some) <= set(kinds)} | {kind: (kind,) for kind in kinds}
  parts = sorted({part for row in rows for part in row['parts']})
  return {
    **made['final'],
    'problems': made['problems'],
    'samples': made['samples'],
    'seconds': made['seconds'],
    'parts': {part: mean([row['parts'].get(part) for row in rows]) for part in parts},
    'kinds': {
      name: {'count': len({row['id'] for row in rows if kind_of(row) in some})}
      | {figure: mean([value(row, figure) for row in rows if kind_of(row) in some]) for figure in FIGURES}
      for name, some in of.items()
    },
  }


def kind_of(row):
  return row.get('kind') or ''


def value(row, figure):
  """A response's figure as a number; None where it has none."""
  x = row.get(figure) if figure in FIGURES else row['parts'].get(figure)
  return None if x is None else float(x)


def mean(values):
  """The mean of those that are numbers; None without any."""
  values = [x for x in values if x is not None and np.isfinite(x)]
  return float(np.mean(values)) if values else None


def compare(first, second, figure, kinds=()):
  """The second less the first in the mean over problems that both were asked.

  Args:
    first, second: rows of two evaluations. figure: see settings.Comparison. kinds: of problems; () is all.

  Returns:
    {'first_mean', 'second_mean', 'difference', 'interval', 'problems'}: the 95% interval is that of a mean of paired
    differences, one a problem, whose samples are not independent of each other.
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
  """The evaluations stage by stage, and the comparisons, as text."""
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
    of = f'{c["figure"]}{" of " + c["kind"] if c["kind"] else ""}'
    if not c['problems']:
      lines.append(f'{name}: no problem that {c["first"]} and {c["second"]} were asked has {of}')
    else:
      scale = 1 if c['figure'] == 'length' else 100
      low, high = (scale * x for x in c['interval'])
      lines.append(
        f'{name}: {of}, {c["second"]} less {c["first"]}: {scale * c["difference"]:+.1f} '
        f'(95%: {low:+.1f} to {high:+.1f}; {c["problems"]} problems)'
      )
  return '\n'.join([*lines, f'{summary["seconds"]:.0f} seconds in all stages'])
