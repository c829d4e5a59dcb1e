"""Decontamination: finds evaluation problems in texts, even with changed spaces, case or punctuation.

Texts are folded to their letters and digits, so that white space (also within words), case, punctuation and character
width do not matter. They are compared by character n-grams ("windows"), in which a Chinese, Japanese or Korean
character counts as four letters: 50 letters are about ten English words or 13 Chinese characters. A problem shorter
than a window is only found as a whole sentence, so that `What is 3 + 4?` is found neither in `What is 3 + 4.5?` nor in
`What is 3 + 4 times x?`.
"""

import re
import unicodedata

import numpy as np

WINDOW, OVERLAP = 50, 0.5  # letters of a window, and share of a problem's windows that count as a match; see `Index`
_CJK = ((0x3040, 0x3100), (0x3400, 0x4DC0), (0x4E00, 0xA000), (0xAC00, 0xD7B0), (0xF900, 0xFB00), (0x20000, 0x32400))
_CJK_LETTERS = 4  # letters that a CJK character counts as
_INVISIBLE = re.compile(r'[\s\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]+')
# Operators are kept: without them 12+5-3 would equal 12-5+3. As words also contain - / and *, these only count between
# digits.
_SIGNS = str.maketrans(dict.fromkeys('‐‑‒–—―−', '-') | dict.fromkeys('÷⁄', '/') | dict.fromkeys('×·⋅', '*'))
_KEPT = re.compile(r'[^\W_]+|\+|(?<=\d)[-/*](?=\d)')
_ANCHOR = 10  # letters of the windows by which short problems are looked up
_MIN_LETTERS = 16  # shorter problems, white space aside, are only matched against whole texts
# A short problem without a number or formula may be anybody's question, so it is only matched against whole texts.
_SPECIFIC = re.compile(r'[\d$\\=+]')
_MARKS = r'\s$()\[\]{}"\'*_`\\|#“”‘’「」'
# What may precede a sentence: nothing, a newline, a tag, the end of another sentence, or a word, but no operator or
# number.
_BEFORE = re.compile(rf'(^|\n|<[^<>\s]+>|[:;?!。]|(?<!\d),|[\w.,)][{_MARKS}]*\s)[{_MARKS}]*$')
# What may follow it: nothing, a newline, a tag, its full stop or, after a closed formula, a new sentence.
_AFTER = re.compile(rf'[{_MARKS}]*?(\n|<\D|$|[.?。]+([{_MARKS}<]|$)|[$)\]]\s+[A-Z])')
_CONTEXT = 40  # characters that are checked on either side of a sentence
_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64


def fold(text):
  """The letters and digits of a text, normalised in form and case, with the operators between numbers."""
  return ''.join(_KEPT.findall(_INVISIBLE.sub('', _normalise(text).casefold())))


def _normalise(text):
  """The text in Unicode's NFKC form, with one character for each operator."""
  return unicodedata.normalize('NFKC', text).translate(_SIGNS)


def _is_sentence(folded, text):
  """Whether a folded problem occurs as a sentence in a text that `_normalise` returned."""
  visible = [(i, letter) for i, c in enumerate(text) if not _INVISIBLE.match(c) for letter in c.casefold()]
  kept = [n for m in _KEPT.finditer(''.join(letter for _, letter in visible)) for n in range(*m.span())]
  folded_text = ''.join(visible[n][1] for n in kept)
  start = folded_text.find(folded)
  while start >= 0:
    first, last = (visible[kept[n]][0] for n in (start, start + len(folded) - 1))  # positions in the text
    if _BEFORE.search(text[max(first - _CONTEXT, 0) : first]) and _AFTER.match(text[last + 1 : last + _CONTEXT]):
      return True
    start = folded_text.find(folded, start + 1)
  return False


def windows(folded, size):
  """Hashes of the windows of a folded text. A window starts at each character and extends until it has `size` letters.

  Returns:
    u64[n], sorted and unique; empty for a text of fewer letters.
  """
  codes = np.frombuffer(folded.encode('utf-32-le'), np.uint32).astype(np.uint64)
  letters = np.concatenate([[0], np.cumsum(_count_letters(codes))])  # letters before each character
  starts = np.arange(np.searchsorted(letters, letters[-1] - size, side='right'))
  ends = np.searchsorted(letters, letters[starts] + size)
  # A window's hash is the sum of c[i] B^(i - start), computed from prefix sums of c[i] B^i.
  powers = np.cumprod(np.full(len(codes), _BASE, np.uint64))
  sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(scramble(codes) * powers)])
  inverse = np.cumprod(np.full(len(starts), pow(_BASE, -1, 1 << 64), np.uint64))
  return np.unique(scramble((sums[ends] - sums[starts]) * inverse))


def _count_letters(codes):
  """The number of letters, i64[n], that each of the characters u64[n] counts as."""
  letters = np.ones(len(codes), np.int64)
  for low, high in _CJK:
    letters[(codes >= low) & (codes < high)] = _CJK_LETTERS
  return letters


def scramble(x):
  """SplitMix64's finaliser, a bijection of u64 that maps nearby values to unrelated ones."""
  x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return x ^ (x >> np.uint64(31))


class Index:
  """An index of the windows of evaluation problems; takes 12 bytes per letter.

  A text contains a problem if both fold to the same text, or if at least the share `overlap` of the problem's windows
  occurs in it. A problem shorter than a window is found as a sentence (or several) of a text; one that is shorter than
  `_MIN_LETTERS`, or has neither a number nor a formula, only as a whole text. Wording that many problems share does no
  harm as long as it is less than that share of each.

  Args:
    problems: iterable of (name, text); of texts that fold to the same, the first counts.
    size: letters of a window.
    overlap: in (0, 1].
  """

  def __init__(self, problems, size, overlap):
    self.size, self.overlap, self.names, self._whole = size, overlap, [], {}
    hashes_by_problem = []
    self._short = {}  # hash of one window of _ANCHOR letters -> list of (folded short problem, name)
    for name, text in problems:
      folded = fold(text)
      if folded and folded not in self._whole:
        self._whole[folded] = len(self.names)
        self.names.append(name)
        hashes_by_problem.append(windows(folded, size))
        is_short = not len(hashes_by_problem[-1])
        if is_short and _is_specific(text) and len(anchors := windows(folded, _ANCHOR)):
          self._short.setdefault(int(anchors[0]), []).append((folded, name))
    self._anchors = np.array(list(self._short), np.uint64)
    self._count = np.array([len(hashes) for hashes in hashes_by_problem], np.int64)
    hashes = np.concatenate([np.zeros(0, np.uint64), *hashes_by_problem])
    owners = np.repeat(np.arange(len(hashes_by_problem), dtype=np.int32), self._count)
    order = np.argsort(hashes, kind='stable')
    self._hashes, self._owners = hashes[order], owners[order]

  def find(self, text):
    """The name of the problem that the text contains, the best match if there are several; None if there is none."""
    folded = fold(text)
    if folded in self._whole:
      return self.names[self._whole[folded]]
    hashes = windows(folded, self.size)
    low, high = np.searchsorted(self._hashes, hashes), np.searchsorted(self._hashes, hashes, side='right')
    owners = [self._owners[a:b] for a, b in zip(low[high > low], high[high > low])]
    if owners:
      candidates, hits = np.unique(np.concatenate(owners), return_counts=True)
      shares = hits / self._count[candidates]
      if shares.max() >= self.overlap:
        return self.names[candidates[shares.argmax()]]
    return self._find_short(folded, text)

  def _find_short(self, folded, text):
    """The name of a short problem that is a sentence of the text, or None."""
    if not self._short:
      return None
    anchors = np.intersect1d(windows(folded, _ANCHOR), self._anchors)
    candidates = [
      (short, name) for anchor in anchors.tolist() for short, name in self._short[anchor] if short in folded
    ]
    normalised = candidates and _normalise(text)
    return next((name for short, name in candidates if _is_sentence(short, normalised)), None)


def _is_specific(text):
  """Whether a problem shorter than a window is specific enough to be looked for inside other texts."""
  codes = np.frombuffer(''.join(text.split()).encode('utf-32-le'), np.uint32).astype(np.uint64)
  return bool(_SPECIFIC.search(text)) and int(_count_letters(codes).sum()) >= _MIN_LETTERS
