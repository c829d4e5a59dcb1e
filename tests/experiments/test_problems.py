"""Loading the problems of a run: rows that cannot be scored and contaminated problems are dropped."""

import json
import logging
import re

import pytest

from configs import r1
from r1jax import config, data
from r1jax.runs import generation
from r1jax.runs import problems as problems_lib

log = logging.getLogger('r1jax')


def write(path, rows):
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return str(path)


def sums(count, first=0):
  return [
    {
      'problem': f'Ann has {i} apples and buys {2 * i + 1} more at the market; how many are they now in all?',
      'answer': str(3 * i + 1),
    }
    for i in range(first, first + count)
  ]


MATH = config.Reward(parts={'math': 1.0}, accuracy='math')


def test_training_problems_that_contain_an_evaluation_problem_are_dropped_and_logged(tmp_path, caplog):
  rows = sums(60)
  long, short = rows[7]['problem'], 'What is the remainder of 2004 divided by 12?'
  rows += [{'problem': f'Solve this: {short} Think first.', 'answer': '0'}, {'problem': long.upper(), 'answer': '22'}]
  evaluated = write(tmp_path / 'test.jsonl', [{'problem': long, 'answer': '22'}, {'question': short, 'answer': '0'}])
  cfg = config.Data('jsonl', write(tmp_path / 'train.jsonl', rows), eval_fraction=0.0)
  log.propagate = True
  with caplog.at_level(logging.WARNING):
    problems = problems_lib.load_problems(
      config.convert(config.to_dict(cfg) | {'evaluation': (evaluated,)}, config.Data), MATH
    )
  assert problems.dropped['contaminated'] == 3 and len(problems.train) == 59
  assert 'data.evaluation' in caplog.text and 'dropped 3 of 62' in caplog.text and f'3 of {evaluated}' in caplog.text
  assert 'contaminated' not in problems_lib.load_problems(cfg, MATH).dropped
  only = config.Data('jsonl', evaluated, eval_fraction=0.0, evaluation=(evaluated,))
  with pytest.raises(data.DataError, match='all 2 training problems .*data.evaluation'):
    problems_lib.load_problems(only, MATH)


def test_rows_that_cannot_be_scored_are_dropped_and_the_first_is_logged(tmp_path, caplog):
  good = [{'problem': f'Write f{i}.', 'asserts': [f'assert f{i}() == {i}']} for i in range(8)]
  bad = [
    {'problem': 'no tests'},
    {'problem': 'text', 'asserts': 'assert f()'},
    {'problem': 'talk', 'asserts': ['assert f()'], 'turns': [3]},
    {'problem': 'x', 'asserts': ['assert f()'], 'turns': 'hi'},
  ]
  part = {
    'source': 'jsonl',
    'path': write(tmp_path / 'code.jsonl', good[:5] + bad + good[5:]),
    'kind': 'code',
    'answers': False,
    'eval_fraction': 0.0,
  }
  cfg = config.convert({'source': 'mixture', 'parts': {'programs': part}}, config.Data)
  reward = config.Reward(parts={'format': 1.0}, accuracy='', parts_by_kind={'code': {'code': 1.0}}, timeout=60.0)
  with caplog.at_level(logging.WARNING):
    problems = problems_lib.load_problems(cfg, reward)
  assert [p['problem'] for p in problems.train] == [row['problem'] for row in good]
  assert problems.dropped['malformed'] == 4
  assert re.search("code.jsonl.* 4 .* 12 .*line 6.*'code'", caplog.text)
  write(tmp_path / 'code.jsonl', bad)
  with pytest.raises(data.DataError, match="4 lines .*line 1.*'code'"):
    problems_lib.load_problems(cfg, reward)


def test_the_deepseek_v3_recipe_decontaminates_all_training_data():
  c = r1.get_config('deepseek_v3')
  training_stages = {name for name, stage in c.stages.items() if stage.experiment in ('rl', 'cold_start', 'generate')}
  assert training_stages == {'zero', 'zero_long', 'cold_data', 'reasoning', 'samples', 'final', 'student_zero'}
  assert all(c.stages[name].config.data.evaluation == ('stage:aime',) for name in training_stages)
  assert all(e.data.eval_path == 'stage:aime' for e in c.evaluations.values())
  toy = r1.get_config('toy')
  assert not any(s.config.data.get('evaluation') for s in toy.stages.values() if 'data' in s.config)


def test_settings_of_a_folder_omit_an_empty_data_evaluation():
  make_config = lambda sets: config.Generate(
    0, config.Model(''), config.Data('trial', evaluation=sets), config.Rollout(1, 1, 8, 8), MATH
  )
  assert 'evaluation' not in generation.settings(make_config(()), '')['data']
  assert generation.settings(make_config(('a',)), '')['data']['evaluation'] == ['a']
