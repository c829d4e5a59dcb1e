"""One self-contained HTML page about a run: figures before and after, curves, and a reader for completions.

Made from what the run left in its working directory alone: metrics.jsonl, and where they exist
config.json, summary.json and samples/*.jsonl. The page needs no network. Model output is untrusted:
it reaches the page only as JSON without `<`, and is shown as text, never as markup.

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

BUDGET = 6_000_000  # characters of completions in the page, so that a browser opens it at once
SAMPLES = 8  # responses to one problem at one step
COLUMNS = 3  # steps side by side
PLAIN, REFLECTION, TAG = 0, 1, 2  # kinds of segment

# Name in summary.json -> wording in the page, in the order shown; other names follow as they are.
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
  """Writes workdir/report.html (whole or not at all) and returns its path.

  Raises:
    writer.RecordError where metrics.jsonl is missing or a record is damaged.
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
  """The template `name` of this folder; those that it includes lie beside it."""
  return jinja2.Environment(
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
    loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
  ).get_template(name)


def reader(samples):
  """Arranges completions for the page.

  Problems seen at the most steps come first; as many are taken as BUDGET allows (at least one), with
  SAMPLES responses to each at each step.

  Args:
    samples: {step: rows}, as from writer.read_samples.

  Returns:
    dict of steps, shown (the steps the columns open with), total (how many problems there are) and
    problems: [{id, problem, answer, kind, at: {step: [completion]}}].
  """
  problems = {}
  for step, rows in samples.items():
    for row in rows:
      entry = problems.setdefault(
        row['id'], {**{key: row[key] for key in ('id', 'problem', 'answer')}, 'kind': row.get('kind', ''), 'at': {}}
      )
      at = entry['at'].setdefault(step, [])
      if len(at) < SAMPLES:
        at.append(_completion(row))
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
  """Cuts `text` into [kind, piece] pairs that join to it again: PLAIN, REFLECTION words and TAGs."""
  pieces, end = [], 0
  for match in _MARKED.finditer(text):
    if match.start() > end:
      pieces.append([PLAIN, text[end : match.start()]])
    pieces.append([TAG if match[0] in templates.TAGS else REFLECTION, match[0]])
    end = match.end()
  return pieces + [[PLAIN, text[end:]]] if end < len(text) else pieces


def before_after(summary, records):
  """The table of the page: [{key, label, base, final, change}], texts.

  From summary's `base` and `final`; of a run without a summary, from its first and last evaluation.
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
  """The tables by kind and by language: [{title, columns: labels, rows: [(name, [(base, final)])]}], texts."""
  base, final = _ends(summary, records)
  out = []
  for group, title in GROUPS.items():
    names = sorted({name.split('/')[1] for name in [*base, *final] if name.startswith(f'{group}/')})
    rows = [(name, [_pair(base, final, f'{group}/{name}/', key) for key in COLUMNS_BY_GROUP]) for name in names]
    if rows:
      out.append({'title': title, 'columns': [LABELS[key] for key in COLUMNS_BY_GROUP], 'rows': rows})
  return out


def _pair(base, final, at, key):
  shown = _compare(base.get(at + key), final.get(at + key), share=key != 'length_mean')
  return shown['base'], shown['final']


def _ends(summary, records):
  """Figures before and after: {name: value} each; of a run without a summary its first and last evaluation."""
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
  """JSON that may stand in a <script> element: ASCII, and no <, > or & that a parser could take for markup."""
  text = json.dumps(value, separators=(',', ':'))
  return text.replace('<', r'\u003c').replace('>', r'\u003e').replace('&', r'\u0026')


def _completion(row):
  parts = row['parts']
  # Evaluation knows what counted as right; a row that does not say so is right by its parts other than format.
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
  """Pairs for the header, of what is known."""
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
  """The summary of a run in `path`; {} where there is no such file. Raises RecordError for one that is none."""
  summary = _read_json(path)
  for name in ('base', 'final', 'seconds'):
    values = summary.get(name)
    ok = isinstance(values, dict) and (name == 'seconds' or all(map(writer.is_number, values.values())))
    if values is not None and not ok:
      raise writer.RecordError(f'{path}: {name!r} is {str(values)[:40]!r}, no figures; mend or delete the file.')
  if not writer.is_number(summary.get('length_ratio')):
    raise writer.RecordError(
      f'{path}: length_ratio is {str(summary["length_ratio"])[:40]!r}, no number; mend or delete the file.'
    )
  return summary


def _read_json(path):
  """The object in `path`, or {} where there is no such file."""
  found = writer.read_object(path) if path.exists() else {}
  try:
    flat(found)
  except RecursionError as error:
    raise writer.RecordError(f'{path} is nested too deeply; mend or delete the file.') from error
  return found


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
