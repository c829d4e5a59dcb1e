"""Conversations with something to score in them, as token ids with marks where the scores are read.

A turn is {'role', 'content'}. The forms a conversation can take:

- chat: the model's chat template; thinking that it opens for the answer is left to the response;
- dialogue: `User: ...`, a line for each turn, then `Assistant:` and a line's end, for models without a template;
- bare: the turns' texts, a line's end after each.

What is longer than the limit is cut by one rule: the prompt loses its beginning (a begin token stays), but keeps its
last tokens, a quarter of the limit; a response too long even so loses its end.
"""

import dataclasses

import numpy as np

from r1jax import templates
from r1jax.config import require

ROLES = ('system', 'user', 'assistant')
SEPARATORS = {'line': '\n', 'paragraph': '\n\n'}  # what ends a step, by config.STEP_RULES


@dataclasses.dataclass(frozen=True)
class Row:
  """A text to score.

  Attributes:
    ids: i32[n].
    marks: i32[s], positions whose scores count.
    start: where the response begins.
    size: its tokens, before any were cut.
    cut: how many tokens the limit has cost, of prompt and response.
  """

  ids: np.ndarray
  marks: np.ndarray
  start: int = 0
  size: int = 0
  cut: int = 0


def check_turns(turns, field='prompt'):
  """Raises ValueError unless `turns` is a conversation that a response can follow; field: its name, to say so."""
  if not isinstance(turns, list) or not turns:
    raise ValueError(f"field '{field}' is {_kind(turns)}; it must be a text or a list of {{'role', 'content'}}")
  for n, turn in enumerate(turns):
    if not isinstance(turn, dict) or not isinstance(turn.get('content'), str):
      raise ValueError(f"field '{field}', turn {n}: no {{'role', 'content'}} with a text for its content")
    if turn.get('role') not in ROLES:
      raise ValueError(f"field '{field}', turn {n}: role {turn.get('role')!r}; known: {', '.join(ROLES)}")
  if turns[-1]['role'] == 'assistant':
    raise ValueError(f"field '{field}' ends with the assistant's turn; the response is to be that")


def _kind(value):
  return 'an empty list' if value == [] else f'a {type(value).__name__}'


def shown(text, view):
  """A response as a view of config.VIEWS has it; None where that is nothing. text: see `templates.completed`."""
  text = templates.summary(text) if view == 'summary' else text
  return None if text is None else text.strip()


class Encoder:
  """Writes conversations as rows.

  Args:
    tokenizer: of the model that scores.
    form: of config.FORMS. max_length: tokens of a row. steps: of config.STEP_RULES.

  Raises:
    ConfigError: form 'chat' without a chat template.
  """

  def __init__(self, tokenizer, form, max_length, steps='line'):
    require(
      form != 'chat' or tokenizer.chats,
      f"data.form is 'chat', but {tokenizer.path} has no chat template; set data.chat_template, or data.form to "
      "'dialogue'.",
    )
    self.form = form if form != 'auto' else 'chat' if tokenizer.chats else 'dialogue'
    self.tokenizer, self.max_length, self.separator = tokenizer, max_length, SEPARATORS[steps]

  def whole(self, turns, text):
    """The conversation with the response `text` and the token that ends it, which is marked."""
    body = self.tokenizer.encode(text)
    prompt, room, cut = self._fit(turns, len(body) + 1)
    kept = body[: room - 1]
    ids = np.array([*prompt, *kept, self.tokenizer.eos[0]], np.int32)
    return Row(ids, np.array([len(ids) - 1], np.int32), len(prompt), len(body) + 1, cut + len(body) - len(kept))

  def steps(self, turns, steps):
    """The conversation with a solution; the last token of each step, its separator's, is marked.

    Args:
      steps: texts without the separator, none empty. Each is encoded by itself, so its tokens do not depend on others'.

    Returns:
      Row, with fewer marks than steps where the limit cuts some off.
    """
    pieces = [self.tokenizer.encode(step + self.separator) for step in steps]
    ends = np.cumsum([len(piece) for piece in pieces])
    prompt, room, cut = self._fit(turns, int(ends[-1]))
    body = [i for piece in pieces for i in piece]
    marks = len(prompt) + ends[ends <= room] - 1
    return Row(
      np.array([*prompt, *body[:room]], np.int32),
      marks.astype(np.int32),
      len(prompt),
      len(body),
      cut + max(len(body) - room, 0),
    )

  def _fit(self, turns, body):
    """The prompt's ids, how many of the response's `body` tokens there is room for, and tokens cut off the prompt."""
    prompt = self._prompt(turns)
    keep = min(len(prompt), max(self.max_length - body, self.max_length // 4))
    begin = prompt[:1] if keep < len(prompt) and prompt[0] == self.tokenizer.bos else []
    return begin + prompt[len(prompt) - keep + len(begin) :], self.max_length - keep, len(prompt) - keep

  def _prompt(self, turns):
    if self.form == 'bare':
      return self.tokenizer.encode(''.join(turn['content'] + '\n' for turn in turns), bos=True)
    if self.form == 'dialogue':
      lines = [f'{turn["role"].capitalize()}: {turn["content"]}\n' for turn in turns]
      return self.tokenizer.encode(''.join(lines) + 'Assistant:\n', bos=True)
    ids = self.tokenizer.chat(turns)
    opened = self.tokenizer.added.get(templates.THINK)
    end = len(self.tokenizer.chat(turns, generate=False))
    return ids[: ids.index(opened, end)] if opened in ids[end:] else ids
