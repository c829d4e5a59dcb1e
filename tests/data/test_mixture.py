"""Mixtures: how a part reads a file, what is held out, and the order in which parts are drawn."""

import collections
import itertools
import json

import pytest

from r1jax import config, data
from r1jax.data import order
from r1jax.rewards.neural import preference


def write(path, rows):
  path.write_text(''.join(json.dumps(row, ensure_ascii=False) + '\n' for row in rows))
  return str(path)


def problems(name, count, **fields):
  return [{'problem': f'{name} {i} ?', 'answer': str(i)} | fields for i in range(count)]


def load(**parts):
  return data.load(config.convert({'source': 'mixture', 'parts': parts}, config.Data))


def test_a_problem_has_the_kind_language_and_template_of_its_part(tmp_path):
  parts = {
    'sums': dict(
      source='jsonl', path=write(tmp_path / 'a', problems('a', 40)), kind='math', language='zh', template='plain'
    ),
    'exam': dict(source='jsonl', path=write(tmp_path / 'b', problems('b', 40, kind='cloze', language='en'))),
    'rest': dict(source='jsonl', path=write(tmp_path / 'c', problems('c', 40))),
    'left': dict(source='jsonl', path='/none', weight=0.0),
  }
  loaded = load(**parts)
  label = lambda p: tuple(p.get(k) for k in ('part', 'kind', 'language', 'template'))
  assert {label(p) for p in loaded.train} == {
    ('sums', 'math', 'zh', 'plain'),
    ('exam', 'cloze', 'en', None),
    ('rest', 'rest', None, None),
  }
  assert len(loaded.train) + len(loaded.held_out) == 120


def test_fields_are_renamed_shown_and_filtered_by(tmp_path):
  rows = [
    {
      'prompt': f'Add {i}.',
      'code': 'def f(): ...',
      'tests': ['assert f(1)', 'assert f(2)'],
      'split': split,
      'language': 'python',
    }
    for i, split in enumerate(['train', 'test', 'prompt', 'train'])
  ]
  path = write(tmp_path / 'code', rows)
  part = dict(
    source='jsonl',
    path=path,
    eval_path=path,
    filter={'split': ('train',)},
    eval_filter={'split': ['test']},
    fields={'prompt': 'problem', 'tests': 'asserts', 'code': 'answer'},
    problem='{problem} Pass:\n{asserts}',
  )
  loaded = load(code=part)
  assert [p['problem'] for p in loaded.train] == [f'Add {i}. Pass:\nassert f(1)\nassert f(2)' for i in (0, 3)]
  assert [p['problem'][:6] for p in loaded.held_out] == ['Add 1.']
  assert loaded.train[0]['asserts'] == ['assert f(1)', 'assert f(2)'] and loaded.train[0]['answer'] == 'def f(): ...'
  assert not {'prompt', 'code', 'tests'} & loaded.train[0].keys()
  assert loaded.dropped == {'malformed': 0, 'held_out': 0}  # rows that are filtered out are not malformed
  with pytest.raises(data.DataError, match='none of the 4 rows .* eval_filter'):
    load(code=part | {'filter': {'split': ['nope']}})
  with pytest.raises(data.DataError, match="line 1: no field 'assserts'"):
    load(code=part | {'problem': '{assserts}'})
  first_only = load(code=part | {'problem': '{problem} Pass:\n{asserts:1}'}).train[0]
  assert first_only['problem'] == 'Add 0. Pass:\nassert f(1)' and first_only['asserts'] == [
    'assert f(1)',
    'assert f(2)',
  ]
  with pytest.raises(data.DataError, match="line 1: field 'problem' is not a list.* first 2"):
    load(code=part | {'problem': '{problem:2}'})


def test_options_get_their_letters(tmp_path):
  path = write(tmp_path / 'q', problems('q', 2, options=['one', 'two']))
  part = dict(source='jsonl', path=path, problem='{problem}\n{options}', eval_fraction=0.0)
  assert load(q=part).train[0]['problem'] == 'q 0 ?\nA. one\nB. two'


def test_requests_need_no_answer_and_may_be_conversations(tmp_path):
  turn = lambda text, role='user': {'role': role, 'content': text}
  conversation = [turn('a'), turn('b', 'assistant'), turn('c')]
  rows = [
    {'prompt': [turn('Write.')]},
    {'prompt': 'Sing.'},
    {'prompt': conversation},
    {'prompt': conversation[:2]},
    {'prompt': [3]},
  ]
  part = dict(source='jsonl', path=write(tmp_path / 'r', rows), fields={'prompt': 'problem'}, eval_fraction=0.0)
  loaded = load(open=part | {'answers': False})
  assert [(p['problem'], p['answer']) for p in loaded.train] == [
    ('Write.', ''),
    ('Sing.', ''),
    ('User: a\nAssistant: b\nUser: c', ''),
  ]
  assert [p.get('turns') for p in loaded.train] == [None, None, conversation]
  assert loaded.dropped['malformed'] == 2
  with pytest.raises(data.DataError, match="no field 'answer'"):
    load(open=part)
  item = loaded.train[2] | {'prompt': 'as sent', 'response': 'd'}
  assert preference.turns_of(item) == conversation  # a reward model sees the response as the answer to these
  assert preference.turns_of({'prompt': 'x', 'problem': 'y', 'turns': 3}) == [turn('y')]


def test_toys_are_parts_too():
  loaded = load(signs=dict(source='trial', eval_fraction=0.0), sums=dict(source='chain'))
  alone = data.load(config.Data(source='trial'))
  assert [p['problem'] for p in loaded.train if p['part'] == 'signs'] == [p['problem'] for p in alone.train]
  first = alone.train[0]['problem']
  filtered = load(one=dict(source='trial', filter={'problem': [first]}, eval_fraction=0.0))
  assert [p['problem'] for p in filtered.train] == [first] and not filtered.held_out


def test_a_problem_that_any_part_holds_out_is_not_trained_on(tmp_path):
  a, b = problems('a', 10), problems('b', 10)
  first = dict(source='jsonl', path=write(tmp_path / 'x', a + b), eval_fraction=0.0)
  second = dict(source='jsonl', path=write(tmp_path / 'y', b[:1]), eval_path=write(tmp_path / 'z', a[:3] + b[5:]))
  loaded = load(one=first, two=second)
  assert {p['problem'] for p in loaded.held_out} == {p['problem'] for p in a[:3] + b[5:]}
  assert [p['problem'] for p in loaded.train] == [p['problem'] for p in a[3:] + b[:5] + b[:1]]
  assert loaded.dropped['held_out'] == 8


def test_held_out_problems_are_stratified_by_kind(tmp_path):
  make = lambda name, count: write(tmp_path / name, problems(name, count))
  sizes = {'math1': 30, 'math2': 30, 'code1': 20, 'logic1': 5}
  parts = {
    name: dict(source='jsonl', kind=name[:-1], path=make('t' + name, 2), eval_path=make('e' + name, count))
    for name, count in sizes.items()
  }
  held_out = load(**parts).held_out
  assert len(held_out) == 85
  for n in (4, 9, 15):
    counts = collections.Counter(p['kind'] for p in held_out[:n])
    assert max(counts.values()) - min(counts.values()) <= 1 and len(counts) == 3
  both = collections.Counter(p['part'] for p in held_out[:15] if p['kind'] == 'math')
  assert both['math1'] in (2, 3) and both['math2'] in (2, 3)
  code = [p['id'] for p in held_out if p['part'] == 'code1']
  assert code != sorted(code, key=lambda i: int(i.split(':')[1]))  # a file may be sorted by difficulty
  assert held_out == load(**dict(reversed(parts.items()))).held_out


def test_equal_ids_of_two_parts_are_made_unique(tmp_path):
  paths = []
  for name in 'ab':
    (tmp_path / name).mkdir()
    paths.append(write(tmp_path / name / 'train.jsonl', problems(name, 30)))
  loaded = load(**{f'p{i}': dict(source='jsonl', path=path) for i, path in enumerate(paths)})
  ids = [p['id'] for p in loaded.train + loaded.held_out]
  assert len(set(ids)) == len(ids) == 60 and 'train.jsonl:1' in ids and 'p1/train.jsonl:1' in ids


@pytest.mark.parametrize(
  ('settings', 'words'),
  [
    (dict(source='mixture'), 'data.parts'),
    (dict(source='mixture', parts=dict(a=dict(source='trial', weight=0.0))), 'data.parts'),
    (dict(source='mixture', parts=dict(a=dict(source='trial', start_step=3))), 'before step 3'),
    (dict(source='mixture', path='x', parts=dict(a=dict(source='trial'))), "data.path 'x' would not be read"),
    (dict(source='trial', parts=dict(a=dict(source='trial'))), "data.source is 'trial'; set data.source to 'mixture'"),
    (dict(source='mixture', parts=dict(a=dict(source='jsonl'))), '--config.data.parts.a.path=FILE'),
    (dict(source='mixture', parts=dict(a=dict(source='mixture'))), "parts.a.source is 'mixture'; use one of jsonl"),
    (dict(source='mixture', parts=dict(a=dict(source='trial', wieght=1.0))), "nearest known one is 'parts.a.weight'"),
    (dict(source='mixture', parts=dict(a=dict(source='trial', problem='{x}'))), 'leave fields and problem'),
  ],
)
def test_settings_that_cannot_work(settings, words):
  with pytest.raises(config.ConfigError) as error:
    data.load(config.convert(settings, config.Data))
  assert words in str(error.value) and '\n' not in str(error.value)


def mixture(sizes, weights, start_steps=(), seed=0):
  rows = [{'part': name, 'id': f'{name}{i}'} for name, size in sizes.items() for i in range(size)]
  parts = {
    name: config.Part('jsonl', weight=w, start_step=dict(start_steps).get(name, 0)) for name, w in weights.items()
  }
  return order.Mixture(rows, parts, seed)


def drawn(mix, steps, count, **kwargs):
  return [[p['id'] for p in mix.batch(step, count, **kwargs)] for step in steps]


def test_parts_are_drawn_by_weight_and_each_goes_through_all_its_problems():
  mix = mixture(dict(a=60, b=7, c=31), dict(a=3.0, b=0.5, c=1.5))
  steps = drawn(mix, range(50), 8)
  for step in steps:
    assert len(step) == 8
  count = collections.Counter(i[0] for step in steps for i in step)
  assert all(abs(count[name] - 400 * share) < 2 for name, share in dict(a=0.6, b=0.1, c=0.3).items())
  for n in range(1, 51):  # at any time, not only at the end
    so_far = collections.Counter(i[0] for step in steps[:n] for i in step)
    assert all(abs(so_far[name] - 8 * n * share) < 2 for name, share in dict(a=0.6, b=0.1, c=0.3).items())
  for name, size in dict(a=60, b=7, c=31).items():
    ids = [i for step in steps for i in step if i[0] == name]
    for first in range(0, len(ids) - size + 1, size):  # each epoch is a permutation
      assert len(set(ids[first : first + size])) == size
    assert ids[:size] != ids[size : 2 * size] or len(ids) < 2 * size


def test_a_step_is_a_function_of_seed_and_step_alone():
  weights = dict(a=1.0, b=2.0)
  mix = mixture(dict(a=20, b=30), weights)
  straight = drawn(mix, range(20), 6)
  assert drawn(mixture(dict(a=20, b=30), weights), (13, 4, 19), 6) == [straight[i] for i in (13, 4, 19)]
  assert drawn(mixture(dict(a=20, b=30), dict(reversed(weights.items()))), range(20), 6) == straight
  assert drawn(mixture(dict(a=20, b=30), weights, seed=1), range(20), 6) != straight


def test_parts_of_equal_length_have_different_orders():
  steps = drawn(mixture(dict(a=50, b=50), dict(a=1.0, b=1.0)), range(25), 4)
  pairs = [sorted(step) for step in steps]
  first = [[i[1:] for i in step if i[0] == 'a'] for step in pairs]
  second = [[i[1:] for i in step if i[0] == 'b'] for step in pairs]
  assert sum(map(sorted, first), []) != sum(map(sorted, second), [])


@pytest.mark.parametrize('draws', [1, 4])
def test_a_part_that_starts_later_does_not_change_the_order_of_the_others(draws):
  sizes, weights = dict(a=1000, b=1000, c=1000), dict(a=2.0, b=1.0, c=3.0)
  late = mixture(sizes, weights, dict(c=5, b=2).items())
  steps = drawn(late, range(10 * draws), 12, start_draws={step: step * draws for step in (0, 2, 5)})
  per_step = [collections.Counter(i[0] for step in steps[n * draws : (n + 1) * draws] for i in step) for n in range(10)]
  count = 12 * draws
  assert all(c == {'a': count} for c in per_step[:2])
  assert all(c == {'a': count * 2 / 3, 'b': count / 3} for c in per_step[2:5])
  assert all(c == {'a': count / 3, 'b': count / 6, 'c': count / 2} for c in per_step[5:])
  ids = list(itertools.chain(*steps))
  assert len(set(ids)) == len(ids)  # no problem twice when a part starts
  alone = drawn(mixture(dict(a=1000), dict(a=1.0)), range(100), 12)
  ids_of_a = [i for i in ids if i[0] == 'a']
  assert ids_of_a == list(itertools.chain(*alone))[: len(ids_of_a)]  # its order does not depend on the others


def test_a_part_with_nothing_left_is_named():
  with pytest.raises(config.ConfigError, match='no problem of data.parts.b is left to train on'):
    mixture(dict(a=3), dict(a=1.0, b=1.0))
