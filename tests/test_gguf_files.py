"""The header of GGUF files: read as it was written, and refused in one line where it is damaged or hostile."""

import os
import random
import struct

import gguf
import numpy as np
import pytest

from r1jax import gguf_files
from r1jax.checkpoint import ModelDirError

FIELDS = {
  'a.uint': (7, 'UINT32'),
  'a.negative': (-3, 'INT64'),
  'a.float': (1e-5, 'FLOAT32'),
  'a.double': (0.1, 'FLOAT64'),
  'a.yes': (True, 'BOOL'),
  'a.text': ('naïve 汉字\n', 'STRING'),
  'a.texts': (['', 'Ġa', 'é'], 'ARRAY'),
  'a.numbers': ([1, 2, -3], 'ARRAY'),
  'a.floats': ([0.5, -1.1], 'ARRAY'),
}
HEAD = struct.pack('<4sIQQ', b'GGUF', 3, 1, 0)


def write(path, alignment=None):
  """Three tensors: F32 [3, 4], Q8_0 [2, 64], BF16 [5]. Returns {name: its bytes}."""
  writer, rng = gguf.GGUFWriter(path, 'llama'), np.random.default_rng(0)
  for key, (value, kind) in FIELDS.items():
    writer.add_key_value(key, value, gguf.GGUFValueType[kind])
  if alignment:
    writer.add_custom_alignment(alignment)
  tensors = {
    'f': (rng.normal(size=(3, 4)).astype(np.float32), 'F32'),
    'q': (gguf.quants.quantize(rng.normal(size=(2, 64)).astype(np.float32), gguf_files.Kind.Q8_0), 'Q8_0'),
    'b': (rng.integers(0, 1 << 16, 5, np.uint16), 'BF16'),
  }
  for name, (x, kind) in tensors.items():
    writer.add_tensor(name, x, raw_dtype=gguf_files.Kind[kind])
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return {name: x.tobytes() for name, (x, _) in tensors.items()}


def refusal(path):
  with pytest.raises(ModelDirError) as error:
    gguf_files.read(path, ModelDirError)
  message = str(error.value)
  assert '\n' not in message and message.startswith(str(path)) and len(message) < 500 + len(str(path))
  return message


@pytest.mark.parametrize('alignment', [None, 8, 256])
def test_metadata_and_tensors_are_read(tmp_path, alignment):
  path = tmp_path / 'm.gguf'
  data = write(path, alignment)
  file = gguf_files.read(path, ModelDirError)
  assert {key: file.fields[key] for key in FIELDS} == {key: value for key, (value, _) in FIELDS.items()}
  assert file.fields['a.yes'] is True
  assert {name: (t.kind.name, t.shape) for name, t in file.tensors.items()} == {
    'f': ('F32', (3, 4)),
    'q': ('Q8_0', (2, 64)),
    'b': ('BF16', (5,)),
  }
  contents = path.read_bytes()
  assert {n: contents[t.start : t.start + t.bytes] for n, t in file.tensors.items()} == data


def test_a_file_cut_anywhere_is_refused(tmp_path):
  write(tmp_path / 'whole.gguf')
  contents = (tmp_path / 'whole.gguf').read_bytes()
  end = max(t.start + t.bytes for t in gguf_files.read(tmp_path / 'whole.gguf', ModelDirError).tensors.values())
  for size in [*range(0, end, 3), end - 1]:
    (tmp_path / 'm.gguf').write_bytes(contents[:size])
    assert 'fetch it again' in refusal(tmp_path / 'm.gguf')


def test_damaged_bytes_give_a_file_or_a_refusal(tmp_path):
  write(tmp_path / 'whole.gguf')
  contents, rng, refused = (tmp_path / 'whole.gguf').read_bytes(), random.Random(0), 0
  for _ in range(400):
    damaged = bytearray(contents)
    for _ in range(rng.randrange(1, 4)):
      damaged[rng.randrange(len(damaged) - 200)] = rng.choice([0, 1, 127, 255, rng.randrange(256)])
    (tmp_path / 'm.gguf').write_bytes(damaged)
    try:
      gguf_files.read(tmp_path / 'm.gguf', ModelDirError)
    except ModelDirError as error:
      assert '\n' not in str(error)
      refused += 1
  assert refused > 100


def text(value):
  return struct.pack('<Q', len(value)) + value


def tensor(*shape, kind=0, offset=0, name=b't'):
  return text(name) + struct.pack(f'<I{len(shape)}QIQ', len(shape), *shape, kind, offset)


MANY = 1 << 62


@pytest.mark.parametrize(
  ('contents', 'words'),
  [
    (b'', 'needed at 0'),
    (b'PK\3\4' + bytes(100), 'does not begin with GGUF'),
    (struct.pack('<4sI', b'GGUF', 1) + bytes(100), 'version 1'),
    (struct.pack('>4sI', b'GGUF', 3) + bytes(100), 'version 50331648'),  # big-endian
    (struct.pack('<4sIQQ', b'GGUF', 3, MANY, 0), f'{MANY} tensors'),
    (struct.pack('<4sIQQ', b'GGUF', 3, 0, MANY), f'{MANY} fields'),
    (struct.pack('<4sIQQQ', b'GGUF', 3, 0, 1, MANY), f'{MANY} bytes of text'),
    (struct.pack('<4sIQQ', b'GGUF', 3, 0, 1) + text(b'k') + struct.pack('<IQ', 8, 1 << 27), f'{1 << 27} bytes'),
    (struct.pack('<4sIQQ', b'GGUF', 3, 0, 1) + text(b'k') + struct.pack('<IIQ', 9, 8, MANY), f'{MANY} items'),
    (struct.pack('<4sIQQ', b'GGUF', 3, 0, 1) + text(b'k') + struct.pack('<IIQ', 9, 4, 1 << 20), f'{1 << 22} bytes'),
    (struct.pack('<4sIQQ', b'GGUF', 3, 0, 1) + text(b'k') + struct.pack('<IIQ', 9, 9, 1), 'type 9'),
    (struct.pack('<4sIQQ', b'GGUF', 3, 0, 1) + text(b'k') + struct.pack('<I', 99), 'type 99'),
    (struct.pack('<4sIQQ', b'GGUF', 3, 0, 1) + text(b'\xff'), "can't decode"),
    (struct.pack('<4sIQQ', b'GGUF', 3, 0, 2) + 2 * (text(b'k\n') + struct.pack('<II', 4, 1)), 'twice'),
    (struct.pack('<4sIQQ', b'GGUF', 3, 2, 0) + 2 * tensor(1), "'t' is there twice"),
    (HEAD + tensor(MANY, MANY), 'shape'),
    (HEAD + tensor(0, 4), 'shape [4, 0]'),
    (HEAD + text(b't') + struct.pack('<I', 1 << 30), f'{1 << 30} dimensions'),
    (HEAD + tensor(33, kind=8) + bytes(100), 'not a multiple of its blocks of 32'),
    (HEAD + tensor(4, offset=1 << 40) + bytes(100), 'outside of the file'),
    (HEAD + tensor(4, offset=4) + bytes(100), 'outside of the file'),  # not aligned
    (HEAD + tensor(4, offset=(1 << 64) - 32) + bytes(100), 'outside of the file'),
    (HEAD + tensor(256, kind=16) + bytes(100), 'IQ2_XXS'),
    (HEAD + tensor(256, kind=77, name=b'n\n') + bytes(100), "'n\\n' has type 77"),
    (
      struct.pack('<4sIQQ', b'GGUF', 3, 2, 0) + tensor(16) + tensor(16, offset=32, name=b'u') + bytes(200),
      'another tensor',
    ),
  ],
)
def test_hostile_headers_are_refused(tmp_path, contents, words):
  (tmp_path / 'm.gguf').write_bytes(contents)
  assert words in refusal(tmp_path / 'm.gguf')


@pytest.mark.parametrize('alignment', [0, 24, 1 << 30])
def test_a_strange_alignment_is_refused(tmp_path, alignment):
  head = struct.pack('<4sIQQ', b'GGUF', 3, 0, 1) + text(b'general.alignment')
  (tmp_path / 'm.gguf').write_bytes(head + struct.pack('<II', 4, alignment))
  assert f'general.alignment is {alignment}' in refusal(tmp_path / 'm.gguf')


def test_a_text_of_half_a_terabyte_is_refused_in_a_file_of_one(tmp_path):
  path = tmp_path / 'm.gguf'
  path.write_bytes(struct.pack('<4sIQQ', b'GGUF', 3, 0, 1) + text(b'k') + struct.pack('<IQ', 8, 1 << 39))
  with open(path, 'r+b') as f:
    f.truncate(1 << 40)
  assert str(1 << 39) in refusal(path)


@pytest.mark.parametrize('make', [os.mkfifo, lambda p: os.symlink('/dev/zero', p), lambda p: os.symlink('gone', p)])
def test_only_regular_files_are_read(tmp_path, make):
  make(tmp_path / 'm.gguf')
  assert ' is ' in refusal(tmp_path / 'm.gguf')


def test_a_missing_file_is_named(tmp_path):
  assert 'does not exist' in refusal(tmp_path / 'm.gguf')
