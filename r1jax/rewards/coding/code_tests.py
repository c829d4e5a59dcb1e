"""The code reward: does a program pass its tests? Both run in sandboxes, and the verdict is made outside.

A program that reads and prints is run once for each test, and what it printed is compared here. Functions
are tested from another sandbox than theirs (see `r1jax.rewards.coding.inside`): a program has nothing before it
but the arguments of one call after another, and can say nothing but what the calls return.
"""

import contextlib
import decimal
import functools
import os
import pathlib
import re

from r1jax.config import ConfigError, require
from r1jax.rewards.coding import bubblewrap, function_tests, programs, sandbox
from r1jax.rewards.printable import printable
from r1jax.rewards.text import language as language_lib

SCORES = ('all', 'fraction')
REASON = 1000  # bytes of a program's own last words
DIGITS = 1000  # bytes of a number; a longer one is compared as text
KEPT = 256  # programs and tests whose results a process remembers

_KNOWN = {}
_NUMBER = re.compile(rb'[+-]?(?:[0-9]+(\.[0-9]*)?|(\.[0-9]+))([eE][+-]?[0-9]+)?')


def code(items, *, score='all', time_limit=5.0, memory_mb=512, tolerance=1e-6, unsafe=False):
  """Scores in [0, 1]: see `verdict`."""
  options = dict(score=score, time_limit=time_limit, memory_mb=memory_mb, tolerance=tolerance, unsafe=unsafe)
  _check(score, time_limit, memory_mb, tolerance, unsafe)
  return [verdict(item, **options)['score'] for item in items]


def verdict(item, *, score='all', time_limit=5.0, memory_mb=512, tolerance=1e-6, unsafe=False):
  """Runs a program's tests.

  Args:
    item: dict with 'response', from which the program is taken (`programs.extract`), or without one, 'program'
      (source); and one of
      'test' (Python that defines `check(candidate)`) with 'entry_point' (the function's name): one test;
      'asserts' (list of Python statements, each a test), where 'entry_point' may be the functions' names, one or a
      list: see `function_tests` for what they are without it. 'hidden_asserts' may hold more, which the prompt does
      not show;
      'io' (list of dicts with 'input' and 'output'): what is printed equals 'output' as `same_output` says,
      and the program ends with status 0.
      Optional: 'setup', Python to run before 'test' or 'asserts', whose imports the program has too, as those of the
      prompt ('problem', or 'prompt'); 'language', a key of `programs.LANGUAGES`
      (python; one of people, as 'en', is the problem's), for 'io'; 'time_limit', which goes before the option.
    score: 'all' scores 1 where all tests pass, else 0, and stops at the first that fails; 'fraction' scores
      the share that passes.
    time_limit: seconds of a test, of processor time or of sleep; a compiler has its own.
    memory_mb: of the program and of its tests, each.
    tolerance: of decimal fractions in 'output', absolute or relative; 0 compares them as text.
    unsafe: without bubblewrap, for those who run this inside a container of their own. The process can then
      be attacked by the program.

  Returns:
    dict with 'score' (float), 'passed', 'total' (tests), 'reason' ('' where all pass).

  Raises:
    ConfigError: a bad option; bubblewrap or a compiler is missing or does not work.
    ValueError: the item has no tests, or not as described.
  """
  _check(score, time_limit, memory_mb, tolerance, unsafe)
  language, kind, tests = _described(item)
  limits = sandbox.Limits(float(item.get('time_limit') or time_limit), memory_mb)
  if 'response' in item:  # what the model wrote, whatever else a row holds
    program = programs.extract(item.get('prompt') or '', item['response'], language)
  elif (program := item.get('program')) is None:
    raise ValueError("an item for code has neither 'response' nor 'program'.")
  if program is None:
    results = [(False, f'no program: the response has no closed block of {language} after its thinking')]
  elif kind == 'io':
    results = _runs(program, language, tests, limits, tolerance, unsafe)
  else:
    results = _once(program, _prepared(item, kind, tests), limits, score == 'all', unsafe)
  passed, reason = 0, ''
  for at, (ok, why) in enumerate(results):
    passed += ok
    reason = reason or ('' if ok else f'test {at + 1} of {len(tests)}: {why}')
    if reason and score == 'all':
      break
  share = float(passed == len(tests)) if score == 'all' else passed / len(tests)
  return {'score': share, 'passed': passed, 'total': len(tests), 'reason': printable(reason)}


def _check(score, time_limit, memory_mb, tolerance, unsafe):
  require(score in SCORES, f'the option score of code is {score!r}; known: {", ".join(SCORES)}.')
  require(isinstance(unsafe, bool), f'the option unsafe of code is {unsafe!r}; use True or False.')
  for name, value, least, most in (
    ('time_limit', time_limit, 0.1, 3600),
    ('memory_mb', memory_mb, 64, 1 << 20),
    ('tolerance', tolerance, 0, 1),
  ):
    require(
      isinstance(value, (int, float)) and least <= value <= most,
      f'the option {name} of code is {value!r}; it must be a number in [{least}, {most}].',
    )
  require(isinstance(memory_mb, int), f'the option memory_mb of code is {memory_mb!r}; it must be whole.')


def _described(item):
  """(language, kind, tests) of an item."""
  kinds = [kind for kind in ('test', 'asserts', 'io') if item.get(kind)]
  if len(kinds) != 1:
    raise ValueError(f"an item for code has {' and '.join(kinds) or 'no tests'}; give one of 'test', 'asserts', 'io'.")
  language = item.get('language') or 'python'
  language = 'python' if language in language_lib.LANGUAGES else language
  if not isinstance(language, str) or language not in programs.LANGUAGES:
    raise ConfigError(f'an item for code is in {language!r}; known languages: {", ".join(programs.LANGUAGES)}.')
  (kind,) = kinds
  seconds = item.get('time_limit') or 1.0
  if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0.1 <= seconds <= 3600:
    raise ValueError(f"'time_limit' of an item for code is {seconds!r}; it must be seconds, in [0.1, 3600].")
  if kind != 'io' and language != 'python':
    raise ValueError(f"'{kind}' tests functions of Python; an item in {language!r} needs 'io'.")
  points, hidden = (item.get(key) or [] for key in ('entry_point', 'hidden_asserts'))
  listed = kind == 'test' or isinstance(item[kind], list)
  if listed and kind == 'io':
    listed = all(isinstance(test, dict) for test in item['io'])
  elif listed and kind == 'asserts':
    listed = isinstance(hidden, list) and isinstance(points, (str, list))
  texts = [item.get(key) or '' for key in ('program', 'setup')]
  if listed:
    texts += {
      'test': lambda: [item['test'], points],
      'asserts': lambda: [*item['asserts'], *hidden, *([points] if isinstance(points, str) else points)],
      'io': lambda: [test.get(key) for test in item['io'] for key in ('input', 'output')],
    }[kind]()
  if not listed or not all(isinstance(text, str) for text in texts):
    raise ValueError(
      "an item for code needs texts: 'program', 'setup', 'test' and 'entry_point', the lists 'asserts' "
      f"and 'hidden_asserts', or in the list 'io' objects with 'input' and 'output'; its {kind!r} is "
      'not so.'
    )
  if kind != 'io' and any('\0' in text for text in texts):
    raise ValueError("the program or tests of an item for code hold a NUL character, which Python's source cannot.")
  if kind == 'test':
    return language, kind, [f'{item["test"]}\ncheck({item["entry_point"]})']
  return language, kind, item[kind] + (hidden if kind == 'asserts' else [])


def _prepared(item, kind, tests):
  """function_tests.Tests of an item."""
  entry_points = item.get('entry_point') or ()
  entry_points = (entry_points,) if isinstance(entry_points, str) else tuple(entry_points)
  prompt = item.get('problem') or item.get('prompt') or ''
  return function_tests.prepare(
    tuple(tests), item.get('setup') or '', entry_points, prompt if isinstance(prompt, str) else ''
  )


def same_output(got, expected, tolerance):
  """Whether two texts have the same words, white space aside; a word is a run of other bytes. In linear time.

  An expected word that is a decimal fraction, or has an exponent, may be missed by `tolerance`, or by that share of
  it: tasks that print fractions allow an error, and those that do not differ by more. What differs by more than a
  thousandth is right only where it rounds to what is expected: 0 is not 0.0000001. Integers are compared as text.
  """
  want = expected.split()
  got = got.split(maxsplit=len(want))  # one word more tells enough
  return len(got) == len(want) and all(g == w or _close(g, w, tolerance) for g, w in zip(got, want))


def _close(got, want, tolerance):
  if not tolerance or max(len(got), len(want)) > DIGITS:
    return False
  number = _NUMBER.fullmatch(want)
  if not number or not any(number.groups()) or not _NUMBER.fullmatch(got):
    return False
  try:
    found, right = decimal.Decimal(got.decode()), decimal.Decimal(want.decode())
    missed, size, tolerance = abs(found - right), abs(right), decimal.Decimal(str(tolerance))
    half = 0 if number[3] else decimal.Decimal(5).scaleb(right.as_tuple().exponent - 1)  # of the last digit
    return missed <= max(tolerance * size, min(tolerance, max(half, size / 1000) if right else tolerance))
  except decimal.DecimalException:  # beyond all exponents
    return False


def _runs(program, language, tests, limits, tolerance, unsafe):
  """Yields (passed, reason) of one test by stdin and stdout after another."""
  try:
    executable = programs.build(language, program, limits, unsafe)
  except programs.CompileError as error:
    yield False, f'compilation failed: {error}'
    return
  for test in tests:
    files = {**executable.files, 'stdin': test['input'].encode(errors='replace')}
    with sandbox.Box(executable.command, executable.limits, files=files, unsafe=unsafe) as box:
      sandbox.run([box])
    if box.broken:
      yield False, box.broken
    elif box.code:
      yield False, f'exit status {box.code}' + _last_words(box)
    elif same_output(box.output, test['output'].encode(errors='replace'), tolerance):
      yield True, ''
    else:
      yield False, f'wrong output, beginning {bytes(box.output[:80]).decode(errors="replace")!r}'


def _once(*job):
  """The results of _calls. A trained policy writes the same program many times over, and each costs two sandboxes."""
  if job not in _KNOWN:
    results, broken = _calls(*job)
    if broken:  # a limit: it may be met the next time
      return results
    if len(_KNOWN) >= KEPT:
      del _KNOWN[next(iter(_KNOWN))]
    _KNOWN[job] = results
  return _KNOWN[job]


def _calls(program, prepared, limits, stop, unsafe):
  """(passed, reason) of tests of functions, as many as were come to, and what limit ended them, or ''."""
  tests = prepared.tests
  job = '\0'.join(['stop' if stop else '', ' '.join(prepared.names), prepared.setup, *tests]).encode(errors='replace')
  with contextlib.ExitStack() as stack:
    (calls, ask), (results, answer) = pipes = os.pipe(), os.pipe()
    try:
      candidate, checker = [
        stack.enter_context(
          sandbox.Box(
            [bubblewrap.python(unsafe), *programs.PYTHON_FLAGS, 'inside.py', role, *map(str, fds)],
            limits,
            files={'inside.py': _inside(), **files},
            fds=fds,
            unsafe=unsafe,
          )
        )
        for role, fds, files in (
          (
            'candidate',
            (calls, answer),
            {'program.py': program.encode(errors='replace'), 'starter.txt': prepared.starter.encode(errors='replace')},
          ),
          ('checker', (results, ask), {'job.txt': job}),
        )
      ]
    finally:
      for fd in sum(pipes, ()):
        os.close(fd)
    seen = 0

    def heard():
      nonlocal seen
      if seen < (lines := checker.output.count(b'\n')):
        seen = lines
        candidate.lap()
        checker.lap()

    sandbox.run([candidate, checker], heard)
  lines = bytes(checker.output).decode(errors='replace').split('\n')[:-1]
  found = [(line[0] == '1', line[2:]) for line in lines]
  if len(found) < len(tests) and all(ok for ok, _ in found):
    why = candidate.broken or checker.broken or f'the tests ended with status {checker.code}' + _last_words(checker)
    found.append((False, why))
  return found, candidate.broken or checker.broken


@functools.cache
def _inside():
  return pathlib.Path(__file__).with_name('inside.py').read_bytes()


def _last_words(box):
  """The last line of what a program wrote to stderr that speaks of an error, or else the last one."""
  lines = bytes(box.errors[-REASON:]).decode(errors='replace').strip().split('\n')
  line = next((line for line in reversed(lines) if 'rror' in line), lines[-1])
  return f': {line}' if line else ''
