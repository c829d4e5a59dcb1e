"""How texts are split for a pre-tokenizer that GGUF only names, against llama.cpp's steps written out here.

The classes of characters are those of `unicodedata`, on texts where these are known to be meant.
"""

import random
import unicodedata

import pytest

from r1jax import tokenizers
from r1jax.tokenizers import bpe
from tests.tokenizers.test_gguf import fields_of, write

SPACES = {*map(chr, range(9, 14)), *' \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000', *map(chr, range(0x2000, 0x200B))}
is_space = SPACES.__contains__
is_letter, is_number, is_punctuation = (lambda c, k=k: unicodedata.category(c)[0] == k for k in 'LNP')


def run(text, at, inside):
  """Where the characters that are `inside` end, from `at` on."""
  while at < len(text) and inside(text[at]):
    at += 1
  return at


def of_run(inside, space=False):
  """A step that matches one or more such characters, with one space before them."""

  def match(text, at):
    start = at + (space and is_space(text[at]))
    end = run(text, start, inside)
    return end if end > start else run(text, at, inside)

  return match


def isolated(pieces, match):
  """Splits each piece into what `match` finds, leftmost first, and what lies between. match: (text, at) -> end."""
  for piece in pieces:
    gap = at = 0
    while at < len(piece):
      end = match(piece, at)
      if end == at:
        at += 1
        continue
      yield from [piece[gap:at]] * (at > gap)
      yield piece[at:end]
      gap = at = end
    yield from [piece[gap:]] * (len(piece) > gap)


def gpt2(text, at):
  """`unicode_regex_split_custom_gpt2`: the end of the word at `at`."""
  for length, endings in ((2, 'stmd'), (3, ('re', 've', 'll'))):
    if text[at] == "'" and text[at + 1 : at + length] in (*endings,):
      return at + length
  start = at + (text[at] == ' ')
  for inside in (is_letter, is_number, lambda c: not (is_space(c) or is_letter(c) or is_number(c))):
    if (end := run(text, start, inside)) > start:
      return end
  end = run(text, at, is_space)
  return end - (end < len(text) and end - at > 1)


def single(inside):
  return lambda text, at: at + inside(text[at])


def between(*ranges):
  return lambda c: any(first <= ord(c) <= last for first, last in ranges)


def spaces_at_the_end(text, at):
  end = run(text, at, is_space)
  return end if end == len(text) else at


def three_digits(text, at):
  digits = text[at : at + 3]
  return at + 3 * (len(digits) == 3 and digits.isascii() and digits.isdigit())


STEPS = {
  'deepseek-llm': [
    single(lambda c: c in '\r\n'),
    of_run(lambda c: unicodedata.category(c) in ('Lu', 'Ll', 'Lt'), space=True),
    of_run(
      between((33, 47), (58, 126), (0xFF01, 0xFF0F), (0xFF1A, 0xFF5E), (0x2018, 0x201F), (0x3000, 0x3002)), space=True
    ),
    spaces_at_the_end,
    of_run(between((0x4E00, 0x9FA5), (0x800, 0x4E00), (0xAC00, 0xD7FF))),
    single(is_number),
  ],
  'default': [of_run(lambda c: is_punctuation(c) or c in '$+<=>^~|'), gpt2, of_run(is_number), three_digits],
}


def meant(name, text):
  """Whether `unicodedata` says what the patterns mean: 'deepseek-llm' lists the cased letters of an older Unicode."""
  known = between(
    (0, 0x55F),
    (0x600, 0x6FF),
    (0x2000, 0x2BFF),
    (0x3000, 0x9FFF),
    (0xAC00, 0xD7FF),
    (0xFF00, 0xFFEF),
    (0x1F000, 0x1FAFF),
  )
  return all(unicodedata.category(c) != 'Cn' and (name == 'default' or known(c)) for c in text)


def random_texts():
  rng = random.Random(1)
  alphabet = ["'s", "'ll", "'", "'r", '  ', ' ', ' \t ', '\n', '\r\n', '\u3000', '\xa0', '123', 'e\u0301', '👍🏽']
  alphabet += [*'4½²٣ⅧaßЖΩʟƻ.,$+`^!~_中の。！，：１ａ한é“”…−€\t']
  return [''.join(rng.choices(alphabet, k=rng.randrange(1, 14))) for _ in range(1500)]


@pytest.mark.parametrize('name', STEPS)
def test_texts_are_split_as_by_the_steps_of_llama_cpp(qwen, tmp_path, texts, name):
  tokenizer = tokenizers.load(write(tmp_path / 'm.gguf', fields_of(qwen, name)))
  of_bytes = lambda piece: bytes(map(bpe._BYTE_OF.__getitem__, piece)).decode()
  compared = 0
  for text in [*texts, *random_texts()]:
    if text and meant(name, text):
      want = [text]
      for match in STEPS[name]:
        want = list(isolated(want, match))
      found = [of_bytes(piece) for piece, _ in tokenizer._bpe.pre_tokenizer.pre_tokenize_str(text)]
      assert found == want, repr(text)
      compared += 1
  assert compared > 1500


@pytest.mark.parametrize(
  ('name', 'text', 'pieces'),
  [
    ('default', "it's $5.00, 1234567!", ['it', "'", 's', ' ', '$', '5', '.', '00', ',', ' ', '123', '456', '7', '!']),
    ('default', 'a  b\n\n', ['a', ' ', ' b', '\n\n']),
    ('deepseek-llm', 'It is 123.\n\n', ['It', ' is', ' ', '1', '2', '3', '.', '\n', '\n']),
    ('deepseek-llm', 'f(x) = 北京ok  ', ['f', '(', 'x', ')', ' =', ' ', '北京', 'ok', '  ']),
  ],
)
def test_splits_by_hand(qwen, tmp_path, name, text, pieces):
  tokenizer = tokenizers.load(write(tmp_path / 'm.gguf', fields_of(qwen, name)))
  found = [piece for piece, _ in tokenizer._bpe.pre_tokenizer.pre_tokenize_str(text)]
  assert [bytes(map(bpe._BYTE_OF.__getitem__, piece)).decode() for piece in found] == pieces
