"""Which files of a model's directory are read. Such directories come from others: not to trust."""

import os

_JSON_BYTES = 1 << 28  # the largest published tokenizer.json has 35 MB


def find(path, error, most=None):
  """Whether `path` is a file of its directory: a regular one that lies there, or in the Hugging Face cache.

  A link to anywhere else is refused, as an export would copy out what it leads to; so is what is no regular file, as
  reading may never end.

  Args:
    path: in a model's directory. error: class of the exception.
    most: bytes that the file may have; None for any number.

  Returns:
    False where nothing is there.

  Raises:
    error: in one line that names the file.
  """
  path = os.fspath(path)
  if not os.path.lexists(path):
    return False
  real = os.path.realpath(path)
  if not os.path.isfile(real):
    what = 'no regular file' if os.path.exists(real) else f'a link to {real}, where nothing is'
    raise error(f'{path} is {what}; put the file itself there, or remove it.')
  if not any(real.startswith(os.path.join(os.path.realpath(home), '')) for home in _homes(os.path.dirname(path))):
    raise error(
      f'{path} is a link to {real}, outside of its directory and of the Hugging Face cache; copy the file '
      'itself there, or remove the link.'
    )
  if most is not None and os.path.getsize(real) > most:
    raise error(f'{path} has {os.path.getsize(real)} bytes, over {most}; it is no such file, fetch it again.')
  return True


def find_json(path, error):
  """`find` for a file that is read whole, which limits its size."""
  return find(path, error, _JSON_BYTES)


def _homes(folder):
  """Where the files of a directory may lie."""
  folder, env = os.path.realpath(folder), os.environ
  homes = [folder]
  if os.path.basename(os.path.dirname(folder)) == 'snapshots':  # models--A--B/snapshots/REVISION, wherever it lies
    homes.append(os.path.join(folder, '..', '..', 'blobs'))
  cache = os.path.join(env.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache'), 'huggingface')
  return [*homes, env.get('HF_HUB_CACHE') or os.path.join(env.get('HF_HOME') or cache, 'hub')]
