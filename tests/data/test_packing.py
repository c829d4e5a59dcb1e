"""Packing: every text once per epoch, in an order that depends on the seed, none truncated."""

import time

import numpy as np
import pytest

from r1jax.data import packing


def reference(lengths, capacity):
  """First fit by linear search."""
  bins, room = [], []
  for index, length in enumerate(lengths):
    target = next((i for i, free in enumerate(room) if free >= length), len(bins))
    if target == len(bins):
      bins.append([])
      room.append(capacity)
    bins[target].append(index)
    room[target] -= length
  return bins


@pytest.mark.parametrize('count', [1, 2, 3, 100, 257])
def test_each_text_goes_into_the_first_bin_with_room(count):
  lengths = np.random.default_rng(count).integers(1, 51, count).tolist()
  assert packing.first_fit(lengths, 50) == reference(lengths, 50)


def test_texts_as_long_as_a_row_get_one_each():
  assert packing.first_fit([50, 1, 50, 49], 50) == [[0], [1, 3], [2]]


def test_an_epoch_holds_every_text_once_and_the_next_another_order():
  lengths = np.random.default_rng(0).integers(1, 40, 200)
  rows = packing.Packing(lengths, 64, seed=3)
  first, second = rows.rows(1), rows.rows(2)
  epochs = [[rows.row(i) for i in range(a, b)] for a, b in ((0, first), (first, second))]
  for epoch in epochs:
    assert sorted(np.concatenate(epoch).tolist()) == list(range(200))
    assert all(lengths[row].sum() <= 64 for row in epoch)
    assert lengths.sum() / (64 * len(epoch)) > 0.9  # first fit leaves little room
  assert [row.tolist() for row in epochs[0]] != [row.tolist() for row in epochs[1]]
  assert rows.rows(1.5) == first + -(-(second - first) // 2)


def test_a_row_depends_on_its_number_and_the_seed_alone():
  lengths = np.random.default_rng(0).integers(1, 40, 50)
  one, other = packing.Packing(lengths, 64, seed=1), packing.Packing(lengths, 64, seed=1)
  last = other.row(3 * one.rows(1)).tolist()  # without the rows before it, as in a resumed run
  assert [one.row(i).tolist() for i in range(3 * one.rows(1) + 1)][-1] == last
  assert packing.Packing(lengths, 64, seed=2).row(0).tolist() != one.row(0).tolist()


def test_rows_as_arrays():
  tokens, segments, positions, response = packing.pack([[(np.array([5, 6, 7]), 1), (np.array([8, 9]), 0)], []], 7)
  assert tokens.tolist() == [[5, 6, 7, 8, 9, 0, 0], [0] * 7]
  assert segments.tolist() == [[1, 1, 1, 2, 2, 0, 0], [0] * 7]
  assert positions.tolist() == [[0, 1, 2, 0, 1, 0, 0], [0] * 7]
  assert response.astype(int).tolist() == [[0, 1, 1, 0, 1, 0, 0], [0] * 7]  # nothing predicts a text's first token


def test_many_texts_are_packed_in_no_time():
  lengths = np.random.default_rng(0).integers(1, 32_768, 20_000)
  began = time.process_time()
  bins = packing.first_fit(lengths.tolist(), 32_768)
  assert time.process_time() - began < 3 and len(bins) < 1.05 * lengths.sum() / 32_768
