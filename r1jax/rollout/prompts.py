"""A problem's prompt, and the item that rewards grade."""

import functools
import logging

from r1jax import templates
from r1jax.config import require

log = logging.getLogger('r1jax')

# Fields of a grading item that the sampler sets; a problem's own fields of these names are dropped.
RESERVED = ('program', 'pred', 'response', 'prompt', 'tokens', 'control')


def encode_prompt(tokenizer, template, problem):
  """A problem's prompt: its text, ending in `<think>` where a chat template has opened the thinking, and its ids.

  template: templates.Template; a problem that names one in its field 'template' goes by that.
  A problem with 'turns', of which the user's is last, is that conversation; only a chat template can write several.
  """
  template = templates.template_of(problem, template)
  turns = problem.get('turns')
  *before, last = turns if turns and isinstance(turns, list) else [{'content': problem['problem']}]
  text = template.format(problem | {'problem': last['content']})
  if not template.chat:
    require(
      not before,
      "a conversation of several turns needs a chat template; set data.template to one of those, such as 'chat'.",
    )
    return text, tokenizer.encode(text, bos=True)
  messages = [*before, {'role': 'user', 'content': text}]
  ids = tokenizer.chat(messages)
  opening = ids[len(tokenizer.chat(messages, generate=False)) :]
  return f'{templates.guard_trailing_think(text)}\n{tokenizer.decode(opening).strip()}', ids


def grading_item(problem, prompt, response, control, tokens):
  """What a reward is given: the problem's fields, the prompt's and the response's text.

  control: whether the response holds control tokens within. tokens: of the response.
  """
  if found := [name for name in RESERVED if name in problem]:
    _warn_of_reserved(*found)
  fields = {name: value for name, value in problem.items() if name not in RESERVED}
  return fields | {'prompt': prompt, 'response': response, 'tokens': tokens, 'control': control}


@functools.cache
def _warn_of_reserved(*names):
  log.warning(
    'problems have fields %s, which are dropped: what the model writes is graded, not what a row holds.',
    ', '.join(map(repr, names)),
  )
