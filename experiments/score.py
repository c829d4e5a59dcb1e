"""Log-probs of given texts under a model, whole files at a time.

  python -m experiments.score --model.path=DIR --input=F.jsonl --output=G.jsonl [--model.dtype=float32]

DIR is a Hugging Face directory, an imported model or a run's folder. A row of F holds `tokens` (ids) or `text`; its row
of G keeps the other fields and holds `tokens` and `logprobs`, one a token after the first. `text` gets the begin token
its model expects, and what looks like a special token in it stays text.
"""

import json
import os

from absl import app, flags
import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from experiments import common
from r1jax import checkpoint, models, parallel, tokenizers
from r1jax import config as config_lib
from r1jax import params as params_lib
from r1jax.data import reader

LOGIT_CHUNK = 1024


def check_row(row):
  """Raises ValueError unless the row holds ids or text."""
  tokens = row.get('tokens')
  if tokens is None and not isinstance(row.get('text'), str):
    raise ValueError("neither 'tokens', a list of ids, nor 'text', a string")
  if tokens is not None and not (isinstance(tokens, list) and all(type(t) is int and t >= 0 for t in tokens)):
    raise ValueError("'tokens' is no list of ids")


class Scorer:
  """Log-probs of token sequences under one model.

  Args:
    path: of the model; see `checkpoint.open_model`.
    dtype: of the computation; the parameters' own where ''.
    mesh: config.Mesh. batch: sequences at a time, at most.
  """

  def __init__(self, path, dtype, mesh, batch):
    self.source = checkpoint.open_model(path)
    self.cfg = self.source.cfg
    config_lib.require(self.cfg.head == 'tokens', f'{path} is a reward model; it has no log-probs.')
    self.mesh = parallel.make_mesh(mesh)
    specs = models.specs(self.cfg)
    stored = self.source.dtypes()
    self.params = self.source.load(params_lib.abstract(specs, stored, parallel.shardings(specs, self.mesh)))
    self.dtype = jnp.dtype(dtype or stored['embed'])
    shards = parallel.batch_shards(self.mesh)
    self.batch = -(-batch // shards) * shards
    self._program = jax.jit(self._logprobs)

  def __call__(self, sequences):
    """f32 arrays, one shorter than each list of ids (none for an empty one)."""
    out = [None] * len(sequences)
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))   # rows of a batch are then of a length
    for first in range(0, len(order), self.batch):
      some = order[first : first + self.batch]
      longest = max(2, max(len(sequences[i]) for i in some))
      length = 1 << (longest - 1).bit_length() if longest < 1024 else -(-longest // 1024) * 1024
      tokens = np.zeros((self.batch, length), np.int32)
      for row, i in zip(tokens, some):
        row[: len(sequences[i])] = sequences[i]
      logp = self._program(self.params, jax.device_put(tokens, parallel.batch_sharding(self.mesh)))
      for row, i in zip(jax.device_get(logp), some):
        out[i] = row[: max(len(sequences[i]) - 1, 0)]
    return out

  def _logprobs(self, params, tokens):
    b, t = tokens.shape
    positions = jnp.broadcast_to(jnp.arange(t - 1), (b, 1, t - 1))
    hidden, _, _ = models.forward(params, self.cfg, tokens[:, None, :-1], positions, dtype=self.dtype)
    logp, _ = models.token_logprobs(
      hidden.reshape(-1, self.cfg.embed), models.unembedding(params), tokens[:, 1:].reshape(-1), LOGIT_CHUNK
    )
    return logp.reshape(b, t - 1)


def score(path, source, target, dtype, batch):
  """Scores a file; writes under a temporary name until all is there. Returns the number of rows."""
  common.prepare()
  rows = reader.read_rows(source, check_row)
  scorer = Scorer(path, dtype, config_lib.Mesh(), batch)
  tokenizer = None
  for i, row in enumerate(rows, 1):
    if row.get('tokens') is None:
      tokenizer = tokenizer or tokenizers.load(scorer.source.tokenizer)
      row['tokens'] = tokenizer.encode(row['text'], bos=True)
    config_lib.require(
      len(row['tokens']) <= scorer.cfg.context,
      f"row {i} of {source} has {len(row['tokens'])} tokens, over the model's context of {scorer.cfg.context}; cut it.",
    )
    over = max(row['tokens'], default=0)
    config_lib.require(
      over < scorer.cfg.vocab, f'row {i} of {source} holds id {over}, but the model has {scorer.cfg.vocab}.'
    )
  temporary = target + '.tmp'
  os.makedirs(os.path.dirname(os.path.abspath(target)), exist_ok=True)
  window = 64 * scorer.batch
  with open(temporary, 'w', encoding='utf-8') as f, tqdm.tqdm(total=len(rows), unit='row') as bar:
    for first in range(0, len(rows), window):
      some = rows[first : first + window]
      for row, logp in zip(some, scorer([row['tokens'] for row in some])):
        f.write(json.dumps(row | {'logprobs': [float(x) for x in logp]}, ensure_ascii=False) + '\n')
      bar.update(len(some))
  os.replace(temporary, target)
  return len(rows)


def main(_):
  with common.errors_in_one_line():
    count = score(_PATH.value, _INPUT.value, _OUTPUT.value, _DTYPE.value, _BATCH.value)
  print(f'{_OUTPUT.value}: {count} rows')


if __name__ == '__main__':
  _PATH = flags.DEFINE_string('model.path', None, 'Hugging Face directory, imported model or run.', required=True)
  _DTYPE = flags.DEFINE_enum('model.dtype', '', ['', 'float32', 'bfloat16'], "Of the computation; '': as stored.")
  _INPUT = flags.DEFINE_string('input', None, 'JSON Lines with `tokens` or `text`.', required=True)
  _OUTPUT = flags.DEFINE_string('output', None, 'JSON Lines with `tokens` and `logprobs`.', required=True)
  _BATCH = flags.DEFINE_integer('batch', 8, 'Sequences at a time, at most.', lower_bound=1)
  app.run(main)
