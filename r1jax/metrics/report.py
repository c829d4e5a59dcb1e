"""One self-contained HTML page about a run: results before and after, curves, and a reader for responses.

It is made from the working directory alone: metrics.jsonl and, if they exist, config.json, summary.json and
samples/*.jsonl. The page needs no network. Model output is untrusted: it enters the page only as JSON without `<`, and
is shown as text, never as markup.

  python -m r1jax.metrics.report WORKDIR
"""

import json
import pathlib
import re
import sys

import jinja2

from r1jax import templates
from r1jax.config import flat
from r1jax.metrics import plots, writer

BUDGET = 6_000_000  # characters of responses in the page, so that a browser opens it quickly
SAMPLES = 8  # responses to one problem at one step
COLUMNS = 3  # steps side by side
PLAIN, REFLECTION, TAG = 0, 1, 2  # kinds of segments

# Name in summary.json -> label in the page, in this order; other names follow without a label.
LABELS = {
  'pass@1': 'Accuracy (pass@1, temperature 1)',
  'pass@1_t0.6': 'Accuracy (pass@1, temperature 0.6)',
  'greedy': 'Accuracy (greedy)',
  'cons': 'Majority vote of {k} (cons@{k})',
  'any': 'Any of {k} right (any@{k})',
  'format': 'Well formed',
  'reflection_rate': 'Responses that reflect',
  'language_consistency': 'Language consistency',
  'truncated_fraction': 'Truncated',
  'length_mean': 'Mean length (tokens)',
}
GROUPS = {'kind': 'By kind of problem', 'language': 'By language of the problem'}
COLUMNS_BY_GROUP = ('pass@1', 'format', 'language_consistency', 'truncated_fraction', 'length_mean')
TILES = ('pass@1', 'cons', 'length_mean', 'reflection_rate')


def report(workdir):
  """Writes workdir/report.html atomically and returns its path.

  Raises:
    writer.RecordError: metrics.jsonl is missing, or a record is damaged.
  """
  workdir = pathlib.Path(workdir)
  records = writer.read_metrics(workdir)
  summary, config = read_summary(workdir / 'summary.json'), _read_json(workdir / 'config.json')
  rows = before_after(summary, records)
  text = page('report.html.j2').render(
    name=workdir.resolve().name,
    facts=_facts(summary, config, records),
    finished=bool(summary),
    rows=rows,
    groups=groups(summary, records),
    tiles=[row for key in TILES for row in rows if row['key'] == key],
    curves=[
      (name, figure.axes[0].get_title(loc='left'), plots.svg(figure, name))
      for name, figure in plots.figures(records).items()
    ],
    seconds=summary.get('seconds') or {},
    settings=[(key, json.dumps(value)) for key, value in flat(config).items()] if config else [],
    reader=(data := reader(writer.read_samples(workdir))),
    data=script_json(data),
    column='step',
    samples_shown=SAMPLES,
  )
  path = workdir / 'report.html'
  writer.replace_text(path, text)
  return path


def page(name):
  """The template `name` in this directory, where it also finds those that it includes."""
  return jinja2.Environment(
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
    loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
  ).get_template(name)


def reader(samples):
  """Arranges responses for the page.

  The problems with responses at the most steps come first. As many are taken as BUDGET allows, but at least one, with
  up to SAMPLES responses at each step.

  Args:
    samples: {step: rows}, see writer.read_samples.

  Returns:
    dict of steps, shown (the steps in the columns at first), total (the number of problems) and problems:
    [{id, problem, answer, kind, at: {step: [response]}}].
  """
  problems = {}
  for step, rows in samples.items():
    for row in rows:
      entry = problems.setdefault(
        row['id'], {**{key: row[key] for key in ('id', 'problem', 'answer')}, 'kind': row.get('kind', ''), 'at': {}}
      )
      at = entry['at'].setdefault(step, [])
      if len(at) < SAMPLES:
        at.append(_response(row))
  kept, size = [], 0
  for entry in sorted(problems.values(), key=lambda entry: -len(entry['at'])):
    size += len(json.dumps(entry))
    if kept and size > BUDGET:
      break
    kept.append(entry)
  steps = list(samples)
  spread = {round(i * (len(steps) - 1) / (COLUMNS - 1)) for i in range(COLUMNS)} if steps else ()
  return {'steps': steps, 'shown': [steps[i] for i in sorted(spread)], 'total': len(problems), 'problems': kept}


def segments(text):
  """Splits `text` into [kind, piece] pairs: PLAIN, REFLECTION words and TAGs. The pieces join to `text`."""
  pieces, end = [], 0
  for match in _MARKED.finditer(text):
    if match.start() > end:
      pieces.append([PLAIN, text[end : match.start()]])
    pieces.append([TAG if match[0] in templates.TAGS else REFLECTION, match[0]])
    end = match.end()
  return pieces + [[PLAIN, text[end:]]] if end < len(text) else pieces


def before_after(summary, records):
  """The table of results before and after: [{key, label, base, final, change}], all texts.

  They come from the summary's `base` and `final`, or without a summary from the first and last evaluation.
  """
  base, final = _ends(summary, records)
  order = list(LABELS)
  rows = []
  for name in dict.fromkeys([*base, *final]):
    if name.startswith(tuple(f'{group}/' for group in GROUPS)):
      continue
    key, _, k = name.partition('@') if re.fullmatch(r'(cons|any)@\d+', name) else (name, '', '')
    known = key in LABELS
    rows.append(
      {
        'key': key,
        'label': LABELS[key].format(k=k) if known else name,
        **_compare(base.get(name), final.get(name), share=known and key != 'length_mean'),
        'rank': order.index(key) if known else len(order),
      }
    )
  return sorted(rows, key=lambda row: row['rank'])


def groups(summary, records):
  """The tables by kind and by language: [{title, columns: labels, rows: [(name, [(base, final)])]}], all texts."""
  base, final = _ends(summary, records)
  out = []
  for group, title in GROUPS.items():
    names = sorted({name.split('/')[1] for name in [*base, *final] if name.startswith(f'{group}/')})
    rows = [(name, [_pair(base, final, f'{group}/{name}/', key) for key in COLUMNS_BY_GROUP]) for name in names]
    if rows:
      out.append({'title': title, 'columns': [LABELS[key] for key in COLUMNS_BY_GROUP], 'rows': rows})
  return out


def _pair(base, final, prefix, key):
  texts = _compare(base.get(prefix + key), final.get(prefix + key), share=key != 'length_mean')
  return texts['base'], texts['final']


def _ends(summary, records):
  """Results before and after, {name: value} each; without a summary those of the first and last evaluation."""
  base, final = summary.get('base'), summary.get('final')
  if base is not None and final is not None:
    return base, final
  scored = [
    {name.removeprefix('eval/'): value for name, value in record.items() if name.startswith('eval/')}
    for record in records
  ]
  scored = [scores for scores in scored if scores]
  return (scored[0], scored[-1]) if scored else ({}, {})


def script_json(value):
  """JSON that is safe in a <script> element: ASCII without <, > or &, which a parser could take for markup."""
  text = json.dumps(value, separators=(',', ':'))
  return text.replace('<', r'\u003c').replace('>', r'\u003e').replace('&', r'\u0026')


def _response(row):
  parts = row['parts']
  # Rows of an evaluation say whether they are correct; others are if any part other than format is 1.
  scores = [score for name, score in parts.items() if name != 'format']
  correct = row['correct'] if 'correct' in row else any(score is not None and score >= 1 for score in scores)
  return {
    'text': segments(row['response']),
    'reward': row['reward'],
    'parts': list(parts.items()),
    'length': row['length'],
    'stop': str(row['stop']),
    'correct': bool(correct),
  }


def _compare(base, final, share):
  def show(value):
    if value is None:
      return '–'
    return f'{value * 100:.1f}%' if share else f'{value:.4g}'

  change = ''
  if base is not None and final is not None:
    if share:
      change = f'{(final - base) * 100:+.1f} points'
    elif base > 0:
      change = f'× {final / base:.2f}'
  return {'base': show(base), 'final': show(final), 'change': change}


def _facts(summary, config, records):
  """(name, value) pairs for the header of the page; unknown ones are left out."""
  source = summary if 'seed' in summary else config
  facts = [('seed', source['seed'])] if 'seed' in source else []
  if isinstance(summary.get('config'), str):
    facts.append(('config', summary['config']))
  if records:
    facts.append(('steps', records[-1]['step']))
  if summary.get('length_ratio') is not None:
    facts.append(('length ratio', f'{summary["length_ratio"]:.2f}'))
  return facts


def read_summary(path):
  """The summary of a run in `path`; {} if there is no such file. Raises RecordError for an invalid one."""
  summary = _read_json(path)
  for name in ('base', 'final', 'seconds'):
    values = summary.get(name)
    ok = isinstance(values, dict) and (name == 'seconds' or all(map(writer.is_number, values.values())))
    if values is not None and not ok:
      raise writer.RecordError(
        f'{path}: {name!r} is {str(values)[:40]!r}, not a dict of numbers; correct or delete the file.'
      )
  if not writer.is_number(summary.get('length_ratio')):
    raise writer.RecordError(
      f'{path}: length_ratio is {str(summary["length_ratio"])[:40]!r}, not a number; correct or delete the file.'
    )
  return summary


def _read_json(path):
  """The object in `path`, or {} if there is no such file. Raises RecordError for an invalid one."""
  value = writer.read_object(path) if path.exists() else {}
  try:
    flat(value)
  except RecursionError as error:
    raise writer.RecordError(f'{path} is nested too deeply; correct or delete the file.') from error
  return value


_MARKED = re.compile('|'.join([*templates.TAGS, f'(?i:{templates.REFLECTION})']))


def main(arguments):
  if len(arguments) != 1:
    sys.exit('usage: python -m r1jax.metrics.report WORKDIR')
  try:
    print(report(arguments[0]))
  except writer.RecordError as error:
    sys.exit(str(error))


if __name__ == '__main__':
  main(sys.argv[1:])
