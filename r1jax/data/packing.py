"""Packs texts of different lengths into sequences of one length, in an order that depends on (seed, epoch) only."""

import functools

import numpy as np


def first_fit(lengths, capacity):
  """Puts each item, in order, into the first bin with room for it, in O(log N) per item.

  Args:
    lengths: tokens of each of N items, none over `capacity`.
    capacity: tokens of a bin.

  Returns:
    list of bins in the order in which they were opened, each a list of indices into `lengths`.
  """
  size = 1 << max(len(lengths) - 1, 0).bit_length()
  room = [capacity] * (2 * size)  # a binary tree: each node has the most room of any bin below it
  bins = []
  for index, length in enumerate(lengths):
    node = 1
    while node < size:
      node = 2 * node + (room[2 * node] < length)
    if node - size == len(bins):
      bins.append([])
    bins[node - size].append(index)
    room[node] -= length
    while node > 1:
      node //= 2
      room[node] = max(room[2 * node], room[2 * node + 1])
  return bins


class Packing:
  """An endless series of packed rows. Each epoch packs all texts in a new order.

  Args:
    lengths: i[N], tokens of each text, none over `capacity`.
    capacity: tokens of a row.
    seed: int >= 0.
  """

  def __init__(self, lengths, capacity, seed):
    self._lengths, self._capacity, self._seed = np.asarray(lengths), capacity, seed
    self._epoch = functools.lru_cache(maxsize=2)(self._pack)
    self._starts = [0]  # number of each epoch's first row

  def row(self, number):
    """Returns the indices of the texts in row `number` of the series."""
    while number >= self._starts[-1]:
      self._add_epoch()
    epoch = int(np.searchsorted(self._starts, number, side='right')) - 1
    return self._epoch(epoch)[number - self._starts[epoch]]

  def rows(self, epochs):
    """Returns the number of rows in `epochs` epochs; a fraction of an epoch is that share of its rows, rounded up."""
    complete = int(epochs)
    while len(self._starts) <= complete:
      self._add_epoch()
    fraction = epochs - complete
    return self._starts[complete] + (int(np.ceil(fraction * len(self._epoch(complete)))) if fraction else 0)

  def _add_epoch(self):
    self._starts.append(self._starts[-1] + len(self._epoch(len(self._starts) - 1)))

  def _pack(self, epoch):
    order = np.random.default_rng([self._seed, epoch]).permutation(len(self._lengths))
    return [order[indices] for indices in first_fit(self._lengths[order].tolist(), self._capacity)]


def pack(rows, length):
  """Packs rows of texts into arrays.

  Args:
    rows: list of B lists of (ids i32[n], start), where start is the position of the response's first token. The n of a
      row add up to at most `length`.
    length: tokens of a row.

  Returns:
    tokens i32[B, length], padded with 0; segments i32[B, length], counting the texts of a row from 1, 0 for padding;
    positions i32[B, length], counting from 0 in each segment; response bool[B, length], the loss mask.
  """
  tokens, segments, positions = (np.zeros((len(rows), length), np.int32) for _ in range(3))
  response = np.zeros((len(rows), length), bool)
  for i, texts in enumerate(rows):
    begin = 0
    for number, (ids, start) in enumerate(texts, 1):
      end = begin + len(ids)
      tokens[i, begin:end], segments[i, begin:end], positions[i, begin:end] = ids, number, np.arange(len(ids))
      response[i, begin + max(start, 1) : end] = True  # nothing predicts a text's first token
      begin = end
  return tokens, segments, positions, response
