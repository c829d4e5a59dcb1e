"""A teacher behind an endpoint, in the place of a model on the devices."""

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


def completion(text, thinking=None, why='stop', tokens=None):
  message = {'content': text} | ({'reasoning_content': thinking} if thinking else {})
  usage = {'usage': {'completion_tokens': tokens}} if tokens is not None else {}
  return 200, json.dumps({'choices': [{'message': message, 'finish_reason': why}]} | usage)


@pytest.fixture(scope='module')
def grader():
  with pool.Grader({'math': {}, 'format': {'form': 'r1'}}, 1) as grader:
    yield grader


def policy_of(server, grader, seed=0, cache=''):
  teacher = Teacher(Endpoint(server.url, 'm', temperature=1.0, whole=True, cache=cache))
  make = lambda template: rollout.Sampler(teacher, teacher, template, grader, REWARD, 2)
  return Policy(make, None, 3, sampling.Sampling(), jax.random.key(seed), REWARD, 1)


def ask(server, grader, problems=PROBLEMS, seed=0, cache='', number=0):
  return policy_of(server, grader, seed, cache).start(problems, templates.TEMPLATES['chat_boxed'], number).result()[0]


def test_rows_are_graded_texts_with_the_teachers_thinking(server, grader):
  def reply(body, number):
    n = int(body['messages'][0]['content'].split()[2])
    return completion(f'It is \\boxed{{{n + 1 if body["seed"] % 2 else 0}}}.', f'{n} and one', tokens=7)

  server.reply = reply
  rows = ask(server, grader)
  assert [(row['id'], row['sample']) for row in rows] == [(str(n), s) for n in range(5) for s in range(3)]
  seeds = {}
  for body in server.bodies:  # chunks of 2 problems: the last is filled up
    seeds.setdefault(body['messages'][0]['content'], set()).add(body['seed'])
  assert all(len(found) >= 3 for found in seeds.values()) and len(server.bodies) == 18
  for row in rows:
    right = f'\\boxed{{{row["answer"]}}}' in row['response']
    assert row['response'].startswith(f'<think>{row["id"]} and one</think>It is')
    assert row['correct'] == right == (row['parts']['math'] == 1) and row['reward'] == right + 0.5
    assert (row['stop'], row['tokens']) == ('eos', 7)
    assert row['prompt'].startswith(row['problem']) and 'boxed' in row['prompt']


def test_it_is_a_policy_of_cold_start(server, grader):
  asked = lambda body: int(re.search(r'is (.) [+] 1', body['messages'][0]['content'])[1])
  server.reply = lambda body, number: completion(f'The sum is \\boxed{{{asked(body) + 1}}}.', 'Add one to it.')
  rows, dropped = coldstart.direct(policy_of(server, grader), PROBLEMS, coldstart.Rules())
  assert [row['response'] for row in rows] == [
    f'<think>\nAdd one to it.\n</think>\n\nThe sum is \\boxed{{{n + 1}}}.' for n in range(5)
  ]
  assert dropped == {'duplicate': 10} and all('verif' in body['messages'][0]['content'] for body in server.bodies)


def test_what_is_cut_or_refused_says_so(server, grader):
  answers = {'0': completion('half', why='length', tokens=9), '1': (400, 'no'), '2': completion('汉字 whole')}
  server.reply = lambda body, number: answers[body['messages'][0]['content'].split()[2]]
  rows = ask(server, grader, PROBLEMS[:3])
  assert [row['stop'] for row in rows[::3]] == ['length', 'refused', 'eos']
  assert [row['response'] for row in rows[::3]] == ['half', '', '汉字 whole']
  assert [row['tokens'] for row in rows[::3]] == [9, 0, int(np.ceil(len('汉字 whole'.encode()) / 4))]
  assert not any(row['correct'] for row in rows)


def test_draws_depend_on_seed_and_number_and_no_word_is_asked_for_twice(server, grader, tmp_path):
  server.reply = lambda body, number: completion(str(body['seed']))
  first = ask(server, grader, cache=str(tmp_path))
  asked = len(server.bodies)
  assert ask(server, grader, cache=str(tmp_path)) == first and len(server.bodies) == asked
  said = lambda rows: {row['response'] for row in rows}
  assert len(said(first)) == 15
  assert not said(first) & said(ask(server, grader, number=1)) and not said(first) & said(ask(server, grader, seed=1))
  assert ask(server, grader, PROBLEMS[:2]) == first[:6]


def test_a_conversation_is_asked_whole(server, grader):
  server.reply = lambda body, number: completion('4')
  turns = [
    {'role': 'user', 'content': 'Add 1.'},
    {'role': 'assistant', 'content': 'To what?'},
    {'role': 'user', 'content': 'To 3.'},
  ]
  rows = ask(server, grader, [{'id': 'x', 'problem': 'To 3.', 'answer': '4', 'turns': turns}])
  for body in server.bodies:
    assert body['messages'][:2] == turns[:2] and body['messages'][2]['content'].startswith('To 3.')
    assert len(body['messages']) == 3
  assert rows[0]['prompt'].startswith('To 3.') and rows[0]['turns'] == turns


def test_an_endpoints_answers_with_and_without_thinking_are_kept_apart(server, tmp_path):
  server.reply = lambda body, number: completion('text', 'thought')
  chats = [[{'role': 'user', 'content': 'hello'}]]
  plain, whole = (Endpoint(server.url, 'm', cache=str(tmp_path), whole=kind)(chats)[0] for kind in (False, True))
  assert plain == 'text' and json.loads(whole)['response'] == '<think>thought</think>text'
