"""Training data of SFT: rows as ids, what is held out, what is dropped, and that texts are encoded once."""

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
  """A tokenizer whose tokens are characters."""

  eos = (0,)

  def __init__(self, folder):
    self.path = str(folder / 'tokenizer.model')
    (folder / 'tokenizer.model').write_text('letters')

  def encode(self, text):
    return [ord(c) for c in text]


def text(corpus, index):
  ids, start = corpus.text(index)
  assert ids[-1] == 0
  return ''.join(map(chr, ids[:start])), ''.join(map(chr, ids[start:-1]))


def write(path, rows):
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return str(path)


def load(folder, calls=None, prompt=lambda row: f'{row["problem"]}\n', evaluated=frozenset(), **settings):
  cfg = config.SFTData(**dict(source='jsonl', max_length=100, eval_fraction=0.3) | settings)
  tokenizer = Letters(folder)

  def encode(row):
    if calls is not None:
      calls.append(row)
    return prompt(row), tokenizer.encode(prompt(row))

  return sft.load(cfg, tokenizer, encode, str(folder / 'texts'), evaluated)


def rows(count=40):
  return [{'problem': f'problem {i}', 'response': f'<think>{i}</think>done', 'extra': i} for i in range(count)]


def test_texts_and_what_is_held_out(tmp_path):
  train, held_out, dropped = load(tmp_path, path=write(tmp_path / 'f.jsonl', rows()))
  texts = [[text(corpus, i) for i in range(len(corpus))] for corpus in (train, held_out)]
  in_share = lambda row: share(row['problem'], sft.PURPOSE) < 0.3
  expected = [
    [(f'{row["problem"]}\n', row['response']) for row in rows() if in_share(row) == held] for held in (False, True)
  ]
  assert texts == expected and min(map(len, expected)) > 5
  assert dropped == {'long': 0, 'long_held_out': 0, 'held_out': 0, 'asked': 0}
  assert train.lengths.tolist() == [len(a) + len(b) + 1 for a, b in expected[0]]


@pytest.mark.parametrize('fraction', [0.02, 0.002])
def test_training_problems_of_rl_are_split_again(tmp_path, fraction):
  """RL's training problems, none of which is in its held-out share, are in SFT's held-out share all the same."""
  problems = write(tmp_path / 'p.jsonl', [{'problem': f'problem {i}', 'answer': '1'} for i in range(5000)])
  rl = data.load(config.Data(source='jsonl', path=problems, eval_fraction=0.05))
  path = write(tmp_path / 'f.jsonl', [{'problem': p['problem'], 'response': 'x'} for p in rl.train])
  train, held_out, _ = load(tmp_path, path=path, eval_fraction=fraction)
  expected = fraction * len(rl.train)
  assert abs(len(held_out) - expected) < 4 * expected**0.5 and len(train) + len(held_out) == len(rl.train)


def test_a_text_whose_prompt_is_in_the_evaluation_is_dropped(tmp_path):
  path = write(tmp_path / 'f.jsonl', rows())
  all_texts, held_out, _ = load(tmp_path, path=path)
  index = next(i for i, row in enumerate(rows()) if share(row['problem'], sft.PURPOSE) >= 0.3)
  train, same_held_out, dropped = load(tmp_path, path=path, evaluated=frozenset({rows()[index]['problem'], 'another'}))
  assert dropped['asked'] == 1 == len(all_texts) - len(train) and len(same_held_out) == len(held_out)
  assert all(text(train, i)[0] != f'{rows()[index]["problem"]}\n' for i in range(len(train)))


def test_a_held_out_file_a_folder_and_texts_over_the_limit(tmp_path):
  (tmp_path / 'set').mkdir()
  write(tmp_path / 'set' / 'train.jsonl', [*rows(), {'problem': 'x', 'response': 'y' * 98}])
  held_out_file = write(
    tmp_path / 'h.jsonl', [rows()[3] | {'problem': ' problem  3'}, {'problem': 'long', 'response': 'y' * 99}]
  )
  train, held_out, dropped = load(tmp_path, path=str(tmp_path / 'set'), eval_path=held_out_file)
  assert dropped == {'long': 1, 'long_held_out': 1, 'held_out': 1, 'asked': 0}  # rows()[3] with other white space
  assert (len(train), len(held_out)) == (39, 1)


def test_texts_are_encoded_again_only_if_something_changed(tmp_path):
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


def test_an_interrupted_encoding_starts_again(tmp_path):
  path = write(tmp_path / 'f.jsonl', rows())
  ids = load(tmp_path, path=path)[0].ids.tobytes()
  (about,) = (tmp_path / 'texts').glob('*/about.json')
  about.unlink()
  (about.parent / 'train.ids').write_bytes(b'torn')
  assert load(tmp_path, path=path)[0].ids.tobytes() == ids


def test_worked_solutions_of_gsm8k_as_published(tmp_path):
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
  ('prompt', 'response', 'want'),
  [
    ('ask\n', '<think>\nhm</think>\n\nso', '<think>\nhm</think>\n\nso'),
    ('ask\n', 'so', 'so'),
    ('ask <think>', '<think>\nhm</think>\n\nso', 'hm</think>\n\nso'),  # the prompt opens the thinking
    ('ask <think>', 'so', '\n</think>\n\nso'),  # a response without thinking closes it
  ],
)
def test_thinking_is_opened_once(tmp_path, prompt, response, want):
  tokenizer = Letters(tmp_path)
  ids, start = sft.text_ids(prompt, tokenizer.encode(prompt), response, tokenizer)
  assert ''.join(map(chr, ids)) == f'{prompt}{want}\0' and start == len(prompt)


def test_conversations(tmp_path):
  turns = [{'role': 'user', 'content': 'a'}, {'role': 'assistant', 'content': 'b'}, {'role': 'user', 'content': 'c'}]
  conversations = [{'turns': turns, 'response': f'd{i}'} for i in range(3)] + rows()
  encoded = []
  load(
    tmp_path, encoded, path=write(tmp_path / 'f.jsonl', conversations), prompt=lambda row: row.get('problem', 'talk')
  )
  assert [row['turns'] for row in encoded if 'turns' in row] == [turns] * 3


@pytest.mark.parametrize(
  ('row', 'words'),
  [
    ({'response': 'x'}, "line 2: .*'turns'.*'problem'"),
    ({'problem': 'x'}, "line 2: field 'response'.*data.response"),
    ({'problem': 'x', 'response': ' '}, "line 2: field 'response'"),
    ({'problem': 'x', 'response': ['x']}, "line 2: field 'response'"),
    ({'turns': [{'role': 'assistant', 'content': 'x'}], 'response': 'x'}, 'line 2: .*ends with an assistant turn'),
  ],
)
def test_a_bad_line_is_named(tmp_path, row, words):
  with pytest.raises(DataError, match=words) as error:
    load(tmp_path, path=write(tmp_path / 'f.jsonl', [rows()[0], row]))
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  ('settings', 'words'),
  [
    (dict(source='chain', path='f'), "data.path 'f' would not be read"),
    (dict(source='tsv'), "data.source is 'tsv'; known: jsonl, chain"),
    (dict(), 'data.path is empty'),
    (dict(path='none.jsonl'), 'there is no file none.jsonl'),
    (dict(eval_fraction=0.0), 'nothing is held out'),
    (dict(response='none'), "data.response is 'none'"),
    (dict(drop='('), 'data.drop'),
  ],
)
def test_settings_that_cannot_work(tmp_path, settings, words):
  with pytest.raises((ConfigError, DataError), match=words):
    load(tmp_path, **settings)


def test_an_error_if_all_texts_are_over_the_limit(tmp_path):
  with pytest.raises(DataError, match=r'\d+ exceed data.max_length 20 \(the shortest has \d+ tokens'):
    load(tmp_path, path=write(tmp_path / 'f.jsonl', rows()), max_length=20)


def test_toy_texts_are_right_and_not_held_out_problems():
  chains = arithmetic.right_chains(0, 50)
  assert chains == arithmetic.right_chains(0, 50) != arithmetic.right_chains(1, 50)
  for problem, response in chains:
    terms = problem.removesuffix(' = ?').split()[1:]
    first = np.prod([int(x) for x in terms[0].split('*')])
    assert response.endswith(f'<answer> {first + sum(int(x) for x in terms[2::2])} </answer>')
    assert not arithmetic.is_held_out(problem)
