"""Responses that must be right in the tasks of configs/evaluation.py, made from the files' own references."""

import functools

from configs import evaluation
from r1jax import config
from r1jax.data import mixture, reader
from r1jax.rewards import needs


def _boxed(problem):
  return f'<think>\nHm.\n</think>\nSo it is $\\boxed{{{problem["answer"]}}}$.'


def _tags(problem):
  return f'<think>Hm.</think><answer>{problem["answer"]}</answer>'


def _program(problem):
  text = problem['code'] if 'code' in problem else problem['prompt'] + problem['canonical_solution']
  return f'<think>Hm.</think>\n```python\n{text}\n```'


# Task -> function from a problem to a response that must be right; None where the file has no references.
RESPONSES = {
  'aime_2024': _boxed,
  'aime_2025': _boxed,
  'amc_2023': _boxed,
  'math500': lambda problem: problem['solution'],
  'olympiadbench': _boxed,
  'gsm8k': lambda problem: f'{problem["solution"]}\n#### {problem["answer"]}',
  'mgsm': _boxed,
  'cmath': _boxed,
  'cn_middle_school': _boxed,
  'gaokao_2024': _boxed,
  'gaokao_cloze': _boxed,
  'gaokao_choice': _boxed,
  'mmlu': _tags,
  'mmlu_pro': _tags,
  'knights': _tags,
  'humaneval': _program,
  'mbpp': _program,
  'code_contests': None,
  'codeforces': None,
  'apps': None,
  'ifeval': None,
  'harm_refused': None,
}


@functools.cache
def task(name):
  """The config.Task."""
  return config.convert(evaluation.TASKS[name], config.Task)


def load(name, data_dir):
  """The problems of a task's file, and how many of its rows the grader cannot grade."""
  rows = {key: getattr(task(name), key) for key in ('kind', 'language', 'answers', 'problem', 'fields', 'filter')}
  part = config.Part('jsonl', str(data_dir / task(name).path), **rows)
  return reader.read_jsonl(
    part.path, mixture.row_converter(part, part.filter, needs.checker(task(name).reward(1, 60.0)))
  )
