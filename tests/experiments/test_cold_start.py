"""Cold-start data from a tiny base and from traces: rows in R1's format, and the same bytes after a kill."""

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
  """Overrides for a cold start from the tiny base of the trial world: its responses, and their rewriting."""
  out = {
    'data.source': 'trial',
    'data.parts': '{}',
    'reward.parts_by_kind': '{}',
    'reward.parts': "{'format': 1.0}",
    'reward.accuracy': 'format',
    'reward.options': '{}',
    'problems': 20,
  }  # a well-formed response counts as right
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
  return out | {'ways.direct.way': 'rewrite', 'ways.direct.drafts': 'zero', 'ways.few_shot.way': 'readable'}


@pytest.fixture(scope='module')
def uninterrupted(runs, settings, tmp_path_factory):
  """The folder of an uninterrupted run, whose third way reads the samples of a finished run of experiments.generate."""
  path = tmp_path_factory.mktemp('uninterrupted')
  generated = {'model.path': runs.base, 'problems': 6, 'rollout.samples': 2, 'rollout.max_response': 24}
  runs.finish(path / 'made', generated, module='generate', config='configs/generate.py:toy')
  settings['ways.few_shot.path'] = path / 'made' / 'samples'
  runs.finish(path / 'cold', settings, **COLD)
  return path / 'cold'


def contents(workdir):
  return {name: (workdir / name).read_bytes() for name in ('train.jsonl', 'card.json', 'summary.json')}


@pytest.mark.slow
def test_rows_are_right_and_well_formed_and_each_sample_is_counted(uninterrupted, settings):
  rows = [json.loads(line) for line in (uninterrupted / 'train.jsonl').read_text().splitlines()]
  card = json.loads((uninterrupted / 'card.json').read_text())
  assert rows and {row['source'] for row in rows} <= {'direct', 'few_shot'}  # rows of zero are only drafts
  for row in rows:
    assert all(templates.r1_conditions(row['response']).values())
    assert '<answer>' in templates.summary(row['response'])
  assert len({row['id'] for row in rows}) == len(rows) == card['rows']
  for name, count in (('zero', 160), ('few_shot', 12)):
    assert card['ways'][name].get('rows', 0) + sum(card['ways'][name]['dropped'].values()) == count
  well_formed = {
    templates.parse(row['response']).thinking.strip()
    for row in shards.read(uninterrupted / 'zero' / 'samples')
    if row['correct']
  }
  prompts = [row['prompt'] for row in shards.read(uninterrupted / 'direct' / 'samples')]
  assert len(prompts) == 8 * card['ways']['zero']['rows'] > 8
  assert all(any(f' {draft}\n ' in prompt for draft in well_formed) for prompt in prompts)


@pytest.mark.slow
def test_a_run_killed_in_its_second_way_ends_with_the_same_bytes(runs, uninterrupted, settings, tmp_path):
  runs.kill(tmp_path, (tmp_path / 'direct' / 'generate.json').exists, settings, 0.5, **COLD)
  assert (tmp_path / 'zero' / 'done.json').exists() and not (tmp_path / 'train.jsonl').exists()
  runs.finish(tmp_path, settings, **COLD)
  assert contents(tmp_path) == contents(uninterrupted)


def traces_config(path, **overrides):
  c = configs.get_config('traces')
  c.update(shortest=0, **overrides)
  c.ways.traces.update(path=str(path), exclude='eval')
  return config.convert(c, config.ColdStart)


def test_traces_with_an_answer_are_graded(tmp_path):
  path = tmp_path / 'traces.jsonl'
  path.write_text(''.join(json.dumps(row) + '\n' for row in TRACES))
  summary = cold_start.run_cold_start(traces_config(path), str(tmp_path / 'out'))
  rows = [json.loads(line) for line in (tmp_path / 'out' / 'train.jsonl').read_text().splitlines()]
  assert [row['problem'] for row in rows] == [TRACES[0]['problem'], TRACES[2]['problem']]
  assert rows[0]['response'] == '<think>\nOne and one is two.\n</think>\n\nIt is \\boxed{2}.'
  assert summary['ways']['traces']['dropped'] == {'wrong': 1} and summary['rows'] == 2
  again = cold_start.run_cold_start(traces_config(path), str(tmp_path / 'out'))
  assert again == summary
  path.write_text(path.read_text() + json.dumps(TRACES[0] | {'answer': None, 'id': None}) + '\n')
  with pytest.raises(ConfigError, match='sha256 was'):
    cold_start.run_cold_start(traces_config(path), str(tmp_path / 'out'))
  longer = cold_start.run_cold_start(traces_config(path), str(tmp_path / 'longer'))
  assert longer['rows'] == 3  # the last trace has no answer, so it counts as right


def test_other_drafts_in_the_same_folder_are_refused(tmp_path, monkeypatch):
  class Started(Exception):
    pass

  def start(*_):
    raise Started

  path, folder = tmp_path / 'traces.jsonl', tmp_path / 'out'
  path.write_text(json.dumps(TRACES[2]) + '\n')
  tree = config.to_dict(traces_config(path))
  tree['ways']['new'] = {'way': 'rewrite', 'drafts': 'traces', 'endpoint': {'url': 'http://localhost/v1', 'model': 'm'}}
  cfg = config.convert(tree, config.ColdStart)
  monkeypatch.setattr(cold_start.generation, 'make_policy', start)
  cold_start.sample_way(cfg, 'traces', str(folder))
  tree['ways']['new']['endpoint']['concurrency'] = 2  # does not change the answers
  for same in (cfg, cfg, config.convert(tree, config.ColdStart)):
    with pytest.raises(Started):
      cold_start.sample_way(same, 'new', str(folder))
  with pytest.raises(ConfigError, match='drafts was'):
    cold_start.sample_way(dataclasses.replace(cfg, longest=3), 'new', str(folder))


def test_existing_samples_are_found_by_their_folder_or_its_workdir(tmp_path):
  way = config.ColdWay('readable', path=str(tmp_path))
  assert cold_start.samples_folder('D', 'zero', way) == str(tmp_path)
  (tmp_path / 'samples').mkdir()
  assert cold_start.samples_folder('D', 'zero', way) == str(tmp_path / 'samples')
  assert cold_start.samples_folder('D', 'zero', dataclasses.replace(way, path='')) == 'D/zero/samples'


def test_malformed_traces_are_refused_with_their_line(tmp_path):
  path = tmp_path / 'traces.jsonl'
  path.write_text(json.dumps(TRACES[0]) + '\n{"problem": "x"}\n')
  with pytest.raises(DataError, match="line 2: .*'reasoning'"):
    cold_start.run_cold_start(traces_config(path), str(tmp_path / 'out'))
  path.write_text(json.dumps(TRACES[1]) + '\n')
  with pytest.raises(ConfigError, match='"wrong": 1') as error:
    cold_start.run_cold_start(traces_config(path), str(tmp_path / 'other'))
  assert '\n' not in str(error.value)


def test_contaminated_traces_are_dropped_and_unusable_answers_refused_before_grading(tmp_path):
  path, evaluated = tmp_path / 'traces.jsonl', tmp_path / 'test.jsonl'
  path.write_text(''.join(json.dumps(row) + '\n' for row in TRACES))
  evaluated.write_text(json.dumps({'problem': 'what is 1+1'}) + '\n')
  cfg = traces_config(path, data={'evaluation': (str(evaluated),)})
  summary = cold_start.run_cold_start(cfg, str(tmp_path / 'out'))
  assert [json.loads(line)['problem'] for line in (tmp_path / 'out' / 'train.jsonl').read_text().splitlines()] == [
    'Name a tree.'
  ] and summary['ways']['traces']['dropped'] == {'wrong': 1}
  path.write_text(json.dumps(TRACES[0] | {'answer': ['2']}) + '\n')
  with pytest.raises(DataError, match="line 1: .*'math' .*'answer'"):
    cold_start.run_cold_start(traces_config(path), str(tmp_path / 'other'))


def test_prompt_and_sampling_config_of_each_way():
  cfg = config.convert(configs.get_config('deepseek_v3'), config.ColdStart)
  prompts = {name: cold_start.make_template(cfg, way) for name, way in cfg.ways.items()}
  assert prompts['zero'] is templates.TEMPLATES['r1_zero']
  assert not prompts['few_shot'].chat and prompts['direct'].chat and prompts['rewritten'].way == 'rewrite'
  sampled = {name: cold_start.generate_config(cfg, n, way) for n, (name, way) in enumerate(cfg.ways.items())}
  assert len({way_cfg.seed for way_cfg in sampled.values()}) == 4  # with equal seeds the ways would draw the same
  assert not sampled['direct'].rollout.stop and not sampled['few_shot'].rollout.stop  # few_shot has no model yet
  model = config.convert(dict(path='base'), config.Model)
  way = dataclasses.replace(cfg.ways['few_shot'], model=model)
  assert {'\nProblem:', '\n题目：'} <= set(cold_start.generate_config(cfg, 0, way).rollout.stop)


@pytest.mark.parametrize(
  ('change', 'match'),
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
def test_invalid_configs_are_refused(change, match):
  c = configs.get_config('deepseek_v3')
  change(c)
  with pytest.raises(ConfigError, match=match):
    config.convert(c, config.ColdStart)
