"""The code reward: items, verdicts, and the values that a program and its tests exchange."""

import concurrent.futures
import gc
import glob
import shutil
import time

import pytest

from r1jax import config, rewards
from r1jax.rewards.coding import bubblewrap, code_tests, function_tests, programs
from r1jax.rewards.workers import pool
from tests.rewards import sandboxed

pytestmark = sandboxed.NEEDED

CALLS = ['assert double(2) == 4', 'assert sorted([double(3), double(1)]) == [2, 6]', 'assert abs(double(5) - 10) < 1']
HONEST = 'def double(x):\n  return 2 * x\nif __name__ == "__main__":\n  print(double(int(input())))'
HONEST_IN = {
  'cpp': '#include <iostream>\nint main() {long long x; std::cin >> x; std::cout << 2 * x;}',
  'java': 'import java.util.*;\nclass Other {String s = "class } {";}\nclass Solution {\n'
  '  static class Pair {}\n  public static void main(String[] args) {\n'
  '    System.out.println(2 * new Scanner(System.in).nextLong());}}',
  'javascript': 'const text = require("fs").readFileSync("/dev/stdin", "utf8");\nconsole.log(2 * parseInt(text))',
}


def calls(program, **fields):
  return {'program': program, 'asserts': CALLS} | fields


def runs(program, inputs=(2,), **fields):
  return {'program': program, 'io': [{'input': f'{x}\n', 'output': f'{2 * x}\n'} for x in inputs], **fields}


def score(item, **options):
  return code_tests.verdict(item, **options)['score']


def check(item, passed, total, reason, **options):
  verdict = code_tests.verdict(item, **options)
  assert (verdict['passed'], verdict['total']) == (passed, total), verdict
  assert reason in verdict['reason'] and bool(reason) == bool(verdict['reason']), verdict


def test_a_right_program_passes_and_a_wrong_one_says_where():
  check(calls(HONEST), 3, 3, '')
  check(calls('double = lambda x: x * x'), 1, 3, 'test 2 of 3: AssertionError')
  check(calls('double = lambda x: x * x if x < 4 else 2 * x'), 2, 3, 'test 2 of 3', score='fraction')
  check(calls('def double(x): return 1 / 0'), 0, 3, 'ZeroDivisionError: division by zero')
  check(calls('twice = 2'), 0, 3, "NameError: name 'double' is not defined")
  check(calls('def double(x) return 2'), 0, 3, 'SyntaxError')
  check(runs(HONEST, (1, 2, 3)), 3, 3, '')
  check(runs('print(input()*2)', (0, 1)), 0, 2, "test 1 of 2: wrong output, beginning '00")
  check(runs('print(4)', (1, 2, 3)), 0, 3, 'test 1 of 3')
  check(runs('print(4)', (1, 2, 3)), 1, 3, 'test 1 of 3', score='fraction')
  check(runs('print(4)\nx = [][1]'), 0, 1, 'exit status 1: IndexError: list index out of range')


def test_an_equal_program_runs_once_but_where_a_limit_ended_it(monkeypatch):
  runs_so_far, run = [], code_tests.sandbox.run
  monkeypatch.setattr(code_tests.sandbox, 'run', lambda *boxes: (runs_so_far.append(1), run(*boxes)))
  for program, times in (
    (HONEST + '  # again', 1),
    ('double = lambda x: x * x  # again', 2),
    ('def double(x):\n  while True: pass', 4),
  ):
    verdicts = [code_tests.verdict(calls(program), time_limit=0.3) for _ in range(2)]
    assert verdicts[0] == verdicts[1] and len(runs_so_far) == times
  check(calls(HONEST + '  # again', asserts=['assert double(1) == 3']), 0, 1, 'AssertionError')
  assert len(runs_so_far) == 5 and len(code_tests._CACHE) <= code_tests.CACHE_SIZE


def test_a_test_that_checks_a_candidate():
  test = "METADATA = {}\ndef check(candidate):\n  assert candidate(2) == 4\n  assert candidate('a') == 'aa', 'text'\n"
  item = {'program': HONEST, 'test': test, 'entry_point': 'double'}
  check(item, 1, 1, '')
  check(dict(item, program='double = lambda x: 2 * x if x == 2 else x'), 0, 1, 'AssertionError: text')
  check(dict(item, entry_point='twice'), 0, 1, "'twice' is not defined")


@pytest.mark.parametrize(
  'value',
  [
    'None',
    'True',
    '0',
    '-1',
    '1 << 64',
    '-7 ** 9999',
    '1.5',
    '-0.0',
    'float("inf")',
    'float("nan")',
    '2 + 3j',
    '""',
    r'"a\n;\0\ud800é"',
    'b""',
    r'b"\0a"',
    '[]',
    '[1, [2, (3,)]]',
    '()',
    '(1,)',
    '{1, "a"}',
    'frozenset({(1, 2)})',
    '{}',
    '{"a": [1], (1, None): {2: 3}}',
    'int',
    'ValueError',
  ],
)
def test_plain_data_crosses_both_ways(value):
  same = 'type(x) is type(value) and (x == value or repr(x) == repr(value))'
  program = f'def same(x):\n  value = {value}\n  assert {same}\n  return x'
  check({'program': program, 'asserts': [f'value = {value}\nx = same(value)\nassert {same}']}, 1, 1, '')


def test_subclasses_cross_as_the_built_in_type():
  program = (
    'import collections, enum\nN = collections.namedtuple("N", "a b")\nclass E(enum.IntEnum):\n  A = 3\n'
    'def give(i): return [collections.Counter("aab"), N(1, 2), E.A, collections.OrderedDict(x=1)][i]'
  )
  asserts = [
    'assert give(0) == {"a": 2, "b": 1} and type(give(0)) is dict',
    'assert give(1) == (1, 2)',
    'assert give(2) == 3 and type(give(2)) is int',
    'assert give(3) == {"x": 1}',
  ]
  check({'program': program, 'asserts': asserts}, 4, 4, '')


def test_objects_iterators_errors_callbacks_and_changed_arguments():
  program = (
    'class Node:\n  def __init__(self, value): self.value = value; self.next = None\n'
    '  def __eq__(self, other): return True\n'
    'def length(n): return 0 if n is None else 1 + length(n.next)\n'
    'def count(n):\n  for i in range(n): yield i\n'
    'class Mine(KeyError): pass\ndef fail(): raise Mine("no")\n'
    'def sort(l): l.sort(); l[0].append(9)\ndef fill(d, s): d[1] = 2; s.clear()\n'
    'def apply(f, *a, **k): return f(*a, **k)\nimport math'
  )
  asserts = [
    'a, b = Node(1), Node(2)\na.next = b\nassert length(a) == 2 and a.next.value == 2 and a.next is b',
    'assert Node(1) != Node(1) and not Node(1) == 3',
    'assert list(count(3)) == [0, 1, 2] and next(count(1)) == 0',
    'assert sum(x for x in count(4)) == 6',
    'try: fail()\nexcept KeyError as e: assert str(e) == "\'no\'"\nelse: assert False',
    'l = [[2], [1]]\nsort(l)\nassert l == [[1, 9], [2]]',
    'd, s = {}, {1}\nfill(d, s)\nassert d == {1: 2} and s == set()',
    'assert apply(lambda x, y=0: x + y, 3, y=4) == 7 and apply(sum, [1, 2]) == 3 and apply(int, "3") == 3',
    'assert math.isclose(apply(math.sqrt, 4), 2)',
  ]
  check({'program': program, 'asserts': asserts}, 9, 9, '', score='fraction')


def test_setup_runs_before_the_tests_and_a_built_in_name_may_be_the_task():
  check({'program': HONEST, 'setup': 'import math\nx = double(2)', 'asserts': ['assert math.sqrt(x) == 2']}, 1, 1, '')
  check({'program': HONEST, 'setup': 'import nothing', 'asserts': CALLS}, 0, 3, "No module named 'nothing'")
  check({'program': 'def sum(a, b): return a - b', 'asserts': ['assert sum(3, 1) == 2']}, 1, 1, '')
  check({'program': 'def _sum(a): return a', 'asserts': ['assert _sum(3) == 3']}, 1, 1, '')


def test_each_test_has_its_own_time():
  slow = 'import time\ndef double(x):\n  time.sleep(0.4 if x < 9 else 9)\n  return 2 * x'
  tests = [f'assert double({x}) == {2 * x}' for x in (1, 2, 3, 9, 1)]
  verdict = code_tests.verdict({'program': slow, 'asserts': tests}, time_limit=0.9, score='fraction')
  assert (verdict['passed'], verdict['reason']) == (3, 'test 4 of 5: time limit of 0.9 s')
  assert score(calls(slow, time_limit=3), time_limit=0.2) == 1.0


@pytest.mark.parametrize('language', list(HONEST_IN))
def test_other_languages_read_and_print(language):
  if not all(shutil.which(tool) for tool in programs.LANGUAGES[language].tools):
    pytest.skip(f'no compiler of {language} here')
  source = HONEST_IN[language]
  check(runs(source, (1, 2), language=language), 2, 2, '', time_limit=10)
  check(runs(source.replace('2 *', '3 *'), language=language), 0, 1, 'wrong output', time_limit=10)
  check(runs(source[:-4], language=language), 0, 1, 'rror', time_limit=10)


def test_a_missing_compiler_is_named(monkeypatch):
  monkeypatch.setattr(programs.shutil, 'which', lambda *_, **__: None)
  programs._tool.cache_clear()
  with pytest.raises(config.ConfigError, match="'cpp' need g\\+\\+, .* apt-get install g\\+\\+"):
    code_tests.verdict(runs('', language='cpp'))


@pytest.mark.parametrize(
  ('got', 'expected', 'same'),
  [
    ('1 2\n3', '1 2\n3\n\n', True),
    ('1  2 \n 3\n', '1 2 3', True),
    ('', '\n', True),
    ('1', '1 1', False),
    ('yes', 'YES', False),
    ('1.0', '1', False),
    ('01', '1', False),
    ('3.1622776', '3.162277660', True),
    ('3', '3.0', True),
    ('3.1623', '3.162277660', False),
    ('1e3', '1000.0', True),
    ('nan', '1.5', False),
    ('1_0.5', '10.5', False),
    ('100000010.0', '100000000.0', True),
    ('-0.0000001', '0.0', True),
    ('1.5.2', '1.5.3', False),
    ('\u00a01', '1', False),
    ('.5', '0.5', True),
  ],
)
def test_output_is_compared_by_words_and_fractions_within_a_tolerance(got, expected, same):
  assert code_tests.same_output(got.encode(), expected.encode(), 1e-6) == same
  if expected != got and '.' in expected:
    assert not code_tests.same_output(got.encode(), expected.encode(), 0)


@pytest.mark.parametrize(
  ('prompt', 'response', 'program'),
  [
    ('', 'Text\n```python\nx = 1\n```\nMore.', 'x = 1\n'),
    ('', '```\na\n```', 'a\n'),
    ('', '```py\na\n```\n```Python3\nb\n```\n', 'b\n'),
    ('', '~~~~ python\na\n~~~\n~~~~~', 'a\n~~~\n'),
    ('', '```python\na\n```\nprints\n```\n5\n```', 'a\n'),
    ('', '```text\n5\n```', None),
    ('', '```\na\n```\n```bash\nb\n```', 'a\n'),
    ('', '```python\na', None),
    ('', '```python\na\n```\n```python\nb', 'a\n'),
    ('', 'x ```python\na\n```', None),
    ('', 'no block', None),
    ('', '', None),
    ('', '```{.python}\na\n```', 'a\n'),
    ('', '- so:\n   ```python\n   def f():\n     pass\n  x\n   ```\n', 'def f():\n  pass\nx\n'),
    ('', '```python title="a.py"\r\na\r\n```\r\n', 'a\n'),
    ('', '```python\n\n\n```', '\n\n'),
    ('', '```inline` code```\n```python\na\n```', 'a\n'),
    ('', '<think>```python\na\n```</think>\n```python\nb\n```', 'b\n'),
    ('', '<think>\n```python\na\n```</think>no', None),
    ('Q<think>', '\n```python\na\n```\n', None),
    ('Q<think>', 'hm</think>\n```python\na\n```\n', 'a\n'),
    ('', '<think>\n```python\na\n```', None),
    ('', '</think>\n```python\na\n```\n</think>\n', None),
    ('', '<think>a</think><answer>\n```python\na\n```\n</answer>', 'a\n'),
    ('', '```cpp\na\n```', None),
    ('', '```C++\na\n```\n```\nb\n```', 'b\n'),
  ],
)
def test_the_program_in_a_response(prompt, response, program):
  assert programs.extract(prompt, response, 'python') == program


def test_the_program_is_looked_for_in_the_language_of_the_item():
  response = '```python\na\n```\n```c++\nb\n```\n```java\nc\n```\n```js\nd\n```\n'
  blocks = [programs.extract('', response, language) for language in ('cpp', 'java', 'javascript')]
  assert blocks == ['b\n', 'c\n', 'd\n']


def test_hidden_asserts_count_and_a_table_of_those_shown_fails_them():
  hidden = calls(HONEST, asserts=CALLS[:1], hidden_asserts=CALLS[1:])
  check(hidden, 3, 3, '')
  check(dict(hidden, program='def double(x): return {2: 4}[x]'), 1, 3, 'test 2 of 3: KeyError', score='fraction')


def test_a_response_without_a_program_scores_nothing():
  check({'response': f'<think>```python\n{HONEST}\n```', 'asserts': CALLS}, 0, 3, 'no program')
  check({'prompt': 'p', 'response': f'so</think>\n```python\n{HONEST}\n```', 'asserts': CALLS}, 3, 3, '')


def test_finding_the_program_is_linear_in_the_length():
  for text in (
    '```' * 300000,
    '`' * 1000000,
    '```\n' * 250000,
    '~' * 999 + '\n' + '~' * 999000,
    ' ' * 1000000,
    '```python\n' * 100000,
    '</think>' * 100000,
    '``` `\n' * 150000,
    '```{' + '{' * 1000000,
  ):
    start = time.process_time()
    programs.extract('', text, 'python')
    programs._main_class(text)
    assert time.process_time() - start < 2, text[:20]


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'score': 'most'}, "score of code is 'most'; known: all, fraction"),
    ({'time_limit': 0}, 'time_limit of code is 0'),
    ({'memory_mb': 1}, 'memory_mb'),
    ({'memory_mb': 99.5}, 'memory_mb of code is 99.5'),
    ({'tolerance': -1}, 'tolerance'),
    ({'unsafe': 'no'}, "unsafe of code is 'no'"),
  ],
)
def test_bad_options_are_refused_without_items(options, message):
  with pytest.raises(config.ConfigError, match=message):
    code_tests.code([], **options)
  assert code_tests.code([], score='fraction', time_limit=1, memory_mb=100, tolerance=0, unsafe=True) == []


@pytest.mark.parametrize(
  ('item', 'message'),
  [
    ({'program': ''}, 'no tests'),
    (calls('', io=[{'input': '', 'output': ''}]), 'asserts and io'),
    (calls('', language='cpp'), "'asserts' tests Python.*'cpp' needs 'io'"),
    (calls('', language='rust'), "'language' .* 'rust'; known: python, cpp"),
    ({'asserts': CALLS}, "neither 'response' nor 'program'"),
    ({'program': '', 'test': 'x = 1'}, "its 'test'"),
    ({'program': '', 'io': [{'input': 'x'}]}, "its 'io'"),
    ({'program': '', 'asserts': [3]}, "its 'asserts'"),
  ],
)
def test_items_without_sense_are_refused(item, message):
  with pytest.raises(ValueError, match=message):
    code_tests.verdict(item)


def test_unsafe_works_without_bubblewrap(monkeypatch):
  monkeypatch.setattr(bubblewrap.shutil, 'which', lambda *_, **__: None)
  bubblewrap._system.cache_clear()
  try:
    for program, passes in ((HONEST, 1), ('double = abs', 0)):
      assert score(calls(program), unsafe=True) == score(runs(program), unsafe=True) == passes
    check(runs('while True: pass'), 0, 1, 'time limit', unsafe=True, time_limit=0.3)
    with pytest.raises(config.ConfigError, match='apt-get install bubblewrap'):
      code_tests.verdict(runs(HONEST))
  finally:
    bubblewrap._system.cache_clear()
  assert not glob.glob('/tmp/r1jax-*')


def test_by_its_name_in_the_pool():
  items = [calls(HONEST), calls('double = abs'), runs(HONEST), runs('print(5)')]
  assert rewards.resolve('code')(items) == [1, 0, 1, 0]
  with pool.Grader({'code': {'score': 'fraction'}}, workers=2, timeout=60) as grader:
    scores = grader.submit(items * 3).result()
  assert scores.parts['code'].tolist() == [1, 0, 1, 0] * 3
  assert scores.verdicts['code'][1]['reason'].startswith('test 1 of 3: AssertionError')


@pytest.mark.parametrize(
  ('program', 'tests'),
  [
    (
      'class sys:\n  getsizeof = staticmethod(lambda x: 0)\ndef f(t): return 0',
      ['assert f((1, 2)) == sys.getsizeof((1, 2))'],
    ),
    ('class math:\n  isclose = lambda *a, **k: True\ndef f(x): return 0', ['assert math.isclose(f(5), 78.5)']),
    ('def f(x): raise StopIteration', ['assert all(y == 5 for y in map(f, [1, 2, 3]))']),
    ('def f(x): raise StopIteration', ['for got, want in zip(map(f, [1, 2]), [1, 4]): assert got == want']),
    (
      'class E:\n  __iter__ = lambda s: iter([])\n  __len__ = lambda s: 3\ndef f(): return E()',
      ['r = f()\nassert len(r) == 3\nfor a, b in zip(r, [1, 2, 3]): assert a == b'],
    ),
  ],
)
def test_what_a_program_says_of_itself_decides_nothing(program, tests):
  assert code_tests.verdict({'program': program, 'asserts': tests})['score'] == 0.0


@pytest.mark.parametrize(
  ('item', 'message'),
  [
    (calls('', hidden_asserts='assert 1'), "its 'asserts'"),
    (calls('', hidden_asserts=[1]), "its 'asserts'"),
    (calls('', entry_point=3), "its 'asserts'"),
    (calls('', entry_point=[3]), "its 'asserts'"),
    (calls('', setup='x = 1\0'), 'NUL'),
    ({'program': '', 'asserts': 'assert f(2) == 4'}, "its 'asserts'"),
    ({'program': 5, 'asserts': ['x']}, "its 'asserts'"),
    ({'program': '', 'io': ['abc']}, "its 'io'"),
    (calls('', time_limit='abc'), "'time_limit' of an item"),
    (calls('', time_limit=-5), "'time_limit' of an item"),
    (calls('', time_limit=float('nan')), "'time_limit' of an item"),
  ],
)
def test_items_of_other_types_are_refused(item, message):
  with pytest.raises(ValueError, match=message):
    code_tests.verdict(item)


def test_tests_are_read_by_several_threads_at_once():
  def switch_thread(*_):
    time.sleep(0)

  lines = ''.join(f'  assert candidate([{i}, {i}]) == [[{i}], ({i},)]\n' for i in range(30))
  gc.callbacks.append(switch_thread)  # so that Python changes threads in the middle of `ast.parse`
  try:
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
      read = list(
        threads.map(lambda i: function_tests.prepare((f'def check(candidate):\n{lines}# {i}',), '', ('f',)), range(12))
      )
  finally:
    gc.callbacks.remove(switch_thread)
  assert {tests.names for tests in read} == {('f',)}
