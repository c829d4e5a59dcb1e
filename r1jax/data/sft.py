"""What is imitated: prompts with whole responses, as token ids kept in a file.

A row is a JSON object with `problem`, a text, or `turns`, a list of {'role', 'content'} that a response can follow
(`question` with GSM8K's kind of answer is read too); and what `data.response` makes the response of, which is the field
`response` where nothing else is said. A row's 'template' is the one it is asked by. Other fields are not looked at.

Only lengths lie in memory. The ids, four bytes each, are encoded once, kept in a file by the content of all that they
follow from, and mapped.
"""

import dataclasses
import hashlib
import json
import os
import re
import tempfile

import numpy as np

from r1jax import templates
from r1jax.config import require
from r1jax.data import conversation, preference, reader, sources
from r1jax.data.reader import DataError
from r1jax.data.toy import arithmetic

TRAIN = 'train.jsonl'  # the file to read of a folder that is a data set
ABOUT = 'about.json'
PURPOSE = 'SFT'  # of the split, see sources.share
TOY = (2000, 200)  # texts of the toy world by seed: to train on, and held out


@dataclasses.dataclass(frozen=True)
class Corpus:
  """N texts, each a prompt and its response, which ends with the token that ends a text.

  Attributes:
    ids: i32[tokens], of all texts; mapped from a file. ends: i64[N], behind the last token of each.
    starts: i32[N], tokens of each text's prompt. digest: hex, of all of this.
  """

  ids: np.ndarray
  ends: np.ndarray
  starts: np.ndarray
  digest: str

  def __len__(self):
    return len(self.ends)

  @property
  def lengths(self):
    """i64[N], tokens of each text."""
    return np.diff(self.ends, prepend=0)

  def text(self, place):
    """(ids i32[n], start) of a text."""
    end = int(self.ends[place])
    first = int(self.ends[place - 1]) if place else 0
    return self.ids[first:end], int(self.starts[place])


def load(cfg, tokenizer, encode, folder, asked=frozenset()):
  """The texts that a config.SFTData names: to train on, and held out.

  Held out is data.eval_path, or the share data.eval_fraction of the prompts by a hash of their own, so that prompts
  which RL has trained on are parted anew. A training text whose prompt is held out, or is `asked`, is dropped and
  counted, and so is what exceeds data.max_length.

  Args:
    tokenizer: of the model. encode: row -> text and ids of its prompt, as a sampler is given it. folder: for the files.
    asked: `reader.text_key`s of the problems by whose answers the model is evaluated.

  Returns:
    (Corpus to train on, Corpus held out, {reason: number dropped}).

  Raises:
    DataError: data that cannot be used. ConfigError: a setting that cannot work.
  """
  require(cfg.source in SOURCES, f'data.source is {cfg.source!r}; known: {", ".join(SOURCES)}.')
  files = SOURCES[cfg.source](cfg)
  # What is encoded follows from this: the texts, the settings, the tokenizer.
  read = [TOY if isinstance(file, int) else file and _digest(file) for file in files]
  beside = [
    _digest(os.path.join(os.path.dirname(tokenizer.path), name))
    for name in sorted(os.listdir(os.path.dirname(tokenizer.path)))
    if name.startswith(('tokenizer', 'chat_template', 'special_tokens'))
  ]
  what = [
    dataclasses.asdict(dataclasses.replace(cfg, path='', eval_path='')),
    read,
    beside,
    tokenizer.eos,
    PURPOSE,
    sorted(asked),
  ]
  digest = hashlib.sha256(json.dumps(what).encode()).hexdigest()
  path = os.path.join(folder, digest[:16])
  if not os.path.exists(os.path.join(path, ABOUT)):
    _write(cfg, files, tokenizer, encode, path, asked)
  with open(os.path.join(path, ABOUT), encoding='utf-8') as f:
    dropped = json.load(f)
  return *(_open(os.path.join(path, part), digest) for part in ('train', 'held_out')), dropped


def response_of(row, form):
  """The response of a row: `form` with its fields in the place of their names in braces. Raises ValueError."""

  def field(match):
    value = row.get(match[1])
    if isinstance(value, bool) or not isinstance(value, (str, int, float)) or not str(value).strip():
      raise ValueError(f"field '{match[1]}', which data.response names, is absent, empty or no text")
    return str(value)

  return re.sub(r'\{(\w+)\}', field, form)


def text_ids(prompt, ids, response, tokenizer):
  """A text's ids and where its response begins.

  Where the prompt has opened the thinking, the response goes on behind the `<think>` that it begins with; one that does
  not think closes it at once.

  Args:
    prompt, ids: the prompt as text and ids. response: text.
  """
  if templates.opens_thinking(prompt):
    inside = response.removeprefix(templates.THINK).lstrip('\n')
    response = inside if response.startswith(templates.THINK) else f'\n{templates.THINK_END}\n\n{response}'
  return [*ids, *tokenizer.encode(response), tokenizer.eos[0]], len(ids)


def _rows(cfg, path):
  """Yields (key of the prompt, row with 'problem' or 'turns', response) of a file, or of the toy world by a seed."""
  if isinstance(path, int):
    yield from (
      (problem, {'problem': problem}, response) for problem, response in arithmetic.right_chains(path, TOY[path])
    )
    return
  name = os.path.basename(path)
  for number, row in reader.stream_rows(path, _check):
    try:
      if 'problem' not in row and 'question' in row:
        row = reader.normalise(row, f'{name}:{number}')
      if cfg.drop:
        row = {k: re.sub(cfg.drop, '', v) if isinstance(v, str) else v for k, v in row.items()}
      response = response_of(row, cfg.response)
      if len(row.get('turns', ())) == 1:
        row = {'problem': row['turns'][0]['content']}
      yield preference.prompt_key(row['turns']) if 'turns' in row else reader.text_key(row), row, response
    except ValueError as error:
      raise DataError(f'{path}, line {number}: {error}; mend the line, or data.response.') from error


def _check(row):
  if 'turns' in row:
    conversation.check_turns(row['turns'], 'turns')
  elif not isinstance(row.get('problem', row.get('question')), str):
    raise ValueError("neither 'turns' nor a text 'problem'")


def _write(cfg, files, tokenizer, encode, path, asked):
  """Encodes both parts into `path`; about.json, which is written last, says that all is there."""
  os.makedirs(path, exist_ok=True)
  train, held_out = files
  if held_out is not None:
    keys = {key for key, _, _ in _rows(cfg, held_out)}
    held = lambda key: key in keys
  else:
    held = lambda key: sources.share(key, PURPOSE) < cfg.eval_fraction
  to_ids = lambda row, response: text_ids(*encode(row), response, tokenizer)
  kept = ((row, response) for key, row, response in _rows(cfg, train) if not held(key) and key not in asked)
  apart = train if held_out is None else held_out
  rest = ((row, response) for key, row, response in _rows(cfg, apart) if held(key))
  dropped = {
    'long': _encode(kept, to_ids, cfg.max_length, path, 'train'),
    'long_held_out': _encode(rest, to_ids, cfg.max_length, path, 'held_out'),
    'held_out': 0 if held_out is None else sum(held(key) for key, _, _ in _rows(cfg, train)),
    'asked': sum(key in asked and not held(key) for key, _, _ in _rows(cfg, train)) if asked else 0,
  }
  _save(os.path.join(path, ABOUT), lambda f: f.write(json.dumps(dropped).encode()))


def _encode(rows, to_ids, max_length, path, part):
  """Writes one part's files. Returns how many rows exceed max_length."""
  lengths, starts, long = [], [], []

  def write(f):
    for row, response in rows:
      ids, start = to_ids(row, response)
      if len(ids) > max_length:
        long.append(len(ids))
        continue
      f.write(np.array(ids, np.int32).tobytes())
      lengths.append(len(ids))
      starts.append(start)
    if not lengths:
      raise DataError(
        f'no text is left to {"train on" if part == "train" else "hold out"}; {len(long)} exceed '
        f'data.max_length {max_length} (the shortest has {min(long, default=0)} tokens); look at that, '
        'data.eval_fraction and data.eval_path.'
      )

  _save(os.path.join(path, f'{part}.ids'), write)
  arrays = {'ends': np.cumsum(lengths, dtype=np.int64), 'starts': np.array(starts, np.int32)}
  _save(os.path.join(path, f'{part}.npz'), lambda f: np.savez(f, **arrays))
  return len(long)


def _save(path, write):
  """The file `path`, whole or not at all. Several processes may write the same."""
  with tempfile.NamedTemporaryFile(dir=os.path.dirname(path), delete=False) as f:
    write(f)
  os.replace(f.name, path)


def _open(path, digest):
  with np.load(f'{path}.npz') as found:
    return Corpus(np.memmap(f'{path}.ids', np.int32, 'r'), found['ends'], found['starts'], digest)


def _digest(path):
  if not os.path.isfile(path):
    raise DataError(f'there is no file {path}; check the path.')
  with open(path, 'rb') as f:
    return hashlib.file_digest(f, 'sha256').hexdigest()


def _jsonl(cfg):
  require(
    cfg.path, 'data.path is empty; pass the JSON Lines file, or the folder of a data set, with --config.data.path=PATH.'
  )
  file = lambda path: os.path.join(path, TRAIN) if os.path.isdir(path) else path
  return file(cfg.path), file(cfg.eval_path) if cfg.eval_path else None


def _toy(cfg):
  require(
    not cfg.path and not cfg.eval_path,
    f'data.path {cfg.path or cfg.eval_path!r} would not be read: data.source is {cfg.source!r}, which makes its '
    "own texts; set data.source to 'jsonl' to read a file.",
  )
  return 0, 1


SOURCES = {'jsonl': _jsonl, 'chain': _toy}
