"""Dedup of rows, exact and near, in a database on disk, so that memory does not grow with their number.

Near duplicates are found by MinHash: the Jaccard similarity of two texts' word n-grams is about the share of equal
numbers in their signatures. Rows whose responses agree in all numbers of a band are compared, problems included, as the
same short answer to different problems is no duplicate. This is our own code, as the usual libraries keep their bands
in memory or on a server.
"""

import functools
import hashlib
import zlib

import numpy as np

from r1jax.recipes.contamination import scramble
from r1jax.rewards.text.length import words

# Two texts of similarity 0.8 share a band with probability 0.9999, of 0.7 with 0.99, of 0.5 with 0.53.
_BANDS, _ROWS = 24, 5
_LATEST = 8  # only the latest rows of a band are compared
_BLOCK = 4096  # n-grams of a text that are hashed at a time


@functools.cache
def _hashes():
  """Coefficients (a, b), u64[120] each, of the hash functions x -> ((a x + b) mod 2^64) / 2^32; a is odd."""
  coefficients = np.random.default_rng(0).integers(0, 1 << 64, (2, _BANDS * _ROWS), np.uint64)
  return coefficients[0] | np.uint64(1), coefficients[1]


def signature(text, n):
  """MinHash of a text's word n-grams; a Chinese character counts as a word.

  Args:
    n: words of an n-gram; a shorter text is a single n-gram.

  Returns:
    u32[120].
  """
  codes = np.array([zlib.crc32(word.encode()) for word in words(text)] or [0], np.uint64)
  n = min(n, len(codes))
  grams = np.zeros(len(codes) - n + 1, np.uint64)
  for offset in range(n):
    grams = scramble(grams + codes[offset : offset + len(grams)] + np.uint64(1))
  a, b = _hashes()
  minimum = np.full(len(a), (1 << 64) - 1, np.uint64)
  for first in range(0, len(grams), _BLOCK):
    block = grams[first : first + _BLOCK, None]  # [N, 1]
    minimum = np.minimum(minimum, (a * block + b).min(axis=0))  # [N, 120] -> [120]
  return (minimum >> np.uint64(32)).astype(np.uint32)


def digest(*texts):
  """16-byte digest of texts, ignoring differences in white space."""
  return hashlib.blake2b('\0'.join(' '.join(text.split()) for text in texts).encode(), digest_size=16).digest()


class KeptRows:
  """The rows kept so far, in tables of a sqlite3 connection. The caller commits.

  Args:
    database: sqlite3.Connection.
    near: rows are near duplicates if problems and responses both have at least this similarity; 0 finds none.
  """

  def __init__(self, database, near):
    self._db, self._near = database, near
    for table in (
      'texts (digest BLOB PRIMARY KEY) WITHOUT ROWID',
      'signatures (number INTEGER PRIMARY KEY, both BLOB)',
      'bands (band INTEGER, number INTEGER, PRIMARY KEY (band, number)) WITHOUT ROWID',
    ):
      database.execute(f'CREATE TABLE IF NOT EXISTS {table}')

  def find(self, key, signatures):
    """'duplicate' or 'near duplicate' if a row like this is kept already, else ''.

    Args:
      key: digest of the row.
      signatures: u32[2, 120], of response and problem.
    """
    if self._db.execute('SELECT 1 FROM texts WHERE digest = ?', (key,)).fetchone():
      return 'duplicate'
    if not self._near:
      return ''
    query = f'SELECT number FROM bands WHERE band = ? ORDER BY number DESC LIMIT {_LATEST}'
    numbers = {row[0] for band in _bands(signatures[0]) for row in self._db.execute(query, (band,))}
    query = f'SELECT both FROM signatures WHERE number IN ({",".join("?" * len(numbers))})'
    candidates = [
      np.frombuffer(row[0], np.uint32).reshape(signatures.shape) for row in self._db.execute(query, tuple(numbers))
    ]
    is_near = candidates and similarity(signatures, np.array(candidates)).min(axis=1).max() >= self._near
    return 'near duplicate' if is_near else ''

  def add(self, key, signatures, number):
    """Adds a row under an unused number."""
    self._db.execute('INSERT INTO texts VALUES (?)', (key,))
    if self._near:
      self._db.execute('INSERT INTO signatures VALUES (?, ?)', (number, signatures.tobytes()))
      self._db.executemany('INSERT INTO bands VALUES (?, ?)', [(band, number) for band in _bands(signatures[0])])


def similarity(first, second):
  """Estimated Jaccard similarity of signatures: the share of equal numbers over the last axis."""
  return (first == second).mean(axis=-1)


def _bands(signature):
  """One hash per band of a signature u32[120], as i64, which is what sqlite stores."""
  hashes = np.arange(_BANDS, dtype=np.uint64)
  for column in signature.reshape(_BANDS, _ROWS).T.astype(np.uint64):
    hashes = scramble(hashes + column + np.uint64(1))
  return sorted(set(hashes.view(np.int64).tolist()))
