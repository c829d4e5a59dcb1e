"""Byte-level BPE as the `tokenizers` library writes it (tokenizer.json): Qwen, Llama 3, DeepSeek."""

import functools
import json

import tokenizers

from r1jax.tokenizers.base import Stream, Tokenizer, TokenizerError, one_line, read_json

# The character that stands for each byte: itself if it is printable, otherwise the next character from U+0100 on.
_PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
_BYTE_OF = {chr(b): b for b in _PRINTABLE}
_BYTE_OF |= {chr(256 + n): b for n, b in enumerate(sorted(set(range(256)) - set(_PRINTABLE)))}

# The components that are passed to the library. Damaged settings of the others (Precompiled, Prepend, FixedLength) make
# it panic or end the process, and no byte-level tokenizer needs them. Checking the settings covers all texts, which a
# trial run in a separate process would not.
_NORMALIZERS = {
  'NFC',
  'NFD',
  'NFKC',
  'NFKD',
  'Nmt',
  'Lowercase',
  'Strip',
  'StripAccents',
  'BertNormalizer',
  'ByteLevel',
  'Replace',
}
_SPLITTERS = {
  'Split',
  'ByteLevel',
  'Digits',
  'Punctuation',
  'Whitespace',
  'WhitespaceSplit',
  'UnicodeScripts',
  'BertPreTokenizer',
}


def is_byte_level(spec):
  """Whether a tokenizer.json is byte-level; spec: its content."""
  decoder = spec.get('decoder')
  return isinstance(decoder, dict) and decoder.get('type') == 'ByteLevel'


class ByteLevelTokenizer(Tokenizer):
  """Tokenizer of a tokenizer.json."""

  def __init__(self, path, template=None):
    spec = read_json(path)
    if not is_byte_level(spec):
      raise TokenizerError(
        f'{path}: not byte-level BPE; if it was made from a tokenizer.model, put that into the same directory.'
      )
    unsupported = _unsupported(spec)
    if unsupported:
      raise TokenizerError(
        f'{path}: not a tokenizer that is supported, as it has {unsupported}; fetch it again, or use another model.'
      )
    # Added tokens are split off here, as some of them stay text in chats; the library only gets the text between them.
    bare = spec | {'added_tokens': [], 'post_processor': None, 'truncation': None, 'padding': None}
    self._bpe = _call_library(path, lambda: tokenizers.Tokenizer.from_str(json.dumps(bare)))
    vocab = self._bpe.get_vocab()
    # The post-processor contains the token that it puts before a text.
    processor = _call_library(path, lambda: json.dumps(spec.get('post_processor'), ensure_ascii=False))
    adds_bos = lambda bos: json.dumps(bos, ensure_ascii=False) in processor
    super().__init__(path, vocab, spec.get('added_tokens') or [], [], template, adds_bos)
    self._token = {i: token for token, i in (vocab | self.added).items() if token not in self.special}
    self._to_bytes = functools.cache(self._bytes_of)

  def spec(self):
    """The contents of a tokenizer.json without added tokens, in the library's own form."""
    return json.loads(self._bpe.to_str())

  def _encode(self, text):
    return _call_library(self.path, self._bpe.encode, text).ids

  def decode(self, ids):
    return b''.join(self._to_bytes(int(i)) for i in ids).decode('utf-8', 'replace')

  def stream(self):
    return Stream(self._to_bytes, 'replace')

  def _bytes_of(self, i):
    token = self._token.get(i, '')
    # An added token with a character that stands for no byte stands for its own text.
    return bytes(map(_BYTE_OF.__getitem__, token)) if _BYTE_OF.keys() >= set(token) else token.encode()


def _unsupported(spec):
  """Returns a description of the first thing in a tokenizer.json that is not supported, or None."""
  model = spec.get('model')
  if not isinstance(model, dict) or model.get('type') not in (None, 'BPE') or not isinstance(model.get('vocab'), dict):
    return 'no BPE model'
  if len({str(i) for i in model['vocab'].values()}) < len(model['vocab']):
    return 'the same id for two tokens'
  for key in ('dropout', 'continuing_subword_prefix', 'end_of_word_suffix'):
    if model.get(key):
      return f'{key} = {repr(model[key])[:100]}'
  for key, known in (('normalizer', _NORMALIZERS), ('pre_tokenizer', _SPLITTERS)):
    for part in _flatten(spec.get(key)):
      if not isinstance(part, dict) or not isinstance(part.get('type'), str) or part['type'] not in known:
        return f'the {key} {repr(part)[:100]}'
      pattern = part.get('pattern')
      text = pattern.get('String') if isinstance(pattern, dict) else None
      # Several that lengthen the text, one after the other, would fill the memory.
      if part['type'] == 'Replace' and not (
        isinstance(text, str)
        and isinstance(part.get('content'), str)
        and 0 < len(text)
        and len(part['content']) <= len(text)
      ):
        return f'the {key} {repr(part)[:100]}, which makes texts longer'
      if text == '':
        return f'the {key} {repr(part)[:100]}, with an empty pattern'
  return None


def _flatten(component):
  """Yields a normalizer or pre-tokenizer, or its parts if it is a sequence."""
  remaining = [] if component is None else [component]
  while remaining:
    part = remaining.pop()
    inner = None
    if isinstance(part, dict) and part.get('type') == 'Sequence':
      inner = part.get('normalizers', part.get('pretokenizers'))
    if isinstance(inner, list):
      remaining += inner
    else:
      yield part


def _call_library(path, function, *args):
  """Calls the library; turns any error into a TokenizerError, also a Rust panic, which is not an Exception."""
  try:
    return function(*args)
  except (KeyboardInterrupt, SystemExit, MemoryError):
    raise
  except BaseException as error:
    raise TokenizerError(f'{path}: not a tokenizer ({one_line(error)}); fetch it again.') from error
