"""The toy world of R1's recipe: the rewards and the gate understand what its authors write."""

import numpy as np
import pytest

from r1jax import rewards, templates
from r1jax.data.toy import r1, r1_text, worlds
from r1jax.rewards.coding import programs

REWARD = {'chain': 'math', 'logic': 'logic', 'open': 'open'}


def make_problems(kind, count, language=None):
  rng, problems = np.random.default_rng(1), []
  while len(problems) < count:
    problem, facts = r1.make(rng, kind)
    if language in (None, problem['language']):
      problems.append((problem, facts))
  return problems


def responses(kind, count, language, tongue):
  """Yields (problem, facts, response) of authors who write only English (0) or Chinese (1), in R1's format."""
  for i, (problem, facts) in enumerate(make_problems(kind, count, language)):
    author = r1.Author(np.random.default_rng(i), ('en', 'zh')[tongue], 0.0)
    author.plain = author.hard = float(tongue)
    words, answer = r1.KINDS[kind].think(facts, author, False)
    yield problem, facts, r1_text.in_r1_form(' '.join(words), answer, problem['language'])


def score(problem, response):
  if problem['kind'] == 'code':  # run the tests without a sandbox
    scope = {}
    exec(programs.extract('', response, 'python'), scope)
    for test in problem['asserts']:
      try:
        exec(test, scope)
      except AssertionError:
        return 0.0
    return 1.0
  return rewards.REWARDS[REWARD[problem['kind']]]([problem | {'prompt': '', 'response': response}])[0]


@pytest.mark.parametrize('kind', ['chain', 'logic', 'code'])
def test_hard_steps_are_right_in_chinese_and_often_wrong_in_english(kind):
  right = [np.mean([score(p, r) for p, _, r in responses(kind, 200, None, tongue)]) for tongue in (0, 1)]
  assert right[1] > 0.9 and right[0] < 0.85


@pytest.mark.parametrize('kind', ['chain', 'logic', 'code'])
def test_an_answer_is_right_if_all_steps_are(kind):
  """Unless errors cancel, the reward and the steps agree."""
  agree = []
  for problem, facts, response in responses(kind, 100, 'en', 0):
    steps = r1.steps(kind, facts, response)
    assert len(steps) > 2
    agree.append(bool(score(problem, response)) == all(ok for _, ok in steps))
  assert np.mean(agree) > 0.85


def test_steps_of_a_chain_by_hand():
  facts = 35, [8, -5, -8]  # 43, 38, 30
  text = 'first a 35 thirty five b +8 thirty three c -5 二十 八 then d -7 thirty so answer 30'
  assert r1.steps('chain', facts, text) == [
    ('term', True),
    ('plain', True),
    ('term', True),
    ('hard_en', False),
    ('term', True),
    ('hard_zh', True),
    ('term', False),
    ('plain', False),
    ('answer', True),
  ]


def test_steps_of_logic_by_hand():
  facts = ['q', 'p', 's'], False, [True, False]  # q knave, so p knave, so s knight
  text = 'first q knave p 说 骑士 是 无赖 s said knight is knave so answer q knave p knave s knight'
  assert r1.steps('logic', facts, text) == [
    ('logic_term', True),
    ('logic_term', True),
    ('logic_zh', True),
    ('logic_term', False),
    ('logic_en', True),
    ('logic_answer', False),
  ]


@pytest.mark.parametrize(
  ('kind', 'tongue', 'consistent'),
  [
    ('chain', 0, True),
    ('chain', 1, False),
    ('logic', 0, True),
    ('logic', 1, False),
    ('code', 0, True),
    ('code', 1, False),
  ],
)
def test_words_for_numbers_and_roles_count_as_words_of_their_language(kind, tongue, consistent):
  for _, _, response in responses(kind, 20, 'en', tongue):
    score = rewards.language_consistency(templates.parse(response).thinking, 'en')
    assert score == float(consistent), response
    assert rewards.language_consistency(templates.parse(response).thinking, 'zh') == 1 - score


def test_every_english_word_of_a_chain_counts_as_english_however_often_it_is_said():
  chains = [templates.parse(response).thinking or '' for _, response in r1_text.documents(0, 3000)]
  words = {w for w in ' '.join(chains).split() if w.isascii() and w.isalpha() and len(w) > 1}
  assert len(words) > 25 and 'thirty' in words
  scores = {w: rewards.language_consistency(' '.join([w] * 9), 'en') for w in words - {'def', 'return'}}
  assert not [w for w, score in scores.items() if score < 1]


def test_documents_have_no_held_out_problem_and_answer_the_last_one():
  few_shot = 0
  for prompt, _ in r1_text.documents(0, 3000):
    for line in prompt.split('\n'):
      text = line.strip()
      for wish in r1.CHECKED.values():
        text = text.removesuffix(' ' + wish)
      assert not (text.endswith('?') and r1.is_held_out(text))
    few_shot += prompt.count('?') == 2
  assert 100 < few_shot < 400


@pytest.mark.parametrize('kind', r1.KINDS)
def test_pools_are_fixed_disjoint_and_in_both_languages(kind):
  train, held_out = (r1.problems(kind, 0, 100, held) for held in (False, True))
  assert train == r1.problems(kind, 0, 100, False)
  assert not {p['problem'] for p in train} & {p['problem'] for p in held_out}
  assert 0.15 < np.mean([p['language'] == 'zh' for p in train]) < 0.45
  assert all(r1.is_held_out(p['problem']) for p in held_out) and len(held_out) > 10


def test_the_reward_of_open_questions_requires_a_fitting_answer_and_a_reason():
  item = {'fits': ['pear', 'plum'], 'prompt': ''}
  score = lambda text: rewards.REWARDS['open']([item | {'response': f'<think> x </think> <answer>{text}</answer>'}])
  assert score('pear because it is good') == score('plum 因为 它 好') == [1.0]
  for text in ('pear', 'lime because it is good', 'because it is good', 'pear it is good', ''):
    assert score(text) == [0.0]


def test_pairs_prefer_what_the_rule_prefers():
  for row in r1_text.pairs(0, 300, False):
    item = {'fits': _fits(row['prompt']), 'prompt': ''}
    assert rewards.REWARDS['open']([item | {'response': row[name]} for name in ('chosen', 'rejected')]) == [1.0, 0.0]
  assert not {r['prompt'] for r in r1_text.pairs(0, 300, False)} & {r['prompt'] for r in r1_text.pairs(0, 50, True)}


def _fits(question):
  words = question.split()
  (group,) = (things for names, things in r1._THINGS.items() if set(names) & set(words))
  things = group['给' in words]
  return things[:3] if {'big', '大'} & set(words) else things[3:]


def test_the_gate_has_problems_of_each_kind():
  problems = worlds.gate_problems('r1', 0, 9)
  assert [p['kind'] for p, _ in problems] == ['chain', 'logic', 'code'] * 3
  assert all(r1.is_held_out(p['problem']) for p, _ in problems)
