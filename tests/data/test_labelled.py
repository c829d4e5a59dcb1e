"""Examples for reward models: files are checked, splits keep prompts apart, toy examples follow their rules."""

import json

import numpy as np
import pytest

from r1jax import config
from r1jax.config import ConfigError
from r1jax.data import DataError, conversation, labelled, preference, process
from r1jax.data.toy import scored

PAIR = {'prompt': [{'role': 'user', 'content': 'q'}], 'chosen': '<think>a</think>good', 'rejected': 'bad'}
POINT = {'prompt': 'q', 'response': 'r', 'safe': 1}
STEPS = {'problem': 'p', 'steps': ['a', 'b', 'c'], 'labels': [1, 0, None]}
READ = {
  'pairs': lambda path: preference.read_pairs(path, 'summary'),
  'points': lambda path: preference.read_points(path, 'whole'),
  'steps': lambda path: process.read_steps(path, 'line'),
}


def write(path, rows):
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return str(path)


def settings(path, **overrides):
  defaults = {'source': 'jsonl', 'max_length': 64, 'path': str(path), 'eval_fraction': 0.3}
  return config.RewardModelData(**defaults | overrides)


@pytest.mark.parametrize(
  ('kind', 'good', 'change', 'words'),
  [
    ('pairs', PAIR, {'prompt': []}, "field 'prompt' is an empty list"),
    ('pairs', PAIR, {'chosen': None}, "field 'chosen' is a NoneType, not a string"),
    ('pairs', PAIR, {'rejected': ...}, "no field 'rejected'"),
    ('points', POINT, {'safe': 2}, "field 'safe' is 2; it must be 1 or 0"),
    ('points', POINT, {'safe': ...}, "no field 'safe'"),
    ('points', POINT, {'response': 3}, "field 'response' is a int"),
    ('steps', STEPS, {'problem': ' '}, "field 'problem' is not a text, or empty"),
    ('steps', STEPS, {'steps': ['a', 3, 'c']}, "field 'steps', step 1: not a text, or empty"),
    ('steps', STEPS, {'labels': [1, 0]}, "field 'labels' has 2 for 3 steps"),
    ('steps', STEPS, {'labels': [1, 0, 1.5]}, "field 'labels', step 2: 1.5"),
    ('steps', STEPS, {'labels': [1, True, 0]}, "field 'labels', step 1: True"),
  ],
)
def test_a_bad_row_is_named_by_file_line_and_field(tmp_path, kind, good, change, words):
  bad = {k: v for k, v in (good | change).items() if v is not ...}
  path = write(tmp_path / 'f.jsonl', [good, bad])
  with pytest.raises(DataError, match='f.jsonl, line 2: ') as error:
    READ[kind](path)
  assert words in str(error.value) and '\n' not in str(error.value)


def test_helpfulness_sees_the_summary_only(tmp_path):
  path = write(
    tmp_path / 'f.jsonl', [PAIR, PAIR | {'chosen': '<think>b</think>bad'}, PAIR | {'rejected': '<think>never ends'}]
  )
  items, dropped = preference.read_pairs(path, 'summary')
  assert [item['texts'] for item in items] == [['good', 'bad']] and dropped == {'same': 1, 'unseen': 1}
  items, dropped = preference.read_pairs(path, 'whole')
  assert len(items) == 3 and items[0]['texts'][0] == '<think>a</think>good'


def test_labels_and_groups_of_steps(tmp_path):
  path = write(
    tmp_path / 'f.jsonl',
    [
      STEPS,
      STEPS | {'labels': [0.25, 1, 0], 'group': 'g', 'problem': 'q'},
      STEPS | {'labels': [None] * 3},
      STEPS | {'steps': ['a', ' \n', '<think>']},
    ],
  )
  items, dropped = process.read_steps(path, 'line')
  assert [item['labels'] for item in items] == [[1, 0, -1], [0.25, 1, 0], [1]]
  assert dropped == {'unlabelled': 1, 'empty_steps': 2}
  assert items[0]['key'] != items[1]['key'] == 'group g'


@pytest.mark.parametrize('rule', config.STEP_RULES)
@pytest.mark.parametrize(
  'steps',
  [
    ['a', 'b'],
    ['<think>a', 'b c</think>', '<answer> 3 </answer>'],
    ['one\ntwo\n\n three', '\n\nfour\n'],
    ['x\r\ny', ' \tz '],
  ],
)
def test_steps_are_split_at_inference_as_in_training(steps, rule):
  expected = [process.one_step(step, rule) for step in steps]
  text = ''.join(step + conversation.SEPARATORS[rule] for step in expected)
  spans = process.spans(text, rule)
  assert [process.one_step(text[a:b], rule) for a, b in spans] == expected


def test_steps_of_a_response():
  text = '<think>\nfirst\n\n  second line\nof it\n\n</think>\n\n<answer> 3 </answer>\n'
  texts = lambda rule: [text[a:b] for a, b in process.spans(text, rule)]
  assert texts('line') == ['first', 'second line', 'of it', '<answer> 3 </answer>']
  assert texts('paragraph') == ['<think>\nfirst', 'second line\nof it', '<answer> 3 </answer>']
  assert [process.one_step(t, 'paragraph') for t in texts('paragraph')] == ['first', 'second line\nof it', '3']
  assert process.spans('', 'line') == process.spans('\n \n<think></think>', 'line') == []


def test_steps_of_a_megabyte_take_no_time():
  for text in ('\n' * 10**6, '\n ' * 500_000, ' ' * 10**6, 'a\n' * 500_000, '<think>' * 140_000):
    for rule in config.STEP_RULES:
      process.spans(text, rule)


def test_a_prompt_is_on_one_side_of_the_split(tmp_path):
  rows = [PAIR | {'prompt': f'question {i // 2}', 'rejected': f'{i}'} for i in range(80)]
  train, held_out, dropped = labelled.load(settings(write(tmp_path / 'f.jsonl', rows)), 'pairs')
  keys = [{item['key'] for item in items} for items in (train, held_out)]
  assert not keys[0] & keys[1] and len(train) + len(held_out) == 80 and 10 < len(held_out) < 40
  path = write(tmp_path / 'g.jsonl', [rows[0], PAIR | {'prompt': 'another'}])
  train, held_out, dropped = labelled.load(settings(tmp_path / 'f.jsonl', eval_path=path), 'pairs')
  assert (len(train), len(held_out), dropped['held_out']) == (78, 2, 2)


def test_settings_that_cannot_work(tmp_path):
  with pytest.raises(ConfigError, match='data.path is empty'):
    labelled.load(settings(''), 'pairs')
  with pytest.raises(ConfigError, match="data.source 'toy'"):
    labelled.load(settings('f', source='toy'), 'pairs')
  with pytest.raises(ConfigError, match='nothing is held out'):
    settings('f', eval_fraction=0.0)
  path = write(tmp_path / 'f.jsonl', [PAIR])
  with pytest.raises(DataError, match='left to hold out .1 to train on, 0 held out'):
    labelled.load(settings(path), 'pairs')


def test_the_rule_of_toy_pairs():
  items = scored.pairs(400, True, 'summary')
  longer = []
  for item in items:
    question, asked = item['turns'][0]['content'].split(' . ')
    facts = dict(fact.split(' ') for fact in question.split(' , '))
    states = f'{asked.split()[0]} {facts[asked.split()[0]]}'
    good = [states in text.split(' , ') and not set(text.split()) & set(scored.RUDE) for text in item['texts']]
    assert good == [True, False] and 'think' not in ''.join(item['texts']) and len(facts) in (1, 2)
    longer.append(len(item['texts'][0].split()) > len(item['texts'][1].split()))
  assert 0.6 < np.mean(longer) < 0.8  # the accuracy of length alone
  assert any('<think>' in text for item in scored.pairs(10, True, 'whole') for text in item['texts'])


def test_the_rule_of_toy_points():
  items = scored.points(200, False, 'whole')
  assert [item['labels'] for item in items] == [[float(i % 2)] for i in range(200)]
  for item in items:
    assert item['labels'][0] == (not set(item['texts'][0].split()) & set(scored.RUDE))


def test_the_rule_of_toy_steps():
  wrong = 0
  for item in scored.steps(300, True):
    value, *terms = item['turns'][0]['content'].split()
    errors = []
    for step, expected in zip(item['texts'], terms, strict=True):
      before, term, _, after = step.split()
      assert (before, term) == (value, expected)  # the steps after the error are consistent with it
      errors.append(int(before) + int(term) != int(after))
      value = after
    assert sum(errors) <= 1
    right = errors.index(True) if any(errors) else len(errors)
    assert item['labels'] == [1.0] * right + [0.0] * (right < len(errors)) + [-1.0] * (len(errors) - right - 1)
    wrong += any(errors)
  assert 0.7 < wrong / 300 < 0.9


@pytest.mark.parametrize('objective', config.OBJECTIVES)
def test_toy_examples_are_the_same_every_time_and_their_splits_disjoint(objective, monkeypatch):
  monkeypatch.setattr(scored, 'SPLITS', ((300, False), (50, True)))
  cfg = config.RewardModelData(source='toy', max_length=64, eval_fraction=0.0)
  train, held_out, dropped = labelled.load(cfg, objective)
  assert (train, held_out) == labelled.load(cfg, objective)[:2]
  assert len(train) == 300 and len(held_out) == 50 and dropped == {'held_out': 0}


@pytest.mark.parametrize(
  ('name', 'kind', 'count'),
  [
    ('preference/pandalm_helpful_train.jsonl', 'pairs', 632),
    ('preference/hh_harmless_test.jsonl', 'pairs', 400),
    ('preference/dpo_zh_demo.jsonl', 'pairs', 294),
    ('process/prmbench_train.jsonl.gz', 'steps', 3547),
    ('process/bigbench_mistake.jsonl.gz', 'steps', 2186),
    ('process/mr_gsm8k_wrong.jsonl', 'steps', 590),
  ],
)
def test_public_files(data_dir, name, kind, count):
  items, dropped = READ[kind](str(data_dir / name))
  assert len(items) + dropped.get('same', 0) + dropped.get('unseen', 0) == count and len(items) > 0.98 * count
