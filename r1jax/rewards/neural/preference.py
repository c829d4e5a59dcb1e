"""A learned preference as a reward: how helpful, or how harmless, a response is."""

import functools
import math

from r1jax import templates
from r1jax.config import VIEWS, require
from r1jax.data import conversation, preference
from r1jax.rewards.neural import model as model_lib

SCALES = ('probability', 'logit')


def load(*, path, view='', scale='probability', limit=10.0, batch=16, dtype=''):
  """Returns `preference_score` with the reward model at `path`: a function from items to scores.

  Args:
    path, batch, dtype: as in `model.load`.
    view: '' for the view of its training.
    scale, limit: as in `preference_score`.

  Raises:
    ConfigError: a bad option, or a model of steps. ModelDirError: there is no model.
  """
  _check(view or 'whole', scale, limit)
  loaded = model_lib.load(path, batch=batch, dtype=dtype)
  about = loaded.about
  require(about.objective != 'steps', f"{path} scores steps; use the reward 'process' with it.")
  return functools.partial(
    preference_score, model=loaded.score, view=view or about.view, scale=scale, center=about.center, limit=limit
  )


def preference_score(items, *, model, view='whole', scale='probability', center=0.0, limit=10.0):
  """Scores responses with a reward model.

  Args:
    items: list of dicts with 'prompt' and 'response', and 'problem' if the prompt is a string. The conversation is the
      prompt if it is a list of turns, else the problem as the user's turn.
    model: function from [(turns, [text])] to [[score]], such as `model.load(...).score`.
    view: one of config.VIEWS: 'summary' (for helpfulness) hides the thinking, 'whole' (for harmlessness) does not.
    scale: 'logit': the score minus `center`, clipped to +-`limit`; 'probability': the sigmoid of that, in [0, 1].
    center: score of a typical response; for a model of pairs, the probability is then that of beating such a response.
    limit: bound of the logit. A response of which the view shows nothing, since its thinking never ends, gets -limit.

  Returns:
    list of float.
  """
  _check(view, scale, limit)
  texts = [conversation.visible_text(response_of(item), view) for item in items]
  visible = [i for i, text in enumerate(texts) if text]
  scores = model([(turns_of(items[i]), [texts[i]]) for i in visible]) if visible else []
  logits = [-limit] * len(items)
  for i, (score,) in zip(visible, scores):
    logits[i] = min(max(score - center, -limit), limit)
  return logits if scale == 'logit' else [1 / (1 + math.exp(-x)) for x in logits]


def _check(view, scale, limit):
  require(view in VIEWS, f'view is {view!r}; known: {", ".join(VIEWS)}.')
  require(scale in SCALES, f'scale is {scale!r}; known: {", ".join(SCALES)}.')
  require(limit > 0, f'limit is {limit}; it must be positive.')


def turns_of(item):
  """The conversation before the item's response, as a list of turns."""
  prompt = item['prompt']
  if isinstance(item.get('turns'), list):
    return item['turns']
  return preference.turns_of(item.get('problem', prompt) if isinstance(prompt, str) else prompt)


def response_of(item):
  """The response, with the opening `<think>` if that is the end of its prompt."""
  prompt = item['prompt']
  return templates.completed(prompt, item['response']) if isinstance(prompt, str) else item['response']
