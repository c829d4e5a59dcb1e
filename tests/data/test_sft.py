"""What is imitated: rows as ids, what is held out, what is dropped, and that it is encoded once."""

import gzip
import json

import numpy as np
import pytest

from r1jax import config, data
from r1jax.config import ConfigError
from r1jax.data import sft
from r1jax.data.reader import DataError
from r1jax.data.sources import share
from r1jax.data.toy import arithmetic


class Letters:
  """A tokenizer of characters."""

  eos = (0,)

  def __init__(self, folder):
    self.path = str(folder / 'tokenizer.model')
    (folder / 'tokenizer.model').write_text('letters')

  def encode(self, text):
    return [ord(c) for c in text]


def text(corpus, place):
  ids, start = corpus.text(place)
  assert ids[-1] == 0
  return ''.join(map(chr, ids[:start])), ''.join(map(chr, ids[start:-1]))


def write(path, rows):
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return str(path)


def load(folder, calls=None, prompt=lambda row: f'{row["problem"]}\n', asked=frozenset(), **settings):
  cfg = config.SFTData(**dict(source='jsonl', max_length=100, eval_fraction=0.3) | settings)
  tokenizer = Letters(folder)

  def encode(row):
    if calls is not None:
      calls.append(row)
    return prompt(row), tokenizer.encode(prompt(row))

  return sft.load(cfg, tokenizer, encode, str(folder / 'texts'), asked)


def rows(count=40):
  return [{'problem': f'problem {i}', 'response': f'<think>{i}</think>done', 'extra': i} for i in range(count)]


def test_texts_and_what_is_held_out(tmp_path):
  train, held_out, dropped = load(tmp_path, path=write(tmp_path / 'f.jsonl', rows()))
  found = [[text(part, i) for i in range(len(part))] for part in (train, held_out)]
  falls = lambda row: share(row['problem'], sft.PURPOSE) < 0.3
  want = [[(f'{row["problem"]}\n', row['response']) for row in rows() if falls(row) == held] for held in (False, True)]
  assert found == want and min(map(len, want)) > 5
  assert dropped == {'long': 0, 'long_held_out': 0, 'held_out': 0, 'asked': 0}
  assert train.lengths.tolist() == [len(a) + len(b) + 1 for a, b in want[0]]


@pytest.mark.parametrize('fraction', [0.02, 0.002])
def test_what_rl_has_left_to_train_on_is_parted_anew(tmp_path, fraction):
  """Rows made of RL's training problems, which never fall into its held-out share, fall into SFT's all the same."""
  problems = write(tmp_path / 'p.jsonl', [{'problem': f'problem {i}', 'answer': '1'} for i in range(5000)])
  found = data.load(config.Data(source='jsonl', path=problems, eval_fraction=0.05))
  path = write(tmp_path / 'f.jsonl', [{'problem': p['problem'], 'response': 'x'} for p in found.train])
  train, held_out, _ = load(tmp_path, path=path, eval_fraction=fraction)
  expected = fraction * len(found.train)
  assert abs(len(held_out) - expected) < 4 * expected**0.5 and len(train) + len(held_out) == len(found.train)


def test_a_text_whose_prompt_is_asked_in_the_evaluation_is_not_learned(tmp_path):
  path = write(tmp_path / 'f.jsonl', rows())
  whole, held_out, _ = load(tmp_path, path=path)
  place = next(i for i, row in enumerate(rows()) if share(row['problem'], sft.PURPOSE) >= 0.3)
  train, same, dropped = load(tmp_path, path=path, asked=frozenset({rows()[place]['problem'], 'another'}))
  assert dropped['asked'] == 1 == len(whole) - len(train) and len(same) == len(held_out)
  assert all(text(train, i)[0] != f'{rows()[place]["problem"]}\n' for i in range(len(train)))


def test_a_held_out_file_a_folder_and_what_is_too_long(tmp_path):
  (tmp_path / 'set').mkdir()
  write(tmp_path / 'set' / 'train.jsonl', [*rows(), {'problem': 'x', 'response': 'y' * 98}])
  held_out = write(
    tmp_path / 'h.jsonl', [rows()[3] | {'problem': ' problem  3'}, {'problem': 'long', 'response': 'y' * 99}]
  )
  train, held, dropped = load(tmp_path, path=str(tmp_path / 'set'), eval_path=held_out)
  assert dropped == {'long': 1, 'long_held_out': 1, 'held_out': 1, 'asked': 0}  # the same problem but for white space
  assert (len(train), len(held)) == (39, 1)


def test_what_was_encoded_is_found_again_and_what_changed_is_not(tmp_path):
  path, calls = write(tmp_path / 'f.jsonl', rows()), []
  first = load(tmp_path, calls, path=path)
  assert len(calls) == 40
  (tmp_path / 'moved.jsonl').write_text((tmp_path / 'f.jsonl').read_text())
  again = load(tmp_path, calls, path=str(tmp_path / 'moved.jsonl'))
  assert len(calls) == 40 and again[0].digest == first[0].digest and text(again[0], 5) == text(first[0], 5)
  assert load(tmp_path, calls, path=path, response='{extra}')[0].digest != first[0].digest and len(calls) == 80
  write(tmp_path / 'f.jsonl', rows(41))
  assert load(tmp_path, calls, path=path)[0].digest != first[0].digest
  (tmp_path / 'tokenizer.json').write_text('another')
  assert load(tmp_path, path=path)[0].digest != load(tmp_path, path=str(tmp_path / 'moved.jsonl'))[0].digest


def test_an_encoding_that_was_killed_begins_anew(tmp_path):
  path = write(tmp_path / 'f.jsonl', rows())
  whole = load(tmp_path, path=path)[0].ids.tobytes()
  (about,) = (tmp_path / 'texts').glob('*/about.json')
  about.unlink()
  (about.parent / 'train.ids').write_bytes(b'torn')
  assert load(tmp_path, path=path)[0].ids.tobytes() == whole


def test_worked_solutions_of_gsm8k_as_its_authors_publish_them(tmp_path):
  row = {'question': 'How many?', 'answer': 'It is 2*3=<<2*3=6>>6.\n#### 1,006'}
  with gzip.open(tmp_path / 'g.jsonl.gz', 'wt') as f:
    f.write(''.join(json.dumps(row | {'question': f'{i}?'}) + '\n' for i in range(20)))
  train, _, _ = load(
    tmp_path,
    path=str(tmp_path / 'g.jsonl.gz'),
    drop='<<[^<>]*>>',
    response='<think>\n{solution}\n</think>\n\n\\boxed{{answer}}',
  )
  assert text(train, 0)[1] == '<think>\nIt is 2*3=6.\n</think>\n\n\\boxed{1006}'


@pytest.mark.parametrize(
  'prompt, response, want',
  [
    ('ask\n', '<think>\nhm</think>\n\nso', '<think>\nhm</think>\n\nso'),
    ('ask\n', 'so', 'so'),
    ('ask <think>', '<think>\nhm</think>\n\nso', 'hm</think>\n\nso'),  # its prompt has opened the thinking
    ('ask <think>', 'so', '\n</think>\n\nso'),
  ],
)  # which one that does not think closes
def test_thinking_is_opened_once(tmp_path, prompt, response, want):
  tokenizer = Letters(tmp_path)
  ids, start = sft.text_ids(prompt, tokenizer.encode(prompt), response, tokenizer)
  assert ''.join(map(chr, ids)) == f'{prompt}{want}\0' and start == len(prompt)


def test_conversations(tmp_path):
  turns = [{'role': 'user', 'content': 'a'}, {'role': 'assistant', 'content': 'b'}, {'role': 'user', 'content': 'c'}]
  some = [{'turns': turns, 'response': f'd{i}'} for i in range(3)] + rows()
  seen = []
  load(tmp_path, seen, path=write(tmp_path / 'f.jsonl', some), prompt=lambda row: row.get('problem', 'talk'))
  assert [row['turns'] for row in seen if 'turns' in row] == [turns] * 3


@pytest.mark.parametrize(
  'row, said',
  [
    ({'response': 'x'}, "line 2: neither 'turns' nor a text 'problem'"),
    ({'problem': 'x'}, "line 2: field 'response', which data.response names, is absent, empty or no text"),
    ({'problem': 'x', 'response': ' '}, "line 2: field 'response'"),
    ({'problem': 'x', 'response': ['x']}, "line 2: field 'response'"),
    ({'turns': [{'role': 'assistant', 'content': 'x'}], 'response': 'x'}, "line 2: .*ends with the assistant's turn"),
  ],
)
def test_a_bad_line_is_named(tmp_path, row, said):
  with pytest.raises(DataError, match=said) as error:
    load(tmp_path, path=write(tmp_path / 'f.jsonl', [rows()[0], row]))
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  'settings, said',
  [
    (dict(source='chain', path='f'), "data.path 'f' would not be read"),
    (dict(source='tsv'), "data.source is 'tsv'; known: jsonl, chain"),
    (dict(), 'data.path is empty'),
    (dict(path='none.jsonl'), 'there is no file none.jsonl'),
    (dict(eval_fraction=0.0), 'nothing is held out'),
    (dict(response='none'), 'name the fields of a row in braces'),
    (dict(drop='('), 'data.drop'),
  ],
)
def test_settings_that_cannot_work(tmp_path, settings, said):
  with pytest.raises((ConfigError, DataError), match=said):
    load(tmp_path, **settings)


def test_texts_that_all_are_too_long_are_told_with_the_numbers(tmp_path):
  with pytest.raises(DataError, match=r'no text is left to train on; \d+ exceed data.max_length 20 \(the shortest'):
    load(tmp_path, path=write(tmp_path / 'f.jsonl', rows()), max_length=20)


def test_the_toy_world_answers_right_and_holds_problems_out():
  some = arithmetic.right_chains(0, 50)
  assert some == arithmetic.right_chains(0, 50) != arithmetic.right_chains(1, 50)
  for problem, response in some:
    terms = problem.removesuffix(' = ?').split()[1:]
    first = np.prod([int(x) for x in terms[0].split('*')])
    assert response.endswith(f'<answer> {first + sum(int(x) for x in terms[2::2])} </answer>')
    assert not arithmetic.is_held_out(problem)
