"""Texts of unequal length laid side by side in rows of one length, in an order that (seed, epoch) alone fixes."""

import functools

import numpy as np


def first_fit(lengths, capacity):
  """Puts items, in order, each into the first bin with room for it.

  Args:
    lengths: tokens of each item, none over `capacity`. capacity: of a bin.

  Returns:
    list of bins in the order in which they were opened, each a list of places in `lengths`.
  """
  size = 1 << max(len(lengths) - 1, 0).bit_length()
  room = [capacity] * (2 * size)  # a tree whose nodes know the most room below them
  bins = []
  for place, length in enumerate(lengths):
    at = 1
    while at < size:
      at = 2 * at + (room[2 * at] < length)
    if at - size == len(bins):
      bins.append([])
    bins[at - size].append(place)
    room[at] -= length
    while at > 1:
      at //= 2
      room[at] = max(room[2 * at], room[2 * at + 1])
  return bins


class Packing:
  """An endless sequence of packed rows. Each epoch packs all texts in an order of its own.

  Args:
    lengths: i[N], tokens of each text, none over `capacity`. capacity: tokens of a row. seed: int >= 0.
  """

  def __init__(self, lengths, capacity, seed):
    self._lengths, self._capacity, self._seed = np.asarray(lengths), capacity, seed
    self._epoch = functools.lru_cache(maxsize=2)(self._pack)
    self._starts = [0]  # of each epoch, in rows

  def row(self, number):
    """Places of the texts in one row of the sequence."""
    while number >= self._starts[-1]:
      self._starts.append(self._starts[-1] + len(self._epoch(len(self._starts) - 1)))
    epoch = int(np.searchsorted(self._starts, number, side='right')) - 1
    return self._epoch(epoch)[number - self._starts[epoch]]

  def rows(self, epochs):
    """How many rows so many epochs are; of a last part of one, so many of its rows, rounded up."""
    whole = int(epochs)
    while len(self._starts) <= whole:
      self._starts.append(self._starts[-1] + len(self._epoch(len(self._starts) - 1)))
    part = epochs - whole
    return self._starts[whole] + (int(np.ceil(part * len(self._epoch(whole)))) if part else 0)

  def _pack(self, epoch):
    order = np.random.default_rng([self._seed, epoch]).permutation(len(self._lengths))
    return [order[some] for some in first_fit(self._lengths[order].tolist(), self._capacity)]


def pack(rows, length):
  """Rows of texts as arrays.

  Args:
    rows: list of B lists of (ids i32[n], start), where start is where the response begins; n of a row add up to
      `length` at most.

  Returns:
    tokens i32[B, length], zeros at the end; segments i32[B, length], from 1 on, and 0 for what fills a row up;
    positions i32[B, length], from 0 on in each segment; response bool[B, length], tokens that are to be learned.
  """
  tokens, segments, positions = (np.zeros((len(rows), length), np.int32) for _ in range(3))
  response = np.zeros((len(rows), length), bool)
  for i, texts in enumerate(rows):
    at = 0
    for number, (ids, start) in enumerate(texts, 1):
      some = slice(at, at + len(ids))
      tokens[i, some], segments[i, some], positions[i, some] = ids, number, np.arange(len(ids))
      response[i, at + max(start, 1) : at + len(ids)] = True  # the first has nothing before it to tell it
      at += len(ids)
  return tokens, segments, positions, response
