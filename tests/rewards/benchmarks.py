"""How the fields of public evaluation sets map to problems and graders, and the responses that must be right.

BENCHMARKS has what an evaluation's config says of each file: the settings of a config.Part, the reward, its options.
"""

import dataclasses
from typing import Any

from r1jax import config
from r1jax.data import mixture, reader
from r1jax.rewards import needs

BOX = '<think>\nHm.\n</think>\nSo it is $\\boxed{{}}$.'


@dataclasses.dataclass(frozen=True)
class Benchmark:
  """An evaluation set.

  Attributes:
    path: under the folder of public data sets.
    reward: name of the grader, with `options`.
    part: further settings of config.Part.
    response: function from a problem to a response that must be right; None if the file has no references.
  """

  path: str
  reward: str = 'math'
  options: dict = dataclasses.field(default_factory=dict)
  part: dict = dataclasses.field(default_factory=dict)
  response: Any = lambda problem: BOX.replace('{}', problem['answer'])

  def load(self, data_dir):
    """The problems of the file, and how many of its rows the reward cannot grade."""
    part = config.Part(source='jsonl', path=str(data_dir / self.path), **self.part)
    check = needs.checker(config.Reward(parts={self.reward: 1.0}, accuracy=self.reward, timeout=60.0))
    return reader.read_jsonl(part.path, mixture.row_converter(part, part.filter, check))


def _tags(problem):
  return f'<think>Hm.</think><answer>{problem["answer"]}</answer>'


def _fenced(program):
  return f'<think>Hm.</think>\n```python\n{program}\n```'


WITH_OPTIONS = {'problem': '{problem}\n{options}'}

BENCHMARKS = {
  'gsm8k': Benchmark(
    'math/gsm8k_test.jsonl',
    options={'where': 'stated'},
    response=lambda problem: f'{problem["solution"]}\n#### {problem["answer"]}',
  ),
  'math500': Benchmark('math/math500.jsonl', response=lambda problem: problem['solution']),
  'aime24': Benchmark('math/aime24.jsonl'),
  'aime25': Benchmark('math/aime25.jsonl'),
  'amc23': Benchmark('math/amc23.jsonl'),
  'olympiadbench': Benchmark('math/olympiadbench_en.jsonl'),
  'cmath': Benchmark('zh/cmath.jsonl'),
  'cn_middle_school': Benchmark('zh/cn_middle_school.jsonl', part={'kind': 'math'}),
  'gaokao2024': Benchmark('zh/gaokao2024_mix.jsonl'),
  'gaokao_cloze': Benchmark('zh/gaokao_math_cloze.jsonl'),
  'gaokao_qa': Benchmark('zh/gaokao_math_qa.jsonl', 'choice', part=WITH_OPTIONS),
  'mgsm': Benchmark('zh/mgsm.jsonl', part={'fields': {'lang': 'language'}}),
  'mmlu': Benchmark('knowledge/mmlu_test.jsonl.gz', 'choice', part=WITH_OPTIONS, response=_tags),
  'mmlu_pro': Benchmark('knowledge/mmlu_pro.jsonl.gz', 'choice', part=WITH_OPTIONS, response=_tags),
  'knights': Benchmark('logic/knights_knaves_test.jsonl', 'logic', response=_tags),
  'ifeval': Benchmark('instruct/ifeval.jsonl', 'ifeval', part={'problem': '{prompt}', 'answers': False}, response=None),
  'humaneval': Benchmark(
    'code/humaneval.jsonl',
    'code',
    part={'problem': 'Complete this function.\n```python\n{prompt}\n```', 'answers': False},
    response=lambda problem: _fenced(problem['prompt'] + problem['canonical_solution']),
  ),
  'mbpp': Benchmark(
    'code/mbpp.jsonl',
    'code',
    part={
      'fields': {'tests': 'asserts'},
      'problem': '{prompt}\nIt must pass these tests:\n{asserts}',
      'answers': False,
      'filter': {'split': ('test',)},
    },
    response=lambda problem: _fenced(problem['code']),
  ),
  'code_contests': Benchmark(
    'code/code_contests_test.jsonl.gz', 'code', part={'fields': {'tests': 'io'}, 'answers': False}, response=None
  ),
  'codeforces': Benchmark(
    'code/codeforces.jsonl', 'code', part={'fields': {'tests': 'io'}, 'answers': False}, response=None
  ),
  'apps': Benchmark(
    'code/apps_150.jsonl',
    'code',
    part={'fields': {'tests': 'io', 'kind': 'form'}, 'problem': '{problem}\n{starter_code}', 'answers': False},
    response=None,
  ),
  'harm': Benchmark('coldstart/star1_safety.jsonl.gz', 'refusal', part={'answers': False}, response=None),
}
