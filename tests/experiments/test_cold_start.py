"""Cold-start data from a tiny base and from traces: rows in R1's form, nothing lost, the same bytes after a kill."""

import dataclasses
import json

import pytest

from configs import cold_start as configs
from experiments import cold_start
from r1jax import config, templates
from r1jax.config import ConfigError
from r1jax.data import DataError, shards

COLD = {'module': 'cold_start', 'config': 'configs/cold_start.py:toy'}
TRACES = [
  {'problem': 'What is 1 + 1?', 'reasoning': 'One and one is two.', 'response': 'It is \\boxed{2}.', 'answer': '2'},
  {'problem': 'What is 2 + 2?', 'reasoning': 'Two and two is four.', 'response': 'It is \\boxed{5}.', 'answer': '4'},
  {'problem': 'Name a tree.', 'reasoning': 'There are many of them.', 'response': 'The oak.'},
  {'problem': 'What is 3 + 3?', 'reasoning': 'Six.', 'response': '\\boxed{6}', 'answer': '6', 'eval': True},
]


@pytest.fixture(scope='module')
def settings(runs):
  """Flags for a cold start from the tiny base of the trial world: what it writes, and that written anew."""
  out = {
    'data.source': 'trial',
    'data.parts': '{}',
    'reward.parts_by_kind': '{}',
    'reward.parts': "{'format': 1.0}",
    'reward.accuracy': 'format',
    'reward.options': '{}',
    'problems': 20,
  }  # what is well formed is right
  for name in ('zero', 'direct'):
    out |= {
      f'ways.{name}.model.path': runs.base,
      f'ways.{name}.keep': 2,
      f'ways.{name}.rollout.samples': 8,
      f'ways.{name}.rollout.prompts': 8,
      f'ways.{name}.rollout.chunk': 8,
      f'ways.{name}.rollout.max_response': 24,
      f'ways.{name}.rollout.max_prompt': 120,
    }
  return out | {'ways.direct.way': 'rewrite', 'ways.direct.of': 'zero', 'ways.few_shot.way': 'readable'}


@pytest.fixture(scope='module')
def whole(runs, settings, tmp_path_factory):
  """A run that nothing disturbed. Its third way takes the samples of a finished run of experiments.generate."""
  path = tmp_path_factory.mktemp('whole')
  generated = {'model.path': runs.base, 'problems': 6, 'rollout.samples': 2, 'rollout.max_response': 24}
  runs.finish(path / 'made', generated, module='generate', config='configs/generate.py:toy')
  settings['ways.few_shot.path'] = path / 'made' / 'samples'
  runs.finish(path / 'cold', settings, **COLD)
  return path / 'cold'


def contents(workdir):
  return {name: (workdir / name).read_bytes() for name in ('train.jsonl', 'card.json', 'summary.json')}


@pytest.mark.slow
def test_rows_are_right_and_in_r1s_form_and_each_sample_is_accounted_for(whole, settings):
  rows = [json.loads(line) for line in (whole / 'train.jsonl').read_text().splitlines()]
  card = json.loads((whole / 'card.json').read_text())
  assert rows and {row['source'] for row in rows} <= {'direct', 'few_shot'}  # those of zero are drafts
  for row in rows:
    assert all(templates.r1_conditions(row['response']).values())
    assert '<answer>' in templates.summary(row['response'])
  assert len({row['id'] for row in rows}) == len(rows) == card['rows']
  for name, count in (('zero', 160), ('few_shot', 12)):
    assert card['ways'][name].get('rows', 0) + sum(card['ways'][name]['dropped'].values()) == count
  well_formed = {
    templates.parse(row['response']).thinking.strip()
    for row in shards.read(whole / 'zero' / 'samples')
    if row['correct']
  }
  asked = [row['prompt'] for row in shards.read(whole / 'direct' / 'samples')]
  assert len(asked) == 8 * card['ways']['zero']['rows'] > 8
  assert all(any(f' {draft}\n ' in prompt for draft in well_formed) for prompt in asked)


@pytest.mark.slow
def test_killed_in_the_second_way_the_bytes_are_the_same(runs, whole, settings, tmp_path):
  runs.kill(tmp_path, (tmp_path / 'direct' / 'generate.json').exists, settings, 0.5, **COLD)
  assert (tmp_path / 'zero' / 'done.json').exists() and not (tmp_path / 'train.jsonl').exists()
  runs.finish(tmp_path, settings, **COLD)
  assert contents(tmp_path) == contents(whole)


def of_traces(path, **more):
  c = configs.get_config('traces')
  c.update(shortest=0, **more)
  c.ways.traces.update(path=str(path), exclude='eval')
  return config.convert(c, config.ColdStart)


def test_traces_are_graded_where_they_can_be(tmp_path):
  path = tmp_path / 'traces.jsonl'
  path.write_text(''.join(json.dumps(row) + '\n' for row in TRACES))
  summary = cold_start.run_cold_start(of_traces(path), str(tmp_path / 'out'))
  rows = [json.loads(line) for line in (tmp_path / 'out' / 'train.jsonl').read_text().splitlines()]
  assert [row['problem'] for row in rows] == [TRACES[0]['problem'], TRACES[2]['problem']]
  assert rows[0]['response'] == '<think>\nOne and one is two.\n</think>\n\nIt is \\boxed{2}.'
  assert summary['ways']['traces']['dropped'] == {'wrong': 1} and summary['rows'] == 2
  again = cold_start.run_cold_start(of_traces(path), str(tmp_path / 'out'))
  assert again == summary
  path.write_text(path.read_text() + json.dumps(TRACES[0] | {'answer': None, 'id': None}) + '\n')
  with pytest.raises(ConfigError, match='begun with other settings: sha256'):
    cold_start.run_cold_start(of_traces(path), str(tmp_path / 'out'))
  more = cold_start.run_cold_start(of_traces(path), str(tmp_path / 'more'))
  assert more['rows'] == 3  # the last has no answer to be wrong by


def test_other_drafts_are_not_rewritten_as_if_they_were_the_same(tmp_path, monkeypatch):
  class Begun(Exception):
    pass

  def start(*_):
    raise Begun

  path, folder = tmp_path / 'traces.jsonl', tmp_path / 'out'
  path.write_text(json.dumps(TRACES[2]) + '\n')
  whole = config.to_dict(of_traces(path))
  whole['ways']['new'] = {
    'way': 'rewrite',
    'drafts': 'traces',
    'endpoint': {'url': 'http://localhost/v1', 'model': 'm'},
  }
  cfg = config.convert(whole, config.ColdStart)
  monkeypatch.setattr(cold_start.generate, 'start', start)
  cold_start.sample(cfg, 'traces', str(folder))
  whole['ways']['new']['endpoint']['concurrency'] = 2  # how it is asked, not what
  for one in (cfg, cfg, config.convert(whole, config.ColdStart)):
    with pytest.raises(Begun):
      cold_start.sample(one, 'new', str(folder))
  with pytest.raises(ConfigError, match='begun with other settings: drafts was'):
    cold_start.sample(dataclasses.replace(cfg, longest=3), 'new', str(folder))


def test_samples_are_named_by_their_folder_or_the_workdir_it_is_in(tmp_path):
  way = config.ColdWay('readable', path=str(tmp_path))
  assert cold_start.folder_of('D', 'zero', way) == str(tmp_path)
  (tmp_path / 'samples').mkdir()
  assert cold_start.folder_of('D', 'zero', way) == str(tmp_path / 'samples')
  assert cold_start.folder_of('D', 'zero', dataclasses.replace(way, path='')) == 'D/zero/samples'


def test_bad_traces_are_refused_by_their_line(tmp_path):
  path = tmp_path / 'traces.jsonl'
  path.write_text(json.dumps(TRACES[0]) + '\n{"problem": "x"}\n')
  with pytest.raises(DataError, match="line 2: no text in field 'reasoning'"):
    cold_start.run_cold_start(of_traces(path), str(tmp_path / 'out'))
  path.write_text(json.dumps(TRACES[1]) + '\n')
  with pytest.raises(ConfigError, match="no sample can be learned from.*'?wrong'?") as error:
    cold_start.run_cold_start(of_traces(path), str(tmp_path / 'other'))
  assert '\n' not in str(error.value)


def test_traces_of_evaluated_problems_and_answers_that_cannot_be_compared_with_are_known_before_grading(tmp_path):
  path, evaluated = tmp_path / 'traces.jsonl', tmp_path / 'test.jsonl'
  path.write_text(''.join(json.dumps(row) + '\n' for row in TRACES))
  evaluated.write_text(json.dumps({'problem': 'what is 1+1'}) + '\n')
  summary = cold_start.run_cold_start(of_traces(path, data={'evaluation': (str(evaluated),)}), str(tmp_path / 'out'))
  assert [json.loads(line)['problem'] for line in (tmp_path / 'out' / 'train.jsonl').read_text().splitlines()] == [
    'Name a tree.'
  ] and summary['ways']['traces']['dropped'] == {'wrong': 1}
  path.write_text(json.dumps(TRACES[0] | {'answer': ['2']}) + '\n')
  with pytest.raises(DataError, match="line 1: the reward 'math' cannot score it: the item's 'answer' is"):
    cold_start.run_cold_start(of_traces(path), str(tmp_path / 'other'))


def test_what_a_way_is_asked_and_sampled_with():
  cfg = config.convert(configs.get_config('deepseek_v3'), config.ColdStart)
  asked = {name: cold_start.template(cfg, way) for name, way in cfg.ways.items()}
  assert asked['zero'] is templates.TEMPLATES['r1_zero']
  assert not asked['few_shot'].chat and asked['direct'].chat and asked['rewritten'].way == 'rewrite'
  sampled = {name: cold_start.to_generate(cfg, n, way) for n, (name, way) in enumerate(cfg.ways.items())}
  assert len({one.seed for one in sampled.values()}) == 4  # else ways would draw alike
  assert set(sampled['direct'].rollout.stop) == set() == set(sampled['few_shot'].rollout.stop)  # no model yet
  model = config.convert(dict(path='base'), config.Model)
  way = dataclasses.replace(cfg.ways['few_shot'], model=model)
  assert {'\nProblem:', '\n题目：'} <= set(cold_start.to_generate(cfg, 0, way).rollout.stop)


@pytest.mark.parametrize(
  'change, match',
  [
    (lambda c: c.ways.rewritten.update(drafts='none'), "drafts is 'none'; it must be one of"),
    (lambda c: c.ways.zero.update(way='zero'), "way is 'zero'; known: few_shot"),
    (lambda c: c.ways.zero.update(drafts='direct'), 'drafts is for the way rewrite'),
    (lambda c: c.update(layout='{summary}{thinking}'), 'layout is'),
    (lambda c: c.update(layout='<think>{thinking}'), 'layout is'),
    (lambda c: c.update(layout='{thinking}</think>{summary}'), 'layout is'),
    (lambda c: c.ways.zero.update(keep=0), 'keep is 0'),
  ],
)
def test_what_cannot_work_is_refused(change, match):
  c = configs.get_config('deepseek_v3')
  change(c)
  with pytest.raises(ConfigError, match=match):
    config.convert(c, config.ColdStart)
