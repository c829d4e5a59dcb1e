"""The format reward: is the response in the form that was asked for?"""

from r1jax import templates
from r1jax.config import ConfigError

SPECIAL = '|special_token|'  # as R1's report writes it; a tokenizer's own goes into the option `special`


def form(items, *, form='r1_zero', graded=False, special=SPECIAL):
  """1.0 where the response is in the form, else 0.0; graded, the share of the form's conditions that it meets.

  A response that holds control tokens, but the token of 'special', is in no form: they belong to the conversation.

  Args:
    items: list of dicts with 'prompt' and 'response', and 'control' where a tokenizer says which of its special tokens
      stand in the response; what has the form of one, as `<|im_start|>`, counts anyway.
    form: 'r1_zero', thinking between think tags and the answer between answer tags, and nothing else
      (`templates.parse`); 'r1', thinking between think tags and then a summary; 'special', R1's cold start,
      `|special_token|<reasoning_process>|special_token|<summary>`. The conditions of each, for `graded`, are the
      keys of `templates.r1_zero_conditions` (6), `r1_conditions` (5) and `special_conditions` (3).
    graded: False for all or nothing.
    special: the token of 'special'.

  Returns:
    list of float in [0, 1].

  Raises:
    ConfigError: an unknown form, an empty token, or a `graded` that is neither True nor False.
  """
  _check(form, graded, special)
  return [verdict(item, form=form, graded=graded, special=special)['score'] for item in items]


def verdict(item, *, form='r1_zero', graded=False, special=SPECIAL):
  """As `form`, of one item: a dict with 'score', 'reason' and 'missing', the conditions not met."""
  _check(form, graded, special)
  prompt, response = item['prompt'], item['response']
  if form == 'special':
    met = templates.special_conditions(templates.completed(prompt, response, special), special)
  else:
    text = templates.completed(prompt, response)
    met = templates.r1_zero_conditions(text) if form == 'r1_zero' else templates.r1_conditions(text)
  control = {*item.get('control', ()), *templates.control_tokens(response)} - {*templates.TAGS}
  if control - ({special} if form == 'special' else set()):
    met['no control tokens'] = False
  missing = [name for name, holds in met.items() if not holds]
  score = (len(met) - len(missing)) / len(met) if graded else float(not missing)
  return {'score': score, 'reason': f'not met: {", ".join(missing)}' if missing else 'well formed', 'missing': missing}


def _check(form, graded, special):
  if form not in ('r1_zero', 'r1', 'special'):
    raise ConfigError(f'the form is {form!r}; known: r1_zero, r1, special.')
  if not isinstance(graded, bool):
    raise ConfigError(f'graded is {graded!r}; it must be True or False.')
  if not isinstance(special, str) or not special:
    raise ConfigError(f"the special token is {special!r}; give the text of the token, such as '{SPECIAL}'.")
