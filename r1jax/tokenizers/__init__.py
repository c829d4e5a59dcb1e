"""Text to token ids and back, one interface whatever is behind it."""
from r1jax.tokenizers.spm import SentencePieceTokenizer, TokenizerError, train

__all__ = ['SentencePieceTokenizer', 'TokenizerError', 'load', 'train']


def load(path):
  """The tokenizer stored at `path` (a SentencePiece `.model` file). Raises TokenizerError."""
  return SentencePieceTokenizer(path)
