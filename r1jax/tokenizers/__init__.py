"""Tokenizers: text to token ids and back. All kinds have the interface of `base.Tokenizer`."""

import contextlib
import os
import tempfile

from r1jax import gguf_files, modelfiles
from r1jax.tokenizers import gguf
from r1jax.tokenizers.base import Tokenizer, TokenizerError, read_json
from r1jax.tokenizers.bpe import ByteLevelTokenizer, is_byte_level
from r1jax.tokenizers.chat import CHAT_TEMPLATES
from r1jax.tokenizers.spm import SentencePieceTokenizer, to_tokenizer_json, train, transformers_config

__all__ = [
  'CHAT_TEMPLATES',
  'ByteLevelTokenizer',
  'SentencePieceTokenizer',
  'Tokenizer',
  'TokenizerError',
  'as_folder',
  'files',
  'load',
  'to_tokenizer_json',
  'train',
  'transformers_config',
]

_JSON, _SPM = 'tokenizer.json', 'tokenizer.model'
_FILES = (
  _JSON,
  _SPM,
  'tokenizer_config.json',
  'special_tokens_map.json',
  'added_tokens.json',
  'chat_template.jinja',
  'vocab.json',
  'merges.txt',
  'generation_config.json',
)


def files(path):
  """Returns the paths of the tokenizer's files in the model directory `path`, for example to copy them.

  Raises:
    TokenizerError: there is no tokenizer, or a file is not safe to read (see `modelfiles`); the message is one line.
  """
  paths = [
    os.path.join(path, name) for name in _FILES if modelfiles.json_exists(os.path.join(path, name), TokenizerError)
  ]
  if not {_JSON, _SPM} & {os.path.basename(file) for file in paths}:
    raise TokenizerError(f'{path}: no tokenizer there; pass a model directory with {_JSON} or {_SPM}.')
  return paths


@contextlib.contextmanager
def as_folder(path):
  """Context of the folder with a tokenizer's files: its own, or a temporary one with those of a GGUF file.

  A GGUF file's SentencePiece model gets a tokenizer.json too, where it can be converted.

  Args:
    path: a directory, a file in it, or a GGUF file.
  """
  if not gguf_files.is_gguf(path):
    yield os.path.dirname(path) if os.path.isfile(path) else os.fspath(path)
    return
  with _unpacked(path) as folder:
    model = os.path.join(folder, _SPM)
    if os.path.exists(model):
      with contextlib.suppress(TokenizerError):
        to_tokenizer_json(model, os.path.join(folder, _JSON))
    yield folder


@contextlib.contextmanager
def _unpacked(path):
  """Context of a temporary folder with the tokenizer's files of a GGUF file."""
  file = gguf_files.read(path, TokenizerError)
  with tempfile.TemporaryDirectory() as folder:
    gguf.write_files(file, folder)
    yield folder


def load(path, chat_template=None):
  """Loads the tokenizer of a model directory or a GGUF file, or a tokenizer file.

  Other files in the directory are read too: tokenizer_config.json, special_tokens_map.json, chat_template.jinja, and
  generation_config.json and config.json for the ids of end tokens.

  Args:
    path: a directory, a GGUF file, a tokenizer.json or a SentencePiece model.
    chat_template: a key of CHAT_TEMPLATES that replaces the directory's own chat template.

  Returns:
    Tokenizer.

  Raises:
    TokenizerError: there is no tokenizer, or a file is broken; the message is one line.
  """
  path = os.fspath(path)
  if chat_template not in (None, *CHAT_TEMPLATES):
    raise TokenizerError(f'unknown chat template {chat_template!r}; known: {", ".join(CHAT_TEMPLATES)}.')
  if gguf_files.is_gguf(path):
    with _unpacked(path) as folder:
      try:
        tokenizer = load(folder, chat_template)
      except TokenizerError as error:
        raise TokenizerError(f'{path}: {str(error).replace(folder + os.sep, "")}') from error
    tokenizer.path = path
    return tokenizer
  if not os.path.isfile(path):
    path, *others = files(path)
    # A tokenizer.json that is not byte-level is a conversion of the SentencePiece model in the same directory.
    if others and os.path.basename(others[0]) == _SPM and not is_byte_level(read_json(path)):
      path = others[0]
  cls = ByteLevelTokenizer if path.endswith('.json') else SentencePieceTokenizer
  return cls(path, CHAT_TEMPLATES[chat_template] if chat_template is not None else None)
