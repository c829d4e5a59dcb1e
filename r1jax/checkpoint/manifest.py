"""The manifest of a checkpoint: what the step holds, and the size and checksum of each of its files."""

import hashlib
import json
import pathlib

from r1jax import config as config_lib

MANIFEST = 'manifest.json'
UNCHECKED = ('_CHECKPOINT_METADATA', 'commit_success.txt')  # orbax rewrites them at the rename; restoring reads neither


def write(directory, contents):
  """Writes the manifest of the files in `directory`.

  Args:
    directory: path of the step, still under its temporary name.
    contents: dict of JSON values with step, fingerprint, arrays and possibly notes.
  """
  root = pathlib.Path(directory)
  files = {
    str(p.relative_to(root)): file_digest(p) for p in sorted(root.rglob('*')) if p.is_file() and p.name not in UNCHECKED
  }
  body = {**contents, 'files': files}
  (root / MANIFEST).write_text(json.dumps({**body, 'sha256': checksum(body)}))


def read(path):
  """The manifest of the step at `path`, a dict; does not check it."""
  return json.loads((path / MANIFEST).read_text())


def damage(path, check=lambda manifest: None):
  """Says what is wrong with the files of a committed step; '' if nothing is.

  Args:
    path: of the step.
    check: called with the manifest once that is known to be intact, before the other files are read.
  """
  try:
    if not (path / MANIFEST).is_file():  # reading a pipe or a device might never end
      return f'{MANIFEST} is missing or not a regular file'
    body = read(path)
    sha256 = body.pop('sha256')
    if sha256 != checksum(body):
      return f'{MANIFEST} does not match its own checksum'
    if not _has_valid_fields(body):
      return f'{MANIFEST} has missing or invalid fields'
    config_lib.flat(body)  # a RecursionError where it is nested too deeply
  except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
    return f'{MANIFEST} cannot be read: {one_line(error)}'
  check(body)
  for name, (size, sha256) in body['files'].items():
    file = path / name
    try:
      if '..' in file.parts or path not in file.parents or (file.exists() and not file.is_file()):
        return f'{name} is not a regular file within the checkpoint'
      actual = file.stat().st_size
      if actual != size:
        return f'{name} has {actual} bytes, not {size}'
      if file_digest(file)[1] != sha256:
        return f'{name} does not match its checksum'
    except OSError as error:
      return f'{name} cannot be read: {one_line(error)}'
  return ''


def _has_valid_fields(body):
  """Whether a manifest has the fields that readers use, with the right types."""
  is_dict_of = lambda value, is_valid: isinstance(value, dict) and all(map(is_valid, value.values()))
  return (
    isinstance(body.get('step'), int)
    and isinstance(body.get('fingerprint'), dict)
    and is_dict_of(body.get('arrays'), lambda layout: isinstance(layout, str) and '[' in layout)
    and is_dict_of(body.get('files'), lambda file: isinstance(file, list) and list(map(type, file)) == [int, str])
    and isinstance(body.get('notes', {}), dict)
  )


def file_digest(path):
  """[size in bytes, SHA-256 in hex] of a file."""
  with path.open('rb') as file:
    return [path.stat().st_size, hashlib.file_digest(file, 'sha256').hexdigest()]


def checksum(body):
  """SHA-256 in hex of a manifest without its own `sha256`."""
  return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def layout(arrays):
  """{name: 'dtype[shape]'} of a dict of arrays."""
  return {name: f'{x.dtype}{list(x.shape)}' for name, x in arrays.items()}


def difference(saved, now):
  """One phrase with both values for each key in which two nested dicts differ."""
  saved, now = config_lib.flat(saved), config_lib.flat(now)

  def show(values, key):
    return repr(values[key]) if key in values else 'absent'

  return [
    f'{key} was {show(saved, key)}, is {show(now, key)}'
    for key in sorted(saved.keys() | now.keys())
    if show(saved, key) != show(now, key)
  ]


def one_line(error):
  """The innermost cause of an error in one line, without what TensorStore appends.

  A long message is cut to its end, where the reason is.
  """
  while error.__cause__ is not None:
    error = error.__cause__
  text = ' '.join(str(error).split(' [')[0].split()) or type(error).__name__
  return text if len(text) <= 200 else '...' + text[-100:]
