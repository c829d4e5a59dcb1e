"""Bad input: what is dropped, what stops a run, and which line the message names."""

import gzip
import json
import logging

import pytest

from r1jax.data.reader import DataError, read_jsonl

GOOD = b'{"id": "a", "problem": "1+1", "answer": "2", "level": 3}\n'

# name -> (a malformed line, words that its message must have)
BAD = {
  'not_json': (b'{"problem": "x"', 'not JSON'),
  'not_an_object': (b'[1, 2]', 'list, not an object'),
  'no_problem': (b'{"answer": "2"}', "no field 'problem'"),
  'no_answer': (b'{"problem": "x"}', "no field 'answer'"),
  'null_answer': (b'{"problem": "x", "answer": null}', "no field 'answer'"),
  'empty_problem': (b'{"problem": "  ", "answer": "2"}', "field 'problem' is empty"),
  'list_answer': (b'{"problem": "x", "answer": ["2"]}', "field 'answer' is a list"),
  'bool_answer': (b'{"problem": "x", "answer": true}', "field 'answer' is a bool"),
  'object_id': (b'{"problem": "x", "answer": "2", "id": {}}', "field 'id' is a dict"),
  'nan': (b'{"problem": "x", "answer": NaN}', 'not JSON compliant'),
  'infinity': (b'{"problem": "x", "answer": 1e999}', 'not JSON compliant'),
  'not_utf8': (b'{"problem": "\xff", "answer": "2"}', 'not UTF-8 (byte 0xff at offset 13)'),
  'surrogate': (b'{"problem": "\\ud800", "answer": "2"}', 'lone surrogate'),
  'deep': (b'[' * 100_000, 'nested too deeply'),
  'huge_int': (b'{"problem": "x", "answer": ' + b'9' * 5000 + b'}', 'integer string'),
  'no_answer_after_mark': (b'{"question": "x", "answer": "so\\n#### "}', "field 'answer' is empty"),
}


def write(path, data):
  path.write_bytes(data)
  return str(path)


def error(path):
  with pytest.raises(DataError) as e:
    read_jsonl(str(path))
  assert '\n' not in str(e.value) and str(path) in str(e.value)
  return str(e.value)


@pytest.mark.parametrize('name', BAD)
def test_a_bad_line_among_good_ones_is_dropped_counted_and_logged_once(tmp_path, name, caplog):
  line, why = BAD[name]
  path = write(tmp_path / 'p.jsonl', GOOD + b'\n' + line + b'\n' + line + b'\n' + GOOD)
  with caplog.at_level(logging.WARNING):
    problems, malformed = read_jsonl(path)
  assert len(problems) == 2 and malformed == 2
  warnings = [r.getMessage() for r in caplog.records if path in r.getMessage()]
  assert len(warnings) == 1 and '2 malformed of 4' in warnings[0]
  assert 'line 3: ' in warnings[0] and why in warnings[0]


@pytest.mark.parametrize('name', BAD)
def test_all_malformed_stops_with_the_first_bad_line(tmp_path, name):
  line, why = BAD[name]
  write(tmp_path / 'p.jsonl', b'\n\n' + line + b'\n[]\n')
  message = error(tmp_path / 'p.jsonl')
  assert 'none of the 2 lines' in message and 'line 3: ' in message and why in message


@pytest.mark.parametrize('data', [b'', b'\n \n\n', b'\xef\xbb\xbf'])
def test_empty_file(tmp_path, data):
  write(tmp_path / 'p.jsonl', data)
  assert 'is empty' in error(tmp_path / 'p.jsonl')


def test_empty_gzip(tmp_path):
  write(tmp_path / 'p.jsonl.gz', gzip.compress(b''))
  assert 'is empty' in error(tmp_path / 'p.jsonl.gz')


def test_missing_file(tmp_path):
  assert 'there is no file' in error(tmp_path / 'absent.jsonl')


def test_folder(tmp_path):
  assert 'is a folder' in error(tmp_path)


def test_corrupt_gzip_stops_even_after_good_lines(tmp_path):
  rows = [json.dumps({'problem': f'{i}', 'answer': i * i}) for i in range(5000)]
  compressed = gzip.compress('\n'.join(rows).encode())
  flipped = compressed[: len(compressed) // 2] + bytes(64) + compressed[len(compressed) // 2 + 64 :]
  files = {
    'cut': compressed[: len(compressed) // 2],
    'flipped': flipped,
    'plain': GOOD,
    'tail': compressed[:-4] + bytes(4),
  }
  for name, data in files.items():
    path = tmp_path / f'{name}.jsonl.gz'
    write(path, data)
    assert 'gzip' in error(path), name


def test_fields(tmp_path):
  path = write(
    tmp_path / 'p.jsonl',
    b'\xef\xbb\xbf'
    + GOOD
    + '\n{"question": "几?", "answer": 7}\n'.encode()
    + b'{"problem": "x", "answer": 0.5, "id": 12}',
  )
  problems, malformed = read_jsonl(path)
  assert malformed == 0
  assert problems == [
    {'id': 'a', 'problem': '1+1', 'answer': '2', 'level': 3},
    {'id': 'p.jsonl:3', 'problem': '几?', 'answer': '7'},
    {'id': '12', 'problem': 'x', 'answer': '0.5'},
  ]


def test_gzip_reads_the_same(tmp_path):
  data = GOOD * 3 + b'{"problem": "x", "answer": 1}\n'
  plain, _ = read_jsonl(write(tmp_path / 'p.jsonl', data))
  packed, _ = read_jsonl(write(tmp_path / 'p.jsonl.gz', gzip.compress(data)))
  assert [p['answer'] for p in packed] == ['2', '2', '2', '1']
  assert [p['problem'] for p in packed] == [p['problem'] for p in plain]


def test_gsm8k_as_published(tmp_path):
  row = {'question': 'How many?', 'answer': 'There are 2*617=<<2*617=1234>>1234.\n#### 1,234'}
  problems, _ = read_jsonl(write(tmp_path / 'train.jsonl', json.dumps(row).encode()))
  assert problems == [
    {'id': 'train.jsonl:1', 'problem': 'How many?', 'answer': '1234', 'solution': 'There are 2*617=<<2*617=1234>>1234.'}
  ]


@pytest.mark.parametrize(
  ('answer', 'solution', 'want'),
  [
    ('6*12=72 #### 72', '6*12=72', '72'),
    ('#### 72', None, '72'),
    ('  ####72 ', None, '72'),
    ('So it is 5.\n#### -1,234,567\n', 'So it is 5.', '-1234567'),
    ('a\t#### 3/4', 'a', '3/4'),
    ('first #### 1 then\n#### 2', 'first #### 1 then', '2'),
    ('one line #### $1,000 a year', 'one line', '$1000 a year'),
    ('a####b', None, 'a####b'),
    ('Use\n##### 5', None, 'Use\n##### 5'),
    ('3 ##### 5', None, '3 ##### 5'),
    ('Steps\n#### First\nadd\nthen go', None, 'Steps\n#### First\nadd\nthen go'),
    ('# 72', None, '# 72'),
  ],
)
def test_the_answer_mark_of_gsm8k_may_follow_any_white_space(tmp_path, answer, solution, want):
  (problem,) = read_jsonl(write(tmp_path / 'p.jsonl', json.dumps({'question': 'x', 'answer': answer}).encode()))[0]
  assert (problem.get('solution'), problem['answer']) == (solution, want)


@pytest.mark.parametrize('answer', ['####', 'so ####  ', 'so\n####\n'])
def test_a_mark_without_an_answer_is_malformed(tmp_path, answer):
  line = json.dumps({'question': 'x', 'answer': answer}).encode()
  problems, malformed = read_jsonl(write(tmp_path / 'p.jsonl', GOOD + line))
  assert len(problems) == 1 and malformed == 1
