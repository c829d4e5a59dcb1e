"""pass@1, any@k and cons@k against votes counted by hand."""

import pytest

from r1jax.evaluation import majority, summarise


@pytest.mark.parametrize(
  ('answers', 'correct', 'want'),
  [
    (['3', '3', '4'], [1, 1, 0], 1.0),
    (['3', '4', '4'], [1, 0, 0], 0.0),  # correct in any@3 but not in the vote
    (['4', '3', '3', '4'], [0, 1, 1, 0], 0.0),  # a tie goes to the first answer
    (['3', '4', '4', '3'], [1, 0, 0, 1], 1.0),
    ([None, None, '3'], [0, 0, 1], 1.0),  # None does not vote, however often
    ([None, '4', None, '3', '3'], [0, 0, 0, 1, 1], 1.0),
    ([None, None], [0, 0], 0.0),
    (['3'], [1], 1.0),
    (['3', '3', '3'], [1, 1, 0], 1.0),  # most responses with the winning answer are correct
    (['3', '3'], [1, 0], 0.0),  # half is not most
  ],
)
def test_majority(answers, correct, want):
  assert majority(answers, [bool(c) for c in correct]) == want


def row(voted, correct, length=10, stop='eos', reflections=0, form=1.0, language=1.0):
  return {
    'voted': voted,
    'correct': bool(correct),
    'length': length,
    'stop': stop,
    'reflections': reflections,
    'format': form,
    'language': language,
  }


def test_summary_of_three_problems_by_hand():
  rows = [
    row('3', 1),
    row('3', 1),
    row('4', 0, length=30, stop='length'),
    row(None, 0),  # pass 2/4, any, cons
    row('1', 0),
    row('2', 1, reflections=3),
    row('1', 0),
    row('2', 0),  # pass 1/4, any, tie lost
    row(None, 0, form=0.0),
    row(None, 0),
    row(None, 0, language=0.5),
    row('7', 0),  # nothing
  ]
  got = summarise(rows, 4)
  assert got == pytest.approx(
    {
      'pass@1': 3 / 12,
      'any@4': 2 / 3,
      'cons@4': 1 / 3,
      'format': 11 / 12,
      'length_mean': 140 / 12,
      'reflection_rate': 1 / 12,
      'language_consistency': 11.5 / 12,
      'truncated_fraction': 1 / 12,
    }
  )
  assert all(isinstance(x, float) for x in got.values())


def test_with_one_sample_all_three_agree():
  got = summarise([row('1', 1), row('2', 0), row('3', 1), row('4', 1)], 1)
  assert got['pass@1'] == got['any@1'] == got['cons@1'] == 0.75
