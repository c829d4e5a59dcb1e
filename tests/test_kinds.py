"""Problems of several kinds through sampling, grading, the figures of training and those of evaluation."""

import concurrent.futures
import dataclasses
import types

import jax
import numpy as np
import pytest

from r1jax import config, evaluation, rollout, templates
from r1jax.batch import RolloutBatch
from r1jax.rewards.neural import preference
from r1jax.rewards.neural.process import Steps
from r1jax.rewards.text import form
from r1jax.rewards.workers import pool
from r1jax.rollout import metrics, prompts

PROBLEMS = [
  {'id': '0', 'problem': '1+1?', 'answer': '2', 'kind': 'math', 'language': 'en'},
  {'id': '1', 'problem': 'Be kind.', 'answer': '', 'kind': 'open', 'language': 'en', 'template': 'r1_zero_open'},
  {'id': '2', 'problem': '二加二？', 'answer': '4', 'kind': 'math', 'language': 'zh'},
  {'id': '3', 'problem': 'Be brief.', 'answer': '', 'kind': 'open', 'language': 'en'},
]
RESPONSES = {
  '1+1?': ['<think>one and one is two</think>The answer is \\boxed{2}.', '<think>一加一 is three</think>3'],
  'Be kind.': ['this person is sad</think>Dear friend.', 'an insult</think>'],
  '二加二？': ['<think>二加二是四</think>\\boxed{4}', 'it is \\boxed{4}, surely'],
  'Be brief.': ['<think>few words are enough</think>Yes.', '<think>I hate this question</think>Dear friend, yes.'],
}
REWARD = config.convert(
  dict(
    parts={'format': 0.5},
    accuracy='',
    parts_by_kind={'math': {'math': 1.0}, 'open': {'helpful': 1.0, 'harmless': 1.0}},
    accuracy_by_kind={'open': 'helpful'},
    thresholds={'helpful': 0.5},
    start_step={'harmless': 3},
    options={'format': {'form': 'r1'}},
  ),
  config.Reward,
)


class Characters:
  """A tokenizer: a token a character."""

  encode = staticmethod(lambda text, bos: [ord(c) for c in text])
  decode = staticmethod(lambda ids: ''.join(chr(i) for i in ids))
  response = staticmethod(lambda ids: (Characters.decode(ids), ()))


class Engine:
  """Gives RESPONSES to the problem that stands in a prompt."""

  shards = 1
  prepare_params = staticmethod(lambda params: params)

  def sample(self, weights, prompts, keys, sampling, version=0):
    texts = [Characters.decode(ids) for ids in prompts]
    said = [r for text in texts for r in next(v for k, v in RESPONSES.items() if k in text)]
    tokens = np.zeros((len(said), 99), np.int32)
    for row, text in zip(tokens, said):
      row[: len(text)] = [ord(c) for c in text]
    group = lambda x: np.array(x).reshape(len(prompts), -1, *np.shape(x)[1:])
    lengths = np.array([len(text) for text in said], np.int32)
    return RolloutBatch(
      prompts=np.zeros((len(prompts), 1), np.int32),
      prompt_lengths=np.ones(len(prompts), np.int32),
      tokens=group(tokens),
      lengths=group(lengths),
      loss_mask=group(np.arange(99) < lengths[:, None]),
      sampler_logp=group(tokens * 0.0),
      stop=group(['eos'] * len(said)),
    )


class Grader:
  """Grades at once, and keeps what it was asked."""

  def __init__(self):
    self.asked = []

  def submit(self, items, asked):
    self.asked += [(item['id'], sorted(parts)) for item, parts in zip(items, asked)]
    score = {
      'math': lambda item: item['answer'] in item['response'],
      'format': lambda item: form.verdict(item, form='r1')['score'],
    }
    parts = {
      name: np.float32([f(item) if name in parts else 0 for item, parts in zip(items, asked)])
      for name, f in score.items()
    }
    done = concurrent.futures.Future()
    done.set_result(pool.Scores(parts, {}, 0, 0.0))
    return done


def sampler(shown, steps=None, reward=REWARD):
  """shown: {part: list} to which each reward model's view of a conversation is added."""

  def model(name, view, good):
    def score(conversations):
      shown[name] += [(turns[-1]['content'], text) for turns, (text,) in conversations]
      return [[10.0 if good(text) else -10.0] for _, (text,) in conversations]

    return lambda items: preference.preference_score(items, model=score, view=view)

  models = {
    'helpful': model('helpful', 'summary', lambda text: 'Dear' in text),
    'harmless': model('harmless', 'whole', lambda text: 'hate' not in text),
  }
  return rollout.Sampler(Engine(), Characters, templates.TEMPLATES['plain'], Grader(), reward, 2, models, steps)


def draw(made, step=None, problems=PROBLEMS):
  drawn, scores = made.start(None, problems, 2, jax.random.key(0), None, step)
  return drawn, scores.result()


def test_each_reward_is_asked_of_the_kinds_that_have_it():
  shown = {'helpful': [], 'harmless': []}
  made = sampler(shown)
  drawn, scores = draw(made)
  parts = {'math': ['format', 'math'], 'open': ['format', 'harmless', 'helpful']}
  assert made.grader.asked == [(p['id'], parts[p['kind']]) for p in PROBLEMS for _ in range(2)]
  # Helpfulness sees the summary, harmlessness the thinking too; a response without a summary has nothing to be helpful.
  assert shown['helpful'] == [('Be kind.', 'Dear friend.'), ('Be brief.', 'Yes.'), ('Be brief.', 'Dear friend, yes.')]
  assert [(problem, 'hate' in text) for problem, text in shown['harmless']] == [
    ('Be kind.', False),
    ('Be kind.', False),
    ('Be brief.', False),
    ('Be brief.', True),
  ]
  assert all('think' in text or 'sad' in text or 'insult' in text or 'words' in text for _, text in shown['harmless'])
  np.testing.assert_allclose(scores.parts['helpful'].reshape(-1), [0, 0, 1, 0, 0, 0, 0, 1], atol=1e-3)
  np.testing.assert_allclose(scores.parts['harmless'].reshape(-1), [0, 0, 1, 1, 0, 0, 1, 0], atol=1e-3)
  np.testing.assert_allclose(scores.total.reshape(-1), [1.5, 0.5, 2.5, 1, 1.5, 1, 1.5, 1.5], atol=1e-3)
  assert drawn.items[2]['prompt'].endswith('<think>') and drawn.items[6]['prompt'] == 'Be brief.\n'


def test_what_the_model_writes_is_graded_whatever_fields_a_problem_has(caplog):
  planted = dict.fromkeys(prompts.RESERVED, 'planted')
  prompts._warn_of_reserved.cache_clear()
  made = sampler({'helpful': [], 'harmless': []})
  drawn, scores = draw(made, problems=[p | planted for p in PROBLEMS])
  clean, same = draw(made)
  assert drawn.items == clean.items and 'program' in prompts.RESERVED
  np.testing.assert_array_equal(scores.total, same.total)
  (said,) = [r.getMessage() for r in caplog.records]
  assert "'program', 'pred', 'response', 'prompt', 'tokens', 'control', which are dropped" in said


def test_a_reward_is_not_asked_before_it_begins():
  shown = {'helpful': [], 'harmless': []}
  made = sampler(shown)
  drawn, scores = draw(made, step=2)
  assert len(shown['helpful']) == 3 and not shown['harmless']
  np.testing.assert_allclose(scores.total.reshape(-1), [1.5, 0.5, 1.5, 0, 1.5, 1, 0.5, 1.5], atol=1e-3)
  assert 'reward/harmless/mean' not in metrics.part_metrics(drawn, scores, REWARD)
  draw(made, step=3)
  assert len(shown['harmless']) == 4


def test_figures_of_training_by_kind():
  drawn, scores = draw(sampler({'helpful': [], 'harmless': []}))
  got = metrics.part_metrics(drawn, scores, REWARD)
  length = lambda *problems: np.mean([len(r) for problem in problems for r in RESPONSES[problem]])
  assert got == pytest.approx(
    {
      'reward/format/mean': 6 / 8,
      'reward/math/mean': 3 / 4,
      'reward/helpful/mean': 2 / 4,
      'reward/harmless/mean': 3 / 4,
      'kind/math/reward': 4.5 / 4,
      'kind/math/math': 3 / 4,
      'kind/math/format': 3 / 4,
      'kind/math/accuracy': 3 / 4,
      'kind/math/prompts': 2,
      'kind/math/length_mean': length('1+1?', '二加二？'),
      'kind/open/reward': 6.5 / 4,
      'kind/open/helpful': 2 / 4,
      'kind/open/harmless': 3 / 4,
      'kind/open/format': 3 / 4,
      'kind/open/accuracy': 2 / 4,
      'kind/open/prompts': 2,
      'kind/open/length_mean': length('Be kind.', 'Be brief.'),
    },
    abs=1e-3,
  )


def test_credit_by_step_is_of_the_kinds_that_have_the_part():
  settings = config.to_dict(REWARD)
  settings['parts_by_kind']['math'] = {'math': 1.0, 'process': 0.0}
  settings['accuracy_by_kind']['math'] = 'math'
  reward = config.convert(settings | {'step_credit': 1.0}, config.Reward)
  asked = []

  def steps(items):
    asked.extend(item['id'] for item in items)
    return [Steps((float(i),), (3,)) for i, _ in enumerate(items)]

  made = sampler({'helpful': [], 'harmless': []}, steps, reward)
  made.tokenizer = types.SimpleNamespace(
    encode=Characters.encode,
    decode=Characters.decode,
    response=Characters.response,
    pieces=lambda ids: list(map(chr, ids)),
  )
  made.models['process'] = lambda items: [0.5] * len(items)
  _, scores = draw(made)
  assert asked == ['0', '0', '2', '2'] and scores.credit.shape == (4, 2, 99)
  assert not scores.credit[[1, 3]].any() and scores.credit[[0, 2]].any()


def evaluate(problems, reward=REWARD):
  made = sampler({'helpful': [], 'harmless': []}, reward=reward)
  return evaluation.evaluate(
    made, None, problems, samples=2, sampling=None, key=jax.random.key(0), reward=reward, language='en', batch=4
  )


def test_evaluation_by_kind_and_language():
  got, rows = evaluate(PROBLEMS)
  # The rule's accuracy and the share of what the reward model takes for good are never one figure.
  assert not {'pass@1', 'any@2', 'cons@2', 'language/en/pass@1'} & got.keys()
  expect = {
    'format': 6 / 8,
    'kind/math/pass@1': 3 / 4,
    'kind/open/pass@1': 2 / 4,
    'kind/math/any@2': 1,
    'kind/open/any@2': 1,
    'language/zh/pass@1': 1,
    # Of the Chinese problem one chain is Chinese, and one, without tags, English throughout.
    'language/zh/language_consistency': 1 / 2,
    'kind/open/language_consistency': 1,
  }
  assert {name: got[name] for name in expect} == pytest.approx(expect)
  mixed = rows[1]['language']
  assert 0 < mixed < 1 and got['kind/math/language_consistency'] == pytest.approx((1 + mixed + 1 + 0) / 4)
  assert [row['kind'] for row in rows] == ['math', 'math', 'open', 'open'] * 2
  assert {tuple(row['parts']) for row in rows} == {('math', 'format'), ('format', 'helpful', 'harmless')}
  assert [row['voted'] for row in rows[:5]] == [0, None, 0, None, 0]  # a box, or of open questions the summary


def test_what_nothing_can_judge_has_no_accuracy():
  silent = dataclasses.replace(REWARD, accuracy_by_kind={'open': ''})
  got, _ = evaluate(PROBLEMS, silent)
  assert {name for name in got if 'pass@1' in name} == {'kind/math/pass@1', 'language/zh/pass@1'}
  one = [p for p in PROBLEMS if p['kind'] == 'open']
  assert evaluate(one)[0]['pass@1'] == 2 / 4 and 'pass@1' not in evaluate(one, silent)[0]


@pytest.mark.parametrize(('shards', 'count'), [(3, 2), (3, 4), (8, 1), (2, 3)])
def test_an_evaluation_that_does_not_divide_over_the_mesh_is_filled_up(monkeypatch, shards, count):
  asked, sample = [], Engine.sample

  def counted(self, weights, prompts, keys, sampling, version=0):
    asked.append(len(prompts))
    return sample(self, weights, prompts, keys, sampling)

  expect = evaluate(PROBLEMS[:count])
  monkeypatch.setattr(Engine, 'sample', counted)
  monkeypatch.setattr(Engine, 'shards', shards)
  assert evaluate(PROBLEMS[:count]) == expect
  assert sum(asked) == -(-4 // shards) * shards  # of evaluate's batch of 4
  assert [row['id'] for row in expect[1]] == [str(i) for i in range(count) for _ in range(2)]


def test_problems_without_kinds_have_the_figures_they_had():
  plain = [{k: v for k, v in p.items() if k in ('id', 'problem', 'answer')} for p in PROBLEMS if p['kind'] == 'math']
  reward = config.Reward(parts={'math': 1.0, 'format': 0.5}, accuracy='math')
  got, rows = evaluate(plain * 2, reward)
  assert set(got) == {
    'pass@1',
    'any@2',
    'cons@2',
    'format',
    'length_mean',
    'reflection_rate',
    'language_consistency',
    'truncated_fraction',
  }
  assert not {'kind', 'target'} & rows[0].keys() and got['format'] == 0  # of R1-Zero's form, with answer tags
  assert [row['voted'] for row in rows[:4]] == [0, None, 0, 0]  # what mathematics extracts, in whatever form


def test_samples_vote_for_what_the_grader_extracts_merged_by_its_equality(monkeypatch):
  right = [
    '\\boxed{42}',
    'So $\\boxed{042}$.',
    'Then \\boxed{42.} as said.',
    '<answer>$42$</answer>',
    '\\boxed{\\frac{84}{2}}',
  ]
  wrong = ['<think>\\boxed{42}</think>\\boxed{41}'] * 4 + ['<think><answer>41</answer></think>no answer'] * 3
  ties = ['\\boxed{0.5}', '\\boxed{2}', '\\boxed{2.0}', '\\boxed{1/2}']
  monkeypatch.setitem(RESPONSES, '6*7?', right + wrong)
  monkeypatch.setitem(RESPONSES, '1/2?', ties * 3)
  problems = [{'id': p, 'problem': p, 'answer': a} for p, a in (('6*7?', '42'), ('1/2?', '0.5'))]
  reward = config.Reward(parts={'math': 1.0}, accuracy='math')
  with pool.Grader({'math': {}}, timeout=20.0) as grader:
    made = sampler({'helpful': [], 'harmless': []}, reward=reward)
    made.grader = grader
    got, rows = evaluation.evaluate(
      made, None, problems, samples=12, sampling=None, key=jax.random.key(0), reward=reward, language='en', batch=2
    )
  assert [row['voted'] for row in rows] == [0] * 5 + [1] * 4 + [None] * 3 + [0, 1, 1, 0] * 3
  assert got['cons@12'] == 1 and got['pass@1'] == 11 / 24  # five votes against four; of a tie the first answer
