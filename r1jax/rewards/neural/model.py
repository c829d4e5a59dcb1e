"""Reward models on the devices: from conversations to scores, through programs of few shapes.

A model directory written by `experiments/reward_model.py` holds `reward_model.json`: what its scores are about, and how
the texts were written that it was trained on. Training and scoring share all of what is here.
"""

import dataclasses
import functools
import json
import math
import os

import jax
import jax.numpy as jnp
import numpy as np

from r1jax import checkpoint, modelfiles, models, parallel
from r1jax import config as config_lib
from r1jax.config import ConfigError, require
from r1jax.data import rows as rows_lib
from r1jax.data.conversation import Encoder

ABOUT = 'reward_model.json'
MODEL = 'model'  # under which a run's folder holds the directory


@dataclasses.dataclass(frozen=True)
class About:
  """What a reward model was trained for; the fields of reward_model.json.

  Attributes:
    objective: of config.OBJECTIVES.
    form, view, steps, max_length, chat_template: as in config.RewardModelData; form is never 'auto'.
    center: mean score of held-out responses, for models of pairs, whose scores have no zero of their own.
  """

  objective: str
  form: str
  view: str
  steps: str
  max_length: int
  chat_template: str = ''
  center: float = 0.0


class Scorer:
  """Scores rows at their marks, a batch at a time.

  A row is padded to its own length's shape, and a batch always has the same number of rows, so that a score depends
  neither on the order nor on the other rows.

  Args:
    cfg: ModelConfig with head 'score'. mesh: of the parameters. dtype: of the computation, its name.
    batch: rows at a time, rounded up to a multiple of what the mesh splits them into.
    attention: as in config.Model.
  """

  def __init__(self, cfg, mesh, dtype, batch=16, attention='auto'):
    shards = parallel.batch_shards(mesh)
    self.batch, self.sharding = -(-batch // shards) * shards, parallel.batch_sharding(mesh)
    self.program = jax.jit(functools.partial(_scores, cfg=cfg, mesh=mesh, dtype=jnp.dtype(dtype), attention=attention))

  def __call__(self, params, rows):
    """f32 arrays, one number a mark of each conversation.Row."""
    out, shapes = [None] * len(rows), {}
    for i, row in enumerate(rows):
      shapes.setdefault(rows_lib.shape(row), []).append(i)
    for (length, marks), members in sorted(shapes.items()):
      for first in range(0, len(members), self.batch):
        some = members[first : first + self.batch]
        filled = [rows[i] for i in some] + [rows[some[0]]] * (self.batch - len(some))
        found = parallel.to_host(
          self.program(params, *parallel.to_global(rows_lib.pad(filled, length, marks), self.sharding))
        )
        for i, scores in zip(some, found):
          out[i] = np.array(scores[: len(rows[i].marks)])
    return out


def _scores(params, tokens, lengths, marks, *, cfg, mesh, dtype, attention):
  options = models.ForwardOptions(dtype, attention=attention, mesh=mesh)
  return models.marked_scores(params, cfg, tokens, lengths, marks, options).scores


@dataclasses.dataclass(frozen=True)
class Loaded:
  """A reward model that can be asked.

  Attributes:
    about: About.
    score: function from a list of (turns, texts) to a list of lists of floats: for a model of steps the steps' scores
      (fewer where the limit cut steps off), else one of the response, which is then texts' only entry.
  """

  about: About
  score: object


def load(path, *, batch=16, dtype=''):
  """The reward model of a directory as a function from texts to scores.

  Args:
    path: a directory that `experiments/reward_model.py` has written, or the run's folder around it.
    batch: rows at a time. dtype: of the computation; the parameters' own where ''.

  Returns:
    Loaded.

  Raises:
    ConfigError: not a reward model of ours, or a bad option. ModelDirError: no model there.
  """
  require(batch >= 1, f'batch is {batch}; it must be positive.')
  require(dtype in ('', 'float32', 'bfloat16'), f"dtype is {dtype!r}; use 'float32', 'bfloat16', or '' for as stored.")
  path = directory(path)
  source = checkpoint.open_model(path)
  require(
    source.cfg.head == 'score',
    f'{path} is a policy; a reward model has a score for an output (experiments/reward_model.py trains one).',
  )
  about = read_about(path)
  encoder = Encoder(source.load_tokenizer(about.chat_template or None), about.form, about.max_length, about.steps)
  mesh = parallel.make_mesh(config_lib.Mesh())
  params = source.load(source.abstract(mesh))
  scorer = Scorer(source.cfg, mesh, dtype or params['embed'].dtype.name, batch)

  def score(conversations):
    if about.objective == 'steps':
      rows = [encoder.encode_steps(turns, texts) for turns, texts in conversations]
    else:
      rows = [encoder.encode_response(turns, text) for turns, (text,) in conversations]
    return [scores.tolist() for scores in scorer(params, rows)]

  return Loaded(about, score)


def directory(path):
  """The model directory that is meant: itself, or the one in a run's folder."""
  inside = os.path.join(path, MODEL)
  return inside if os.path.isfile(os.path.join(inside, ABOUT)) else path


def read_about(path):
  """The About of a model directory. Raises ConfigError."""
  path = os.path.join(path, ABOUT)
  modelfiles.find_json(path, ConfigError)
  try:
    with open(path, encoding='utf-8') as f:
      about = About(**json.load(f))
    for field in dataclasses.fields(About):
      value = getattr(about, field.name)
      if type(value) not in ((int, float) if field.type is float else (field.type,)):
        raise ValueError(f'{field.name} is {repr(value)[:100]}, not a {field.type.__name__}')
    if about.max_length < 1 or not math.isfinite(about.center):
      raise ValueError(f'max_length is {about.max_length}, center {about.center}')
  except (OSError, ArithmeticError, RecursionError, TypeError, ValueError) as error:
    raise ConfigError(
      f'{path} cannot be read ({error}); pass a model directory that experiments/reward_model.py has written.'
    ) from error
  return about
