"""Text to token ids and back, one interface whatever is behind it: see base.Tokenizer."""

import os

from r1jax import modelfiles
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
  """Paths of the files in model directory `path` that its tokenizer consists of: a copy takes them along.

  Raises:
    TokenizerError: no tokenizer there, or one of them is no file of the directory (see `modelfiles`); one line.
  """
  found = [
    os.path.join(path, name) for name in _FILES if modelfiles.find_json(os.path.join(path, name), TokenizerError)
  ]
  if not {_JSON, _SPM} & {os.path.basename(name) for name in found}:
    raise TokenizerError(f'{path}: no tokenizer there; pass a model directory, which holds {_JSON} or {_SPM}.')
  return found


def load(path, chat_template=None):
  """The tokenizer of a model directory, or of one file in it.

  What lies beside the tokenizer is read too: tokenizer_config.json, special_tokens_map.json, chat_template.jinja,
  and the ids that end a text from generation_config.json and config.json.

  Args:
    path: a directory, a tokenizer.json or a SentencePiece model.
    chat_template: name in CHAT_TEMPLATES, in place of the directory's own.

  Raises:
    TokenizerError: no tokenizer there, or a broken file; one line.
  """
  path = os.fspath(path)
  if chat_template not in (None, *CHAT_TEMPLATES):
    raise TokenizerError(f'{chat_template!r} is no chat template; there are {", ".join(CHAT_TEMPLATES)}.')
  if not os.path.isfile(path):
    first, second = (*files(path), None)[:2]
    # A tokenizer.json that is not byte-level is a translation of the SentencePiece model beside it.
    translated = os.path.basename(second or '') == _SPM and not is_byte_level(read_json(first))
    path = second if translated else first
  kind = ByteLevelTokenizer if path.endswith('.json') else SentencePieceTokenizer
  return kind(path, CHAT_TEMPLATES.get(chat_template))
