"""Learned step scores as a reward: one score per solution, or credit for each step."""

import dataclasses
import functools
import math

from r1jax import templates
from r1jax.config import STEP_RULES, VIEWS, require
from r1jax.data import process
from r1jax.rewards.neural import model as model_lib
from r1jax.rewards.neural.preference import response_of, turns_of

# Functions from the scores of the steps, the probabilities that they are correct, to the score of the solution.
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
    scores: probability that each step is correct, in [0, 1].
    ends: end of each step in item['response'], in characters (exclusive).
  """

  scores: tuple[float, ...]
  ends: tuple[int, ...]


def load(*, path, aggregate='min', view='whole', batch=16, dtype=''):
  """Returns `process_score` with the reward model at `path`: a function from items to scores.

  Args:
    path, batch, dtype: as in `model.load`.
    aggregate, view: as in `process_score`. (The step rule is that of the model's training.)

  Raises:
    ConfigError: a bad option, or a model that does not score steps. ModelDirError: there is no model.
  """
  _check(aggregate, 'line', view)
  loaded = model_lib.load(path, batch=batch, dtype=dtype)
  about = loaded.about
  require(about.objective == 'steps', f"{path} scores whole responses; use the reward 'preference' with it.")
  return functools.partial(process_score, model=loaded.score, aggregate=aggregate, steps=about.steps, view=view)


def process_score(items, *, model, aggregate='min', steps='line', view='whole'):
  """The score of each solution, aggregated from the scores of its steps.

  Args:
    items, model, steps, view: as in `step_scores`.
    aggregate: a key of AGGREGATES: the worst step, the product (all steps correct), the last, or the mean.

  Returns:
    list of float in [0, 1]; 0 for a response without steps.
  """
  _check(aggregate, steps, view)
  results = step_scores(items, model=model, steps=steps, view=view)
  return [float(AGGREGATES[aggregate](result.scores)) if result.scores else 0.0 for result in results]


def step_scores(items, *, model, steps='line', view='whole'):
  """Splits each response into steps and scores them, for credit by step.

  Args:
    items: list of dicts with 'prompt', 'response' and, if the prompt is a string, 'problem'.
    model: function from [(turns, steps)] to [[logit of each step]], such as `model.load(...).score`. If it returns
      fewer, the last steps are beyond its limit and are left out.
    steps: one of config.STEP_RULES, the same as in training. A line that contains only tags is not a step.
    view: one of config.VIEWS: 'summary' leaves out the steps of the thinking.

  Returns:
    list of Steps.
  """
  _check('min', steps, view)
  spans = [_spans(item, steps, view) for item in items]
  indices = [i for i, item_spans in enumerate(spans) if item_spans]
  texts = lambda i: [process.one_step(items[i]['response'][start:end], steps) for start, end in spans[i]]
  logits = dict(zip(indices, model([(turns_of(items[i]), texts(i)) for i in indices]) if indices else []))
  out = []
  for i, item_spans in enumerate(spans):
    scores = tuple(1 / (1 + math.exp(-min(max(x, -30.0), 30.0))) for x in logits.get(i, []))
    out.append(Steps(scores, tuple(end for _, end in item_spans[: len(scores)])))
  return out


def by_step(score):
  """Turns a function that `load` returned into one from items to Steps, with the same model, step rule and view."""
  return functools.partial(step_scores, **{name: score.keywords[name] for name in ('model', 'steps', 'view')})


def _check(aggregate, steps, view):
  require(aggregate in AGGREGATES, f'aggregate is {aggregate!r}; known: {", ".join(AGGREGATES)}.')
  require(steps in STEP_RULES, f'steps is {steps!r}; known: {", ".join(STEP_RULES)}.')
  require(view in VIEWS, f'view is {view!r}; known: {", ".join(VIEWS)}.')


def _spans(item, steps, view):
  response, start = item['response'], 0
  if view == 'summary':
    text = response_of(item)
    summary_start = templates.summary_start(text)
    start = len(response) if summary_start is None else summary_start - (len(text) - len(response))
  return [(start + a, start + b) for a, b in process.spans(response[start:], steps)]


def step_tokens(tokenizer, ids, ends):
  """The index of the token in which each step of a response ends, for credit by step.

  Args:
    tokenizer: of the policy.
    ids: token ids of the response, as sampled.
    ends: `Steps.ends`, in characters of the decoded response.

  Returns:
    list of int, indices into ids, ascending.
  """
  length, step, out = 0, 0, []
  for n, (_, piece) in enumerate(zip(ids, tokenizer.pieces(ids))):
    length += len(piece)
    while step < len(ends) and length >= ends[step]:
      out.append(n)
      step += 1
  return out + [len(ids) - 1] * (len(ends) - step)  # a last character whose bytes are incomplete
