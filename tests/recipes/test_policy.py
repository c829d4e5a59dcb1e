"""An endpoint as the policy, in place of a model on the devices."""

import collections
import json
import re

import jax
import numpy as np
import pytest

from r1jax import rollout, sampling, templates
from r1jax.config import Reward
from r1jax.recipes import coldstart
from r1jax.recipes.policy import Policy, Teacher
from r1jax.rewards.neural.endpoint import Endpoint
from r1jax.rewards.workers import pool

pytest.importorskip('httpx')
REWARD = Reward({'math': 1.0, 'format': 0.5}, 'math', {'format': {'form': 'r1'}})
PROBLEMS = [{'id': str(n), 'problem': f'What is {n} + 1?', 'answer': str(n + 1)} for n in range(5)]


def completion(text, thinking=None, finish_reason='stop', tokens=None):
  message = {'content': text} | ({'reasoning_content': thinking} if thinking else {})
  usage = {'usage': {'completion_tokens': tokens}} if tokens is not None else {}
  return 200, json.dumps({'choices': [{'message': message, 'finish_reason': finish_reason}]} | usage)


@pytest.fixture(scope='module')
def grader():
  with pool.Grader({'math': {}, 'format': {'form': 'r1'}}, 1) as grader:
    yield grader


def make_policy(server, grader, seed=0, cache=''):
  teacher = Teacher(Endpoint(server.url, 'm', temperature=1.0, whole=True, cache=cache))
  make_sampler = lambda template: rollout.Sampler(teacher, teacher, template, grader, REWARD, 2)
  return Policy(make_sampler, None, 3, sampling.SamplingParams(), jax.random.key(seed), REWARD, 1)


def sample(server, grader, problems=PROBLEMS, seed=0, cache='', number=0):
  return make_policy(server, grader, seed, cache).start(problems, templates.TEMPLATES['chat_boxed'], number).result()[0]


def test_samples_are_graded_and_include_the_thinking(server, grader):
  def reply(body, number):
    n = int(body['messages'][0]['content'].split()[2])
    return completion(f'It is \\boxed{{{n + 1 if body["seed"] % 2 else 0}}}.', f'{n} and one', tokens=7)

  server.reply = reply
  rows = sample(server, grader)
  assert [(row['id'], row['sample']) for row in rows] == [(str(n), s) for n in range(5) for s in range(3)]
  seeds = {}
  for body in server.bodies:
    seeds.setdefault(body['messages'][0]['content'], set()).add(body['seed'])
  assert all(len(values) >= 3 for values in seeds.values()) and len(server.bodies) == 15
  for row in rows:
    right = f'\\boxed{{{row["answer"]}}}' in row['response']
    assert row['response'].startswith(f'<think>{row["id"]} and one</think>It is')
    assert row['correct'] == right == (row['parts']['math'] == 1) and row['reward'] == right + 0.5
    assert (row['stop'], row['tokens']) == ('eos', 7)
    assert row['prompt'].startswith(row['problem']) and 'boxed' in row['prompt']


def test_cold_start_rows_from_an_endpoint(server, grader):
  summand = lambda body: int(re.search(r'is (.) [+] 1', body['messages'][0]['content'])[1])
  server.reply = lambda body, number: completion(f'The sum is \\boxed{{{summand(body) + 1}}}.', 'Add one to it.')
  samples = make_policy(server, grader).start(PROBLEMS, coldstart.make_prompt('direct', 'text'), 0).result()[0]
  dropped = collections.Counter()
  rows = list(coldstart.select_rows(samples, 'direct', coldstart.Rules(), dropped))
  assert [row['response'] for row in rows] == [
    f'<think>\nAdd one to it.\n</think>\n\nThe sum is \\boxed{{{n + 1}}}.' for n in range(5)
  ]
  assert dropped == {'duplicate': 10} and all('verif' in body['messages'][0]['content'] for body in server.bodies)


def test_truncated_and_refused_responses_are_marked(server, grader):
  answers = {'0': completion('half', finish_reason='length', tokens=9), '1': (400, 'no'), '2': completion('汉字 whole')}
  server.reply = lambda body, number: answers[body['messages'][0]['content'].split()[2]]
  rows = sample(server, grader, PROBLEMS[:3])
  assert [row['stop'] for row in rows[::3]] == ['length', 'refused', 'eos']
  assert [row['response'] for row in rows[::3]] == ['half', '', '汉字 whole']
  assert [row['tokens'] for row in rows[::3]] == [9, 0, int(np.ceil(len('汉字 whole'.encode()) / 4))]
  assert not any(row['correct'] for row in rows)


def test_draws_depend_on_seed_and_number_and_answers_are_cached(server, grader, tmp_path):
  server.reply = lambda body, number: completion(str(body['seed']))
  first = sample(server, grader, cache=str(tmp_path))
  requests = len(server.bodies)
  assert sample(server, grader, cache=str(tmp_path)) == first and len(server.bodies) == requests
  responses = lambda rows: {row['response'] for row in rows}
  assert len(responses(first)) == 15
  for change in ({'number': 1}, {'seed': 1}):
    assert not responses(first) & responses(sample(server, grader, **change))
  assert sample(server, grader, PROBLEMS[:2]) == first[:6]


def test_all_turns_of_a_conversation_are_sent(server, grader):
  server.reply = lambda body, number: completion('4')
  turns = [
    {'role': 'user', 'content': 'Add 1.'},
    {'role': 'assistant', 'content': 'To what?'},
    {'role': 'user', 'content': 'To 3.'},
  ]
  rows = sample(server, grader, [{'id': 'x', 'problem': 'To 3.', 'answer': '4', 'turns': turns}])
  for body in server.bodies:
    assert body['messages'][:2] == turns[:2] and body['messages'][2]['content'].startswith('To 3.')
    assert len(body['messages']) == 3
  assert rows[0]['prompt'].startswith('To 3.') and rows[0]['turns'] == turns


def test_answers_with_and_without_thinking_are_cached_separately(server, tmp_path):
  server.reply = lambda body, number: completion('text', 'thought')
  chats = [[{'role': 'user', 'content': 'hello'}]]
  text, full = (Endpoint(server.url, 'm', cache=str(tmp_path), whole=whole)(chats)[0] for whole in (False, True))
  assert text == 'text' and json.loads(full)['response'] == '<think>thought</think>text'
