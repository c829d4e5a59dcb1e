"""SentencePiece, and training a small model on text made on the spot."""

import io

import sentencepiece
import tokenizers

from r1jax import modelfiles
from r1jax.tokenizers.base import Stream, Tokenizer, TokenizerError, one_line

_SPACE = '▁'  # how a piece writes a space


class SentencePieceTokenizer(Tokenizer):
  """Tokenizer of a SentencePiece model."""

  def __init__(self, path, template=None):
    modelfiles.find_json(path, TokenizerError)
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
        f'{path}: has {len(pieces)} ids, but the files beside it add more, up to {self.vocab - 1}; '
        'only a tokenizer.json can have tokens added.'
      )

  def _encode(self, text):
    return self._sp.encode(text)

  def decode(self, ids):
    """Text of the ids. Control tokens (end-of-text) give none, nor do ids that only pad the model's vocabulary."""
    return self._sp.decode([int(i) for i in ids if i < self._sp.vocab_size()])

  def stream(self):
    """Stream: `push(id)` and `end()` give the text as the ids come."""
    sp, first = self._sp, True

    def read(i):
      nonlocal first
      if i >= sp.vocab_size():
        return b''
      if sp.is_control(i):
        return None
      before, first = first, False
      piece = sp.id_to_piece(i)
      if sp.is_byte(i):
        return bytes([int(piece[3:5], 16)])
      if sp.is_unknown(i):
        return sp.decode([i]).encode()
      # A text begins with a space that is not its own.
      return (piece.removeprefix(_SPACE) if before else piece).replace(_SPACE, ' ').encode()

    return Stream(read, 'surrogateescape')


def train(texts, path, vocab):
  """Trains a BPE model of at most `vocab` ids on `texts` and writes it to `path`.

  Bytes are in the vocabulary, so any text can be encoded; white space is kept as it is.
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
  """Writes a model of `train` as a tokenizer.json: from a tokenizer.model alone transformers makes something else.

  Ids and text agree, but for bytes that are no UTF-8: where a run of byte tokens holds one such, transformers writes
  one U+FFFD for each token of the run.

  Raises:
    TokenizerError: the model is of another kind; one line.
  """
  tokenizer = SentencePieceTokenizer(spm_path)
  sp, library = tokenizer._sp, tokenizers
  pieces = {sp.id_to_piece(i): i for i in range(sp.vocab_size())}
  text = {p for p, i in pieces.items() if not (sp.is_control(i) or sp.is_unknown(i) or sp.is_byte(i))}
  # Two pieces are merged the earlier the better their result.
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
        f'{spm_path}: cannot be written as a tokenizer.json, which would read {probe!r} otherwise; '
        'pass a model made by tokenizers.train.'
      )
  out.add_special_tokens([library.AddedToken(p, special=True, normalized=False) for p in tokenizer.added])
  out.save(str(out_path))


def transformers_config(tokenizer):
  """The tokenizer_config.json, as a dict, to put beside what `to_tokenizer_json` wrote of a SentencePieceTokenizer."""
  text = {i: token for token, i in tokenizer.added.items()}
  return {
    'tokenizer_class': 'PreTrainedTokenizerFast',
    'eos_token': text[tokenizer.eos[0]],
    'pad_token': text[0],
    'clean_up_tokenization_spaces': False,
    'split_special_tokens': True,
  }
