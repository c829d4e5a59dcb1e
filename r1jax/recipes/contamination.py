"""Does a text hold an evaluation problem, however its spaces, case and punctuation were changed?

Texts are folded to their letters and digits, so that neither white space (within words too), case, punctuation nor the
width of characters counts, and compared by n-grams of letters: windows of so many letters, where a Chinese, Japanese
or Korean character counts as four. 50 letters are about ten English words, or 13 Chinese characters.
"""
import re
import unicodedata

import numpy as np

_EAST = ((0x3040, 0x3100), (0x3400, 0x4dc0), (0x4e00, 0xa000), (0xac00, 0xd7b0), (0xf900, 0xfb00), (0x20000, 0x32400))
_EAST_LETTERS = 4
_INVISIBLE = re.compile(r'[\s\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]+')
# Signs are mathematics, no punctuation: without them 12+5-3 would be 12-5+3. Words hold - / and * too, so those count
# between digits only.
_SIGNS = str.maketrans(dict.fromkeys('‐‑‒–—―−', '-') | dict.fromkeys('÷⁄', '/') | dict.fromkeys('×·⋅', '*'))
_KEPT = re.compile(r'[^\W_]+|\+|(?<=\d)[-/*](?=\d)')
_BASE = 0x9E3779B97F4A7C15        # odd, so it has an inverse modulo 2^64


def fold(text):
  """The letters and digits of a text in one form and case, with the signs between its numbers."""
  return ''.join(_KEPT.findall(_INVISIBLE.sub('', unicodedata.normalize('NFKC', text).casefold().translate(_SIGNS))))


def windows(folded, size):
  """Hashes of the windows of a folded text: from each character on, as many as make `size` letters.

  Returns:
    u64[n], ascending, each once; none for a text of fewer letters.
  """
  codes = np.frombuffer(folded.encode('utf-32-le'), np.uint32).astype(np.uint64)
  letters = np.ones(len(codes), np.int64)
  for low, high in _EAST:
    letters[(codes >= low) & (codes < high)] = _EAST_LETTERS
  upto = np.concatenate([[0], np.cumsum(letters)])
  starts = np.arange(np.searchsorted(upto, upto[-1] - size, side='right'))
  ends = np.searchsorted(upto, upto[starts] + size)
  # A window's hash is the sum of c[i] B^(i - start), from the sums of c[i] B^i over the text's beginnings.
  powers = np.cumprod(np.full(len(codes), _BASE, np.uint64))
  sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(scrambled(codes) * powers)])
  inverse = np.cumprod(np.full(len(starts), pow(_BASE, -1, 1 << 64), np.uint64))
  return np.unique(scrambled((sums[ends] - sums[starts]) * inverse))


def scrambled(x):
  """SplitMix64's finaliser of u64, one to one: near values become unlike ones."""
  x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return x ^ (x >> np.uint64(31))


class Index:
  """The windows of evaluation problems: 12 bytes for each letter of them.

  A text holds a problem if it folds to the same, or if at least the share `overlap` of the problem's windows occurs in
  it. A problem shorter than a window is only found as a whole text. Templates that many problems have in common do
  no harm as long as they are less than that share of each.

  Args:
    problems: iterable of (name, text); of those that fold to the same the first counts.
    size: letters of a window.
    overlap: in (0, 1].
  """

  def __init__(self, problems, size, overlap):
    self.size, self.overlap, self.names, self._whole = size, overlap, [], {}
    found = []
    for name, text in problems:
      folded = fold(text)
      if folded and folded not in self._whole:
        self._whole[folded] = len(self.names)
        self.names.append(name)
        found.append(windows(folded, size))
    self._count = np.array([len(hashes) for hashes in found], np.int64)
    hashes = np.concatenate([np.zeros(0, np.uint64), *found])
    owners = np.repeat(np.arange(len(found), dtype=np.int32), self._count)
    order = np.argsort(hashes, kind='stable')
    self._hashes, self._owners = hashes[order], owners[order]

  def holds(self, text):
    """The name of the problem that the text holds most of; None where it holds none."""
    folded = fold(text)
    if folded in self._whole:
      return self.names[self._whole[folded]]
    own = windows(folded, self.size)
    low, high = np.searchsorted(self._hashes, own), np.searchsorted(self._hashes, own, side='right')
    owners = [self._owners[a:b] for a, b in zip(low[high > low], high[high > low])]
    if not owners:
      return None
    which, hits = np.unique(np.concatenate(owners), return_counts=True)
    shares = hits / self._count[which]
    return self.names[which[shares.argmax()]] if shares.max() >= self.overlap else None
