"""Training data of SFT: prompts with responses, as token ids in a file.

A row is a JSON object with `problem`, a text, or `turns`, a list of {'role', 'content'} that a response can follow
(`question` with GSM8K's kind of answer works too), and with the fields that `data.response` names, by default
`response`. The field `template` of a row is the name of its prompt template. Other fields are ignored.

Only the lengths are kept in memory. The ids, four bytes each, are encoded once and written to a file that is named by
the content of everything they depend on, and later memory-mapped.
"""

import dataclasses
import hashlib
import json
import os
import re
import tempfile

import numpy as np

from r1jax import templates, tokenizers
from r1jax.config import require
from r1jax.data import conversation, preference, reader, sources
from r1jax.data.reader import DataError
from r1jax.data.toy import arithmetic, stories

TRAIN = 'train.jsonl'  # the file to read in a dataset's folder
ABOUT = 'about.json'
PURPOSE = 'SFT'  # of the split, see `sources.share`
TOY = (2000, 200)  # number of generated texts, by seed: 0 is for training, 1 is held out
GENERATED = {'chain': arithmetic.right_chains, 'stories': stories.solutions}  # (seed, count) -> [(problem, response)]


@dataclasses.dataclass(frozen=True)
class Corpus:
  """N texts, each a prompt followed by its response and an end token.

  Attributes:
    ids: i32[tokens], the tokens of all texts, memory-mapped.
    ends: i64[N], index after the last token of each text.
    starts: i32[N], number of prompt tokens of each text.
    digest: str, hex digest of everything that the texts depend on.
  """

  ids: np.ndarray
  ends: np.ndarray
  starts: np.ndarray
  digest: str

  def __len__(self):
    return len(self.ends)

  @property
  def lengths(self):
    """i64[N], number of tokens of each text."""
    return np.diff(self.ends, prepend=0)

  def text(self, index):
    """Returns (ids i32[n], number of prompt tokens) of a text."""
    end = int(self.ends[index])
    begin = int(self.ends[index - 1]) if index else 0
    return self.ids[begin:end], int(self.starts[index])


def load(cfg, tokenizer, encode, folder, evaluated=frozenset()):
  """Loads the training texts and the held-out texts that a config.SFTData describes.

  The held-out texts are those of data.eval_path, or the share data.eval_fraction of the prompts. The share is chosen by
  a hash that is independent of RL's, so that prompts from RL's training split are split again. Training texts are
  dropped and counted if their prompt is held out or in `evaluated`; all texts over data.max_length are, too.

  Args:
    cfg: config.SFTData.
    tokenizer: the model's tokenizer.
    encode: function row -> (text, ids) of its prompt, exactly as for the sampler.
    folder: where the files of ids are.
    evaluated: `reader.text_key`s of the problems that the model is evaluated on, a set.

  Returns:
    (training Corpus, held-out Corpus, {reason: number dropped}).

  Raises:
    DataError: the data cannot be used.
    ConfigError: a setting cannot work.
  """
  require(cfg.source in SOURCES, f'data.source is {cfg.source!r}; known: {", ".join(SOURCES)}.')
  files = SOURCES[cfg.source](cfg)
  digest = _digest_inputs(cfg, files, tokenizer, evaluated)
  path = os.path.join(folder, digest[:16])
  if not os.path.exists(os.path.join(path, ABOUT)):
    _write(cfg, files, tokenizer, encode, path, evaluated)
  with open(os.path.join(path, ABOUT), encoding='utf-8') as f:
    dropped = json.load(f)
  return *(_open(os.path.join(path, split), digest) for split in ('train', 'held_out')), dropped


def _digest_inputs(cfg, files, tokenizer, evaluated):
  """Returns a digest of everything that the encoded texts depend on: the texts, the settings and the tokenizer."""
  texts = [TOY if isinstance(file, int) else file and _digest(file) for file in files]
  with tokenizers.as_folder(tokenizer.path) as folder:
    tokenizer_files = [
      _digest(os.path.join(folder, name))
      for name in sorted(os.listdir(folder))
      if name.startswith(('tokenizer', 'chat_template', 'special_tokens'))
    ]
  settings = dataclasses.asdict(dataclasses.replace(cfg, path='', eval_path=''))
  inputs = [settings, texts, tokenizer_files, tokenizer.eos, PURPOSE, sorted(evaluated)]
  return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()


def response_of(row, layout):
  """Returns the response of a row: `layout` with field names in braces replaced by the fields. Raises ValueError."""

  def field(match):
    value = row.get(match[1])
    if isinstance(value, bool) or not isinstance(value, (str, int, float)) or not str(value).strip():
      raise ValueError(f"field '{match[1]}', which data.response names, is missing, empty or not a text")
    return str(value)

  return re.sub(r'\{(\w+)\}', field, layout)


def text_ids(prompt, ids, response, tokenizer):
  """Encodes a prompt with its response.

  If the prompt opens the thinking, the response continues after the `<think>` that it starts with; a response without
  thinking closes the thinking at once.

  Args:
    prompt, ids: the prompt as text and as ids.
    response: text of the response.
    tokenizer: the model's tokenizer.

  Returns:
    (ids of the text with an end token, number of prompt tokens).
  """
  if templates.opens_thinking(prompt):
    after_tag = response.removeprefix(templates.THINK).lstrip('\n')
    response = after_tag if response.startswith(templates.THINK) else f'\n{templates.THINK_END}\n\n{response}'
  return [*ids, *tokenizer.encode(response), tokenizer.eos[0]], len(ids)


def _rows(cfg, path):
  """Yields (key of the prompt, row with 'problem' or 'turns', response); path: a file, or a seed of generated texts."""
  if isinstance(path, int):
    yield from (
      (problem, {'problem': problem}, response) for problem, response in GENERATED[cfg.source](path, TOY[path])
    )
    return
  name = os.path.basename(path)
  for number, row in reader.stream_rows(path, _check):
    try:
      if 'problem' not in row and 'question' in row:
        row = reader.normalise(row, f'{name}:{number}')
      if cfg.drop:
        row |= {k: re.sub(cfg.drop, '', v) for k, v in row.items() if isinstance(v, str)}
      response = response_of(row, cfg.response)
      if len(row.get('turns', ())) == 1:
        row = {'problem': row['turns'][0]['content']}
      yield preference.prompt_key(row['turns']) if 'turns' in row else reader.text_key(row), row, response
    except ValueError as error:
      raise DataError(f'{path}, line {number}: {error}; correct the line, or data.response.') from error


def _check(row):
  if 'turns' in row:
    conversation.check_turns(row['turns'], 'turns')
  elif not isinstance(row.get('problem', row.get('question')), str):
    raise ValueError("neither 'turns' nor a text 'problem'")


def _write(cfg, files, tokenizer, encode, path, evaluated):
  """Encodes both splits into the folder `path`. ABOUT is written last: if it exists, the folder is complete."""
  os.makedirs(path, exist_ok=True)
  train, held_out = files
  if held_out is not None:
    keys = {key for key, _, _ in _rows(cfg, held_out)}
    is_held_out = lambda key: key in keys
  else:
    is_held_out = lambda key: sources.share(key, PURPOSE) < cfg.eval_fraction

  def to_ids(row, response):
    prompt, ids = encode(row)
    return text_ids(prompt, ids, response, tokenizer)

  train_rows = (
    (row, response) for key, row, response in _rows(cfg, train) if not is_held_out(key) and key not in evaluated
  )
  held_out_file = train if held_out is None else held_out
  held_out_rows = ((row, response) for key, row, response in _rows(cfg, held_out_file) if is_held_out(key))
  dropped = {
    'long': _encode(train_rows, to_ids, cfg.max_length, path, 'train'),
    'long_held_out': _encode(held_out_rows, to_ids, cfg.max_length, path, 'held_out'),
    'held_out': 0 if held_out is None else sum(is_held_out(key) for key, _, _ in _rows(cfg, train)),
    'asked': sum(key in evaluated and not is_held_out(key) for key, _, _ in _rows(cfg, train)) if evaluated else 0,
  }
  _save(os.path.join(path, ABOUT), lambda f: f.write(json.dumps(dropped).encode()))


def _encode(rows, to_ids, max_length, path, split):
  """Writes the files of one split. Returns the number of rows dropped for exceeding max_length."""
  lengths, starts, too_long = [], [], []

  def write(f):
    for row, response in rows:
      ids, start = to_ids(row, response)
      if len(ids) > max_length:
        too_long.append(len(ids))
        continue
      f.write(np.array(ids, np.int32).tobytes())
      lengths.append(len(ids))
      starts.append(start)
    if not lengths:
      raise DataError(
        f'no text is left to {"train on" if split == "train" else "hold out"}; {len(too_long)} exceed '
        f'data.max_length {max_length} (the shortest has {min(too_long, default=0)} tokens); check data.max_length, '
        'data.eval_fraction and data.eval_path.'
      )

  _save(os.path.join(path, f'{split}.ids'), write)
  arrays = {'ends': np.cumsum(lengths, dtype=np.int64), 'starts': np.array(starts, np.int32)}
  _save(os.path.join(path, f'{split}.npz'), lambda f: np.savez(f, **arrays))
  return len(too_long)


def _save(path, write):
  """Writes the file `path` atomically. Several processes may write the same file."""
  with tempfile.NamedTemporaryFile(dir=os.path.dirname(path), delete=False) as f:
    write(f)
  os.replace(f.name, path)


def _open(path, digest):
  with np.load(f'{path}.npz') as arrays:
    return Corpus(np.memmap(f'{path}.ids', np.int32, 'r'), arrays['ends'], arrays['starts'], digest)


def _digest(path):
  if not os.path.isfile(path):
    raise DataError(f'there is no file {path}; check the path.')
  with open(path, 'rb') as f:
    return hashlib.file_digest(f, 'sha256').hexdigest()


def _jsonl(cfg):
  require(
    cfg.path, 'data.path is empty; pass the JSON Lines file, or the folder of a dataset, with --config.data.path=PATH.'
  )
  file = lambda path: os.path.join(path, TRAIN) if os.path.isdir(path) else path
  return file(cfg.path), file(cfg.eval_path) if cfg.eval_path else None


def _toy(cfg):
  require(
    not cfg.path and not cfg.eval_path,
    f'data.path {cfg.path or cfg.eval_path!r} would not be read: data.source {cfg.source!r} generates its '
    "texts; set data.source to 'jsonl' to read a file.",
  )
  return 0, 1  # seeds


# Settings -> (training file, held-out file or None for a share of the former); files of the toy world are seeds.
SOURCES = {'jsonl': _jsonl, 'chain': _toy, 'stories': _toy}
