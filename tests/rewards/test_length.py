"""Length and repetition, against plain arithmetic."""

import math

import numpy as np
import pytest

from r1jax import losses, rewards
from r1jax.config import ConfigError
from r1jax.rewards.text import length

RIGHT, WRONG = '<answer>7</answer>', '<answer>8</answer>'


def cosine(response, tokens, **options):
  item = {'response': response, 'answer': '7', 'tokens': tokens}
  return rewards.REWARDS['length_cosine']([item], **{'max_length': 1000} | options)[0]


def test_the_paper_s_values_at_both_ends_and_in_the_middle():
  assert [cosine(RIGHT, n) for n in (0, 500, 1000, 2000)] == pytest.approx([2, 1.5, -10, -10])
  assert [cosine(WRONG, n) for n in (0, 500, 1000, 2000)] == pytest.approx([-10, -5, -10, -10])
  assert cosine(RIGHT, 999) == pytest.approx(1, abs=1e-4) and cosine(WRONG, 999) == pytest.approx(0, abs=1e-3)


def test_right_ones_fall_and_wrong_ones_rise_with_length():
  steps = range(0, 1000, 37)
  right, wrong = ([cosine(r, n, exceeded=-1.0) for n in steps] for r in (RIGHT, WRONG))
  assert right == sorted(right, reverse=True) and wrong == sorted(wrong) and min(right) > max(wrong)
  for n, value in zip(steps, right, strict=True):  # CosFn(t, T, low, high) of the paper
    assert value == pytest.approx(1 + 0.5 * (2 - 1) * (1 + math.cos(n * math.pi / 1000)))


def test_the_unit_and_the_judge_are_options():
  item = {'response': '<answer>+3</answer> 一二 three  four', 'answer': '30 ?3 = 33', 'prompt': ''}
  options = dict(correct='signs', max_length=40, right_short=1.0, right_long=0.0)
  for unit, count in (('words', 5), ('characters', len(item['response']))):
    assert length.length_of(item, unit) == count
    expected = 0.5 * (1 + math.cos(count * math.pi / 40)) if count < 40 else -10
    assert rewards.REWARDS['length_cosine']([item], unit=unit, **options) == [pytest.approx(expected)]
  with pytest.raises(ValueError, match="the item has no 'tokens'"):
    rewards.REWARDS['length_cosine']([item], **options)


@pytest.mark.parametrize(('max_length', 'buffer'), [(100, 20), (100, 100), (7, 3)])
def test_soft_overlong_is_the_loss_s_formula(max_length, buffer):
  lengths = np.arange(2 * max_length)
  items = [{'response': '', 'tokens': int(n)} for n in lengths]
  scores = rewards.REWARDS['soft_overlong'](items, max_length=max_length, buffer=buffer)
  np.testing.assert_allclose(scores, losses.soft_overlong(lengths, max_length, buffer), rtol=1e-6)


def repetition(text, **options):
  return rewards.REWARDS['repetition']([{'response': text}], **options)[0]


@pytest.mark.parametrize(
  ('text', 'n', 'share'),
  [
    ('', 1, 0),
    ('a', 1, 0),
    ('a', 2, 0),
    ('a b c d', 1, 0),
    ('a a a a', 1, 3 / 4),
    ('a a a a', 2, 2 / 3),
    ('A a', 1, 1 / 2),
    ('a b a b a b', 2, 3 / 5),
    ('a b a b a b', 4, 1 / 3),
    ('a b c a b d', 2, 1 / 5),
    ('x' * 100, 1, 0),
    ('重复重复重复', 2, 3 / 5),
    ('重复 重复', 2, 1 / 3),
    ('不同的汉字', 1, 0),
    ('好word好word', 2, 1 / 3),
  ],
)
def test_share_of_repeated_n_grams(text, n, share):
  assert repetition(text, n=n) == pytest.approx(-share)
  assert repetition(text, n=n, scale=0.05) == pytest.approx(-0.05 * share)


def test_repetition_against_counting_by_hand():
  rng = np.random.default_rng(0)
  for n in (1, 2, 3, 5):
    words = [str(w) for w in rng.integers(0, 9, 300)]
    grams = [tuple(words[i : i + n]) for i in range(300 - n + 1)]
    repeated = sum(gram in grams[:i] for i, gram in enumerate(grams))
    assert repetition(' '.join(words), n=n) == pytest.approx(-repeated / len(grams))


def test_a_loop_is_punished_and_prose_is_not():
  prose = ' '.join(f'word{i}' for i in range(500))
  assert repetition(prose) == 0.0
  assert repetition('and so on ' * 300) < -0.95 and repetition('循环' * 300) < -0.95
  assert -0.6 < repetition(prose + ' ' + prose) < -0.4


@pytest.mark.parametrize(
  ('name', 'options', 'message'),
  [
    ('length_cosine', {'max_length': 0}, 'max_length is 0'),
    ('length_cosine', {'unit': 'bytes'}, "the unit is 'bytes'"),
    ('length_cosine', {'exceeded': math.nan}, 'exceeded is nan'),
    ('length_cosine', {'correct': 'maths'}, "unknown reward 'maths'"),
    ('length_cosine', {'right_short': '2'}, "right_short is '2'"),
    ('soft_overlong', {'buffer': 0}, 'buffer is 0'),
    ('soft_overlong', {'max_length': 10, 'buffer': 20}, r'buffer of 20 tokens is not in \(0, 10\]'),
    ('soft_overlong', {'unit': ''}, "the unit is ''"),
    ('repetition', {'n': 0}, 'n is 0'),
    ('repetition', {'n': 2.0}, 'n is 2.0'),
    ('repetition', {'scale': -1}, 'scale is -1'),
  ],
)
def test_options_are_checked(name, options, message):
  with pytest.raises(ConfigError, match=message):
    rewards.REWARDS[name]([], **options)
