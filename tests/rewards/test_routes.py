"""Which parts an item of a kind has, how they are combined, and that no other part scores it."""

import numpy as np
import pytest

from r1jax import config
from r1jax.rewards import mix
from r1jax.rewards.coding import code_tests
from r1jax.rewards.text import language
from r1jax.rewards.workers import pool

# Mathematics by the common accuracy part, code and requests by parts_by_kind of their own.
SETTINGS = dict(
  parts={'math': 1.0, 'format': 0.5, 'language': 0.25},
  accuracy='math',
  gates=('format',),
  parts_by_kind={'code': {'code': 2.0}, 'open': {'helpful': 1.0, 'harmless': 3.0, 'language': 0.0}},
  accuracy_by_kind={'open': 'harmless'},
  functions={'helpful': 'preference', 'harmless': 'preference'},
  timeout=60.0,
  thresholds={'harmless': 0.5},
  start_step={'helpful': 10},
)


def reward(**changes):
  return config.convert(SETTINGS | changes, config.Reward)


def test_a_route_takes_the_place_of_the_accuracy_and_may_reweigh_a_common_part():
  cfg = reward()
  assert cfg.weights() == cfg.weights('math') == {'math': 1.0, 'format': 0.5, 'language': 0.25}
  assert cfg.weights('code') == {'format': 0.5, 'language': 0.25, 'code': 2.0}
  assert cfg.weights('open') == {'format': 0.5, 'language': 0.0, 'helpful': 1.0, 'harmless': 3.0}
  assert [cfg.accuracy_of(k) for k in (None, 'math', 'code', 'open')] == ['math', 'math', 'code', 'harmless']
  assert cfg.names() == ['math', 'format', 'language', 'code', 'helpful', 'harmless']
  assert reward(accuracy_by_kind={'open': ''}).accuracy_of('open') == ''
  assert reward(
    parts_by_kind={'hard': {'math': 2.0}}, accuracy_by_kind={}, thresholds={}, start_step={}, functions={}
  ).weights('hard') == {'format': 0.5, 'language': 0.25, 'math': 2.0}


ITEMS = [{'kind': kind} for kind in ('code', 'open', None, 'math', 'open')] + [{}, {'kind': 3}]
SCORES = {
  'math': [9, 9, 1, 0, 9, 1, 1],
  'format': [1, 1, 1, 1, 0, 1, 0.5],
  'language': [1, 0.5, 1, 0, 1, 1, 1],
  'code': [1, 9, 9, 9, 9, 9, 9],
  'helpful': [9, 0.75, 9, 9, 1, 9, 9],
  'harmless': [9, 0.25, 9, 9, 1, 9, 9],
}
SCORES = {name: np.float32(x) for name, x in SCORES.items()}


def test_totals_by_hand():
  cfg = reward()
  total = mix.total(SCORES, cfg, mix.weights(ITEMS, cfg))
  # The 9s are scores of parts that the item does not have.
  expected = [2 + 0.5 + 0.25, 0.5 + 0.75 + 0.75, 1 + 0.5 + 0.25, 0.5, 0, 1.75, 0.5 * (1 + 0.25 + 0.25)]
  assert total.dtype == np.float32
  np.testing.assert_allclose(total, expected, rtol=1e-6)
  # Before step 10, helpfulness is neither computed nor counted.
  early = mix.weights(ITEMS, cfg, step=9)
  assert 'helpful' not in early[1] and 'harmless' in early[1]
  assert mix.weights(ITEMS, cfg, step=10) == mix.weights(ITEMS, cfg)
  expected[1] -= 0.75
  np.testing.assert_allclose(mix.total(SCORES, cfg, early), expected, rtol=1e-6)


def test_a_gate_holds_for_the_items_that_have_it():
  cfg = reward(gates=('code', 'harmless'))
  total = mix.total(SCORES, cfg, mix.weights(ITEMS, cfg))
  np.testing.assert_allclose(total[:4], [2.75, 0.25 * (0.5 + 0.75 + 0.75), 1.75, 0.5], rtol=1e-6)


def test_each_kind_has_its_own_part_for_accuracy():
  cfg = reward()
  assert mix.right(SCORES, cfg, ITEMS).tolist() == [True, False, True, False, True, True, True]
  low = {name: x * 0 + 0.5 for name, x in SCORES.items()}
  assert mix.right(low, cfg, ITEMS).tolist() == [False, True, False, False, True, False, False]  # the threshold of 0.5
  none = reward(accuracy_by_kind={'open': ''}, thresholds={})
  assert mix.right(SCORES, none, ITEMS).tolist() == [True, False, True, False, False, True, True]


def test_without_routes_the_kind_of_an_item_means_nothing():
  cfg = config.Reward(parts={'math': 1.0, 'format': 0.5}, accuracy='math')
  alone = mix.total(SCORES, cfg)
  assert mix.total(SCORES, cfg, mix.weights(ITEMS, cfg, 0)).tobytes() == alone.tobytes()
  np.testing.assert_allclose(alone, SCORES['math'] + 0.5 * SCORES['format'])


@pytest.mark.parametrize(
  ('settings', 'words'),
  [
    (dict(accuracy='code'), "reward.accuracy is 'code'"),
    (
      dict(accuracy='', parts_by_kind={}, accuracy_by_kind={}, thresholds={}, start_step={}, functions={}),
      "reward.accuracy is ''",
    ),
    (dict(accuracy_by_kind={}), 'parts_by_kind.open adds 2 parts (helpful, harmless)'),
    (dict(accuracy_by_kind={'open': 'code'}), "reward.accuracy_by_kind.open is 'code'"),
    (
      dict(thresholds={'judge': 0.5}),
      "reward.thresholds names 'judge', which is not in reward.parts (math, format, language) or",
    ),
    (dict(start_step={'helpful': -1}), 'start_step.helpful is -1; it must lie in [0, '),
    (dict(timeout=4.0), "test of 'code' may take 5.0 s"),
    (
      dict(
        parts_by_kind={'code': {'fast': 1.0}},
        functions={'fast': 'code'},
        options={'fast': {'time_limit': 90.0}},
        accuracy_by_kind={},
        thresholds={},
        start_step={},
      ),
      "test of 'fast' may take 90.0 s",
    ),
    (dict(step_credit=0.5), "reward.step_credit is 0.5, but 'process'"),
  ],
)
def test_routes_that_cannot_work(settings, words):
  with pytest.raises(config.ConfigError) as error:
    reward(**settings)
  assert words in str(error.value) and '\n' not in str(error.value)


def item(response, **fields):
  return {'prompt': '', 'response': response, 'problem': 'p', 'answer': '4'} | fields


def test_a_grader_asks_each_item_its_own_parts_only():
  items = [item('4', kind='a'), item('B', answer='B', kind='b'), item('so 4', kind='a')]
  # 'choice' would raise on the other items, but does not score them.
  parts = {'math': {'bare': True}, 'choice': {'where': 'summary'}, 'loose': {'bare': False}}
  with pool.Grader(parts, functions={'loose': 'math'}) as grader:
    item_parts = [{'math': 1.0, 'elsewhere': 1.0}, {'choice': 1.0}, ['loose', 'math']]
    scores = grader.submit(items, item_parts).result()
    with pytest.raises(pool.GradeError, match="'answer' is '4'"):
      grader.submit(items).result()
  assert {name: x.tolist() for name, x in scores.parts.items()} == {
    'math': [1, 0, 0],
    'choice': [0, 1, 0],
    'loose': [0, 0, 0],
  }
  assert [[v is None for v in scores.verdicts[name]] for name in parts] == [
    [False, True, False],
    [True, False, True],
    [True, True, False],
  ]
  with pytest.raises(config.ConfigError, match="reward 'mth'"):
    pool.Grader({'loose': {}}, functions={'loose': 'mth'})


def test_one_field_serves_the_language_of_people_and_of_programs():
  item = {'problem': 'Add 1.', 'response': '', 'io': [{'input': '', 'output': '2'}]}
  for name in ('en', 'zh', 'python'):
    assert code_tests._parse_item(item | {'language': name})[0] == 'python'
  assert code_tests._parse_item(item | {'language': 'cpp'})[0] == 'cpp'
  chain = {'prompt': '', 'problem': '一加一是几？', 'response': '<think>one and one is two</think>2'}
  assert language.verdict(chain | {'language': 'cpp'})['target'] == 'zh'  # the language of the problem
  assert language.verdict(chain | {'language': 'en'})['score'] == 1
  assert language.verdict(chain)['score'] == 0
