"""Headers are read or refused in one line; parts of tensors equal NumPy's slices of them."""

import contextlib
import json
import random
import re
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from r1jax.checkpoint import safetensors_files
from r1jax.checkpoint.model_dir import ModelDirError

ENTRY = {'dtype': 'F32', 'shape': [2, 3], 'data_offsets': [0, 24]}
KINDS = {'F32': np.float32, 'F16': np.float16, 'BF16': ml_dtypes.bfloat16}


def bits(rng, shape, kind):
  """Random finite values."""
  return np.array(rng.normal(size=shape), np.float32).astype(kind)


def raw(header, data=b'\0' * 24, length=None):
  text = header if isinstance(header, bytes) else json.dumps(header).encode()
  return struct.pack('<Q', len(text) if length is None else length) + text + data


def refusal(path):
  with pytest.raises(ModelDirError) as error:
    safetensors_files.entries(path)
  message = str(error.value)
  assert '\n' not in message and str(path) in message
  return message


@pytest.mark.parametrize(
  ('content', 'words'),
  [
    (b'', 'damaged'),
    (b'\1\0\0', 'damaged'),
    (b'\xff' * 40, 'a header of 18446744073709551615 bytes in a file of 40'),
    (raw({'w': ENTRY}, length=10**9), 'a header of 1000000000 bytes'),
    (raw(b'{"w": '), 'damaged'),
    (raw(b'\x80\x81\x82\x83'), 'damaged'),
    (raw(b'[' * 100_000), 'damaged'),
    (raw(b'{"w":' * 50_000), 'damaged'),
    (raw([]), 'damaged'),
    (raw('w'), 'damaged'),
    (raw({'w': []}), 'damaged'),
    (raw({'w': ENTRY | {'data_offsets': [-8, 16]}}), r"'w' of shape \[2, 3\] .* -8:16"),
    (raw({'w': ENTRY | {'data_offsets': [24, 0]}}), 'w of 24 bytes .* 24:0'),
    (raw({'w': ENTRY | {'data_offsets': [0, 20]}}), 'w of 24 bytes .* 0:20'),
    (raw({'w': ENTRY | {'data_offsets': [False, 24]}}), ' False:24'),
    (raw({'w': ENTRY | {'data_offsets': [0.0, 24]}}), r' 0\.0:24'),
    (raw({'w': ENTRY | {'data_offsets': 24}}), 'damaged'),
    (raw({'w': ENTRY | {'shape': [2.0, 3]}}), r'shape \[2.0, 3\]'),
    (raw({'w': ENTRY | {'shape': [True, 6]}}), r'shape \[True, 6\]'),
    (raw({'w': ENTRY | {'shape': [-2, -3]}}), r'shape \[-2, -3\]'),
    (raw({'w': ENTRY | {'shape': 6}}), 'damaged'),
    (raw({'w': ENTRY | {'dtype': 'I64', 'shape': [3]}}), "tensor w has dtype 'I64'; known: F32, F16, BF16, F8_E4M3"),
    (raw({'w': ENTRY | {'dtype': ['F32']}}), 'damaged'),
    (raw({'w': ENTRY, 'v': ENTRY}), 'tensor [vw] overlaps another'),
    (raw({'w': ENTRY, 'v': ENTRY | {'data_offsets': [12, 36]}}, b'\0' * 36), 'tensor v overlaps another'),
    (raw({'w\nv': ENTRY}), 'damaged'),
    (raw({'w': ENTRY | {'shape': [10**4000] * 2000}}), 'damaged'),
    (raw({'w': ENTRY | {'shape': [2**62] * 8}}), 'damaged'),
    (raw({'w': ENTRY | {'shape': [1] * 7 + [2, 3]}}), r'shape \[1, 1, 1, 1, 1, 1, 1, 2, 3\]'),
    (raw({'w': ENTRY | {'data_offsets': [0, 2**64]}}), ' 0:18446744073709551616'),
    (raw({'w' * 100_000: ENTRY | {'shape': [10**300] * 8}}), 'damaged'),
    (raw({'w': ENTRY}, b'\0' * 23), 'truncated: it has .* bytes, but tensor w ends at'),
  ],
)
def test_an_invalid_header_is_refused(tmp_path, content, words):
  (tmp_path / 'model.safetensors').write_bytes(content)
  message = refusal(tmp_path)
  assert re.search(words, message) and len(message) < 2000, message


def test_any_bytes_give_entries_or_a_message_of_one_line(tmp_path):
  dice, file = random.Random(0), tmp_path / 'model.safetensors'
  intact = raw({'__metadata__': {'format': 'pt'}, 'w': ENTRY, 'v': ENTRY | {'data_offsets': [24, 48]}}, b'\0' * 48)
  values = [None, True, -1, 0, 7, 2**63, 1e300, 'F32', 'BF16', [], {}, [1, 2], [[1]], [0, 24], [24, 48], [0, 2**70]]
  read = refused = 0
  for _ in range(600):
    if dice.random() < 0.5:  # a few bytes
      content = bytearray(intact)
      for _ in range(dice.randint(1, 4)):
        content[dice.randrange(len(content))] = dice.randrange(256)
      content = bytes(content[: dice.randint(0, len(content))] if dice.random() < 0.3 else content)
    else:  # a value of the header
      header = {'w': dict(ENTRY), 'v': ENTRY | {'data_offsets': [24, 48]}}
      header[dice.choice('wv')][dice.choice(list(ENTRY))] = dice.choice(values)
      content = raw(header, b'\0' * 48)
    file.write_bytes(content)
    try:
      entries = safetensors_files.entries(tmp_path)
    except ModelDirError as error:
      assert '\n' not in str(error)
      refused += 1
      continue
    read += 1
    reader = safetensors_files.Reader(entries)
    for entry in entries.values():  # tensors of an accepted header can be read
      if len(entry.shape) == 2 and all(entry.shape) and entry.dtype in KINDS:
        reader.read(entry, (0, entry.shape[0]), [((0, entry.shape[1]), np.empty(entry.shape, KINDS[entry.dtype]))])
    reader.close()
  assert read > 30 and refused > 300


def two_shards(path, names=('w', 'v')):
  for i, name in enumerate(names):
    safetensors.numpy.save_file({name: np.full((2, 3), i, np.float32)}, path / f'{i}.safetensors')
  index(path, {name: f'{i}.safetensors' for i, name in enumerate(names)})


def index(path, weight_map):
  (path / safetensors_files.INDEX).write_text(json.dumps({'weight_map': weight_map}))


def test_the_index_decides_which_files_are_read(tmp_path):
  two_shards(tmp_path)
  (tmp_path / 'other.safetensors').write_bytes(b'no safetensors')
  entries = safetensors_files.entries(tmp_path)
  assert {name: (e.file.name, e.dtype, e.shape) for name, e in entries.items()} == {
    'w': ('0.safetensors', 'F32', (2, 3)),
    'v': ('1.safetensors', 'F32', (2, 3)),
  }


@pytest.mark.parametrize(
  ('damage', 'words'),
  [
    (lambda p: (p / '1.safetensors').unlink(), '1.safetensors is missing'),
    (lambda p: [(p / f'{i}.safetensors').unlink() for i in (0, 1)], '0.safetensors and 1 more is missing'),
    (
      lambda p: two_shards(p, ('w', 'w')) or index(p, {'v': '0.safetensors', 'x': '1.safetensors'}),
      '1.safetensors: tensor w is also in 0.safetensors',
    ),
    (
      lambda p: two_shards(p, ('w', 'w')) or (p / safetensors_files.INDEX).unlink(),
      '1.safetensors: tensor w is also in 0.safetensors',
    ),
    (lambda p: index(p, {'w': ''}), 'not a plain file name'),
    (lambda p: index(p, {'w': '../0.safetensors'}), 'not a plain file name'),
    (lambda p: index(p, {'w': '/etc/passwd'}), 'not a plain file name'),
    (lambda p: index(p, {'w': 3}), 'is damaged'),
    (lambda p: index(p, ['w']), 'is damaged'),
    (lambda p: (p / safetensors_files.INDEX).write_text('[' * 100_000), 'is damaged'),
    (lambda p: (p / safetensors_files.INDEX).write_text('{}'), 'is damaged'),
    (lambda p: (p / safetensors_files.INDEX).write_bytes(b'\xff\xfe\xfd'), 'is damaged'),
  ],
)
def test_shards_that_do_not_match_their_index_are_refused(tmp_path, damage, words):
  two_shards(tmp_path)
  damage(tmp_path)
  assert words in refusal(tmp_path)


@pytest.mark.parametrize('right', [0, 1])
def test_a_tensor_in_two_shards_is_read_from_the_one_that_the_index_names(tmp_path, right):
  two_shards(tmp_path, ('w', 'w'))
  safetensors.numpy.save_file({'v': np.ones((1, 2), np.float32)}, tmp_path / '2.safetensors')
  index(tmp_path, {'w': f'{right}.safetensors', 'v': '2.safetensors'} | {'x': f'{1 - right}.safetensors'})
  entries = safetensors_files.entries(tmp_path)
  got = np.empty((2, 3), np.float32)
  with contextlib.closing(safetensors_files.Reader(entries)) as reader:
    reader.read(entries['w'], (0, 2), [((0, 3), got)])
  assert entries['w'].file.name == f'{right}.safetensors' and (got == right).all() and sorted(entries) == ['v', 'w']


def test_pickles_are_never_opened(tmp_path):
  (tmp_path / 'pytorch_model.bin').write_bytes(b'cos\nsystem\n(S"exit 1"\ntR.')
  assert 'pytorch_model.bin is a pickle' in refusal(tmp_path)
  (tmp_path / 'pytorch_model.bin').unlink()
  assert 'no *.safetensors files; copy' in refusal(tmp_path)
  assert 'not a directory' in refusal(tmp_path / 'nowhere')
  (tmp_path / 'model.safetensors').mkdir()
  assert 'not a regular file' in refusal(tmp_path)
  (tmp_path / 'model.safetensors').rmdir()
  (tmp_path / 'model.safetensors').symlink_to(tmp_path / 'gone')
  assert 'which does not exist' in refusal(tmp_path)


def random_spans(dice, n, most):
  """Up to `most` disjoint (start, stop) within range(n), in any order."""
  at = sorted(dice.sample(range(n + 1), 2 * dice.randint(1, most)))
  parts = list(zip(at[::2], at[1::2]))
  if len(parts) > 1 and dice.random() < 0.5:  # some touch
    parts[1] = (parts[0][1], parts[1][1])
  dice.shuffle(parts)
  return parts


@pytest.mark.parametrize('kind', KINDS.values())
@pytest.mark.parametrize('kept', KINDS.values())
def test_parts_equal_numpys_slices(tmp_path, kind, kept):
  dice, rng = random.Random(0), np.random.default_rng(0)
  shapes = [(70, 64), (1, 9), (33, 130), (300, 8), (40,)]
  arrays = {f'w{i}': bits(rng, shape, kind) for i, shape in enumerate(shapes)}
  safetensors.numpy.save_file(arrays, tmp_path / 'model.safetensors')
  entries = safetensors_files.entries(tmp_path)
  for _ in range(60):
    name = dice.choice(list(arrays))
    x = arrays[name].reshape(-1, arrays[name].shape[-1])
    ((first, last),) = random_spans(dice, x.shape[0], 1)
    columns = random_spans(dice, x.shape[1], 3) if dice.random() < 0.7 else [(0, x.shape[1])]
    out = []
    for start, stop in columns:
      shape = (last - first + 2, stop - start + 2)
      out.append(np.full(shape[::-1], 7, kept).T if dice.random() < 0.5 else np.full(shape, 7, kept))
    reader = safetensors_files.Reader(entries)
    reader.read(entries[name], (first, last), [(part, y[1:-1, 1:-1]) for part, y in zip(columns, out)])
    reader.close()
    assert reader.bytes == sum(stop - start for start, stop in columns) * (last - first) * x.itemsize
    for (start, stop), y in zip(columns, out):
      want = np.full(y.shape, 7, kept)
      want[1:-1, 1:-1] = x[first:last, start:stop].astype(kept)
      np.testing.assert_array_equal(y.view(f'u{y.itemsize}'), want.view(f'u{y.itemsize}'))


def test_fp8_is_multiplied_by_the_scale_of_its_block(tmp_path):
  rng = np.random.default_rng(0)
  w = np.arange(300 * 200, dtype=np.uint32).astype(np.uint8).reshape(300, 200)  # all 256 values, two of them nan
  scale = rng.uniform(0.5, 2, (3, 2)).astype(np.float32)  # ragged: 300 = 128 + 128 + 44
  header, at = {}, 0
  for name, dtype, x in (('w', 'F8_E4M3', w), ('w_scale_inv', 'F32', scale)):
    header[name] = {'dtype': dtype, 'shape': list(x.shape), 'data_offsets': [at, at + x.nbytes]}
    at += x.nbytes
  (tmp_path / 'model.safetensors').write_bytes(raw(header, w.tobytes() + scale.tobytes()))
  entries = safetensors_files.entries(tmp_path)

  def value(byte):  # sign, 4 bits of exponent, 3 of mantissa
    exponent, mantissa = byte >> 3 & 15, byte & 7
    size = (mantissa / 8 if exponent == 0 else 1 + mantissa / 8) * 2.0 ** (max(exponent, 1) - 7)
    return np.nan if byte & 127 == 127 else -size if byte & 128 else size

  table = np.array([value(b) for b in range(256)], np.float32)
  want = table[w] * np.kron(scale, np.ones((128, 128), np.float32))[:300, :200]
  for rows, columns in (((0, 300), [(0, 200)]), ((120, 270), [(100, 140)]), ((299, 300), [(150, 151), (3, 140)])):
    for kept in (np.float32, ml_dtypes.bfloat16):
      reader = safetensors_files.Reader(entries)
      out = [np.empty((stop - start, rows[1] - rows[0]), kept).T for start, stop in columns]
      reader.read(entries['w'], rows, list(zip(columns, out)))
      reader.close()
      for (start, stop), y in zip(columns, out):
        np.testing.assert_array_equal(
          y.astype(np.float32), want[slice(*rows), start:stop].astype(kept).astype(np.float32)
        )


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path):
  safetensors.numpy.save_file({'w': np.ones((64, 64), np.float32)}, tmp_path / 'model.safetensors')
  entries = safetensors_files.entries(tmp_path)
  reader = safetensors_files.Reader(entries)
  with open(tmp_path / 'model.safetensors', 'rb+') as f:
    f.truncate(9000)
  with pytest.raises(ModelDirError, match='model.safetensors .* tensor w '):
    reader.read(entries['w'], (0, 64), [((0, 64), np.empty((64, 64), np.float32).T)])
  reader.close()


def test_the_library_reads_what_was_written(tmp_path):
  rng = np.random.default_rng(0)
  arrays = {
    name: bits(rng, shape, kind)
    for name, shape, kind in (('a', (70, 33), np.float32), ('b', (5,), np.float16), ('c', (40, 8), ml_dtypes.bfloat16))
  }
  with open(tmp_path / 'model.safetensors', 'wb') as f:
    f.write(safetensors_files.header([(name, x.dtype, x.shape) for name, x in arrays.items()]))
    assert f.tell() % 8 == 0
    for name, x in arrays.items():
      safetensors_files.write_matrix(f, np.ascontiguousarray(x.T) if name == 'a' else x, transposed=name == 'a')
  with safetensors.safe_open(tmp_path / 'model.safetensors', 'np') as f:
    assert f.metadata() == {'format': 'pt'} and set(f.keys()) == set(arrays)
    for name, x in arrays.items():
      assert f.get_tensor(name).tobytes() == x.tobytes() and f.get_slice(name).get_shape() == list(x.shape)
