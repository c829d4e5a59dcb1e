"""A learned preference as a reward: how good, or how safe, a response is."""

import functools
import math

from r1jax import templates
from r1jax.config import VIEWS, require
from r1jax.data import conversation, preference
from r1jax.rewards.neural import model as model_lib

SCALES = ('probability', 'logit')


def load(*, path, view='', scale='probability', limit=10.0, batch=16, dtype=''):
  """`preference_score` by the reward model at `path`: a function from items to scores.

  Args:
    path, batch, dtype: as of `model.load`.
    view: '' is that of training. scale, limit: as of `preference_score`.

  Raises:
    ConfigError: a bad option, or a model of steps. ModelDirError: no model there.
  """
  _check(view or 'whole', scale, limit)
  loaded = model_lib.load(path, batch=batch, dtype=dtype)
  about = loaded.about
  require(about.objective != 'steps', f"{path} scores steps; use the reward 'process' with it.")
  return functools.partial(
    preference_score, model=loaded.score, view=view or about.view, scale=scale, center=about.center, limit=limit
  )


def preference_score(items, *, model, view='whole', scale='probability', center=0.0, limit=10.0):
  """What a reward model says of responses.

  Args:
    items: list of dicts with 'prompt' and 'response', and 'problem' where the prompt is a text. A prompt may be a list
      of turns, else the conversation is the problem as the user's turn.
    model: function from [(turns, [text])] to [[score]], such as `neural.load(...).score`.
    view: of config.VIEWS: 'summary' (helpfulness) hides the thinking, 'whole' (harmlessness) does not.
    scale: 'logit': the score less `center`, within +-`limit`; 'probability': its sigmoid, in [0, 1].
    center: a typical response's score; for a model of pairs its probability is then that of beating such a one.
    limit: of the logit. A response of which the view shows nothing, as its thinking never ends, gets -limit.

  Returns:
    list of float.
  """
  _check(view, scale, limit)
  texts = [conversation.visible_text(response_of(item), view) for item in items]
  seen = [i for i, text in enumerate(texts) if text]
  found = model([(turns_of(items[i]), [texts[i]]) for i in seen]) if seen else []
  logits = [-limit] * len(items)
  for i, (score,) in zip(seen, found):
    logits[i] = min(max(score - center, -limit), limit)
  return logits if scale == 'logit' else [1 / (1 + math.exp(-x)) for x in logits]


def _check(view, scale, limit):
  require(view in VIEWS, f'view is {view!r}; known: {", ".join(VIEWS)}.')
  require(scale in SCALES, f'scale is {scale!r}; known: {", ".join(SCALES)}.')
  require(limit > 0, f'limit is {limit}; it must be positive.')


def turns_of(item):
  """The conversation that an item's response follows."""
  prompt = item['prompt']
  if isinstance(item.get('turns'), list):
    return item['turns']
  return preference.turns_of(item.get('problem', prompt) if isinstance(prompt, str) else prompt)


def response_of(item):
  """The response with the `<think>` that its prompt has opened."""
  prompt = item['prompt']
  return templates.completed(prompt, item['response']) if isinstance(prompt, str) else item['response']
