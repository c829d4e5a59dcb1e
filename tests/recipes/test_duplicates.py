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


def changed(dice, words, share):
  return [dice.choice(WORDS) if dice.random() < share else word for word in words]


def chinese(words):
  return ''.join(chr(0x4E00 + int(word[1:])) for word in words)


@pytest.mark.parametrize('join', [' '.join, '\n  '.join, chinese])
def test_signatures_estimate_the_similarity(join):
  dice, errors = random.Random(1), []
  for share in (0.0, 0.01, 0.02, 0.05, 0.1, 0.3, 1.0):
    for _ in range(10):
      a = dice.choices(WORDS, k=200)
      b = changed(dice, a, share)
      ours, theirs = (duplicates.signature(join(x), N) for x in (a, b))
      errors.append(duplicates.similarity(ours, theirs) - jaccard(a, b))
      assert share > 0 or errors[-1] == 0
  # 120 numbers: a standard deviation of 0.046 at most.
  assert abs(np.mean(errors)) < 0.02 and max(map(abs, errors)) < 0.19


def test_a_signature_is_of_the_set_and_in_blocks_the_same(monkeypatch):
  text = ' '.join(random.Random(0).choices(WORDS, k=3000))
  whole = duplicates.signature(text, N)
  assert whole.shape == (120,) and whole.dtype == np.uint32
  monkeypatch.setattr(duplicates, '_AT_ONCE', 7)
  assert (duplicates.signature(text, N) == whole).all()
  assert (duplicates.signature(text.upper(), N) == whole).all()
  assert (duplicates.signature('one two', N) == duplicates.signature('ONE\ntwo', N)).all()
  assert not (duplicates.signature('one two', N) == duplicates.signature('two one', N)).any()
  assert duplicates.signature('', N).shape == (120,)


def row(problem, response):
  key = duplicates.digest(problem, response)
  return key, np.stack([duplicates.signature(response, N), duplicates.signature(problem, N)])


@pytest.fixture
def seen(tmp_path):
  database = sqlite3.connect(tmp_path / 'seen')
  yield duplicates.Seen(database, 0.8)
  database.close()


def test_near_duplicates_are_found_and_others_are_not(seen):
  dice, kept = random.Random(2), []
  for n in range(60):
    kept.append(dice.choices(WORDS, k=150))
    key, both = row('the same long question ' * 5, ' '.join(kept[-1]))
    assert seen.find(key, both) == ''
    seen.add(key, both, n)
  found = {True: [], False: []}
  for words in kept:
    for count in (1, 20):
      other = list(words)
      for at in dice.sample(range(150), count):
        other[at] = 'changed'
      near = jaccard(words, other)
      assert near > 0.9 or near < 0.6
      found[near > 0.9].append(seen.find(*row('The Same long question ' * 5, ' '.join(other))))
  assert found == {True: ['near duplicate'] * 60, False: [''] * 60}
  assert seen.find(*row('the  same long\nquestion ' * 5, '\n'.join(kept[7]))) == 'duplicate'


def test_one_answer_to_many_questions_is_no_duplicate(seen):
  answer = 'I am a model that was made to show its reasoning before it answers, and that is all.'
  for n in range(50):
    key, both = row(f'Who are you, asked for the {n}th time by another person?', answer)
    assert seen.find(key, both) == ''
    seen.add(key, both, n)


def test_without_a_threshold_only_exact_ones_count(tmp_path):
  seen = duplicates.Seen(sqlite3.connect(tmp_path / 'seen'), 0)
  key, _ = row('problem', 'response')
  seen.add(key, None, 0)
  assert seen.find(key, None) == 'duplicate'
  assert seen.find(row('problem', 'Response')[0], None) == ''


def test_digests_tell_where_a_text_ends():
  assert duplicates.digest('a', 'b c') != duplicates.digest('a b', 'c')
  assert duplicates.digest('a  b', 'c') == duplicates.digest('a b', ' c\n')


def test_what_is_found_does_not_depend_on_what_is_in_memory(tmp_path):
  first = sqlite3.connect(tmp_path / 'seen')
  key, both = row('problem', ' '.join(WORDS))
  duplicates.Seen(first, 0.8).add(key, both, 0)
  first.commit()
  first.close()
  again = duplicates.Seen(sqlite3.connect(tmp_path / 'seen'), 0.8)
  assert again.find(*row('problem', ' '.join(WORDS) + ' more')) == 'near duplicate'
