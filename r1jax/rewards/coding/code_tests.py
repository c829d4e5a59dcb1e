"""The code reward: does a program pass its tests? Program and tests run in sandboxes, and the verdict is made outside.

A program that reads and prints is run once per test, and its output is compared here. Functions are tested from a
second sandbox (see `r1jax.rewards.coding.inside`): the program only gets the arguments of one call after another, and
all that it can influence is what these calls return.
"""

import contextlib
import decimal
import functools
import os
import pathlib
import re

from r1jax.config import ConfigError, require
from r1jax.rewards.coding import bubblewrap, call_tests, function_tests, programs, sandbox
from r1jax.rewards.printable import printable
from r1jax.rewards.text import language as language_lib

SCORES = ('all', 'fraction')
REASON = 1000  # bytes at the end of stderr in which an error message is looked for
DIGITS = 1000  # longest number in bytes; a longer one is compared as text
CACHE_SIZE = 256  # pairs of program and tests whose results a process remembers

_CACHE = {}
_NUMBER = re.compile(rb'[+-]?(?:[0-9]+(\.[0-9]*)?|(\.[0-9]+))([eE][+-]?[0-9]+)?')


def code(items, *, score='all', time_limit=5.0, memory_mb=512, tolerance=1e-6, unsafe=False):
  """The scores of `verdict`: a list of float in [0, 1]."""
  _check(score, time_limit, memory_mb, tolerance, unsafe)
  verdict_of = functools.partial(
    verdict, score=score, time_limit=time_limit, memory_mb=memory_mb, tolerance=tolerance, unsafe=unsafe
  )
  return [verdict_of(item)['score'] for item in items]


def verdict(item, *, score='all', time_limit=5.0, memory_mb=512, tolerance=1e-6, unsafe=False):
  """Runs the tests of a program.

  Args:
    item: dict with 'response', which contains the program (`programs.extract`), or without a response, 'program' (its
      source); and with one of
      - 'test' (Python that defines `check(candidate)`) and 'entry_point' (name of the function): a single test;
      - 'asserts' (list of Python statements, each a test). 'entry_point' may give the name of the tested function, or a
        list of names; without it they are found as in `function_tests`. 'hidden_asserts' may hold further tests that
        the prompt does not show;
      - 'io' (list of dicts with 'input' and 'output'): the printed text must equal 'output' (see `same_output`), and
        the exit status must be 0. With 'starter_code', the inputs and outputs are those of calls, see `call_tests`.
      Optional fields: 'setup', Python to run before 'test' or 'asserts' (the program gets its imports, and those of the
      prompt in 'problem' or 'prompt'); 'language', a key of `programs.LANGUAGES`, only for 'io' (default python; a
      natural language such as 'en' is ignored, since it is the problem's); 'time_limit', which overrides the option.
    score: 'all' scores 1 if all tests pass, else 0, and stops at the first failure; 'fraction' scores the share of
      tests that pass.
    time_limit: seconds per test, of processor time or of sleep; a compiler has its own limit.
    memory_mb: limit in MiB, for the program and for its tests separately.
    tolerance: absolute or relative tolerance for decimal fractions in 'output'; 0 compares them as text.
    unsafe: run without bubblewrap, inside a container of your own. The program can then attack this process.

  Returns:
    dict with 'score' (float), 'passed' and 'total' (numbers of tests) and 'reason' ('' if all pass).

  Raises:
    ConfigError: a bad option; bubblewrap or a compiler is missing or does not work.
    ValueError: the item has no tests, or its fields are not as described.
  """
  _check(score, time_limit, memory_mb, tolerance, unsafe)
  item = call_tests.as_asserts(item, tolerance)
  language, kind, tests = _parse_item(item)
  limits = sandbox.Limits(float(item.get('time_limit') or time_limit), memory_mb)
  if 'response' in item:  # it takes precedence over 'program'
    program = programs.extract(item.get('prompt') or '', item['response'], language)
  elif (program := item.get('program')) is None:
    raise ValueError("an item for code has neither 'response' nor 'program'; give one of them.")
  if program is None:
    results = [(False, f'no program: the response has no closed block of {language} after its thinking')]
  elif kind == 'io':
    results = _run_io_tests(program, language, tests, limits, tolerance, unsafe)
  else:
    results = _run_function_tests_cached(
      program, _parse_function_tests(item, kind, tests), limits, score == 'all', unsafe
    )
  passed, reason = 0, ''
  for i, (test_passed, test_reason) in enumerate(results):
    passed += test_passed
    reason = reason or ('' if test_passed else f'test {i + 1} of {len(tests)}: {test_reason}')
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
  require(isinstance(memory_mb, int), f'the option memory_mb of code is {memory_mb!r}; it must be an integer.')


def _parse_item(item):
  """Returns (language, kind, tests) of an item. Raises ValueError or ConfigError for fields that are not valid."""
  kinds = [kind for kind in ('test', 'asserts', 'io') if item.get(kind)]
  if len(kinds) != 1:
    raise ValueError(f"an item for code has {' and '.join(kinds) or 'no tests'}; give one of 'test', 'asserts', 'io'.")
  language = item.get('language') or 'python'
  language = 'python' if language in language_lib.LANGUAGES else language
  if not isinstance(language, str) or language not in programs.LANGUAGES:
    raise ConfigError(f"'language' of an item for code is {language!r}; known: {', '.join(programs.LANGUAGES)}.")
  (kind,) = kinds
  seconds = item.get('time_limit') or 1.0
  if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0.1 <= seconds <= 3600:
    raise ValueError(f"'time_limit' of an item for code is {seconds!r}; it must be seconds, in [0.1, 3600].")
  if kind != 'io' and language != 'python':
    raise ValueError(f"'{kind}' tests Python functions; an item for code in {language!r} needs 'io'.")
  entry_points, hidden = (item.get(key) or [] for key in ('entry_point', 'hidden_asserts'))
  valid = kind == 'test' or isinstance(item[kind], list)
  if valid and kind == 'io':
    valid = all(isinstance(test, dict) for test in item['io'])
  elif valid and kind == 'asserts':
    valid = isinstance(hidden, list) and isinstance(entry_points, (str, list))
  texts = [item.get(key) or '' for key in ('program', 'setup')]
  if valid:
    texts += {
      'test': lambda: [item['test'], entry_points],
      'asserts': lambda: [
        *item['asserts'],
        *hidden,
        *([entry_points] if isinstance(entry_points, str) else entry_points),
      ],
      'io': lambda: [test.get(key) for test in item['io'] for key in ('input', 'output')],
    }[kind]()
  if not valid or not all(isinstance(text, str) for text in texts):
    raise ValueError(
      "an item for code needs strings in 'program', 'setup', 'test' and 'entry_point', lists of strings in 'asserts' "
      "and 'hidden_asserts', and in 'io' a list of objects with the strings 'input' and 'output'; correct its "
      f'{kind!r}.'
    )
  if kind != 'io' and any('\0' in text for text in texts):
    raise ValueError('the program or tests of an item for code contain a NUL character, which Python source may not.')
  if kind == 'test':
    return language, kind, [f'{item["test"]}\ncheck({item["entry_point"]})']
  return language, kind, item[kind] + (hidden if kind == 'asserts' else [])


def _parse_function_tests(item, kind, tests):
  """Returns the function_tests.Tests of an item."""
  entry_points = item.get('entry_point') or ()
  entry_points = (entry_points,) if isinstance(entry_points, str) else tuple(entry_points)
  prompt = item.get('problem') or item.get('prompt') or ''
  return function_tests.prepare(
    tuple(tests), item.get('setup') or '', entry_points, prompt if isinstance(prompt, str) else ''
  )


def same_output(got, expected, tolerance):
  """Whether two byte strings have the same words, separated by any white space. Takes linear time.

  An expected word that is a decimal fraction or has an exponent may be missed by `tolerance`, absolute or relative:
  tasks that print fractions allow an error, and where they do not, wrong answers differ by more. A number that differs
  by more than a thousandth of the expected one must round to it: 0 is not 0.0000001. Integers are compared as text.
  """
  expected = expected.split()
  got = got.split(maxsplit=len(expected))  # one more word than expected is enough to see the difference
  return len(got) == len(expected) and all(g == e or _close_enough(g, e, tolerance) for g, e in zip(got, expected))


def _close_enough(got, expected, tolerance):
  if not tolerance or max(len(got), len(expected)) > DIGITS:
    return False
  number = _NUMBER.fullmatch(expected)
  if not number or not any(number.groups()) or not _NUMBER.fullmatch(got):
    return False
  try:
    got_number, expected_number = decimal.Decimal(got.decode()), decimal.Decimal(expected.decode())
    error, size, tolerance = abs(got_number - expected_number), abs(expected_number), decimal.Decimal(str(tolerance))
    exponent = int(expected_number.as_tuple().exponent)  # it is an int already, except for infinity and NaN
    half = 0 if number[3] else decimal.Decimal(5).scaleb(exponent - 1)  # of the last digit
    return error <= max(tolerance * size, min(tolerance, max(half, size / 1000) if expected_number else tolerance))
  except decimal.DecimalException:  # an exponent that is too large
    return False


def _run_io_tests(program, language, tests, limits, tolerance, unsafe):
  """Runs tests by stdin and stdout one by one; yields (passed, reason)."""
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
      yield False, f'exit status {box.code}' + _error_line(box)
    elif same_output(box.output, test['output'].encode(errors='replace'), tolerance):
      yield True, ''
    else:
      yield False, f'wrong output, beginning {bytes(box.output[:80]).decode(errors="replace")!r}'


def _run_function_tests_cached(*job):
  """The results of `_run_function_tests`, cached: a policy often writes the same program, and a run is expensive."""
  if job not in _CACHE:
    results, broken_limit = _run_function_tests(*job)
    if broken_limit:  # the next run may stay within the limit
      return results
    if len(_CACHE) >= CACHE_SIZE:
      del _CACHE[next(iter(_CACHE))]
    _CACHE[job] = results
  return _CACHE[job]


def _run_function_tests(program, prepared, limits, stop, unsafe):
  """Runs tests of functions.

  Returns:
    list of (passed, reason) of the tests that were reached, and the limit that ended them, or ''.
  """
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
            files=_inside_files() | files,
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
    finished = 0

    def restart_clocks():  # each test has the full time
      nonlocal finished
      if finished < (lines := checker.output.count(b'\n')):
        finished = lines
        candidate.restart_clock()
        checker.restart_clock()

    sandbox.run([candidate, checker], restart_clocks)
  lines = bytes(checker.output).decode(errors='replace').split('\n')[:-1]
  outcomes = [(line[0] == '1', line[2:]) for line in lines]
  if len(outcomes) < len(tests) and all(passed for passed, _ in outcomes):
    reason = candidate.broken or checker.broken or f'the tests ended with status {checker.code}' + _error_line(checker)
    outcomes.append((False, reason))
  return outcomes, candidate.broken or checker.broken


@functools.cache
def _inside_files():
  return {name: pathlib.Path(__file__).with_name(name).read_bytes() for name in ('exchange.py', 'inside.py')}


def _error_line(box):
  """The last line of stderr that mentions an error, or else its last line, as ': line'; '' if it is empty."""
  lines = bytes(box.errors[-REASON:]).decode(errors='replace').strip().split('\n')
  line = next((line for line in reversed(lines) if 'rror' in line), lines[-1])
  return f': {line}' if line else ''
