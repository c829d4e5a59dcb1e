"""SentencePiece tokenizers: loading, training a small one, and conversion to tokenizer.json."""

import io

import sentencepiece
import tokenizers

from r1jax import modelfiles
from r1jax.tokenizers.base import Stream, Tokenizer, TokenizerError, one_line

_SPACE = '▁'  # stands for a space in pieces


class SentencePieceTokenizer(Tokenizer):
  """Tokenizer of a SentencePiece model."""

  def __init__(self, path, template=None):
    modelfiles.json_exists(path, TokenizerError)
    try:
      self._sp = sp = sentencepiece.SentencePieceProcessor(model_file=str(path))
      pieces = [sp.id_to_piece(i) for i in range(sp.vocab_size())]
    except (RuntimeError, OSError, ValueError) as error:
      raise TokenizerError(
        f'{path}: not a SentencePiece model ({one_line(error)}); fetch or train it again.'
      ) from error
    control = [{'id': i, 'content': p, 'special': True} for i, p in enumerate(pieces) if sp.is_control(i)]
    eos = [sp.eos_id()] if sp.eos_id() >= 0 else []
    super().__init__(str(path), {p: i for i, p in enumerate(pieces)}, control, eos, template)
    if self.vocab > len(pieces):
      raise TokenizerError(
        f'{path}: has {len(pieces)} ids, but other files in the directory add more, up to {self.vocab - 1}; '
        'only a tokenizer.json can have added tokens.'
      )

  def serialized(self):
    """The bytes of the SentencePiece model."""
    return self._sp.serialized_model_proto()

  def _encode(self, text):
    return self._sp.encode(text)

  def decode(self, ids):
    return self._sp.decode([int(i) for i in ids if i < self._sp.vocab_size()])

  def stream(self):
    sp, is_first = self._sp, True

    def to_bytes(i):
      nonlocal is_first
      if i >= sp.vocab_size():
        return b''
      if sp.is_control(i):
        return None
      strip_space, is_first = is_first, False
      piece = sp.id_to_piece(i)
      if sp.is_byte(i):
        return bytes([int(piece[3:5], 16)])
      if sp.is_unknown(i):
        return sp.decode([i]).encode()
      # SentencePiece adds a space at the start of a text.
      return (piece.removeprefix(_SPACE) if strip_space else piece).replace(_SPACE, ' ').encode()

    return Stream(to_bytes, 'surrogateescape')


def train(texts, path, vocab):
  """Trains a BPE model with at most `vocab` ids on `texts` and writes it to `path`.

  The vocabulary contains all bytes, so any text can be encoded. White space is not changed.
  """
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(texts),
    model_writer=model,
    model_type='bpe',
    vocab_size=vocab,
    hard_vocab_limit=False,
    byte_fallback=True,
    character_coverage=1.0,
    normalization_rule_name='identity',
    remove_extra_whitespaces=False,
    split_digits=False,
    split_by_number=False,
    split_by_unicode_script=False,
    allow_whitespace_only_pieces=True,
    user_defined_symbols=['\n'],
    pad_id=0,
    eos_id=1,
    unk_id=2,
    bos_id=-1,
    num_threads=1,
    minloglevel=2,
  )
  with open(path, 'wb') as f:
    f.write(model.getvalue())


def to_tokenizer_json(spm_path, out_path):
  """Converts a model of `train` to a tokenizer.json, as transformers would misread a tokenizer.model alone.

  Ids and texts agree, except for bytes that are not UTF-8: for a run of byte tokens that contains one, transformers
  writes one U+FFFD per token of the run.

  Raises:
    TokenizerError: the model is of another kind; the message is one line.
  """
  tokenizer = SentencePieceTokenizer(spm_path)
  sp, library = tokenizer._sp, tokenizers
  pieces = {sp.id_to_piece(i): i for i in range(sp.vocab_size())}
  text = {p for p, i in pieces.items() if not (sp.is_control(i) or sp.is_unknown(i) or sp.is_byte(i))}
  # SentencePiece merges two pieces earlier the better the score of the result.
  best_first = sorted(text, key=lambda p: (-sp.get_score(pieces[p]), pieces[p]))
  merges = [(p[:n], p[n:]) for p in best_first for n in range(1, len(p)) if p[:n] in text and p[n:] in text]
  out = library.Tokenizer(library.models.BPE(vocab=pieces, merges=merges, byte_fallback=True))
  out.normalizer = library.normalizers.Sequence(
    [library.normalizers.Prepend(_SPACE), library.normalizers.Replace(' ', _SPACE)]
  )
  replace = lambda pattern, by: library.decoders.Replace(library.Regex(pattern), by)
  out.decoder = library.decoders.Sequence(
    [
      replace(f'^{sp.id_to_piece(sp.unk_id())}$', sp.decode([sp.unk_id()])),
      library.decoders.ByteFallback(),
      library.decoders.Fuse(),
      replace(rf'\A{_SPACE}', ''),
      replace(_SPACE, ' '),
    ]
  )
  for probe in [*(p.replace(_SPACE, ' ') for p in sorted(text)), ' \n\na  b\n ', '汉字\t\0é', 'ﬁ\u0301 ①\r\n']:
    if out.encode(probe).ids != sp.encode(probe):
      raise TokenizerError(
        f'{spm_path}: cannot be converted to a tokenizer.json, which would encode {probe!r} differently; '
        'pass a model made by tokenizers.train.'
      )
  out.add_special_tokens([library.AddedToken(p, special=True, normalized=False) for p in tokenizer.added])
  out.save(str(out_path))


def transformers_config(tokenizer):
  """Returns the dict for the tokenizer_config.json that goes with `to_tokenizer_json` of a SentencePieceTokenizer."""
  text = {i: token for token, i in tokenizer.added.items()}
  return {
    'tokenizer_class': 'PreTrainedTokenizerFast',
    'eos_token': text[tokenizer.eos[0]],
    'pad_token': text[0],
    'clean_up_tokenization_spaces': False,
    'split_special_tokens': True,
  }
