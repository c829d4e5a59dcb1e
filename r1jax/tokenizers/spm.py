"""SentencePiece, and training a small model on text made on the spot."""
import io
import os

import sentencepiece


class TokenizerError(ValueError):
  """A tokenizer file that cannot be used; the message names it."""


class SentencePieceTokenizer:
  """Encodes and decodes text.

  Attributes:
    vocab: number of ids.
    eos: tuple of the ids that end a text, the usual one first.
  """

  def __init__(self, path):
    if not os.path.isfile(path):
      raise TokenizerError(f'{path}: no tokenizer file there; a model directory holds tokenizer.model.')
    try:
      self._sp = sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError) as error:
      raise TokenizerError(f'{path}: not a SentencePiece model ({error}).') from error
    self.vocab = self._sp.vocab_size()
    self.eos = (self._sp.eos_id(),)

  def encode(self, text):
    """Token ids, without begin- or end-of-text."""
    return self._sp.encode(text)

  def decode(self, ids):
    """Text of the ids. Control tokens (end-of-text) give none, nor do ids that only pad the model's vocabulary."""
    return self._sp.decode([int(i) for i in ids if i < self.vocab])


def train(texts, path, vocab):
  """Trains a BPE model of at most `vocab` ids on `texts` and writes it to `path`.

  Bytes are in the vocabulary, so any text can be encoded; white space is kept as it is.
  """
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(texts), model_writer=model, model_type='bpe', vocab_size=vocab, hard_vocab_limit=False,
      byte_fallback=True, character_coverage=1.0, normalization_rule_name='identity', remove_extra_whitespaces=False,
      split_digits=False, split_by_number=False, split_by_unicode_script=False, allow_whitespace_only_pieces=True,
      user_defined_symbols=['\n'], pad_id=0, eos_id=1, unk_id=2, bos_id=-1, num_threads=1, minloglevel=2)
  with open(path, 'wb') as f:
    f.write(model.getvalue())
