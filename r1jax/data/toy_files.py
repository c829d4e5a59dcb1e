"""What people give the recipe's toy world, as files: preferences, and answers to open questions without reasoning."""
import json
import os

import numpy as np

from r1jax.data import toy, toy_r1, toy_r1_text

PAIRS, HELD_OUT_PAIRS, GENERAL = 'pairs.jsonl', 'pairs_held_out.jsonl', 'general.jsonl'
FIT, REASON = 0.9, 0.4            # share of the answers that fit the question, and that come with a reason


def general(seed, count):
  """`count` rows to learn from: open questions that are not held out, each answered; half of them think nothing."""
  rng, rows = np.random.default_rng([seed, 23]), []
  while len(rows) < count:
    problem, facts = toy_r1.make(rng, 'open')
    if toy.is_held_out(problem['problem']):
      continue
    chain = ' '.join(toy_r1.KINDS['open'].think(facts, toy_r1.Author(rng, problem['language'], 0.0), False)[0])
    answer = toy_r1.open_answer(rng, facts, rng.random() < FIT, rng.random() < REASON)
    response = toy_r1_text.in_r1_form(chain if rng.random() < 0.5 else '', answer, problem['language'])
    rows.append({'id': f'open/people/{len(rows)}', 'problem': problem['problem'], 'response': response, 'kind': 'open',
                 'language': problem['language'], 'source': 'people'})
  return rows


def write(folder, seed, pairs, held_out_pairs, count):
  """Writes the three files, each whole or not at all. Returns {name: number of rows}."""
  made = {PAIRS: toy_r1_text.pairs(seed, pairs, False), HELD_OUT_PAIRS: toy_r1_text.pairs(seed, held_out_pairs, True),
          GENERAL: general(seed, count)}
  os.makedirs(folder, exist_ok=True)
  for name, rows in made.items():
    path = os.path.join(folder, name)
    with open(path + '.tmp', 'w', encoding='utf-8') as f:
      f.writelines(json.dumps(row, ensure_ascii=False) + '\n' for row in rows)
    os.replace(path + '.tmp', path)
  return {name: len(rows) for name, rows in made.items()}
