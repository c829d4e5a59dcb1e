"""The math reward on labelled pairs, made by rewriting answers of GSM8K, MATH-500 and AIME."""

import fractions
import gzip
import json
import random
import re

from r1jax.rewards.workers import pool

HAN = '零一二三四五六七八九'


def rows(path):
  with (gzip.open if path.suffix == '.gz' else open)(path, 'rt', encoding='utf-8') as file:
    return [json.loads(line) for line in file]


def chinese(number):
  """A number below 10,000 in Chinese numerals, a digit at a time: 120 -> 一百二十."""
  out = ''
  for unit, size in (('千', 1000), ('百', 100), ('十', 10), ('', 1)):
    digit = number // size % 10
    if digit:
      out += ('零' if out and number // (size * 10) % 10 == 0 and not out.endswith('零') else '') + HAN[digit] + unit
  return out or HAN[0]


def number_of(text):
  """The value of an answer as a Fraction, or None."""
  text = re.sub(r'\\! ?', '', text).replace('{,}', ',').strip()
  if re.fullmatch(r'-?\d{1,3}(,\d{3})+|-?\d+', text):
    return fractions.Fraction(text.replace(',', ''))
  if re.fullmatch(r'-?\d*\.\d+', text):
    return fractions.Fraction(text)
  match = re.fullmatch(r'(-?)\\d?frac\{(\d+)\}\{(\d+)\}', text)
  return fractions.Fraction(int(match[1] + match[2]), int(match[3])) if match else None


def decimal(value):
  """A Fraction as a decimal, or None if it has no finite one."""
  for places in range(1, 12):
    if (value * 10**places).denominator == 1:
      digits = str(abs(int(value * 10**places))).rjust(places + 1, '0')
      return f'{"-" * (value < 0)}{digits[:-places]}.{digits[-places:]}'
  return None


def is_expression(text):
  """Whether it is an expression that can be put in brackets: no list, set, relation, text or unit."""
  return not re.search(r'[,=<>_%]|\\(text|mbox|in\b|le|ge|pm|cup|\$|\{|begin|infty)|circ', text) and text[0] not in '[('


def right(gold, rng):
  """Rewrites that are equal."""
  value = number_of(gold)
  yield from (f'${gold}$', f' {gold} ', f'{gold}.', f'\\( {gold} \\)', f'The answer is ${gold}$.')
  if value is None:
    if is_expression(gold):
      yield from (f'({gold})', f'{gold}+0', f'\\frac{{2({gold})}}{{2}}', f'5-5+({gold})', f'x = {gold}')
    yield from (gold.replace('\\frac', '\\dfrac'), gold.replace(',', ' , '), gold.replace('+', ' + '))
    return
  n, d = value.numerator, value.denominator
  k = rng.randrange(2, 9)
  yield from (
    f'\\frac{{{n * k}}}{{{d * k}}}',
    f'{n * k}/{d * k}',
    f'\\dfrac{{{n}}}{{{d}}}',
    f'x = {gold}',
    f'{gold} cm',
    f'{gold}\\text{{ cm}}',
    f'{gold} square inches',
    f'{gold}^\\circ',
    f'\\${gold}',
    f'{gold} dollars',
    f'x = {gold} = {n}/{d}',
    f'{n * k}/{d * k} \\text{{ or }} {gold}',
  )
  if text := decimal(value):
    yield from (
      text,
      text + '0',
      decimal(value * 100) + '\\%',
      decimal(value * 100) + '%',
      text.translate({48 + i: 0xFF10 + i for i in range(10)} | {46: '．'}),
    )
  if d > 1 and 10**9 % d:
    yield f'{"-" * (n < 0)}{abs(n) // d}.{10**9 * (abs(n) % d) // d:09d}'  # nine places, cut off
  if d == 1:
    yield from (f'{n:,}', f'{n:,}'.replace(',', '{,}'), f'{n:,}'.replace(',', ',\\!'), f'{n}.0', f'{n}.00')
    if 0 <= n < 10_000:
      yield from (chinese(n), f'{chinese(n)}个', f'{n}元', f'{n}个')


def wrong(gold, other, rng):
  """Rewrites that are not equal. other: a different answer."""
  value = number_of(gold)
  yield from (
    f'{gold}, {other}',
    f'{gold} or {other}',
    f'{other} or {gold}',
    f'{gold} \\text{{ or }} {other}',
    '',
    f'\\{{{gold}, {other}\\}}',
    f'{other}, {gold}',
    f'{gold} and {other}',
    f'{gold}; {other}',
    'I cannot say',
    f'{gold}或{other}',
    f'{gold} \\cup {other}',
    f'{gold}}} \\boxed{{{other}',
    f'{gold} \\to {other}',
    f'{gold}?{other}',
    f'{other} = {gold}' if value is not None else other,
  )
  if value is None:
    if is_expression(gold):
      yield from (f'{gold}+1', f'-({gold})-1', f'2({gold})+1', f'({gold})^2+{rng.randrange(3, 9)}^{{9}}')
    return
  n, d = value.numerator, value.denominator
  yield from (
    f'{n + 1}/{d}',
    f'{n - 1}/{d}',
    f'{n}/{d} + 1',
    f'{gold} hundred',
    f'{gold} thousand',
    f'x > {gold}',
    f'x \\ne {gold}',
  )
  if n:
    yield from (f'{gold}万', f'\\pm {gold}', f'\\frac{{{n}}}{{{d + 1}}}', f'{-n}/{d}', f'{n}0/{d}', f'-({gold})')
  if d > 1:
    yield from (
      f'{d}/{n}' if abs(n) != d and n else '7/0',
      str(round(float(value), 2)) if 100 % d else f'{n}{d}',
      f'{n}, {d}',
    )
  digits = str(abs(n))
  if d == 1 and len(digits) > 1 and digits[0] != digits[1]:
    yield f'{"-" * (n < 0)}{digits[1]}{digits[0]}{digits[2:]}'


WRAPS = [
  '<think>{think}</think><answer>{}</answer>',
  '<think>{think} \\boxed{{other}}</think> So it is \\boxed{{}}.',
  '<answer>{}</answer>',
  '{think} $\\boxed{{}}$',
  '\\boxed{{other}}? No. \\boxed{{}}',
  '<answer>\\boxed{{}}</answer>',
  '<think>{think} <answer>{other}</answer></think><answer>{}</answer>',
]
# The right answer in a place where it does not count, or beside another answer.
SPOILT = [
  '<think>{think} \\boxed{{}}</think>',
  '<think>\\boxed{{}} {think}',
  '{think} {}',
  '<think>{think} <answer>{}</answer></think>',
  '<think>{}</think><answer></answer>',
  '\\boxed{{}}. Wait: \\boxed{{other}}',
  '<answer>{}</answer><answer>{other}</answer>',
  '<answer>{}</answer> \\boxed{{other}}',
  '<answer>{}</answer> No, the answer is {other}.',
  '\\boxed{{}} or \\boxed{{other}}',
  '\\boxed{{other}}, \\boxed{{}}',
  '<answer>\\boxed{{other}}</answer> \\boxed{{}}',
]


def fill(wrap, answer, other, think):
  return wrap.replace('{think}', think).replace('{other}', other).replace('{}', answer)


def _sample(texts, count, rng):
  return rng.sample(texts, min(count, len(texts)))


def pairs(folder, counts, rewrites, rng):
  """List of (item, whether it is right), from `counts` rows per file, with at most `rewrites` per row and label."""
  out = []
  for name, count in counts.items():
    for row in rng.sample(rows(folder / 'math' / name), count):
      gold = row['answer']
      # A different integer, which differs from every other integer and from everything that is not a number.
      other = str(next(n for n in iter(lambda: rng.randrange(2, 999), None) if number_of(gold) != n))
      think = row.get('solution', 'Let me see.').replace('\\boxed', '\\fbox')[-300:].replace('{', '').replace('}', '')
      texts = [
        (answer, truth)
        for truth, candidates in ((1, right(gold, rng)), (0, wrong(gold, other, rng)))
        for answer in _sample(sorted(set(candidates)), rewrites, rng)
      ]
      for answer, truth in texts:
        wrap = rng.choice(WRAPS) if rng.random() < 0.8 else '{}'  # the rest is bare
        out.append((fill(wrap, answer, other, think), gold, truth))
      out.append((fill(rng.choice(SPOILT), gold, other, think + ' So'), gold, 0))
  return [({'prompt': '', 'response': response, 'answer': gold}, truth) for response, gold, truth in out]


def test_pairs_of_known_truth(data_dir):
  counts = {'gsm8k_test.jsonl': 40, 'math500.jsonl': 110, 'aime_1983_2023.jsonl': 30, 'aime24.jsonl': 10}
  items = pairs(data_dir, counts, 4, random.Random(0))
  with pool.Grader({'math': {'bare': True}}, workers=2) as grader:
    verdicts = grader.submit([item for item, _ in items]).result().verdicts['math']
  wrong = [
    (item['answer'], item['response'][-120:], truth, verdict['reason'])
    for (item, truth), verdict in zip(items, verdicts, strict=True)
    if verdict['score'] != truth
  ]
  accuracy = 1 - len(wrong) / len(items)
  positives = sum(truth for _, truth in items)
  print(f'{len(items)} pairs, {positives} of them right: accuracy {accuracy:.2%}, {wrong}')
  assert len(items) > 1500 and 0.3 < positives / len(items) < 0.7
  assert [w for w in wrong if not w[2]] == []  # no false positive
  assert accuracy >= 0.99


def test_solutions_of_math_500_hold_their_answers(data_dir):
  table = rows(data_dir / 'math' / 'math500.jsonl')
  items = [{'prompt': '', 'response': r['solution'], 'answer': r['answer'], 'problem': r['problem']} for r in table]
  with pool.Grader({'math': {}}) as grader:
    scores = grader.submit(items).result().parts['math']
  print(f'{int(scores.sum())} of {len(items)} solutions')
  assert scores.mean() >= 0.998
