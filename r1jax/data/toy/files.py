"""Human data of R1's toy world as files: preferences, and answers to open questions."""

import json
import os

from r1jax.data.toy import r1_text

PAIRS, HELD_OUT_PAIRS, ANSWERS = 'pairs.jsonl', 'pairs_held_out.jsonl', 'answers.jsonl'


def write(folder, seed, pairs, held_out_pairs, answers):
  """Writes the three files, each atomically. Returns {file name: number of rows}."""
  files = {
    PAIRS: r1_text.pairs(seed, pairs, False),
    HELD_OUT_PAIRS: r1_text.pairs(seed, held_out_pairs, True),
    ANSWERS: r1_text.open_answers(seed, answers),
  }
  os.makedirs(folder, exist_ok=True)
  for name, rows in files.items():
    path = os.path.join(folder, name)
    with open(path + '.tmp', 'w', encoding='utf-8') as f:
      f.writelines(json.dumps(row, ensure_ascii=False) + '\n' for row in rows)
    os.replace(path + '.tmp', path)
  return {name: len(rows) for name, rows in files.items()}
