"""The figures of `evaluation.reflection` as Markdown."""

from r1jax.evaluation.reflection import CHANGES

NOTE = (
  'Shares in per cent, with 95% intervals by bootstrap over problems. "Answered" is the answer that the model gives '
  'when it is cut off before the first reflection; "continued" another continuation from there that does not begin '
  'with one. Differences are paired by response.'
)


def percent(figure, form='{:.1f}'):
  """'value [low, high]' of a figure, in per cent; '-' for None."""
  return '-' if figure is None else plain([100 * x for x in figure], form)


def plain(figure, form='{:,.1f}'):
  """'value [low, high]' of a figure; '-' for None."""
  if figure is None:
    return '-'
  value, low, high = (form.format(x) for x in figure)
  return f'{value} [{low}, {high}]'


def table(head, rows):
  """A Markdown table; the first two columns are left-aligned."""
  line = lambda cells: f'| {" | ".join(cells)} |'
  return '\n'.join([line(head), f'|{"---|" * 2}{"---:|" * (len(head) - 2)}', *map(line, rows)])


def each(figures, cells):
  """Rows [model, temperature, *cells(figures there)]."""
  return [[label, t, *cells(found)] for label, by_t in figures.items() for t, found in by_t.items()]


def rates(figures):
  """How often. figures: {model: {temperature: what `reflection.summarise` gives}}."""

  def cells(found):
    r = found['rates']
    shares = [percent(r[name]) for name in ('reflecting', 'accuracy', 'accuracy with', 'accuracy without')]
    return [f'{r["responses"]:,}', shares[0], plain(r['reflections'], '{:.2f}'), *shares[1:]]

  head = ['model', 'T', 'responses', 'reflect', 'times a response', 'right', 'right, reflecting', 'right, others']
  return table(head, each(figures, cells))


def changes(figures):
  signed = lambda figure: percent(figure, '{:+.1f}')

  def cells(found):
    c = found['changes']
    others = [percent(c['other answer']), percent(c['lost at the limit'])]
    return [f'{c["responses"]:,}', *(percent(c[name]) for name in CHANGES), signed(c['gain']), *others]

  head = ['model', 'T', 'reflecting', *CHANGES, 'gain', 'other answer', 'right to wrong by the limit']
  return table(head, each(figures, cells))


def without(figures):
  def cells(found):
    w = found['without']
    signed = lambda name: percent(w[name], '{:+.1f}')
    return [
      *(percent(w[name]) for name in ('whole', 'answered')),
      signed('whole minus answered'),
      f'{w["continued responses"]:,}',
      *(percent(w[name]) for name in ('whole, where continued', 'continued')),
      signed('whole minus continued'),
    ]

  head = ['model', 'T', 'whole', 'answered', 'difference', 'continued responses', 'whole, of these', 'continued']
  return table([*head, 'difference'], each(figures, cells))


def lengths(figures):
  rows = []
  for label, by_t in figures.items():
    for t, found in by_t.items():
      for level in found['by length']['levels']:
        span = f'{100 * level["above"]:.0f} to {100 * level["up to"]:.0f}'
        for point in level['points']:
          cells = [span, f'{level["problems"]}', f'{point["responses"]}', f'{point["tokens"]:,.0f}']
          rows.append([label, t, *cells, percent(point['accuracy'])])
      rows.append(
        [label, t, 'longer minus shorter half', '', '', '', percent(found['by length']['longer minus shorter'])]
      )
  return table(['model', 'T', 'pass rate of the problem', 'problems', 'responses', 'tokens', 'right'], rows)


def steps(figures):
  rows = []
  for label, by_t in figures.items():
    for t, found in by_t.items():
      for group in (g for g in found['by steps'] if g['responses']):
        span = f'over {group["above"]}' if group['up to'] is None else f'{group["above"] + 1} to {group["up to"]}'
        cells = [percent(group['accuracy']), percent(group['expected']), percent(group['beyond'], '{:+.1f}')]
        rows.append([label, t, span, f'{group["responses"]:,}', *cells])
  return table(['model', 'T', 'steps', 'responses', 'right', 'pass rate of their problems', 'difference'], rows)


def markdown(figures):
  """All tables. figures: {model: {temperature: what `reflection.summarise` gives}}."""
  parts = {
    'How often': rates,
    'What became of the answer before the first reflection': changes,
    'Accuracy of responses that reflect, whole and with the reflection cut out': without,
    'Accuracy against length at equal difficulty': lengths,
    'Accuracy against the number of steps': steps,
  }
  return '\n\n'.join([*(f'{title}:\n\n{part(figures)}' for title, part in parts.items()), NOTE]) + '\n'
