"""Programming languages: how a program is extracted from a response, compiled and started."""

import dataclasses
import functools
import os
import re
import shutil

from r1jax import config, templates
from r1jax.rewards.coding import bubblewrap, sandbox

COMPILE_SECONDS = 20.0
COMPILE_MB = 1024
MESSAGE = 2000  # characters that are kept of a compiler's message

PYTHON_FLAGS = ('-S', '-s', '-B', '-X', 'int_max_str_digits=0')  # no site-packages, no .pyc files, long integers
# Without site-packages there is no `exit`, which many programs call.
_START = b"""import _sitebuiltins, builtins
builtins.exit = builtins.quit = _sitebuiltins.Quitter('exit', '')
__file__ = 'main.py'
with open('main.py', 'rb') as program:
  program = compile(program.read(), 'main.py', 'exec')
del _sitebuiltins, builtins
exec(program)
"""

_JVM = ('-XX:+UseSerialGC', '-XX:TieredStopAtLevel=1')  # few threads: short programs do not benefit from more
_WORD = re.compile('[a-z0-9+#]*')
_QUOTES = re.compile(r'(?:[ ]{0,3}>[ ]?)*')  # Markdown quote marks before a fence
# Comments and strings (up to their end or the end of the text, so that none is scanned twice), braces, classes, main.
_JAVA = re.compile(
  r'//[^\n]*|/\*.*?(?:\*/|\Z)|"(?:\\.|[^"\\\n])*"?|\'(?:\\.|[^\'\\\n])*\'?|[{}]'
  r'|\bclass\s+([A-Za-z_$][\w$]*)|\bvoid\s+main\s*\(',
  re.DOTALL,
)
_PUBLIC_CLASS = re.compile(r'\bpublic\s+(?:final\s+)?class\s+([A-Za-z_$][\w$]*)')


class CompileError(Exception):
  """The program does not compile; the text is the compiler's message."""


@dataclasses.dataclass(frozen=True)
class Language:
  tags: tuple[str, ...]  # info strings of a fenced block
  tools: tuple[str, ...] = ()  # executables that it needs besides Python
  package: str = ''  # Debian package that contains them
  overhead_mb: int = 0  # memory that the runtime needs in addition to the program's


LANGUAGES = {
  'python': Language(('python', 'python3', 'py', 'py3')),
  'cpp': Language(('cpp', 'c++', 'cxx', 'cc'), ('g++',), 'g++'),
  'java': Language(('java',), ('javac', 'java'), 'default-jdk-headless', overhead_mb=256),
  'javascript': Language(('javascript', 'js', 'node', 'nodejs'), ('node',), 'nodejs', overhead_mb=256),
}


@dataclasses.dataclass(frozen=True)
class Executable:
  """A program that is ready to run; the arguments of `sandbox.Box`."""

  command: list[str]
  files: dict[str, bytes]
  limits: sandbox.Limits


def extract(prompt, response, language):
  """Extracts the program from a response: its last fenced block after the thinking.

  A fence is a line that begins, after spaces and > of quotes, with three or more ` or ~. The block ends at the next
  line that consists of at least as many of the same character. <answer> may precede a fence, and </answer> may follow
  one. A block without an end does not count, as the response was truncated. If the last block has no end, a fence at
  the end of a line of code ends a block, too.
  The last block with a tag of the language is preferred, then the last one without a tag; other blocks, such as
  program output, never count. There is no program if the thinking is not closed. Takes linear time.

  Args:
    prompt: see `templates.completed`.
    response: text.
    language: key of LANGUAGES.

  Returns:
    the source, or None if there is none.
  """
  summary = templates.summary(templates.completed(prompt, response))
  if summary is None:
    return None
  last = {}  # by tag
  for tag, block in _blocks(summary):
    last[tag] = block
    if tag in LANGUAGES[language].tags:
      last[language, 'last'] = block
  return last.get((language, 'last'), last.get(''))


def blocks(text, language):
  """The closed fenced blocks of a text that have a tag of the language, or none."""
  return [block for tag, block in _blocks(text) if tag in (*LANGUAGES[language].tags, '')]


def _blocks(text):
  """List of (tag, content) of the closed fenced blocks, in order."""
  lines = text.replace('\r\n', '\n').split('\n')
  blocks, closed = _fenced(lines, lenient=False)
  lenient_blocks, closed = (blocks, True) if closed else _fenced(lines, lenient=True)
  return lenient_blocks if closed else blocks


def _fenced(lines, lenient):
  """Returns the list of (tag, content) of the closed blocks, and whether none is open at the end.

  lenient: a fence at the end of a line of code closes a block, too.
  """
  blocks, fence = [], ''
  for line in lines:
    if not fence:
      quotes = _start(_QUOTES, line)
      line = line[len(quotes) :]
      bare = line.strip().removeprefix('<answer>').lstrip()
      opening_fence = _leading_fence(bare)
      if opening_fence and '`' not in bare[len(opening_fence) :]:
        fence, tag, content, indent = (
          opening_fence,
          _tag(bare[len(opening_fence) :]),
          [],
          len(line) - len(line.lstrip(' ')),
        )
      continue
    line = line[re.match(rf'(?:[ ]{{0,3}}>[ ]?){{0,{quotes.count(">")}}}', line).end() :] if quotes else line
    bare = line.strip().removesuffix('</answer>').rstrip()
    closes = bare.startswith(fence) and _leading_fence(bare) == bare
    code = bare.rstrip(fence[0]) if lenient and bare.endswith(fence) else ''
    if code or not closes:
      line = line[: line.index(code) + len(code)] if code else line
      content.append(line[min(indent, len(line) - len(line.lstrip(' '))) :])
    if code or closes:
      blocks.append((tag, '\n'.join(content) + '\n'))
      fence = ''
  return blocks, not fence


def _leading_fence(bare):
  """The run of ` or ~ that begins a line if it is long enough for a fence, else ''."""
  return bare[: len(bare) - len(bare.lstrip(bare[0]))] if bare[:3] in ('```', '~~~') else ''


def _tag(info):
  """The first word of a fence's info string: 'python' for ' python title=a' and for '{.python}'."""
  return _start(_WORD, info.strip().lstrip('{.').lower())


def _start(pattern, text):
  """The start of a text that a pattern matches; '' if there is none."""
  match = pattern.match(text)
  return match[0] if match else ''


def build(language, program, limits, unsafe):
  """Makes a program ready to run; compiles it in a sandbox if its language requires that.

  Args:
    language: key of LANGUAGES.
    program: source.
    limits: sandbox.Limits of a run.
    unsafe: see `sandbox.Box`.

  Returns:
    Executable.

  Raises:
    CompileError: the program does not compile.
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
  """Runs a compiler. Returns its output files as one archive, {'built.tar': bytes}, for `sandbox.Box`."""
  limits = sandbox.Limits(COMPILE_SECONDS, COMPILE_MB, mapped=False, output=bubblewrap.TMP)
  archive = ['/bin/sh', '-c', f'"$@" >&2 && exec tar -cf - {results}', 'sh']
  with sandbox.Box([*archive, *command], limits, files=files, runtime=command[0], unsafe=unsafe) as box:
    sandbox.run([box])
  if box.broken or box.code:
    raise CompileError(box.broken or box.errors[:MESSAGE].decode(errors='replace').strip())
  return {'built.tar': bytes(box.output)}


def _main_class(program):
  """The name of the outer class of the first `void main(` in a Java program; 'Main' if there is none."""
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
  """The path of an executable. It must be under /usr, since the sandbox contains nothing else."""
  path = shutil.which(name, path='/usr/local/bin:/usr/bin:/bin')
  path = path and os.path.realpath(path)
  config.require(
    path and path.startswith('/usr/'),
    f"programs in '{language}' need {name}, which is not installed under /usr: "
    f'apt-get install {LANGUAGES[language].package}.',
  )
  return path
