"""Exact and near duplicates, against the similarity computed from the sets themselves."""

import random
import sqlite3

import numpy as np
import pytest

from r1jax.recipes import duplicates

WORDS = [f'w{n}' for n in range(500)]
N = 5


def jaccard(a, b, n=N):
  first, second = ({tuple(x[i : i + n]) for i in range(len(x) - n + 1)} for x in (a, b))
  return len(first & second) / len(first | second)


def change_words(dice, words, share):
  return [dice.choice(WORDS) if dice.random() < share else word for word in words]


def chinese(words):
  return ''.join(chr(0x4E00 + int(word[1:])) for word in words)


@pytest.mark.parametrize('join', [' '.join, '\n  '.join, chinese])
def test_signatures_estimate_the_similarity(join):
  dice, errors = random.Random(1), []
  for share in (0.0, 0.01, 0.02, 0.05, 0.1, 0.3, 1.0):
    for _ in range(10):
      a = dice.choices(WORDS, k=200)
      b = change_words(dice, a, share)
      first, second = (duplicates.signature(join(x), N) for x in (a, b))
      errors.append(duplicates.similarity(first, second) - jaccard(a, b))
      assert share > 0 or errors[-1] == 0
  # With 120 numbers the standard deviation is at most 0.046.
  assert abs(np.mean(errors)) < 0.02 and max(map(abs, errors)) < 0.19


def test_a_signature_does_not_depend_on_block_size_or_case(monkeypatch):
  text = ' '.join(random.Random(0).choices(WORDS, k=3000))
  expected = duplicates.signature(text, N)
  assert expected.shape == (120,) and expected.dtype == np.uint32
  monkeypatch.setattr(duplicates, '_BLOCK', 7)
  assert (duplicates.signature(text, N) == expected).all()
  assert (duplicates.signature(text.upper(), N) == expected).all()
  assert (duplicates.signature('one two', N) == duplicates.signature('ONE\ntwo', N)).all()
  assert not (duplicates.signature('one two', N) == duplicates.signature('two one', N)).any()
  assert duplicates.signature('', N).shape == (120,)


def row(problem, response):
  key = duplicates.digest(problem, response)
  return key, np.stack([duplicates.signature(response, N), duplicates.signature(problem, N)])


@pytest.fixture
def kept_rows(tmp_path):
  database = sqlite3.connect(tmp_path / 'kept')
  yield duplicates.KeptRows(database, 0.8)
  database.close()


def test_near_duplicates_are_found_and_others_are_not(kept_rows):
  dice, kept = random.Random(2), []
  for n in range(60):
    kept.append(dice.choices(WORDS, k=150))
    key, signatures = row('the same long question ' * 5, ' '.join(kept[-1]))
    assert kept_rows.find(key, signatures) == ''
    kept_rows.add(key, signatures, n)
  answers = {True: [], False: []}
  for words in kept:
    for count in (1, 20):
      other = list(words)
      for index in dice.sample(range(150), count):
        other[index] = 'changed'
      near = jaccard(words, other)
      assert near > 0.9 or near < 0.6
      answers[near > 0.9].append(kept_rows.find(*row('The Same long question ' * 5, ' '.join(other))))
  assert answers == {True: ['near duplicate'] * 60, False: [''] * 60}
  assert kept_rows.find(*row('the  same long\nquestion ' * 5, '\n'.join(kept[7]))) == 'duplicate'


def test_one_answer_to_many_questions_is_no_duplicate(kept_rows):
  answer = 'I am a model that was made to show its reasoning before it answers, and that is all.'
  for n in range(50):
    key, signatures = row(f'Who are you, asked for the {n}th time by another person?', answer)
    assert kept_rows.find(key, signatures) == ''
    kept_rows.add(key, signatures, n)


def test_without_a_threshold_only_exact_duplicates_are_found(tmp_path):
  kept_rows = duplicates.KeptRows(sqlite3.connect(tmp_path / 'kept'), 0)
  key, _ = row('problem', 'response')
  kept_rows.add(key, None, 0)
  assert kept_rows.find(key, None) == 'duplicate'
  assert kept_rows.find(row('problem', 'Response')[0], None) == ''


def test_digests_depend_on_where_a_text_ends():
  assert duplicates.digest('a', 'b c') != duplicates.digest('a b', 'c')
  assert duplicates.digest('a  b', 'c') == duplicates.digest('a b', ' c\n')


def test_duplicates_are_found_after_reopening_the_database(tmp_path):
  first = sqlite3.connect(tmp_path / 'kept')
  key, signatures = row('problem', ' '.join(WORDS))
  duplicates.KeptRows(first, 0.8).add(key, signatures, 0)
  first.commit()
  first.close()
  reopened = duplicates.KeptRows(sqlite3.connect(tmp_path / 'kept'), 0.8)
  assert reopened.find(*row('problem', ' '.join(WORDS) + ' more')) == 'near duplicate'
