"""Checks the files of model directories before they are read, as the directories come from others and are untrusted."""

import os

_JSON_BYTES = 1 << 28  # the largest published tokenizer.json has 35 MB


def exists(path, error, max_bytes=None):
  """Returns whether `path` exists, and checks that it is a regular file in its directory or the Hugging Face cache.

  Links to any other place are refused, as an export would copy their target. Other kinds of file are refused, as
  reading them may never end.

  Args:
    path: a path in a model directory.
    error: class of the exception to raise.
    max_bytes: maximum size of the file; None for no limit.

  Raises:
    error: the file fails a check; the message is one line and names the file.
  """
  path = os.fspath(path)
  if not os.path.lexists(path):
    return False
  real = os.path.realpath(path)
  if not os.path.isfile(real):
    problem = 'not a regular file' if os.path.exists(real) else f'a link to {real}, which does not exist'
    raise error(f'{path} is {problem}; put the file itself there, or remove it.')
  if not any(
    real.startswith(os.path.join(os.path.realpath(folder), '')) for folder in _allowed_folders(os.path.dirname(path))
  ):
    raise error(
      f'{path} is a link to {real}, outside of its directory and of the Hugging Face cache; copy the file '
      'itself there, or remove the link.'
    )
  if max_bytes is not None and os.path.getsize(real) > max_bytes:
    raise error(f'{path} has {os.path.getsize(real)} bytes, over the limit of {max_bytes}; fetch it again.')
  return True


def json_exists(path, error):
  """Like `exists` for a file that is read into memory, with a limit on its size."""
  return exists(path, error, _JSON_BYTES)


def _allowed_folders(folder):
  """Returns the folders where the files of a model directory may really be."""
  folder, env = os.path.realpath(folder), os.environ
  folders = [folder]
  if os.path.basename(os.path.dirname(folder)) == 'snapshots':  # models--A--B/snapshots/REVISION, in any cache
    folders.append(os.path.join(folder, '..', '..', 'blobs'))
  cache = os.path.join(env.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache'), 'huggingface')
  return [*folders, env.get('HF_HUB_CACHE') or os.path.join(env.get('HF_HOME') or cache, 'hub')]
