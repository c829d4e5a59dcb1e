"""Byte-level BPE as the `tokenizers` library writes it (tokenizer.json): Qwen, Llama 3, DeepSeek."""
import functools
import json

import tokenizers

from r1jax.tokenizers.base import Stream, Tokenizer, TokenizerError, read_json

# A byte is written as one printable character: itself, or the next one from U+0100 on.
_PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
_BYTE_OF = {chr(b): b for b in _PRINTABLE}
_BYTE_OF |= {chr(256 + n): b for n, b in enumerate(sorted(set(range(256)) - set(_PRINTABLE)))}


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
    # Added tokens are split off here, as a chat leaves some of them text; the library sees what lies between.
    bare = spec | {'added_tokens': [], 'post_processor': None, 'truncation': None, 'padding': None}
    try:
      self._bpe = tokenizers.Tokenizer.from_str(json.dumps(bare))
    except Exception as error:  # the library raises nothing narrower
      raise TokenizerError(f'{path}: not a tokenizer ({error}); fetch it again.') from error
    vocab = self._bpe.get_vocab()
    # The post-processor names the token that it puts in front of a text.
    processor = json.dumps(spec.get('post_processor'), ensure_ascii=False)
    begins = lambda bos: json.dumps(bos, ensure_ascii=False) in processor
    super().__init__(path, vocab, spec.get('added_tokens') or [], [], template, begins)
    self._token = {i: token for token, i in (vocab | self.added).items() if token not in self.special}
    self._bytes = functools.cache(self._bytes_of)

  def _encode(self, text):
    return self._bpe.encode(text).ids

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
