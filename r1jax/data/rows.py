"""Rows of tokens and marks as padded arrays, of few shapes."""

import numpy as np


def padded(count, least=16):
  """The padded size for `count` entries: a power of two from `least` on, above 1024 a multiple of 1024."""
  if count > 1024:
    return -(-count // 1024) * 1024
  return max(least, 1 << (count - 1).bit_length())


def pad(rows, length, marks):
  """Rows as arrays.

  Args:
    rows: list of B conversation.Row. length, marks: of each array's second dimension.

  Returns:
    tokens i32[B, length], zeros behind the end; lengths i32[B]; marks i32[B, marks], filled up with -1.
  """
  tokens = np.zeros((len(rows), length), np.int32)
  places = np.full((len(rows), marks), -1, np.int32)
  for row, ids, place in zip(rows, tokens, places):
    ids[: len(row.ids)] = row.ids
    place[: len(row.marks)] = row.marks
  return tokens, np.array([len(row.ids) for row in rows], np.int32), places


def shape(row):
  """(length, marks) that a row is padded to by itself."""
  return padded(len(row.ids)), padded(len(row.marks), least=1)
