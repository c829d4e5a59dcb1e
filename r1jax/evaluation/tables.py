"""The tables of an evaluation, computed from its files of samples alone."""

import collections
import json
import os

import numpy as np

from r1jax import parallel
from r1jax.batch import LENGTH
from r1jax.evaluation import estimates, samples
from r1jax.metrics import report, writer
from r1jax.rewards import scores

NOTE = (
  'Per cent, with 95% intervals by bootstrap over problems, and over runs where a model has several. Differences are '
  'paired by problem. Ratings and win rates at equal lengths are fitted to all problems at once; their intervals are '
  'by bootstrap over problems only.'
)

ATTEMPTS = {'correct', 'incorrect', 'not_attempted'}  # grades of a judged answer
COMPARED = {'win', 'tie', 'loss'}  # grades of a response beside another one
JUDGED = ('f_score', 'correct_given_attempted', 'grade/not_attempted', 'grade/unreadable', 'grade/refused')  # shown

FITTED = {'length_controlled': ('win rate at equal lengths', '{:.1f}', 100), 'rating': ('rating', '{:.0f}', 1)}


def write(workdir, labels, names, paired=False):
  """Writes table.json, table.md and table.html to the folder W, in the first process. Returns the table there.

  Args:
    workdir: W, with W/LABEL/NAME.jsonl. labels: of the models; the others are compared to the first. names: of tasks.
    paired: as for `cells`.

  Returns:
    {'models': labels, 'rows': [{'task', 'split', 'models': {label: cell}}]}, with `cells`; the split '' is of
    all problems. None in the other processes.
  """
  if not parallel.is_primary():
    return None
  rows = []
  for name in names:
    files = {label: samples.read(os.path.join(workdir, label, f'{name}.jsonl')) for label in labels}
    for split in ['', *sorted({row['split'] for row in files[labels[0]]} - {''})]:
      chosen = {label: [row for row in file if split in ('', row['split'])] for label, file in files.items()}
      rows.append({'task': name, 'split': split, 'models': cells(chosen, paired)})
  table = {'models': labels, 'rows': rows}
  parts = sections(table)
  texts = {
    'table.json': json.dumps(table, indent=2, ensure_ascii=False) + '\n',
    'table.md': markdown(parts),
    'table.html': report.page('evaluation.html.j2').render(
      name=os.path.basename(os.path.abspath(workdir)), sections=parts, note=NOTE
    ),
  }
  for file, text in texts.items():
    writer.replace_text(os.path.join(workdir, file), text)
  return table


def combine(folders, workdir):
  """Writes the tables of several finished evaluations with different seeds, as runs of the same models, to W."""
  with open(os.path.join(folders[0], 'table.json'), encoding='utf-8') as file:
    table = json.load(file)
  names = list(dict.fromkeys(row['task'] for row in table['rows']))
  for label in table['models']:
    os.makedirs(os.path.join(workdir, label), exist_ok=True)
    for name in names:
      place = os.path.join(label, f'{name}.jsonl')
      rows = [row for folder in folders for row in samples.read(os.path.join(folder, place))]
      writer.replace_text(os.path.join(workdir, place), ''.join(writer.dumps(row) + '\n' for row in rows))
  return write(workdir, table['models'], names, paired=True)


def cells(files, paired=False):
  """{label: cell} of the rows that the models have of the same problems. paired: as for `estimates.difference`.

  A cell has the numbers of 'problems' and 'runs', 'k' (samples of a problem) and 'figures': {name: [mean, low, high]}.
  Each but the first also has 'difference', the same minus that of the first. Where a judge compares responses with
  others there is 'length_controlled', the win rate at equal lengths, and where problems have a rating there is
  'rating', of a solver with these results (both in `rewards.scores`), as [value, low, high].
  """
  names, values = tabulate(files)
  derive = lambda means: means
  if 'grade/correct' in names:
    derive, names = with_attempts(names), [*names, 'f_score', 'correct_given_attempted']
  by_name = lambda figures: {name: [float(x) for x in figure] for name, figure in zip(names, figures)}
  first, out = next(iter(values)), {}
  for label, runs in values.items():
    r, p, _ = runs.shape
    figures = by_name(estimates.mean(runs, derive))
    out[label] = {'problems': p, 'runs': r, 'k': len(files[label]) // (r * p), 'figures': figures}
    out[label] |= fitted(files[label])
    if label != first:
      out[label]['difference'] = by_name(estimates.difference(values[first], runs, derive, paired))
  return out


def fitted(rows):
  """{name: [value, low, high]} of the figures that are fitted to all problems: 'length_controlled' and 'rating'."""
  compared, rated = collections.defaultdict(list), collections.defaultdict(list)
  for row in rows:
    if row['grade'] in COMPARED:
      compared[row['id']].append((row['score'], row['length_difference']))
    if 'rating' in row:
      rated[row['id']].append((row['rating'], row['correct']))
  flat = lambda problems: zip(*(pair for problem in problems for pair in problem))
  figures = {
    'length_controlled': (compared, lambda found: scores.length_controlled(*flat(found))['length_controlled']),
    'rating': (rated, lambda found: scores.solver_rating(*flat(found))['rating']),
  }
  found = {
    name: estimates.resampled_statistic([*problems.values()], statistic)
    for name, (problems, statistic) in figures.items()
    if problems
  }
  return {name: figure for name, figure in found.items() if np.isfinite(figure).all()}


def with_attempts(names):
  """A function that adds SimpleQA's figures to f64[..., F] means (see `rewards.scores.attempts`)."""
  right, wrong = names.index('grade/correct'), names.index('grade/incorrect')

  def derive(means):
    correct, attempted = means[..., right], means[..., right] + means[..., wrong]
    given = correct / np.maximum(attempted, np.finfo(np.float64).tiny)
    return np.concatenate([means, np.stack([2 * correct / (1 + attempted), given], axis=-1)], axis=-1)

  return derive


def tabulate(files):
  """The figures of each problem: their F names, and {label: f64[R, P, F]}.

  pass@k and cons@k are given for powers of two and for all samples; cons@k where the grader reads answers that can be
  voted on; the mean score where it is not the same as pass@1; of a judge's grades the share of each.
  """
  everything = [row for rows in files.values() for row in rows]
  votes = any(row['voted'] is not None for row in everything)
  scored = any(row['score'] not in (0, 1) for row in everything)
  grades = {row['grade'] for row in everything} - {''}
  grades |= ATTEMPTS if grades & ATTEMPTS else set()
  figures = lambda rows: figures_of(rows, votes, scored, sorted(grades))
  names, values = [], {}
  for label, rows in files.items():
    problems = collections.defaultdict(list)
    for row in rows:
      problems[row['seed'], row['id']].append(row)
    found = [figures(rows) for rows in problems.values()]
    seeds, names = len({seed for seed, _ in problems}), list(found[0])
    values[label] = np.array([list(f.values()) for f in found]).reshape(seeds, -1, len(names))
  return names, values


def figures_of(rows, votes, scored, grades):
  """{name: figure} of the samples of one problem.

  votes, scored: whether cons@k and the mean score are figures. grades: the words of a judge.
  """
  n, correct, voted = len(rows), [row['correct'] for row in rows], [row['voted'] for row in rows]
  mean = lambda value: float(np.mean([value(row) for row in rows]))
  powers = [1 << i for i in range(n.bit_length())]
  ks = powers if n in powers else [*powers, n]
  out = {f'pass@{k}': estimates.pass_at_k(n, sum(correct), k) for k in ks}
  if votes:
    out |= {f'cons@{k}': estimates.cons_at_k(voted, correct, k) for k in ks[1:]}
  if scored:
    out['score'] = mean(lambda row: row['score'])
  out |= {f'grade/{grade}': mean(lambda row, grade=grade: row['grade'] == grade) for grade in grades}
  return out | {'length': mean(lambda row: row['length']), 'truncated': mean(lambda row: row['stop'] == LENGTH)}


def sections(table):
  """The table as texts, for Markdown and HTML: [{'title', 'head', 'rows'}]."""
  labels = table['models']
  first, *others = labels
  right = {'title': 'Right answers', 'head': ['task', 'figure', 'k', 'problems', *labels], 'rows': []}
  right['head'] += [f'{label} minus {first}' for label in others]
  long = {'title': 'Length in tokens, and per cent cut off at the limit', 'head': ['task', *labels], 'rows': []}
  for row in table['rows']:
    task, models = ' / '.join(filter(None, (row['task'], row['split']))), row['models']
    cell, figure = models[first], lambda label, name, models=models: models[label]['figures'][name]
    for name in (
      n for n in ('pass@1', f'cons@{cell["k"]}', f'pass@{cell["k"]}', 'score', *JUDGED) if n in cell['figures']
    ):
      right['rows'].append([task, name, str(cell['k']), f'{cell["problems"]:,}'])
      right['rows'][-1] += [shown(figure(label, name), '{:.1f}', 100) for label in labels]
      right['rows'][-1] += [shown(models[label]['difference'][name], '{:+.1f}', 100) for label in others]
    for name, (title, form, scale) in FITTED.items():
      if any(name in model for model in models.values()):
        found = [shown(models[label][name], form, scale) if name in models[label] else '' for label in labels]
        right['rows'].append([task, title, str(cell['k']), f'{cell["problems"]:,}', *found, *([''] * len(others))])
    lengths = [shown(figure(label, 'length'), '{:,.0f}') for label in labels]
    cut = [shown(figure(label, 'truncated'), '{:.1f}', 100) for label in labels]
    long['rows'].append([task, *(f'{a}; {b}' for a, b in zip(lengths, cut))])
  return [right, long]


def shown(figure, form, scale=1):
  """'value [low, high]' of a figure."""
  value, low, high = (form.format(scale * x) for x in figure)
  return f'{value} [{low}, {high}]'


def markdown(parts):
  """The `sections` as Markdown."""
  line = lambda cells: f'| {" | ".join(cells)} |'
  lines = []
  for part in parts:
    rule = f'|---|{"---:|" * (len(part["head"]) - 1)}'
    lines += [f'{part["title"]}:', '', line(part['head']), rule, *map(line, part['rows']), '']
  return '\n'.join([*lines, NOTE, ''])
