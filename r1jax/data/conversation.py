"""Conversations as token ids for reward models, with marks at the positions where scores are read.

A turn is {'role', 'content'}. A conversation is written in one of these forms:

- chat: by the model's chat template; if the template opens the thinking, `<think>` is left to the response;
- dialogue: `User: ...`, one line per turn, then `Assistant:` and a newline, for models without a chat template;
- bare: the contents of the turns, each followed by a newline.

A conversation over the token limit is truncated. First the prompt loses tokens at its start (except the begin token),
down to a quarter of the limit. If that is not enough, the response loses tokens at its end.
"""

import dataclasses

import numpy as np

from r1jax import templates
from r1jax.config import require

ROLES = ('system', 'user', 'assistant')
SEPARATORS = {'line': '\n', 'paragraph': '\n\n'}  # end of a step, by config.STEP_RULES


@dataclasses.dataclass(frozen=True)
class Row:
  """A sequence to score.

  Attributes:
    ids: i32[n], tokens of the prompt and the response.
    marks: i32[s], positions at which scores are read.
    start: position of the response's first token.
    size: tokens of the response before truncation.
    cut: tokens removed by truncation, from prompt and response together.
  """

  ids: np.ndarray
  marks: np.ndarray
  start: int = 0
  size: int = 0
  cut: int = 0


def check_turns(turns, field='prompt'):
  """Raises ValueError unless `turns` is a conversation that a response can follow; field: its name for the message."""
  if not isinstance(turns, list) or not turns:
    raise ValueError(f"field '{field}' is {_type_name(turns)}; it must be a text or a list of {{'role', 'content'}}")
  for n, turn in enumerate(turns):
    if not isinstance(turn, dict) or not isinstance(turn.get('content'), str):
      raise ValueError(f"field '{field}', turn {n}: not a {{'role', 'content'}} with a text as content")
    if turn.get('role') not in ROLES:
      raise ValueError(f"field '{field}', turn {n}: role {turn.get('role')!r}; known: {', '.join(ROLES)}")
  if turns[-1]['role'] == 'assistant':
    raise ValueError(f"field '{field}' ends with an assistant turn; remove it, as the response is that turn")


def _type_name(value):
  return 'an empty list' if value == [] else f'a {type(value).__name__}'


def visible_text(text, view):
  """The part of a response that a reward model sees.

  Args:
    text: the response, as `templates.completed` returns it.
    view: one of config.VIEWS.

  Returns:
    The text without surrounding white space; None for the view 'summary' of a response whose thinking is not closed.
  """
  text = templates.summary(text) if view == 'summary' else text
  return None if text is None else text.strip()


class Encoder:
  """Encodes conversations as rows.

  Args:
    tokenizer: the tokenizer of the reward model.
    form: one of config.FORMS.
    max_length: maximum number of tokens in a row.
    steps: one of config.STEP_RULES.

  Raises:
    ConfigError: the form is 'chat', but there is no chat template.
  """

  def __init__(self, tokenizer, form, max_length, steps='line'):
    require(
      form != 'chat' or tokenizer.chats,
      f"data.form is 'chat', but {tokenizer.path} has no chat template; set data.chat_template, or data.form to "
      "'dialogue'.",
    )
    self.form = form if form != 'auto' else 'chat' if tokenizer.chats else 'dialogue'
    self.tokenizer, self.max_length, self.separator = tokenizer, max_length, SEPARATORS[steps]

  def encode_response(self, turns, text):
    """Encodes the conversation with the response `text` and an end token, which is marked. Returns a Row."""
    response = self.tokenizer.encode(text)
    prompt, room, cut = self._fit_prompt(turns, len(response) + 1)
    kept = response[: room - 1]
    ids = np.array([*prompt, *kept, self.tokenizer.eos[0]], np.int32)
    cut += len(response) - len(kept)
    return Row(ids, np.array([len(ids) - 1], np.int32), len(prompt), len(response) + 1, cut)

  def encode_steps(self, turns, steps):
    """Encodes the conversation with a solution in steps; the last token of each step's separator is marked.

    Args:
      steps: texts without the separator, none empty. Each is encoded separately, so that its tokens do not depend on
        the other steps.

    Returns:
      Row; it has fewer marks than steps if truncation removes some.
    """
    pieces = [self.tokenizer.encode(step + self.separator) for step in steps]
    ends = np.cumsum([len(piece) for piece in pieces])
    prompt, room, cut = self._fit_prompt(turns, int(ends[-1]))
    response = [i for piece in pieces for i in piece]
    marks = len(prompt) + ends[ends <= room] - 1
    return Row(
      np.array([*prompt, *response[:room]], np.int32),
      marks.astype(np.int32),
      len(prompt),
      len(response),
      cut + max(len(response) - room, 0),
    )

  def _fit_prompt(self, turns, response_length):
    """Returns the ids of the truncated prompt, the room left for the response, and the tokens cut off the prompt."""
    prompt = self._encode_prompt(turns)
    keep = min(len(prompt), max(self.max_length - response_length, self.max_length // 4))
    begin = prompt[:1] if keep < len(prompt) and prompt[0] == self.tokenizer.bos else []
    return begin + prompt[len(prompt) - keep + len(begin) :], self.max_length - keep, len(prompt) - keep

  def _encode_prompt(self, turns):
    if self.form == 'bare':
      return self.tokenizer.encode(''.join(turn['content'] + '\n' for turn in turns), bos=True)
    if self.form == 'dialogue':
      lines = [f'{turn["role"].capitalize()}: {turn["content"]}\n' for turn in turns]
      return self.tokenizer.encode(''.join(lines) + 'Assistant:\n', bos=True)
    ids = self.tokenizer.chat(turns)
    think = self.tokenizer.added.get(templates.THINK)
    end = len(self.tokenizer.chat(turns, generate=False))
    return ids[: ids.index(think, end)] if think in ids[end:] else ids
