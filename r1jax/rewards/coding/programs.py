"""The languages of programs: how a program is found in a response, compiled and started."""

import dataclasses
import functools
import os
import re
import shutil

from r1jax import config, templates
from r1jax.rewards.coding import bubblewrap, sandbox

COMPILE_SECONDS = 20.0
COMPILE_MB = 1024
MESSAGE = 2000  # characters of a compiler's message that are kept

PYTHON_FLAGS = ('-S', '-s', '-B', '-X', 'int_max_str_digits=0')  # no site-packages, nothing written, long integers
# Without site-packages there is no `exit` either, which many programs end by.
_START = b"""import _sitebuiltins, builtins
builtins.exit = builtins.quit = _sitebuiltins.Quitter('exit', '')
__file__ = 'main.py'
with open('main.py', 'rb') as program:
  program = compile(program.read(), 'main.py', 'exec')
del _sitebuiltins, builtins
exec(program)
"""

_JVM = ('-XX:+UseSerialGC', '-XX:TieredStopAtLevel=1')  # few threads; short programs gain nothing by more
_WORD = re.compile('[a-z0-9+#]*')
_QUOTES = re.compile(r'(?:[ ]{0,3}>[ ]?)*')  # of Markdown, before a fence
# Comments and strings (to their end, or the text's: so that none is begun twice), braces, classes, and main.
_JAVA = re.compile(
  r'//[^\n]*|/\*.*?(?:\*/|\Z)|"(?:\\.|[^"\\\n])*"?|\'(?:\\.|[^\'\\\n])*\'?|[{}]'
  r'|\bclass\s+([A-Za-z_$][\w$]*)|\bvoid\s+main\s*\(',
  re.DOTALL,
)
_PUBLIC_CLASS = re.compile(r'\bpublic\s+(?:final\s+)?class\s+([A-Za-z_$][\w$]*)')


class CompileError(Exception):
  """The program is none of its language; the text is the compiler's."""


@dataclasses.dataclass(frozen=True)
class Language:
  tags: tuple[str, ...]  # after the fence of a block
  tools: tuple[str, ...] = ()  # executables beside Python
  package: str = ''  # of Debian, which holds them
  overhead_mb: int = 0  # what the runtime itself takes, over the memory of the program


LANGUAGES = {
  'python': Language(('python', 'python3', 'py', 'py3')),
  'cpp': Language(('cpp', 'c++', 'cxx', 'cc'), ('g++',), 'g++'),
  'java': Language(('java',), ('javac', 'java'), 'default-jdk-headless', overhead_mb=256),
  'javascript': Language(('javascript', 'js', 'node', 'nodejs'), ('node',), 'nodejs', overhead_mb=256),
}


@dataclasses.dataclass(frozen=True)
class Executable:
  """What `sandbox.Box` takes."""

  command: list[str]
  files: dict[str, bytes]
  limits: sandbox.Limits


def extract(prompt, response, language):
  """The program in a response: its last fenced block after the thinking; None where there is none.

  A fence is a line that begins, after spaces and the > of quotes, with three or more ` or ~; the block ends at
  the next line that holds nothing but at least as many of the same. <answer> may stand before a fence, </answer>
  behind one. A block without an end is none: the response was cut. Where the last one has none, fences at the
  end of a line of code end blocks too.
  Blocks tagged as the language come first (the last of them counts), then those without a tag; others, such
  as its output, never count. Thinking that has not ended has nothing after it. Linear in the text's length.

  Args:
    prompt: see `templates.completed`.
    response: text.
    language: key of LANGUAGES.
  """
  after = templates.summary(templates.completed(prompt, response))
  if after is None:
    return None
  found = {}
  for tag, block in _blocks(after):
    found[tag] = block
    if tag in LANGUAGES[language].tags:
      found[language, 'last'] = block
  return found.get((language, 'last'), found.get(''))


def blocks(text, language):
  """The closed fenced blocks of a text that are tagged as a language, or not at all."""
  return [block for tag, block in _blocks(text) if tag in (*LANGUAGES[language].tags, '')]


def _blocks(text):
  """(tag, content) of the closed fenced blocks, in order."""
  lines = text.replace('\r\n', '\n').split('\n')
  blocks, closed = _fenced(lines, lenient=False)
  more, closed = (blocks, True) if closed else _fenced(lines, lenient=True)
  return more if closed else blocks


def _fenced(lines, lenient):
  """(tag, content) of the closed blocks, and whether none is open at the end; lenient: a line of code may close one."""
  blocks, fence = [], ''
  for line in lines:
    if not fence:
      quotes = _QUOTES.match(line)[0]
      line = line[len(quotes) :]
      bare = line.strip().removeprefix('<answer>').lstrip()
      run = _run(bare)
      if run and '`' not in bare[len(run) :]:
        fence, tag, content, indent = run, _tag(bare[len(run) :]), [], len(line) - len(line.lstrip(' '))
      continue
    line = line[re.match(r'(?:[ ]{0,3}>[ ]?){0,%d}' % quotes.count('>'), line).end() :] if quotes else line
    bare = line.strip().removesuffix('</answer>').rstrip()
    closes = bare.startswith(fence) and _run(bare) == bare
    code = bare.rstrip(fence[0]) if lenient and bare.endswith(fence) else ''
    if code or not closes:
      line = line[: line.index(code) + len(code)] if code else line
      content.append(line[min(indent, len(line) - len(line.lstrip(' '))) :])
    if code or closes:
      blocks.append((tag, '\n'.join(content) + '\n'))
      fence = ''
  return blocks, not fence


def _run(bare):
  """The ` or ~ that a line begins with, where they are enough for a fence."""
  return bare[: len(bare) - len(bare.lstrip(bare[0]))] if bare[:3] in ('```', '~~~') else ''


def _tag(info):
  """The first word of what follows a fence: 'python' of ' python title=a', and of '{.python}'."""
  return _WORD.match(info.strip().lstrip('{.').lower())[0]


def build(language, program, limits, unsafe):
  """Makes a program ready to run, compiling it in a sandbox where its language asks for that.

  Args:
    language: key of LANGUAGES.
    program: its source.
    limits: sandbox.Limits of a run.

  Returns:
    Executable.

  Raises:
    CompileError: with the compiler's message.
    ConfigError: the compiler is not installed.
  """
  source = program.encode(errors='replace')
  spec = LANGUAGES[language]
  tools = [_tool(name, language) for name in spec.tools]
  if language == 'python':
    return Executable(
      [bubblewrap.python(unsafe), *PYTHON_FLAGS, 'start.py'], {'main.py': source, 'start.py': _START}, limits
    )
  memory = limits.memory_mb
  limits = dataclasses.replace(limits, memory_mb=memory + spec.overhead_mb, mapped=not spec.overhead_mb)
  if language == 'javascript':
    return Executable(
      [*tools, f'--max-old-space-size={memory}', '--stack-size=4000', 'main.js'],
      {'main.js': source},
      dataclasses.replace(limits, stack_mb=64),
    )
  if language == 'cpp':
    built = _compile([*tools, '-O2', '-o', 'main', 'main.cpp'], 'main', {'main.cpp': source}, unsafe)
    return Executable(['./main'], built, dataclasses.replace(limits, stack_mb=memory))
  public, name = _PUBLIC_CLASS.search(program), _main_class(program)
  file = f'{public[1] if public else name}.java'
  compiler, java = tools
  built = _compile([compiler, *(f'-J{flag}' for flag in _JVM), file], '*.class', {file: source}, unsafe)
  return Executable([java, *_JVM, f'-Xmx{memory}m', '-Xss64m', '-cp', '.', name], built, limits)


def _compile(command, results, files, unsafe):
  """Runs a compiler. Returns the files that it made, as one archive for `sandbox.Box`."""
  limits = sandbox.Limits(COMPILE_SECONDS, COMPILE_MB, mapped=False, output=bubblewrap.TMP)
  archive = ['/bin/sh', '-c', f'"$@" >&2 && exec tar -cf - {results}', 'sh']
  with sandbox.Box([*archive, *command], limits, files=files, runtime=command[0], unsafe=unsafe) as box:
    sandbox.run([box])
  if box.broken or box.code:
    raise CompileError(box.broken or box.errors[:MESSAGE].decode(errors='replace').strip())
  return {'built.tar': bytes(box.output)}


def _main_class(program):
  """The outer class that the first `void main(` stands in; 'Main' where there is none."""
  depth, name = 0, 'Main'
  for match in _JAVA.finditer(program):
    if match[0] in '{}':
      depth += 1 if match[0] == '{' else -1
    elif match[1] and not depth:
      name = match[1]
    elif match[0].startswith('void'):
      break
  return name


@functools.cache
def _tool(name, language):
  """Where an executable lies. The sandbox shows /usr alone, so that is where it must be."""
  path = shutil.which(name, path='/usr/local/bin:/usr/bin:/bin')
  path = path and os.path.realpath(path)
  config.require(
    path and path.startswith('/usr/'),
    f"programs in '{language}' need {name}, which is not installed "
    f'under /usr: apt-get install {LANGUAGES[language].package}.',
  )
  return path
