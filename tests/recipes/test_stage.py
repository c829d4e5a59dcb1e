"""Stages: which key or input made one stale, and where a result came from; on files that the tests write."""

import json
import os

import pytest

from r1jax.config import ConfigError
from r1jax.recipes import stage as stage_lib
from r1jax.recipes.stage import BEGUN, DONE, STALE, TO_DO, Stage


def chain(rate=0.1, **more):
  """base -> policy -> judged, which also takes a file of base."""
  stages = [
    Stage(
      'base',
      'make',
      {'seed': 0, 'eval': {'every': 1}, 'data': {'path': '', 'names': ['a', 'b'], **more}},
      output='model',
    ),
    Stage('policy', 'train', {'model': {'path': 'stage:base'}, 'optimizer': {'rate': rate}}),
    Stage('judged', 'judge', {'sources': ['stage:policy', 'stage:base/notes.txt']}),
  ]
  return {stage.name: stage for stage in stages}


def made(stage, stages, workdir, text='x'):
  """What run of a stage leaves."""
  folder = workdir / stage.name
  (folder / 'model').mkdir(parents=True, exist_ok=True)
  (folder / 'model' / 'weights').write_text(text)
  (folder / 'notes.txt').write_text('n')
  (folder / stage_lib.RECORD).write_text(json.dumps(stage_lib.record(stage, stages, workdir)))
  (folder / stage_lib.SUMMARY).write_text('{}')


@pytest.fixture
def whole(tmp_path):
  for stage in chain().values():
    made(stage, chain(), tmp_path)
  return tmp_path


def states(stages, workdir):
  return {name: s.state for name, s in stage_lib.statuses(stages, workdir).items()}


def why(stages, workdir, name):
  return list(stage_lib.statuses(stages, workdir)[name].why)


def test_references_become_paths_of_what_was_made(tmp_path):
  stages = chain()
  assert stages['judged'].inputs == {'sources.0': ('policy', ''), 'sources.1': ('base', 'notes.txt')}
  found = stage_lib.resolved(stages['judged'], stages, tmp_path)
  assert found == {'sources': [str(tmp_path / 'policy'), str(tmp_path / 'base' / 'notes.txt')]}
  assert stage_lib.resolved(stages['policy'], stages, tmp_path)['model']['path'] == str(tmp_path / 'base' / 'model')


def test_a_reference_to_a_later_or_unknown_stage_is_refused():
  with pytest.raises(ConfigError, match=r"stage b: x.path is 'stage:c', .* before it \(a\)"):
    stage_lib.check([Stage('a', 'e', {}), Stage('b', 'e', {'x': {'path': 'stage:c'}}), Stage('c', 'e', {})])


def test_a_stage_is_done_once_its_summary_is_there(tmp_path):
  stages = chain()
  assert states(stages, tmp_path) == {'base': TO_DO, 'policy': TO_DO, 'judged': TO_DO}
  made(stages['base'], stages, tmp_path)
  assert states(stages, tmp_path)['base'] == DONE
  (tmp_path / 'base' / stage_lib.SUMMARY).unlink()
  assert states(stages, tmp_path)['base'] == BEGUN


def test_all_is_done_and_stays_so_through_json_and_settings_of_how(whole):
  assert set(states(chain(), whole).values()) == {DONE}
  stages = chain()
  stages['base'].config['eval'] = {'every': 50, 'problems': 3}
  stages['base'].config['data']['names'] = ('a', 'b')
  assert set(states(stages, whole).values()) == {DONE}


@pytest.mark.parametrize(
  'key, how',
  [
    ('train.microbatch', True),
    ('microbatch', True),
    ('model.remat', True),
    ('rollout.chunk', True),
    ('train.logit_chunk', True),
    ('ways.direct.rollout.chunk', True),
    ('ways.direct.endpoint.concurrency', True),
    ('reward.options.helpful.batch', True),
    ('judge.api_key_env', True),
    ('reward.workers', True),
    ('rollout.samples', False),
    ('batch', False),
    ('model.path', False),
    ('endpoint.model', False),
    ('loss.name', False),
    ('reward.options.code.time_limit', False),
    ('reward.timeout', False),
  ],
)
def test_what_memory_and_machines_decide_makes_nothing_stale(tmp_path, key, how):
  def of(value):
    config = value
    for part in reversed(key.split('.')):
      config = {part: config}
    return {'a': Stage('a', 'train', config)}

  made(of('1')['a'], of('1'), tmp_path)
  assert states(of('2'), tmp_path) == {'a': DONE if how else STALE}


def test_an_evaluation_is_what_it_evaluates(tmp_path):
  of = lambda samples: {'a': Stage('a', 'evaluate', {'eval': {'final_samples': samples}, 'mesh': {'tp': samples}})}
  made(of(4)['a'], of(4), tmp_path)
  assert states(of(4), tmp_path) == {'a': DONE} and why(of(8), tmp_path, 'a') == ['eval.final_samples was 4, is 8']


def test_a_changed_setting_is_named_and_passed_on(whole):
  stages = chain(rate=0.2)
  assert states(stages, whole) == {'base': DONE, 'policy': STALE, 'judged': STALE}
  assert why(stages, whole, 'policy') == ['optimizer.rate was 0.1, is 0.2']
  assert why(stages, whole, 'judged') == ['input policy (sources.0) is stale']
  stages = chain(extra=3)
  assert why(stages, whole, 'base') == ['data.extra was absent, is 3']


def test_another_experiment_or_input_is_named(whole):
  stages = chain()
  stages['policy'] = Stage('policy', 'other', {'model': {'path': 'stage:base/notes.txt'}, 'optimizer': {'rate': 0.1}})
  assert why(stages, whole, 'policy') == [
    "experiment was 'train', is 'other'",
    "model.path was 'stage:base', is 'stage:base/notes.txt'",
  ]


def test_what_an_earlier_stage_made_is_compared_by_content(whole):
  (whole / 'base' / 'model' / 'weights').write_text('y')
  assert why(chain(), whole, 'policy') == ['input base (model.path) has changed']
  assert states(chain(), whole) == {'base': DONE, 'policy': STALE, 'judged': STALE}
  (whole / 'base' / 'model' / 'weights').write_text('x')
  assert set(states(chain(), whole).values()) == {DONE}
  (whole / 'base' / 'notes.txt').write_text('z')  # judged alone reads it
  assert why(chain(), whole, 'judged') == ['input base (sources.1) has changed']


def test_a_stage_whose_input_is_gone_is_stale(whole):
  os.rename(whole / 'base', whole / 'elsewhere')
  assert states(chain(), whole) == {'base': TO_DO, 'policy': STALE, 'judged': STALE}
  assert why(chain(), whole, 'policy') == ['input base (model.path) is to do']


def test_a_file_from_outside_is_compared_by_content(tmp_path):
  data = tmp_path / 'problems.jsonl'
  data.write_text('1')
  stages = chain(eval_path=str(data))
  made(stages['base'], stages, tmp_path)
  assert states(stages, tmp_path)['base'] == DONE
  data.write_text('2')
  assert why(stages, tmp_path, 'base') == [f'data.eval_path: the content of {data} has changed']


def test_files_are_known_by_their_keys_too(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for name in ('f.jsonl', 'loss'):
    (tmp_path / name).write_text('1')
  config = {
    'samples': 'f.jsonl',
    'evaluation': ['r1_open', 'f.jsonl'],
    'ways': {'x': {'examples': 'f.jsonl'}},
    'name': 'loss',
    'template': 'f.jsonl',
  }
  assert stage_lib.files(Stage('a', 'curate', config)) == dict.fromkeys(
    ('samples', 'evaluation.1', 'ways.x.examples'), 'f.jsonl'
  )


def test_each_input_is_read_once_for_all_stages(whole, monkeypatch):
  read, digest = [], stage_lib.digest
  monkeypatch.setattr(stage_lib, 'digest', lambda path: read.append(str(path)) or digest(path))
  stages = chain() | {'again': Stage('again', 'train', {'model': {'path': 'stage:base'}})}
  made(stages['again'], stages, whole)
  read.clear()
  assert set(states(stages, whole).values()) == {DONE} and len(read) == len(set(read)) == 3


def test_a_digest_is_of_content_and_names_alone(tmp_path):
  for name in 'ab':
    made(chain()['base'], chain(), tmp_path / name)
  one, two = tmp_path / 'a' / 'base', tmp_path / 'b' / 'base'
  (two / stage_lib.SUMMARY).write_text('{"seconds": 3}')
  assert stage_lib.digest(one) == stage_lib.digest(two) != ''
  (two / 'model' / 'more').write_text('')
  assert stage_lib.digest(one) != stage_lib.digest(two)
  assert stage_lib.digest(tmp_path / 'nowhere') == ''


def test_a_change_at_the_end_of_a_large_file_is_seen(tmp_path):
  file = tmp_path / 'large'
  with open(file, 'wb') as f:
    f.truncate(16 << 20)
  before = stage_lib.digest(file)
  with open(file, 'r+b') as f:
    f.seek(-1, 2)
    f.write(b'x')
  assert stage_lib.digest(file) != before


def test_lineage_goes_back_to_the_beginning_each_once(whole):
  workdir, name = stage_lib.find(whole / 'judged' / 'model' / 'weights')
  assert (workdir, name) == (str(whole), 'judged')
  found = stage_lib.lineage(workdir, name)
  assert [(e['stage'], e['depth'], e['experiment']) for e in found] == [
    ('judged', 0, 'judge'),
    ('policy', 1, 'train'),
    ('base', 1, 'make'),
  ]
  assert found[1]['inputs']['model.path']['path'] == str(whole / 'base' / 'model')
  assert found[2]['seed'] == 0 and found[2]['digest'] == stage_lib.digest(whole / 'base' / 'model')
  assert not any(i['changed'] for e in found for i in e['inputs'].values())
  (whole / 'policy' / 'model' / 'weights').write_text('changed')
  assert stage_lib.lineage(workdir, name)[0]['inputs']['sources.0']['changed']


def test_lineage_of_what_was_set_aside(whole):
  stage_lib.set_aside(whole, 'judged')
  workdir, name = stage_lib.find(whole / 'old' / 'judged-1' / 'model')
  assert (workdir, name) == (str(whole), 'old/judged-1')
  found = stage_lib.lineage(workdir, name)
  assert [(e['stage'], e['experiment']) for e in found] == [
    ('old/judged-1', 'judge'),
    ('policy', 'train'),
    ('base', 'make'),
  ]
  assert not any(i['changed'] for e in found for i in e['inputs'].values())


def test_lineage_needs_a_record(tmp_path):
  with pytest.raises(ConfigError, match='lies in no stage'):
    stage_lib.find(tmp_path)
  (tmp_path / stage_lib.RECORD).write_text('{')
  with pytest.raises(ConfigError, match='stage.json: .*; mend it'):
    stage_lib.find(tmp_path / 'model')


def test_setting_aside_keeps_everything_under_a_new_name(whole):
  assert stage_lib.set_aside(whole, 'policy') == str(whole / 'old' / 'policy-1')
  assert (whole / 'old' / 'policy-1' / 'model' / 'weights').read_text() == 'x' and not (whole / 'policy').exists()
  made(chain()['policy'], chain(), whole)
  assert stage_lib.set_aside(whole, 'policy') == str(whole / 'old' / 'policy-2')


def test_a_damaged_record_costs_one_line(whole):
  (whole / 'base' / stage_lib.RECORD).write_text('{')
  with pytest.raises(ConfigError, match='stage.json: .*; mend it, or delete'):
    states(chain(), whole)
