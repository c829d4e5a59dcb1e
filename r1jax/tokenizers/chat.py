"""Chat templates: programs in jinja2 that write a conversation as one text. They come with models: not to trust.

jinja2's sandbox keeps them from what is not theirs, but not from loops and texts without end. So a process of its own
runs them, which this file is the program of, with bounds on processor time and memory.
"""

import contextlib
import datetime
import functools
import json
import os
import pathlib
import re
import resource
import subprocess
import sys
import threading

import jinja2.ext
import jinja2.nodes
import jinja2.sandbox

SECONDS = 5  # of processor time that one conversation may take
_MEMORY = 1 << 30  # bytes
_LONGEST = 1 << 24  # characters of a conversation

# r1: DeepSeek-R1 and its six distilled students.
CHAT_TEMPLATES = {'r1': (pathlib.Path(__file__).parent / 'r1.jinja').read_text(encoding='utf-8')}


class _Generation(jinja2.ext.Extension):
  """{% generation %}, which tells trainers elsewhere what an assistant wrote: here its content as it is."""

  tags = {'generation'}

  def parse(self, parser):
    line = next(parser.stream).lineno
    return jinja2.nodes.Scope(parser.parse_statements(('name:endgeneration',), drop_needle=True), lineno=line)


@functools.lru_cache(8)
def _compiled(text):
  """A jinja2 template with the functions that chat templates expect. Raises jinja2.TemplateError."""
  env = jinja2.sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols, _Generation]
  )
  # jinja2's own tojson escapes for HTML.
  env.filters['tojson'] = lambda x, ensure_ascii=False, **options: json.dumps(x, ensure_ascii=ensure_ascii, **options)
  del env.globals['lipsum']
  env.globals |= {'raise_exception': _refuse, 'strftime_now': lambda form: datetime.datetime.now().strftime(form)}
  return env.from_string(text)


def _refuse(message):
  raise jinja2.TemplateError(message)


def render(template, values):
  """The text that a chat template writes.

  Args:
    template: its text. values: {name: value}, of which JSON can be made.

  Raises:
    ValueError and the like: the template fails, or goes beyond its bounds.
  """
  if template in CHAT_TEMPLATES.values():
    return _compiled(template).render(values)
  return _PROCESS.render(template, values)


class _Process:
  """The process that runs templates, one for all of them; begun when it is wanted, and again after it was ended."""

  def __init__(self):
    self._lock, self._child, self._pid = threading.Lock(), None, None

  def render(self, template, values):
    request = json.dumps([template, values]).encode() + b'\n'
    with self._lock:
      if self._child is None or self._pid != os.getpid() or self._child.poll() is not None:  # a fork has its own
        self._child, self._pid = (
          subprocess.Popen(
            [sys.executable, '-P', __file__, str(SECONDS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
          ),
          os.getpid(),
        )  # Ctrl-C is not meant for it
      child, answer = self._child, b''
      try:
        with contextlib.suppress(BrokenPipeError):
          child.stdin.write(request)
          child.stdin.flush()
        answer = child.stdout.readline()
      finally:
        if not answer.endswith(b'\n'):  # it was ended, or we are
          self._child = None
          child.kill()
          child.communicate()
    if not answer:
      raise ValueError(f'it takes over {SECONDS} s of processor time or {_MEMORY >> 20} MB')
    text, error = json.loads(answer)
    if error:
      raise ValueError(error)
    return text


def _serve(seconds):
  """Answers a line [template, values] by a line [text, error], until there are no more."""
  with contextlib.suppress(OSError, ValueError):  # not every system can
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
  resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
  for line in sys.stdin.buffer:
    used, most = resource.getrusage(resource.RUSAGE_SELF), resource.getrlimit(resource.RLIMIT_CPU)[1]
    until = int(used.ru_utime + used.ru_stime) + 1 + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (until if most == resource.RLIM_INFINITY else min(until, most), most))
    text, error = '', ''
    try:
      template, values = json.loads(line)
      text = _compiled(template).render(values)
      if len(text) > _LONGEST:
        text, error = '', f'it writes {len(text)} characters, over {_LONGEST}'
    except Exception as raised:  # somebody else's program: it may raise anything
      error = ' '.join(str(raised)[:10_000].split())[:500] or type(raised).__name__
    sys.stdout.write(json.dumps([text, error]) + '\n')
    sys.stdout.flush()


_PROCESS = _Process()


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
  return [
    {
      key: _mark(value, tokens_of_assistant if own else tokens, sign)
      for key, value in message.items()
      if value is not None
    }
    for message, own in zip(messages, assistant)
  ], sign


def _mark(value, tokens, sign):
  if isinstance(value, str):
    # Behind the first character of every token, also of one that begins inside another.
    return re.sub(f'(?=({tokens.pattern}))(.)', lambda m: m[0] + sign, value, flags=re.DOTALL)
  if isinstance(value, dict):
    return {key: _mark(v, tokens, sign) for key, v in value.items()}
  return [_mark(v, tokens, sign) for v in value] if isinstance(value, (list, tuple)) else value


if __name__ == '__main__':
  _serve(int(sys.argv[1]))
