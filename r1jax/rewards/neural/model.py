"""Reward models on the devices: from conversations to scores, with programs of few shapes.

A model directory written by `experiments/reward_model.py` contains `reward_model.json`: what the scores mean, and the
format of the texts that the model was trained on. Training and scoring share this module.
"""

from collections.abc import Callable
import dataclasses
import functools
import json
import math
import os
from typing import Any, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np

from r1jax import checkpoint, modelfiles, models, parallel
from r1jax import config as config_lib
from r1jax.config import ConfigError, require
from r1jax.data import rows as rows_lib
from r1jax.data.conversation import Encoder

ABOUT = 'reward_model.json'
MODEL = 'model'  # name of the model directory in a run's folder


@dataclasses.dataclass(frozen=True)
class About:
  """What a reward model was trained for: the fields of reward_model.json.

  Attributes:
    objective: one of config.OBJECTIVES.
    form, view, steps, max_length, chat_template: as in config.RewardModelData; form is never 'auto'.
    center: mean score of held-out responses, for models trained on pairs, whose scores have no natural zero.
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

  A row is padded to a shape that depends only on its own length, and every batch has the same number of rows, so a
  score depends neither on the order of the rows nor on the other rows.

  Args:
    cfg: ModelConfig with head 'score'.
    mesh: of the parameters.
    dtype: name of the dtype of the computation.
    batch: rows at a time, rounded up to a multiple of the number of batch shards of the mesh.
    attention: as in config.Model.
  """

  def __init__(self, cfg, mesh, dtype, batch=16, attention='auto'):
    shards = parallel.batch_shards(mesh)
    self.batch, self.sharding = -(-batch // shards) * shards, parallel.batch_sharding(mesh)
    self.program = jax.jit(functools.partial(_scores, cfg=cfg, mesh=mesh, dtype=jnp.dtype(dtype), attention=attention))

  def __call__(self, params, rows):
    """Returns a list of f32[marks], one score per mark, for each conversation.Row."""
    out: list[Any] = [None] * len(rows)
    shapes = {}
    for i, row in enumerate(rows):
      shapes.setdefault(rows_lib.shape(row), []).append(i)
    for (length, marks), members in sorted(shapes.items()):
      for first in range(0, len(members), self.batch):
        indices = members[first : first + self.batch]
        padded = [rows[i] for i in indices] + [rows[indices[0]]] * (self.batch - len(indices))
        batch_scores = parallel.to_host(
          self.program(params, *parallel.to_global(rows_lib.pad(padded, length, marks), self.sharding))
        )
        for i, scores in zip(indices, batch_scores):
          out[i] = np.array(scores[: len(rows[i].marks)])
    return out


def _scores(params, tokens, lengths, marks, *, cfg, mesh, dtype, attention):
  options = models.ForwardOptions(dtype, attention=attention, mesh=mesh)
  return models.marked_scores(params, cfg, tokens, lengths, marks, options).scores


@dataclasses.dataclass(frozen=True)
class Loaded:
  """A reward model that is ready to use.

  Attributes:
    about: About.
    score: function from a list of (turns, texts) to a list of lists of floats. A model of steps gives one score per
      step (fewer if steps are beyond its limit); other models give one score for the response, the only entry of texts.
  """

  about: About
  score: Callable[[list], list]


def load(path, *, batch=16, dtype=''):
  """Loads a reward model.

  Args:
    path: a directory written by `experiments/reward_model.py`, or the run's folder that contains it.
    batch: rows at a time.
    dtype: of the computation; '' for that of the parameters.

  Returns:
    Loaded.

  Raises:
    ConfigError: not a reward model of this project, or a bad option. ModelDirError: there is no model.
  """
  require(batch >= 1, f'batch is {batch}; it must be positive.')
  require(dtype in ('', 'float32', 'bfloat16'), f"dtype is {dtype!r}; use 'float32', 'bfloat16', or '' for as stored.")
  path = directory(path)
  source = checkpoint.open_model(path)
  require(
    source.cfg.head == 'score',
    f'{path} is a policy; give a reward model, which outputs scores (experiments/reward_model.py trains one).',
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
  """The model directory: `path` itself, or the one inside if `path` is a run's folder."""
  inner = os.path.join(path, MODEL)
  return inner if os.path.isfile(os.path.join(inner, ABOUT)) else path


def read_about(path):
  """Reads the About of a model directory. Raises ConfigError."""
  path = os.path.join(path, ABOUT)
  modelfiles.json_exists(path, ConfigError)
  try:
    with open(path, encoding='utf-8') as f:
      about = About(**json.load(f))
    for name, kind in get_type_hints(About).items():
      value = getattr(about, name)
      if type(value) not in ((int, float) if kind is float else (kind,)):
        raise ValueError(f'{name} is {repr(value)[:100]}, not a {kind.__name__}')
    if about.max_length < 1 or not math.isfinite(about.center):
      raise ValueError(f'max_length is {about.max_length}, center {about.center}')
  except (OSError, ArithmeticError, RecursionError, TypeError, ValueError) as error:
    raise ConfigError(
      f'{path} cannot be read ({error}); give a model directory written by experiments/reward_model.py.'
    ) from error
  return about
