"""The format reward: does the response have the required form?"""

from r1jax import templates
from r1jax.config import ConfigError

SPECIAL = '|special_token|'  # as in R1's report; the option `special` takes a tokenizer's real token


def form(items, *, form='r1_zero', graded=False, special=SPECIAL):
  """1.0 if the response has the form, else 0.0; with `graded`, the share of the form's conditions that it meets.

  A response with control tokens (other than `special` in the form 'special') never has the form: they belong to the
  conversation.

  Args:
    items: list of dicts with 'prompt' and 'response'. 'control' may list the tokenizer's special tokens that occur in
      the response; text that looks like one, such as `<|im_start|>`, counts in any case.
    form: 'r1_zero': thinking between think tags, the answer between answer tags, and nothing else (`templates.parse`).
      'r1': thinking between think tags, then a summary. 'special': the form of R1's cold-start data,
      `|special_token|<reasoning_process>|special_token|<summary>`. The conditions that `graded` counts are the keys of
      `templates.r1_zero_conditions` (6), `r1_conditions` (5) and `special_conditions` (3).
    graded: give partial credit.
    special: the token of the form 'special'.

  Returns:
    list of float in [0, 1].

  Raises:
    ConfigError: an unknown form, an empty token, or a `graded` that is not a bool.
  """
  _check(form, graded, special)
  return [verdict(item, form=form, graded=graded, special=special)['score'] for item in items]


def verdict(item, *, form='r1_zero', graded=False, special=SPECIAL):
  """How `form` scores one item: a dict with 'score', 'reason' and 'missing', the list of conditions not met."""
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
