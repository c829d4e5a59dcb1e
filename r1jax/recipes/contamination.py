"""Does a text hold an evaluation problem, however its spaces, case and punctuation were changed?

Texts are folded to their letters and digits, so that neither white space (within words too), case, punctuation nor the
width of characters counts, and compared by n-grams of letters: windows of so many letters, where a Chinese, Japanese
or Korean character counts as four. 50 letters are about ten English words, or 13 Chinese characters. A problem of fewer
is found where it stands as a sentence: so that `What is 3 + 4?` does not stand in `What is 3 + 4.5?`, nor in
`What is 3 + 4 times x?`.
"""

import re
import unicodedata

import numpy as np

WINDOW, OVERLAP = 50, 0.5  # letters of an n-gram, and share of a problem's that a text holds; see `Index`
_EAST = ((0x3040, 0x3100), (0x3400, 0x4DC0), (0x4E00, 0xA000), (0xAC00, 0xD7B0), (0xF900, 0xFB00), (0x20000, 0x32400))
_EAST_LETTERS = 4
_INVISIBLE = re.compile(r'[\s\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]+')
# Signs are mathematics, no punctuation: without them 12+5-3 would be 12-5+3. Words hold - / and * too, so those count
# between digits only.
_SIGNS = str.maketrans(dict.fromkeys('‐‑‒–—―−', '-') | dict.fromkeys('÷⁄', '/') | dict.fromkeys('×·⋅', '*'))
_KEPT = re.compile(r'[^\W_]+|\+|(?<=\d)[-/*](?=\d)')
_ANCHOR = 10  # letters of the windows by which problems shorter than a window are looked up
_LEAST = 16  # characters of a problem, white space aside, that is looked for inside of texts
# What a short problem must have to be looked for: without a number or a formula it may be anybody's question.
_PARTICULAR = re.compile(r'[\d$\\=+]')
_MARKS = r'\s$()\[\]{}"\'*_`\\|#“”‘’「」'
# What a sentence may stand behind: nothing, a line's end, a tag, another's end; or a word, but no operator or number.
_BEFORE = re.compile(rf'(^|\n|<[^<>\s]+>|[:;?!。]|(?<!\d),|[\w.,)][{_MARKS}]*\s)[{_MARKS}]*$')
# What may follow it: nothing, a line's end, a tag, its full stop; or, behind a formula that is closed, a new sentence.
_BEHIND = re.compile(rf'[{_MARKS}]*?(\n|<\D|$|[.?。]+([{_MARKS}<]|$)|[$)\]]\s+[A-Z])')
_AROUND = 40  # characters looked at on either side of such a one
_BASE = 0x9E3779B97F4A7C15  # odd, so it has an inverse modulo 2^64


def fold(text):
  """The letters and digits of a text in one form and case, with the signs between its numbers."""
  return ''.join(_KEPT.findall(_INVISIBLE.sub('', _normal(text).casefold())))


def _normal(text):
  return unicodedata.normalize('NFKC', text).translate(_SIGNS)


def _stands(folded, normal):
  """Does a folded problem stand as a sentence in a text as `_normal` gives it?"""
  seen = [(i, one) for i, c in enumerate(normal) if not _INVISIBLE.match(c) for one in c.casefold()]
  kept = [n for m in _KEPT.finditer(''.join(one for _, one in seen)) for n in range(*m.span())]
  whole = ''.join(seen[n][1] for n in kept)
  at = whole.find(folded)
  while at >= 0:
    first, last = (seen[kept[n]][0] for n in (at, at + len(folded) - 1))
    if _BEFORE.search(normal[max(first - _AROUND, 0) : first]) and _BEHIND.match(normal[last + 1 : last + _AROUND]):
      return True
    at = whole.find(folded, at + 1)
  return False


def windows(folded, size):
  """Hashes of the windows of a folded text: from each character on, as many as make `size` letters.

  Returns:
    u64[n], ascending, each once; none for a text of fewer letters.
  """
  codes = np.frombuffer(folded.encode('utf-32-le'), np.uint32).astype(np.uint64)
  upto = np.concatenate([[0], np.cumsum(_letters(codes))])
  starts = np.arange(np.searchsorted(upto, upto[-1] - size, side='right'))
  ends = np.searchsorted(upto, upto[starts] + size)
  # A window's hash is the sum of c[i] B^(i - start), from the sums of c[i] B^i over the text's beginnings.
  powers = np.cumprod(np.full(len(codes), _BASE, np.uint64))
  sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(scrambled(codes) * powers)])
  inverse = np.cumprod(np.full(len(starts), pow(_BASE, -1, 1 << 64), np.uint64))
  return np.unique(scrambled((sums[ends] - sums[starts]) * inverse))


def _letters(codes):
  """i64[n], as how many letters each of the characters u64[n] counts."""
  letters = np.ones(len(codes), np.int64)
  for low, high in _EAST:
    letters[(codes >= low) & (codes < high)] = _EAST_LETTERS
  return letters


def scrambled(x):
  """SplitMix64's finaliser of u64, one to one: near values become unlike ones."""
  x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return x ^ (x >> np.uint64(31))


class Index:
  """The windows of evaluation problems: 12 bytes for each letter of them.

  A text holds a problem if it folds to the same, or if at least the share `overlap` of the problem's windows occurs in
  it. A problem shorter than a window is found as a sentence (or sentences) of a text; one that is shorter than
  `_LEAST` characters, or names no number and no formula, as a whole text only. Templates that many problems have in
  common do no harm as long as they are less than that share of each.

  Args:
    problems: iterable of (name, text); of those that fold to the same the first counts.
    size: letters of a window.
    overlap: in (0, 1].
  """

  def __init__(self, problems, size, overlap):
    self.size, self.overlap, self.names, self._whole = size, overlap, [], {}
    found, self._short = [], {}  # of the latter: hash of one of its windows -> (folded problem, name)
    for name, text in problems:
      folded = fold(text)
      if folded and folded not in self._whole:
        self._whole[folded] = len(self.names)
        self.names.append(name)
        found.append(windows(folded, size))
        if not len(found[-1]) and _may_stand_inside(text) and len(anchors := windows(folded, _ANCHOR)):
          self._short.setdefault(int(anchors[0]), []).append((folded, name))
    self._anchors = np.array(list(self._short), np.uint64)
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
    if owners:
      which, hits = np.unique(np.concatenate(owners), return_counts=True)
      shares = hits / self._count[which]
      if shares.max() >= self.overlap:
        return self.names[which[shares.argmax()]]
    return self._short_one(folded, text)

  def _short_one(self, folded, text):
    """The name of a short problem that is a sentence of the text, or None."""
    if not self._short:
      return None
    found = np.intersect1d(windows(folded, _ANCHOR), self._anchors)
    near = [one for anchor in found.tolist() for one in self._short[anchor] if one[0] in folded]
    normal = near and _normal(text)
    return next((name for short, name in near if _stands(short, normal)), None)


def _may_stand_inside(text):
  """Whether a problem shorter than a window says enough to be looked for inside of texts."""
  codes = np.frombuffer(''.join(text.split()).encode('utf-32-le'), np.uint32).astype(np.uint64)
  return bool(_PARTICULAR.search(text)) and int(_letters(codes).sum()) >= _LEAST
