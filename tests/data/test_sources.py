"""Loading, the split into training and held-out problems, and prompts over the limit."""

import json

import pytest

from r1jax import config, data
from r1jax.data import sources


def write(path, texts):
  path.write_text(''.join(json.dumps({'problem': t, 'answer': '1'}) + '\n' for t in texts))
  return str(path)


def texts(problems):
  return {' '.join(p['problem'].split()) for p in problems}


def test_held_out_share_is_disjoint_by_text_whatever_the_white_space(tmp_path):
  numbers = [f'what is {i} ?' for i in range(2000)]
  path = write(tmp_path / 'p.jsonl', numbers + [t.replace(' ', '  ') + '\n' for t in numbers])
  problems = data.load(config.Data(source='jsonl', path=path, eval_fraction=0.1))
  assert not texts(problems.train) & texts(problems.held_out)
  assert texts(problems.train) | texts(problems.held_out) == set(numbers)
  assert len(problems.train) + len(problems.held_out) == 4000
  assert 140 < len(texts(problems.held_out)) < 260  # 200 +- 4.5 standard deviations


def test_a_problem_keeps_its_split_when_others_are_added_or_the_order_changes(tmp_path):
  def held_out(problems):
    return texts(data.load(config.Data(source='jsonl', path=write(tmp_path / 'p.jsonl', problems))).held_out)

  few = [f'problem {i}' for i in range(300)]
  assert held_out(few) and held_out(few) == held_out(few[::-1])
  assert held_out(few) == held_out(few + [f'other {i}' for i in range(300)]) & set(few)


def test_all_problems_of_the_eval_file_are_held_out_and_dropped_from_train(tmp_path):
  train = write(tmp_path / 'train.jsonl', ['a', 'b', 'c  c', 'd'])
  held_out = write(tmp_path / 'test.jsonl', ['c c', 'e'])
  problems = data.load(config.Data(source='jsonl', path=train, eval_path=held_out))
  assert texts(problems.train) == {'a', 'b', 'd'} and texts(problems.held_out) == {'c c', 'e'}
  assert problems.dropped == {'malformed': 0, 'held_out': 1}


def test_malformed_lines_are_in_the_counts(tmp_path):
  path = write(tmp_path / 'p.jsonl', map(str, range(100)))
  with open(path, 'ab') as f:
    f.write(b'oops\n\xff\n')
  assert data.load(config.Data(source='jsonl', path=path)).dropped['malformed'] == 2


def test_an_empty_split_is_an_error(tmp_path):
  path = write(tmp_path / 'p.jsonl', ['a', 'b'])
  with pytest.raises(data.DataError, match='none of the 2 problems.*1e-06.*data.eval_fraction'):
    data.load(config.Data(source='jsonl', path=path, eval_fraction=1e-6))
  assert len(data.load(config.Data(source='jsonl', path=path, eval_fraction=0.0)).train) == 2
  with pytest.raises(data.DataError, match='no problem is left to train on'):
    data.load(config.Data(source='jsonl', path=path, eval_path=path))


@pytest.mark.parametrize(
  ('settings', 'words'),
  [
    (dict(source='json'), "data.source is 'json'; use one of jsonl, tfds, trial, chain"),
    (dict(source='jsonl'), '--config.data.path=FILE'),
    (dict(source='tfds', path='x'), '--config.data.name=NAME'),
    (dict(source='tfds', name='x'), '--config.data.path=DIR'),
    (dict(source='trial', path='x'), 'would not be read'),
  ],
)
def test_settings_that_cannot_work(settings, words):
  with pytest.raises(config.ConfigError) as e:
    data.load(config.Data(**settings))
  assert words in str(e.value)


def test_long_prompts_are_dropped_and_counted():
  problems = [{'problem': 'x' * n} for n in (3, 9, 4, 5, 4)]
  encode = lambda p: [0, *p['problem']]  # one token more than characters
  kept, dropped = data.drop_long(problems, encode, 5)
  assert [len(p['problem']) for p in kept] == [3, 4, 4] and dropped == 2
  assert data.drop_long([], encode, 5) == ([], 0)
  with pytest.raises(data.DataError, match='all 5 prompts exceed 3 tokens .*rollout.max_prompt to at least 4'):
    data.drop_long(problems, encode, 3)


@pytest.mark.parametrize('world', ['trial', 'chain', 'stories', 'countdown'])
def test_toy_worlds_are_disjoint_and_always_the_same(world):
  one, two = (data.load(config.Data(source=world)) for _ in range(2))
  assert one == two
  assert not texts(one.train) & texts(one.held_out)
  assert len(texts(one.train)) == len(one.train) > len(texts(one.held_out)) == len(one.held_out) > 256
  assert len({p['id'] for p in one.train + one.held_out}) == len(one.train) + len(one.held_out)


def test_gsm8k(data_dir):
  problems = data.load(config.Data(source='jsonl', path=str(data_dir / 'math' / 'gsm8k_train.jsonl.gz')))
  assert len(problems.train) + len(problems.held_out) == 7473
  assert problems.dropped == {'malformed': 0, 'held_out': 0}
  assert not texts(problems.train) & texts(problems.held_out)
  assert 280 < len(problems.held_out) < 470  # 374 +- 5 standard deviations
  assert {p['id']: p['answer'] for p in problems.train + problems.held_out}['gsm8k/train/0'] == '72'
  assert all(float(p['answer']) is not None for p in problems.train)


def test_records_that_fail_the_check_are_dropped_counted_and_the_first_is_named(caplog):
  def check(problem):
    if problem['answer'] == '0':
      raise ValueError('nothing to compare with')

  rows = [{'problem': str(i), 'answer': str(i % 3)} for i in range(6)]
  with caplog.at_level('WARNING'):
    kept, malformed = sources._drop_malformed({'train': rows[:4], 'held_out': rows[4:]}, check, 'set')
  assert {split: [p['problem'] for p in problems] for split, problems in kept.items()} == {
    'train': ['1', '2'],
    'held_out': ['4', '5'],
  } and malformed == 2
  assert '2 malformed of 6' in caplog.text and 'train, record 0: nothing to compare' in caplog.text
  assert sources._drop_malformed({'train': rows}, None, 'set') == ({'train': rows}, 0)
