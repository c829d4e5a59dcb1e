"""Answers in the forms used by models and answer keys: each row of faults/forms.jsonl gets its score.

The rows have the format that `python -m r1jax.rewards.grade` reads, with 'right', the score, and 'kind', the form.
"""

import gzip
import json
import pathlib

import pytest

from r1jax import rewards
from r1jax.rewards.mathematics import labels, mathtext

FILE = pathlib.Path(__file__).parent / 'faults' / 'forms.jsonl'
ROWS = [json.loads(line) for line in FILE.read_text(encoding='utf-8').splitlines()]
KINDS = {kind: [row for row in ROWS if row['kind'] == kind] for kind in dict.fromkeys(row['kind'] for row in ROWS)}


def score(row):
  if 'gold' not in row:
    return rewards.VERDICTS['choice'](row)['score']
  item = {'prompt': '', 'problem': row.get('problem', ''), 'response': row['pred'], 'answer': row['gold']}
  return rewards.VERDICTS['math'](item, bare=True)['score']


@pytest.mark.parametrize('kind', KINDS)
def test_every_row_gets_its_score(kind):
  assert [row for row in KINDS[kind] if score(row) != row['right']] == []


def test_letters_and_values_of_real_answer_keys(data_dir):
  """A letter or value of an answer key is correct; a different letter or value is not."""
  with gzip.open(data_dir / 'math' / 'numina_cot_2k.jsonl.gz', 'rt') as file:
    golds = [json.loads(line)['answer'] for line in file]
  split_by_gold = {gold: labels.split(mathtext.normalize(gold)) for gold in golds}
  keys = [(gold, *key) for gold, key in split_by_gold.items() if key]
  assert len(keys) > 60
  bad = []
  for gold, letter, value in keys:
    other_letter = 'AB'[letter == 'A']
    right = [letter, f'({letter})', f'\\text{{({letter})}}', value, f'\\textbf{{({letter})}}\\ {value}']
    wrong = [
      other_letter,
      f'({other_letter})',
      f'({other_letter}) {value}',
      f'\\textbf{{({other_letter})}}\\ {value}',
      '987654321',
      f'({letter}) 987654321',
      f'({letter}) or ({other_letter})',
      f'{letter}, {other_letter}',
      f'({letter}) {value} ({other_letter}) 987654321',
    ]
    bad += [
      (gold, pred, truth)
      for truth, preds in ((1, right), (0, wrong))
      for pred in preds
      if score({'gold': gold, 'pred': pred}) != truth
    ]
  assert bad == []
