"""Chat templates: jinja2 programs that write a conversation as one text. They come with models and are untrusted.

jinja2's sandbox limits what they can access, but does not stop endless loops and texts. So they run in a separate
process with limits on CPU time and memory; this file is also its program.
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

SECONDS = 5  # limit on the CPU time for one conversation
_MEMORY = 1 << 30  # bytes
_MAX_LENGTH = 1 << 24  # characters of a conversation

# r1: for DeepSeek-R1 and its six distilled models.
CHAT_TEMPLATES = {'r1': (pathlib.Path(__file__).parent / 'r1.jinja').read_text(encoding='utf-8')}


class _Generation(jinja2.ext.Extension):
  """{% generation %}, which marks assistant text for other trainers; here it outputs its content unchanged."""

  tags = {'generation'}

  def parse(self, parser):
    line = next(parser.stream).lineno
    return jinja2.nodes.Scope(parser.parse_statements(('name:endgeneration',), drop_needle=True), lineno=line)


@functools.lru_cache(8)
def _compiled(text):
  """Compiles a template, with the functions that chat templates expect. Raises jinja2.TemplateError."""
  env = jinja2.sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols, _Generation]
  )
  # jinja2's own tojson escapes HTML.
  env.filters['tojson'] = lambda x, ensure_ascii=False, **options: json.dumps(x, ensure_ascii=ensure_ascii, **options)
  del env.globals['lipsum']
  env.globals |= {
    'raise_exception': _raise_exception,
    'strftime_now': lambda form: datetime.datetime.now().strftime(form),
  }
  return env.from_string(text)


def _raise_exception(message):
  raise jinja2.TemplateError(message)


def render(template, values):
  """Renders a chat template.

  Args:
    template: text of the template.
    values: {name: value}, which must convert to JSON.

  Returns:
    str.

  Raises:
    ValueError and the like: the template fails or exceeds its limits.
  """
  if template in CHAT_TEMPLATES.values():
    return _compiled(template).render(values)
  return _PROCESS.render(template, values)


class _Process:
  """The process that runs all templates; it starts when needed, and again after it was killed."""

  def __init__(self):
    self._lock, self._child, self._pid = threading.Lock(), None, None

  def render(self, template, values):
    request = json.dumps([template, values]).encode() + b'\n'
    with self._lock:
      # A forked process must not share its parent's child.
      if self._child is None or self._pid != os.getpid() or self._child.poll() is not None:
        self._child, self._pid = self._start(), os.getpid()
      child, answer = self._child, b''
      assert child.stdin and child.stdout  # both are pipes
      try:
        with contextlib.suppress(BrokenPipeError):
          child.stdin.write(request)
          child.stdin.flush()
        answer = child.stdout.readline()
      finally:
        if not answer.endswith(b'\n'):  # the child was killed, or this process is interrupted
          self._child = None
          child.kill()
          child.communicate()
    if not answer:
      raise ValueError(f'it takes over {SECONDS} s of CPU time or {_MEMORY >> 20} MB of memory')
    text, error = json.loads(answer)
    if error:
      raise ValueError(error)
    return text

  @staticmethod
  def _start():
    return subprocess.Popen(
      [sys.executable, '-P', __file__, str(SECONDS)],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
      start_new_session=True,  # Ctrl-C should not reach it
    )


def _serve(seconds):
  """Reads lines [template, values] and answers each with a line [text, error], to the end of the input."""
  with contextlib.suppress(OSError, ValueError):  # not supported on every system
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
  resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
  for line in sys.stdin.buffer:
    used, maximum = resource.getrusage(resource.RUSAGE_SELF), resource.getrlimit(resource.RLIMIT_CPU)[1]
    limit = int(used.ru_utime + used.ru_stime) + 1 + seconds
    limit = limit if maximum == resource.RLIM_INFINITY else min(limit, maximum)
    resource.setrlimit(resource.RLIMIT_CPU, (limit, maximum))
    text, error = '', ''
    try:
      template, values = json.loads(line)
      text = _compiled(template).render(values)
      if len(text) > _MAX_LENGTH:
        text, error = '', f'it writes {len(text)} characters, over the limit of {_MAX_LENGTH}'
    except Exception as raised:  # a foreign program may raise anything
      error = ' '.join(str(raised)[:10_000].split())[:500] or type(raised).__name__
    sys.stdout.write(json.dumps([text, error]) + '\n')
    sys.stdout.flush()


_PROCESS = _Process()


def pattern(tokens):
  """Returns a regular expression that splits a text at tokens: they get the odd indices, and the longest match wins."""
  longest_first = sorted(tokens, key=len, reverse=True)
  return re.compile('(' + ('|'.join(map(re.escape, longest_first)) or '(?!)') + ')')


def mark(messages, tokens, tokens_of_assistant):
  """Breaks up tokens inside messages by inserting a character that no message contains.

  Args:
    messages: list of {'role', 'content'}; values that are None are dropped.
    tokens, tokens_of_assistant: `pattern`s of the tokens to break up; the latter is for assistant messages.

  Returns:
    (messages with marks, the mark); removing the mark from the rendered text restores the original text.
  """
  if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
    raise ValueError("messages must be a list of at least one {'role', 'content'}")
  used = set(json.dumps(messages, ensure_ascii=False))
  character = next(c for c in map(chr, range(0xE000, 0x110000)) if c not in used)
  marked = []
  for message in messages:
    broken_up = tokens_of_assistant if message.get('role') == 'assistant' else tokens
    marked.append({key: _mark(v, broken_up, character) for key, v in message.items() if v is not None})
  return marked, character


def _mark(value, tokens, character):
  if isinstance(value, str):
    # After the first character of every token, also of a token that starts inside another.
    return re.sub(f'(?=({tokens.pattern}))(.)', lambda m: m[0] + character, value, flags=re.DOTALL)
  if isinstance(value, dict):
    return {key: _mark(v, tokens, character) for key, v in value.items()}
  return [_mark(v, tokens, character) for v in value] if isinstance(value, (list, tuple)) else value


if __name__ == '__main__':
  _serve(int(sys.argv[1]))
