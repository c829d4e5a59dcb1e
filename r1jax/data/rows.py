"""Pads rows of tokens and marks to arrays of few different shapes."""

import numpy as np


def padded(count, least=16):
  """Returns the padded size for `count` entries: a power of two, at least `least`; above 1024 a multiple of 1024."""
  if count > 1024:
    return -(-count // 1024) * 1024
  return max(least, 1 << (count - 1).bit_length())


def pad(rows, length, marks):
  """Pads rows to arrays.

  Args:
    rows: list of B conversation.Row.
    length, marks: sizes of the second dimensions.

  Returns:
    tokens i32[B, length], padded with 0; lengths i32[B]; marks i32[B, marks], padded with -1.
  """
  tokens = np.zeros((len(rows), length), np.int32)
  positions = np.full((len(rows), marks), -1, np.int32)
  for row, row_tokens, row_positions in zip(rows, tokens, positions):
    row_tokens[: len(row.ids)] = row.ids
    row_positions[: len(row.marks)] = row.marks
  return tokens, np.array([len(row.ids) for row in rows], np.int32), positions


def shape(row):
  """Returns the (length, marks) that a single row is padded to."""
  return padded(len(row.ids)), padded(len(row.marks), least=1)
