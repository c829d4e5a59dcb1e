"""Learned step scores as a reward: one number for a solution, or credit for each step."""

import dataclasses
import functools
import math

from r1jax import templates
from r1jax.config import STEP_RULES, VIEWS, require
from r1jax.data import process
from r1jax.rewards.neural import model as model_lib
from r1jax.rewards.neural.preference import response_of, turns_of

# A step's score is the probability that it is right; a solution without steps scores 0.
AGGREGATES = {
  'min': min,
  'product': math.prod,
  'last': lambda scores: scores[-1],
  'mean': lambda scores: sum(scores) / len(scores),
}


@dataclasses.dataclass(frozen=True)
class Steps:
  """The steps of one response.

  Attributes:
    scores: probability that each is right, in [0, 1].
    ends: where each ends in item['response'], in characters, one behind its last.
  """

  scores: tuple[float, ...]
  ends: tuple[int, ...]


def load(*, path, aggregate='min', view='whole', batch=16, dtype=''):
  """`process_score` by the reward model at `path`: a function from items to scores.

  Args:
    path, batch, dtype: as of `model.load`. aggregate, view: as of `process_score`; steps are those of training.

  Raises:
    ConfigError: a bad option, or a model of something else than steps. ModelDirError: no model there.
  """
  _check(aggregate, 'line', view)
  loaded = model_lib.load(path, batch=batch, dtype=dtype)
  about = loaded.about
  require(about.objective == 'steps', f"{path} scores whole responses; use the reward 'preference' with it.")
  return functools.partial(process_score, model=loaded.score, aggregate=aggregate, steps=about.steps, view=view)


def process_score(items, *, model, aggregate='min', steps='line', view='whole'):
  """One number for each solution, in [0, 1], from the scores of its steps.

  Args:
    items, model, steps, view: as of `step_scores`.
    aggregate: a key of AGGREGATES: the worst step, the product (all steps right), the last, or the mean.

  Returns:
    list of float; 0 for a response without steps.
  """
  _check(aggregate, steps, view)
  found = step_scores(items, model=model, steps=steps, view=view)
  return [float(AGGREGATES[aggregate](s.scores)) if s.scores else 0.0 for s in found]


def step_scores(items, *, model, steps='line', view='whole'):
  """The steps of each response and their scores, for credit by step.

  Args:
    items: list of dicts with 'prompt', 'response' and, where the prompt is a text, 'problem'.
    model: function from [(turns, steps)] to [[score of each step]], such as `neural.load(...).score`; where it gives
      fewer, the last steps were beyond its limit and are left out.
    steps: of config.STEP_RULES, the same as in training. Tags are no steps, and a line of nothing else is none.
    view: of config.VIEWS: 'summary' leaves the steps of the thinking out.

  Returns:
    list of Steps.
  """
  _check('min', steps, view)
  spans = [_spans(item, steps, view) for item in items]
  asked = [i for i, found in enumerate(spans) if found]
  texts = lambda i: [process.one_step(items[i]['response'][start:end], steps) for start, end in spans[i]]
  scored = dict(zip(asked, model([(turns_of(items[i]), texts(i)) for i in asked]) if asked else []))
  out = []
  for i, found in enumerate(spans):
    scores = tuple(1 / (1 + math.exp(-min(max(x, -30.0), 30.0))) for x in scored.get(i, []))
    out.append(Steps(scores, tuple(end for _, end in found[: len(scores)])))
  return out


def by_step(score):
  """From a function that `load` returned, one from items to Steps, by the same model and rule."""
  return functools.partial(step_scores, **{name: score.keywords[name] for name in ('model', 'steps', 'view')})


def _check(aggregate, steps, view):
  require(aggregate in AGGREGATES, f'aggregate is {aggregate!r}; known: {", ".join(AGGREGATES)}.')
  require(steps in STEP_RULES, f'steps is {steps!r}; known: {", ".join(STEP_RULES)}.')
  require(view in VIEWS, f'view is {view!r}; known: {", ".join(VIEWS)}.')


def _spans(item, steps, view):
  response, start = item['response'], 0
  if view == 'summary':
    text = response_of(item)
    found = templates.summary_start(text)
    start = len(response) if found is None else found - (len(text) - len(response))
  return [(start + a, start + b) for a, b in process.spans(response[start:], steps)]


def step_tokens(tokenizer, ids, ends):
  """The token of a response in which each step ends, for credit by step.

  Args:
    tokenizer: of the policy. ids: the response's tokens, as sampled.
    ends: of Steps, in characters of the decoded response.

  Returns:
    list of int, positions in ids, ascending.
  """
  length, at, out = 0, 0, []
  for n, (_, piece) in enumerate(zip(ids, tokenizer.pieces(ids))):
    length += len(piece)
    while at < len(ends) and length >= ends[at]:
      out.append(n)
      at += 1
  return out + [len(ids) - 1] * (len(ends) - at)  # a last character whose bytes never came
