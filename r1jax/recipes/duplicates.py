"""Rows that were seen before, or nearly so, in tables on disk: memory does not grow with their number.

Near duplicates are found by MinHash: the similarity of two texts, the share of their n-grams of words that both have
(Jaccard), is about the share of equal numbers in their signatures. Responses that agree in all numbers of a band are
compared, and with them the problems: an answer that fits many problems is no duplicate. Own code, as the libraries
for this hold their bands in memory or in a server.
"""

import functools
import hashlib
import zlib

import numpy as np

from r1jax.recipes.contamination import scrambled
from r1jax.rewards.text.length import words

# So two texts of similarity 0.8 share a band with probability 0.9999, of 0.7 with 0.99, of 0.5 with 0.53.
_BANDS, _ROWS = 24, 5
_LATEST = 8  # rows of a band that are compared, the latest
_AT_ONCE = 4096  # n-grams of a text that are hashed at once


@functools.cache
def _hashes():
  """(a, b) of the hash functions x -> (a x + b) / 2^32 modulo 2^64; a odd."""
  draw = np.random.default_rng(0).integers(0, 1 << 64, (2, _BANDS * _ROWS), np.uint64)
  return draw[0] | np.uint64(1), draw[1]


def signature(text, n):
  """MinHash of the text's n-grams of words, of Chinese characters.

  Args:
    n: words of an n-gram; a text of fewer is one.

  Returns:
    u32[120].
  """
  codes = np.array([zlib.crc32(word.encode()) for word in words(text)] or [0], np.uint64)
  n = min(n, len(codes))
  grams = np.zeros(len(codes) - n + 1, np.uint64)
  for at in range(n):
    grams = scrambled(grams + codes[at : at + len(grams)] + np.uint64(1))
  a, b = _hashes()
  least = np.full(len(a), (1 << 64) - 1, np.uint64)
  for first in range(0, len(grams), _AT_ONCE):
    some = grams[first : first + _AT_ONCE, None]  # [N, 1]
    least = np.minimum(least, (a * some + b).min(axis=0))  # [N, 120] -> [120]
  return (least >> np.uint64(32)).astype(np.uint32)


def digest(*texts):
  """16 bytes that tell texts apart, white space collapsed."""
  return hashlib.blake2b('\0'.join(' '.join(text.split()) for text in texts).encode(), digest_size=16).digest()


class Seen:
  """The rows kept so far, in the tables of a sqlite3 connection, which the caller commits.

  Args:
    near: similarity of both problems and responses from which rows are near duplicates; 0: none are.
  """

  def __init__(self, database, near):
    self._db, self._near = database, near
    for table in (
      'texts (digest BLOB PRIMARY KEY) WITHOUT ROWID',
      'signatures (number INTEGER PRIMARY KEY, both BLOB)',
      'bands (band INTEGER, number INTEGER, PRIMARY KEY (band, number)) WITHOUT ROWID',
    ):
      database.execute(f'CREATE TABLE IF NOT EXISTS {table}')

  def find(self, key, both):
    """'duplicate' or 'near duplicate' of a row, else ''.

    Args:
      key: its digest.
      both: u32[2, 120], the signatures of response and problem.
    """
    if self._db.execute('SELECT 1 FROM texts WHERE digest = ?', (key,)).fetchone():
      return 'duplicate'
    if not self._near:
      return ''
    query = f'SELECT number FROM bands WHERE band = ? ORDER BY number DESC LIMIT {_LATEST}'
    numbers = {row[0] for band in _bands(both[0]) for row in self._db.execute(query, (band,))}
    query = f'SELECT both FROM signatures WHERE number IN ({",".join("?" * len(numbers))})'
    found = [np.frombuffer(row[0], np.uint32).reshape(both.shape) for row in self._db.execute(query, tuple(numbers))]
    alike = found and similarity(both, np.array(found)).min(axis=1).max() >= self._near
    return 'near duplicate' if alike else ''

  def add(self, key, both, number):
    """Keeps a row under a number that none has yet."""
    self._db.execute('INSERT INTO texts VALUES (?)', (key,))
    if self._near:
      self._db.execute('INSERT INTO signatures VALUES (?, ?)', (number, both.tobytes()))
      self._db.executemany('INSERT INTO bands VALUES (?, ?)', [(band, number) for band in _bands(both[0])])


def similarity(ours, theirs):
  """Estimates of the Jaccard similarity: share of equal numbers over the last axis."""
  return (ours == theirs).mean(axis=-1)


def _bands(signature):
  """A number for each band, of those that sqlite holds: i64."""
  found = np.arange(_BANDS, dtype=np.uint64)
  for column in signature.reshape(_BANDS, _ROWS).T.astype(np.uint64):
    found = scrambled(found + column + np.uint64(1))
  return sorted(set(found.view(np.int64).tolist()))
