"""Rewards by learned scores: what the model gets to see, how its scores become a reward, credit by step."""

import dataclasses
import json
import math
import os

import jax
import numpy as np
import pytest

from r1jax import models, tokenizers
from r1jax import params as params_lib
from r1jax.checkpoint import families, hf
from r1jax.config import ConfigError
from r1jax.rewards.neural import model as model_lib
from r1jax.rewards.neural import preference, process, rollouts

TEXT = 'two and 2 make 4 . so 4 ! <think> 二加二得四 </think>\n'


def item(response, prompt='p <think>', problem='p'):
  return {'prompt': prompt, 'problem': problem, 'response': response}


class LengthModel:
  """A model that scores texts by their length and records the conversations."""

  def __call__(self, conversations):
    self.conversations = conversations
    return [[float(len(text)) for text in texts] for _, texts in conversations]


def test_helpfulness_is_shown_the_summary_and_harmlessness_all():
  items = [item('secret</think> ok'), item('secret', prompt='p'), item('never ends'), item('x</think>  ')]
  model = LengthModel()
  scores = preference.preference_score(items, model=model, view='summary', scale='logit', center=1.0)
  user = [{'role': 'user', 'content': 'p'}]
  assert model.conversations == [(user, ['ok']), (user, ['secret'])]
  assert scores == [1.0, 5.0, -10.0, -10.0]  # without anything to show, a response gets the lowest score
  preference.preference_score(items, model=model, view='whole')
  assert [texts for _, texts in model.conversations] == [
    ['<think>secret</think> ok'],
    ['secret'],
    ['<think>never ends'],
    ['<think>x</think>'],
  ]


def test_probabilities_are_those_of_the_logits_within_the_limit():
  items = [item('abc', prompt='p'), item('x' * 50, prompt='p')]
  scores = preference.preference_score(items, model=LengthModel(), center=1.0, limit=8.0)
  np.testing.assert_allclose(scores, [1 / (1 + math.exp(-2)), 1 / (1 + math.exp(-8))])
  assert preference.preference_score([], model=None) == []


def test_a_prompt_may_be_turns():
  turns = [{'role': 'user', 'content': 'a'}, {'role': 'assistant', 'content': 'b'}, {'role': 'user', 'content': 'c'}]
  model = LengthModel()
  preference.preference_score([{'prompt': turns, 'response': 'r'}], model=model)
  assert model.conversations == [(turns, ['r'])]


@pytest.mark.parametrize(
  ('function', 'options', 'message'),
  [
    (preference.preference_score, {'view': 'half'}, "view is 'half'; known: summary, whole"),
    (preference.preference_score, {'scale': 'x'}, "scale is 'x'; known: probability, logit"),
    (preference.preference_score, {'limit': 0.0}, 'limit is 0.0'),
    (process.process_score, {'aggregate': 'max'}, "aggregate is 'max'; known: min, product, last, mean"),
    (process.process_score, {'steps': 'word'}, "steps is 'word'; known: line, paragraph"),
    (process.process_score, {'view': ''}, "view is ''"),
  ],
)
def test_options_are_checked_without_items(function, options, message):
  with pytest.raises(ConfigError, match=message):
    function([], model=None, **options)


LOGITS = {'good': 2.0, 'bad': -1.0, 'fair': 0.0}
P = {name: 1 / (1 + math.exp(-x)) for name, x in LOGITS.items()}


def by_step(conversations):
  return [[LOGITS[text] for text in texts] for _, texts in conversations]


@pytest.mark.parametrize(
  ('aggregate', 'expected'),
  [
    ('min', P['bad']),
    ('product', P['good'] * P['bad'] * P['fair']),
    ('last', P['fair']),
    ('mean', sum(P.values()) / 3),
  ],
)
def test_steps_make_one_score(aggregate, expected):
  items = [item('good\nbad\n\nfair\n'), item('good'), item('  \n</think>')]
  scores = process.process_score(items, model=by_step, aggregate=aggregate)
  np.testing.assert_allclose(scores, [expected, P['good'], 0.0])


def test_credit_by_step():
  response = '<think>\ngood\n bad </think>\nfair'
  (steps,) = process.step_scores([item(response, prompt='p')], model=by_step)
  np.testing.assert_allclose(steps.scores, [P['good'], P['bad'], P['fair']])
  assert [response[:end].split()[-1] for end in steps.ends] == ['good', '</think>', 'fair']
  (short,) = process.step_scores([item(response, prompt='p')], model=lambda c: [[2.0]])
  assert len(short.scores) == len(short.ends) == 1  # the others are beyond the model's limit
  for response in ('good\nbad</think>\nfair', '<think>good</think>bad</think>\nfair'):
    (summary,) = process.step_scores([item(response)], model=by_step, view='summary')
    assert summary.ends == (len(response),)
  assert process.step_scores([item('good')], model=by_step, view='summary')[0].scores == ()


@pytest.fixture(scope='module')
def tokenizer(tmp_path_factory):
  path = tmp_path_factory.mktemp('tokenizer') / 'tokenizer.model'
  tokenizers.train([TEXT.strip()] * 4, path, 320)
  return tokenizers.load(path)


def test_the_token_in_which_a_step_ends(tokenizer):
  response = 'two and 2 make 4 .\nso 二加二 ! \nso 4'
  ids = tokenizer.encode(response) + list(tokenizer.eos[:1])
  assert tokenizer.decode(ids) == response
  (steps,) = process.step_scores([item(response)], model=lambda c: [[0.0] * 3])
  token_indices = process.step_tokens(tokenizer, ids, steps.ends)
  for end, token in zip(steps.ends, token_indices):
    assert len(tokenizer.decode(ids[:token])) < end <= len(tokenizer.decode(ids[: token + 1]))


@pytest.mark.parametrize('objective', ['pairs', 'steps'])
def test_a_directory_scores_alike_alone_and_among_others(tokenizer, tmp_path, objective):
  cfg = dataclasses.replace(models.PRESETS['toy'], vocab=320, layers=2, head='score')
  params = params_lib.init(models.specs(cfg), jax.random.key(0))
  about = model_lib.About(objective, 'bare', 'whole', 'line', 64)
  (tmp_path / model_lib.ABOUT).write_text(json.dumps(dataclasses.asdict(about)))
  hf.save(
    tmp_path / 'model',
    cfg,
    params,
    families.for_export(families.to_hf(cfg), 'float32'),
    [tokenizer.path, tmp_path / model_lib.ABOUT],
  )
  score = model_lib.load(tmp_path, batch=4).score
  turns = [{'role': 'user', 'content': 'two'}]
  texts = ['4', 'so 4 !\n' * 3, 'two and 2 make 4 .', '二' * 100, 'so', 'and 2', '. . .']
  conversations = [(turns, text.split('\n') if objective == 'steps' else [text]) for text in texts]
  conversations = [(turns, [t for t in parts if t]) for turns, parts in conversations]
  together = score(conversations)
  assert [score([conversation])[0] for conversation in conversations] == together == score(conversations[::-1])[::-1]
  assert [len(s) for s in together] == ([1, 3, 1, 0, 1, 1, 1] if objective == 'steps' else [1] * 7)
  # By hand, from the whole text and its last token.
  encoder = model_lib.Encoder(tokenizer, 'bare', 64)
  row = encoder.encode_steps(*conversations[1]) if objective == 'steps' else encoder.encode_response(turns, texts[1])
  hidden = models.forward(params, cfg, row.ids[None, None], np.arange(len(row.ids))[None, None]).hidden
  np.testing.assert_allclose(together[1], models.scores(params, hidden)[0, 0, row.marks], atol=1e-5)
  wrong, right = (preference, process) if objective == 'steps' else (process, preference)
  with pytest.raises(ConfigError, match='use the reward'):
    wrong.load(path=str(tmp_path))
  assert len(right.load(path=str(tmp_path))([item('so 4', prompt='p')])) == 1


def test_a_directory_that_is_no_reward_model_is_refused(tokenizer, tmp_path):
  for head, message in (('tokens', 'is a policy'), ('score', 'reward_model.json cannot be read')):
    cfg = dataclasses.replace(models.PRESETS['toy'], vocab=320, layers=1, head=head)
    params = params_lib.init(models.specs(cfg), jax.random.key(0))
    hf.save(tmp_path / head, cfg, params, families.for_export(families.to_hf(cfg), 'float32'), [tokenizer.path])
    with pytest.raises(ConfigError, match=message):
      model_lib.load(tmp_path / head)


@pytest.mark.parametrize(
  'change',
  [
    {'max_length': 0},
    {'max_length': '9'},
    {'max_length': 1.5},
    {'form': 3},
    {'center': float('nan')},
    {'center': 'x'},
    {'center': 10**400},
    {'chat_template': None},
    {'more': 1},
  ],
  ids=lambda change: str(change)[:40],
)
def test_what_is_said_of_a_reward_model_is_checked(tmp_path, change):
  about = {'objective': 'pairs', 'form': 'dialogue', 'view': 'all', 'steps': 'lines', 'max_length': 9, 'center': 1}
  (tmp_path / model_lib.ABOUT).write_text(json.dumps(about))
  assert dataclasses.asdict(model_lib.read_about(tmp_path)) == about | {'chat_template': ''}
  (tmp_path / model_lib.ABOUT).write_text(json.dumps(about | change))
  with pytest.raises(ConfigError, match='reward_model.json cannot be read'):
    model_lib.read_about(tmp_path)


def test_a_pipe_is_not_waited_for(tmp_path):
  os.mkfifo(tmp_path / model_lib.ABOUT)
  with pytest.raises(ConfigError, match='reward_model.json is not a regular file'):
    model_lib.read_about(tmp_path)


def test_labels_are_shares_of_right_roll_outs():
  rows = [{'problem': 'p', 'steps': ['a', 'b'], 'answer': '7'}, {'problem': 'q', 'steps': ['c'], 'answer': '8'}]
  starts = []

  def sample(beginnings):
    starts.extend(beginnings)
    return [[text + end for end in ('7897' if row['problem'] == 'p' else '9999')] for row, text in beginnings]

  right = lambda items: [i['response'].endswith(i['answer']) for i in items]
  labelled = rollouts.label(rows, sample=sample, right=right, rule='line', opening='<think> ')
  assert [text for _, text in starts] == ['<think> a\n', '<think> a\nb\n', '<think> c\n']
  assert [row['labels'] for row in labelled] == [[0.5, 0.5], [0.0]]
  assert [row['rollouts'] for row in labelled] == [[[2, 4], [2, 4]], [[0, 4]]]
  assert rollouts.prefixes(rows[0], 'line', between=' ') == ['a', 'a b']  # never a space at the end
  sampled = {'steps': ['a', 'b'], 'response': '<think>\n a\n\n b </think>'}
  assert rollouts.prefixes(sampled, 'line') == ['<think>\n a', sampled['response']]
  hard = rollouts.label(rows, sample=sample, right=right, rule='line', estimate='hard')
  assert [row['labels'] for row in hard] == [[1.0, 1.0], [0.0]]
