"""Byte-level BPE as the `tokenizers` library writes it (tokenizer.json): Qwen, Llama 3, DeepSeek."""

import functools
import json

import tokenizers

from r1jax.tokenizers.base import Stream, Tokenizer, TokenizerError, one_line, read_json

# A byte is written as one printable character: itself, or the next one from U+0100 on.
_PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
_BYTE_OF = {chr(b): b for b in _PRINTABLE}
_BYTE_OF |= {chr(256 + n): b for n, b in enumerate(sorted(set(range(256)) - set(_PRINTABLE)))}

# What the library is given. Damaged settings of the others (Precompiled, Prepend, FixedLength) make it panic or end the
# process; no byte-level tokenizer needs them. Checking settings holds for all texts, a trial in a process would not.
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
  """Whether the tokenizer.json with this content is byte-level."""
  decoder = spec.get('decoder')
  return isinstance(decoder, dict) and decoder.get('type') == 'ByteLevel'


class ByteLevelTokenizer(Tokenizer):
  """Tokenizer of a tokenizer.json."""

  def __init__(self, path, template=None):
    spec = read_json(path)
    if not is_byte_level(spec):
      raise TokenizerError(f'{path}: not byte-level BPE; if it was made from a tokenizer.model, put that beside it.')
    unknown = _unsupported(spec)
    if unknown:
      raise TokenizerError(
        f'{path}: not a tokenizer that can be used here, as it has {unknown}; fetch it again, or use another model.'
      )
    # Added tokens are split off here, as a chat leaves some of them text; the library sees what lies between.
    bare = spec | {'added_tokens': [], 'post_processor': None, 'truncation': None, 'padding': None}
    self._bpe = _call(path, lambda: tokenizers.Tokenizer.from_str(json.dumps(bare)))
    vocab = self._bpe.get_vocab()
    # The post-processor names the token that it puts in front of a text.
    processor = _call(path, lambda: json.dumps(spec.get('post_processor'), ensure_ascii=False))
    begins = lambda bos: json.dumps(bos, ensure_ascii=False) in processor
    super().__init__(path, vocab, spec.get('added_tokens') or [], [], template, begins)
    self._token = {i: token for token, i in (vocab | self.added).items() if token not in self.special}
    self._bytes = functools.cache(self._bytes_of)

  def _encode(self, text):
    return _call(self.path, self._bpe.encode, text).ids

  def decode(self, ids):
    """Text of the ids. Special tokens give none, nor do ids that only pad the model's vocabulary."""
    return b''.join(self._bytes(int(i)) for i in ids).decode('utf-8', 'replace')

  def stream(self):
    """Stream: `push(id)` and `end()` give the text as the ids come."""
    return Stream(self._bytes, 'replace')

  def _bytes_of(self, i):
    token = self._token.get(i, '')
    # An added token may hold what no byte is written as; then it stands for itself.
    return bytes(map(_BYTE_OF.get, token)) if _BYTE_OF.keys() >= set(token) else token.encode()


def _unsupported(spec):
  """What a tokenizer.json has that byte-level BPE has not; None if nothing."""
  model = spec.get('model')
  if not isinstance(model, dict) or model.get('type') not in (None, 'BPE') or not isinstance(model.get('vocab'), dict):
    return 'no BPE model'
  if len({str(i) for i in model['vocab'].values()}) < len(model['vocab']):
    return 'one id for two tokens'
  for key in ('dropout', 'continuing_subword_prefix', 'end_of_word_suffix'):
    if model.get(key):
      return f'{key} = {repr(model[key])[:100]}'
  for key, known in (('normalizer', _NORMALIZERS), ('pre_tokenizer', _SPLITTERS)):
    for part in _parts(spec.get(key)):
      if not isinstance(part, dict) or not isinstance(part.get('type'), str) or part['type'] not in known:
        return f'the {key} {repr(part)[:100]}'
      pattern = part.get('pattern')
      text = pattern.get('String') if isinstance(pattern, dict) else None
      # A text that grows, by one after the other, would fill the memory.
      if part['type'] == 'Replace' and not (
        isinstance(text, str)
        and isinstance(part.get('content'), str)
        and 0 < len(text)
        and len(part['content']) <= len(text)
      ):
        return f'the {key} {repr(part)[:100]}, which makes texts longer,'
      if text == '':
        return f'the {key} {repr(part)[:100]}, with nothing to look for,'
  return None


def _parts(found):
  """Yields a normalizer or pre-tokenizer, or what it consists of where it is a sequence."""
  left = [] if found is None else [found]
  while left:
    part = left.pop()
    inner = None
    if isinstance(part, dict) and part.get('type') == 'Sequence':
      inner = part.get('normalizers', part.get('pretokenizers'))
    if isinstance(inner, list):
      left += inner
    else:
      yield part


def _call(path, function, *args):
  """What the library gives; a panic of its language, which is no Exception, is an error like any other."""
  try:
    return function(*args)
  except (KeyboardInterrupt, SystemExit, MemoryError):
    raise
  except BaseException as error:
    raise TokenizerError(f'{path}: not a tokenizer ({one_line(error)}); fetch it again.') from error
