"""Log-probs of the texts in a file under a model.

  python -m experiments.score --model.path=DIR --input=F.jsonl --output=G.jsonl [--model.dtype=float32]

DIR is a Hugging Face directory, a GGUF file, an imported model or a run's directory. A row of F has `tokens` (ids) or
`text`; its row in G keeps the other fields and has `tokens` and `logprobs`, one for each token after the first. `text`
gets the beginning-of-sequence token that the model expects, and anything in it that looks like a special token stays
text.
"""

import json
import os

from absl import app, flags
import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from r1jax import checkpoint, models, parallel
from r1jax import config as config_lib
from r1jax.data import reader
from r1jax.runs import cli, runtime

LOGIT_CHUNK = 1024


def check_row(row):
  """Raises ValueError unless the row has ids or text."""
  tokens = row.get('tokens')
  if tokens is None and not isinstance(row.get('text'), str):
    raise ValueError("it has neither 'tokens', a list of ids, nor 'text', a string")
  if tokens is not None and not (isinstance(tokens, list) and all(type(t) is int and t >= 0 for t in tokens)):
    raise ValueError("'tokens' is not a list of ids")


class Scorer:
  """Log-probs of token sequences under one model.

  Args:
    source: checkpoint.Source.
    dtype: of the computation; '' for that of the parameters.
    batch: sequences at a time, rounded up to a multiple of the devices.
  """

  def __init__(self, source, dtype, batch):
    self.cfg, self.mesh = source.cfg, parallel.make_mesh(config_lib.Mesh())
    self.params = source.load(source.abstract(self.mesh))
    self.dtype = jnp.dtype(dtype or self.params['embed'].dtype).name
    shards = parallel.batch_shards(self.mesh)
    self.batch = -(-batch // shards) * shards
    self._program = jax.jit(self._logprobs)

  def __call__(self, sequences):
    """Log-probs of sequences, lists of ids: a list of f32 arrays, each one shorter than its sequence (or empty)."""
    out = [np.zeros(0, np.float32)] * len(sequences)
    # Sorted, so that the rows of a batch have similar lengths.
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    for first in range(0, len(order), self.batch):
      chunk = order[first : first + self.batch]
      longest = max(2, max(len(sequences[i]) for i in chunk))
      length = 1 << (longest - 1).bit_length() if longest < 1024 else -(-longest // 1024) * 1024
      tokens = np.zeros((self.batch, length), np.int32)
      for row, i in zip(tokens, chunk):
        row[: len(sequences[i])] = sequences[i]
      logp = self._program(self.params, jax.device_put(tokens, parallel.batch_sharding(self.mesh)))
      for row, i in zip(jax.device_get(logp), chunk):
        out[i] = row[: max(len(sequences[i]) - 1, 0)]
    return out

  def _logprobs(self, params, tokens):
    b, t = tokens.shape
    positions = jnp.broadcast_to(jnp.arange(t - 1), (b, 1, t - 1))
    hidden = models.forward(
      params, self.cfg, tokens[:, None, :-1], positions, options=models.ForwardOptions(self.dtype)
    ).hidden
    return models.logprobs(hidden[:, 0], models.unembedding(params), tokens[:, 1:], LOGIT_CHUNK)[0]


def read(path, source):
  """Reads the rows of a file, with their ids in 'tokens'.

  Args:
    path: of a JSON Lines file.
    source: checkpoint.Source.

  Raises:
    DataError: a row that is not valid, with its line number.
    ConfigError: a row that does not fit the model's context or vocabulary, with its number.
  """
  rows, tokenizer = reader.read_rows(path, check_row), None
  for i, row in enumerate(rows, 1):
    if row.get('tokens') is None:
      tokenizer = tokenizer or source.load_tokenizer()
      row['tokens'] = tokenizer.encode(row['text'], bos=True)
    count, highest = len(row['tokens']), max(row['tokens'], default=0)
    config_lib.require(
      count <= source.cfg.context,
      f"row {i} of {path} has {count} tokens, over the model's context of {source.cfg.context}; shorten it.",
    )
    config_lib.require(
      highest < source.cfg.vocab, f'row {i} of {path} has id {highest}, but the model has {source.cfg.vocab} ids.'
    )
  return rows


def score(path, source, target, dtype, batch):
  """Scores a file and returns the number of rows; writes under a temporary name until complete.

  Args:
    path: of the model.
    source: JSON Lines file to read.
    target: JSON Lines file to write.
    dtype, batch: see `Scorer`.
  """
  runtime.set_up_process()
  model = checkpoint.open_model(path)
  config_lib.require(model.cfg.head == 'tokens', f'{path} is a reward model, which has no log-probs.')
  config_lib.require(not os.path.isdir(target), f'{target} is a directory; pass the name of a file.')
  rows = read(source, model)
  os.makedirs(os.path.dirname(os.path.abspath(target)), exist_ok=True)
  temporary = target + '.tmp'
  try:
    with open(temporary, 'w', encoding='utf-8') as f, tqdm.tqdm(total=len(rows), unit='row') as bar:
      scorer = Scorer(model, dtype, batch)
      window = 64 * scorer.batch
      for first in range(0, len(rows), window):
        chunk = rows[first : first + window]
        for row, logp in zip(chunk, scorer([row['tokens'] for row in chunk])):
          f.write(json.dumps(row | {'logprobs': [float(x) for x in logp]}, ensure_ascii=False) + '\n')
        bar.update(len(chunk))
    os.replace(temporary, target)
  except BaseException:
    if os.path.exists(temporary):
      os.remove(temporary)
    raise
  return len(rows)


def main(_):
  with cli.errors_in_one_line():
    count = score(_PATH.value, _INPUT.value, _OUTPUT.value, _DTYPE.value, _BATCH.value)
  print(f'{_OUTPUT.value}: {count} rows')


if __name__ == '__main__':
  _PATH = flags.DEFINE_string(
    'model.path', None, 'Hugging Face directory, GGUF file, imported model or run directory.', required=True
  )
  _DTYPE = flags.DEFINE_enum('model.dtype', '', ['', 'float32', 'bfloat16'], "Dtype of the computation; '': as stored.")
  _INPUT = flags.DEFINE_string('input', None, 'JSON Lines file with `tokens` or `text`.', required=True)
  _OUTPUT = flags.DEFINE_string(
    'output', None, 'JSON Lines file to write, with `tokens` and `logprobs`.', required=True
  )
  _BATCH = flags.DEFINE_integer('batch', 8, 'Sequences at a time.', lower_bound=1)
  app.run(main)
