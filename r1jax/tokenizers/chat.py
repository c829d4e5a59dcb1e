"""Chat templates: programs in jinja2 that write a conversation as one text. They come with models: not to trust."""
import datetime
import json
import pathlib
import re

import jinja2.ext
import jinja2.sandbox

# r1: DeepSeek-R1 and its six distilled students.
CHAT_TEMPLATES = {
    'r1': (pathlib.Path(__file__).parent / 'r1.jinja').read_text(encoding='utf-8'),
}


def compile_template(text):
  """A jinja2 template with the functions that chat templates expect. Raises jinja2.TemplateError."""
  env = jinja2.sandbox.ImmutableSandboxedEnvironment(
      trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols])
  # jinja2's own tojson escapes for HTML.
  env.filters['tojson'] = lambda x, ensure_ascii=False, **options: json.dumps(x, ensure_ascii=ensure_ascii, **options)
  env.globals |= {'raise_exception': _refuse, 'strftime_now': lambda form: datetime.datetime.now().strftime(form)}
  return env.from_string(text)


def _refuse(message):
  raise jinja2.TemplateError(message)


def pattern(tokens):
  """A regular expression that splits a text at `tokens`, which stay, at odd places; the longest of several wins."""
  longest_first = sorted(tokens, key=len, reverse=True)
  return re.compile('(' + ('|'.join(map(re.escape, longest_first)) or '(?!)') + ')')


def mark(messages, tokens, tokens_of_assistant):
  """Breaks up the tokens inside messages by a character that occurs in none of them.

  Args:
    messages: list of {'role', 'content'}; a value of None counts as none.
    tokens, tokens_of_assistant: `pattern`s of what to break up, the latter for an assistant's messages.

  Returns:
    (messages, the character): removed from what was written of them, it leaves the text as it was.
  """
  if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
    raise ValueError("messages are a list of {'role', 'content'}, at least one")
  used = set(json.dumps(messages, ensure_ascii=False))
  sign = next(c for c in map(chr, range(0xE000, 0x110000)) if c not in used)
  assistant = [m.get('role') == 'assistant' for m in messages]
  return [{key: _mark(value, tokens_of_assistant if own else tokens, sign)
           for key, value in message.items() if value is not None} for message, own in zip(messages, assistant)], sign


def _mark(value, tokens, sign):
  if isinstance(value, str):
    # Behind the first character of every token, also of one that begins inside another.
    return re.sub(f'(?=({tokens.pattern}))(.)', lambda m: m[0] + sign, value, flags=re.DOTALL)
  if isinstance(value, dict):
    return {key: _mark(v, tokens, sign) for key, v in value.items()}
  return [_mark(v, tokens, sign) for v in value] if isinstance(value, (list, tuple)) else value
