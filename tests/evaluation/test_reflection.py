"""Statistics of reflection on rows made by hand, and its annotated examples."""

import json
import pathlib

import numpy as np
import pytest

from configs import reflection as configs
from r1jax import config, templates
from r1jax.evaluation import reflection, reflection_tables
from r1jax.metrics import reflection_plots

EXAMPLES = pathlib.Path(__file__).parent / 'reflection_examples.jsonl'


@pytest.mark.parametrize('line', EXAMPLES.read_text(encoding='utf-8').splitlines())
def test_annotated_examples(line):
  example = json.loads(line)
  text, words = example['text'], example['reflects']
  found = templates.find_reflections(text)
  assert len(found) == len(words) == templates.reflections(text)
  assert [text[at : at + len(word)] for at, word in zip(found, words)] == words


def test_places_are_those_of_the_text_as_it_is():
  text = 'İstanbul ß: WAIT'  # its lowercase is longer
  assert [text[at:] for at in templates.find_reflections(text)] == ['WAIT']


def row(name, correct, tokens=10, at=(), before=None, same=None, continued=None, stop='eos', steps=1):
  out = {'id': name, 'correct': correct, 'tokens': tokens, 'stop': stop, 'steps': steps, 'at': list(at)}
  if at:
    out['answered'] = {'correct': before, 'same': same}
    out['continued'] = None if continued is None else {'correct': continued, 'tokens': 5}
  return out


ROWS = [
  row('a', True, at=[0, 9], before=True, same=True, continued=True),
  row('a', True, at=[5], before=False, same=False, continued=False),
  row('a', False, at=[5], before=True, same=False, continued=None, stop='length'),
  row('b', False, at=[2], before=False, same=None, continued=True),
  row('b', True, at=[3], before=False, same=False),
  row('b', True, 30),
]


def values(figures):
  return {name: x[0] if isinstance(x, list) else x for name, x in figures.items()}


def test_a_ratio_resamples_problems_with_all_their_rows():
  rows = [{'id': 'a', 'x': 1}] * 3 + [{'id': 'b', 'x': 0}] + [{'id': 'c', 'x': 9, 'out': True}]
  value, low, high = reflection.ratio(rows, lambda r: r['x'], lambda r: 'out' not in r)
  assert value == 0.75 and (low, high) == (0.0, 1.0)  # a alone and b alone are possible draws
  many = [{'id': str(n), 'x': n % 2} for n in range(400)]
  value, low, high = reflection.ratio(many, lambda r: r['x'])
  np.testing.assert_allclose([low, high], 0.5 + 1.96 * np.array([-1, 1]) * 0.5 / 20, atol=0.01)  # the binomial's
  assert reflection.ratio(rows, lambda r: r['x'], lambda r: False) is None


def test_rates_and_places():
  found = values(reflection.rates(ROWS))
  assert found == {
    'responses': 6,
    'problems': 2,
    'reflecting': pytest.approx(5 / 6),
    'reflections': 1.0,
    'accuracy': pytest.approx(4 / 6),
    'accuracy with': pytest.approx(3 / 5),
    'accuracy without': 1.0,
    'tokens with': 10.0,
    'tokens without': 30.0,
  }
  shares = np.zeros(10)
  shares[[0, 9, 2, 3]], shares[5] = 1 / 6, 2 / 6
  np.testing.assert_allclose(reflection.places(ROWS), shares)
  assert reflection.places(ROWS[-1:]) is None


def test_changes_of_the_answer():
  assert values(reflection.changes(ROWS)) == {
    'responses': 5,
    'right to right': pytest.approx(0.2),
    'wrong to right': pytest.approx(0.4),
    'right to wrong': pytest.approx(0.2),
    'wrong to wrong': pytest.approx(0.2),
    'gain': pytest.approx(0.2),
    'other answer': pytest.approx(3 / 4),
    'lost at the limit': 1.0,
  }


def test_without_the_reflection():
  found = reflection.without(ROWS)
  assert values(found) == {
    'whole': pytest.approx(3 / 5),
    'answered': pytest.approx(2 / 5),
    'whole minus answered': pytest.approx(1 / 5),
    'continued responses': 3,
    'whole, where continued': pytest.approx(2 / 3),
    'continued': pytest.approx(2 / 3),
    'whole minus continued': pytest.approx(0.0),
  }
  # Of a the difference is (0 + 1 + -1) / 3 = 0, of b (0 + 1) / 2: draws of both, of a alone, of b alone.
  assert found['whole minus answered'][1:] == [0.0, 0.5]


def test_accuracy_against_length_at_equal_difficulty():
  lengths = lambda name, pairs: [row(name, correct, tokens) for correct, tokens in pairs]
  rows = lengths('always', [(True, 1000)] * 4) + lengths('never', [(False, 1)] * 4)
  rows += lengths('hard', [(True, 10), (False, 20), (False, 30), (False, 40)])  # pass rate 1/4
  rows += lengths('half', [(True, 50), (True, 60), (False, 70), (False, 80)])
  found = reflection.by_length(rows)
  assert [(level['up to'], level['problems']) for level in found['levels']] == [
    (0.25, 1),
    (0.5, 1),
    (0.75, 0),
    (1.0, 0),
  ]
  assert [(p['tokens'], p['accuracy'][0]) for p in found['levels'][0]['points']] == [(10, 1), (20, 0), (30, 0), (40, 0)]
  assert found['levels'][2]['points'] == []
  assert found['longer minus shorter'] == [pytest.approx(-0.75), -1.0, -0.5]  # -1/2 of the one, -1 of the other


def test_accuracy_against_steps_beside_what_the_problems_let_expect():
  rows = [row('a', True, steps=5), row('a', False, steps=51), row('b', True, steps=6), row('b', True, steps=60)]
  groups = reflection.by_steps(rows)
  assert [(g['above'], g['up to'], g['responses']) for g in groups] == [
    (0, 5, 1),
    (5, 10, 1),
    (10, 20, 0),
    (20, 50, 0),
    (50, None, 2),
  ]
  assert [groups[-1][name][0] for name in ('accuracy', 'expected', 'beyond')] == [0.5, 0.75, -0.25]
  assert groups[2]['accuracy'] is None


def test_tables_and_plots_show_all_figures():
  figures = {'base': {'1': reflection.summarise(ROWS)}, 'none': {'0.6': reflection.summarise(ROWS[-1:])}}
  text = reflection_tables.markdown(json.loads(json.dumps(figures)))
  assert '| base | 1 | 6 | 83.3 [' in text and '| none | 0.6 | 1 | 0.0 [' in text
  blocks = [block.splitlines() for block in text.split('\n\n') if block.startswith('|')]
  assert len(blocks) == 5 and all(len({line.count('|') for line in block}) == 1 for block in blocks)
  drawn = reflection_plots.figures(figures)
  assert set(drawn) == {'rate', 'places', 'changes', 'steps', 'length_base_t1'}


@pytest.mark.parametrize(
  ('settings', 'match'),
  [
    (dict(models=dict(base='A'), model=dict(path='B')), 'both set'),
    (dict(models={'a/b': 'A'}), "'a/b'"),
    (dict(temperatures=()), 'temperatures'),
    (dict(temperatures=(-0.5,)), 'below 0'),
    (dict(temperatures=(1.0, 1.0)), 'twice'),
    (dict(steps='word'), "'word'.*line, paragraph"),
    (dict(rollout=dict(slots=0)), 'rollout.slots is 0'),
  ],
)
def test_settings_that_cannot_work_are_refused(settings, match):
  c = configs.get_config('toy').to_dict()
  for key, value in settings.items():
    c[key] = c[key] | value if isinstance(value, dict) else value
  with pytest.raises(config.ConfigError, match=match):
    config.convert(c, config.Reflection)
