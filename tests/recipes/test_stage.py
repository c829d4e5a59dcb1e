"""Stages: which setting or input makes one stale, and lineage; on files that the tests write."""

import json
import os

import pytest

from r1jax.config import ConfigError
from r1jax.recipes import stage as stage_lib
from r1jax.recipes.stage import BEGUN, DONE, STALE, TO_DO, Stage


def chain(rate=0.1, **data):
  """Stages base -> policy -> judged; the last one also uses a file of base."""
  stages = [
    Stage(
      'base',
      'make',
      {'seed': 0, 'eval': {'every': 1}, 'data': {'path': '', 'names': ['a', 'b'], **data}},
      output='model',
    ),
    Stage('policy', 'train', {'model': {'path': 'stage:base'}, 'optimizer': {'rate': rate}}),
    Stage('judged', 'judge', {'sources': ['stage:policy', 'stage:base/notes.txt']}),
  ]
  return {stage.name: stage for stage in stages}


def finish(stage, stages, workdir, text='x'):
  """Writes the files that a finished run of a stage leaves."""
  folder = workdir / stage.name
  (folder / 'model').mkdir(parents=True, exist_ok=True)
  (folder / 'model' / 'weights').write_text(text)
  (folder / 'notes.txt').write_text('n')
  (folder / stage_lib.RECORD).write_text(json.dumps(stage_lib.record(stage, stages, workdir)))
  (folder / stage_lib.SUMMARY).write_text('{}')


@pytest.fixture
def finished(tmp_path):
  for stage in chain().values():
    finish(stage, chain(), tmp_path)
  return tmp_path


def states(stages, workdir):
  return {name: s.state for name, s in stage_lib.statuses(stages, workdir).items()}


def why(stages, workdir, name):
  return list(stage_lib.statuses(stages, workdir)[name].why)


def test_references_become_paths(tmp_path):
  stages = chain()
  assert stages['judged'].inputs == {'sources.0': ('policy', ''), 'sources.1': ('base', 'notes.txt')}
  config = stage_lib.resolved(stages['judged'], stages, tmp_path)
  assert config == {'sources': [str(tmp_path / 'policy'), str(tmp_path / 'base' / 'notes.txt')]}
  assert stage_lib.resolved(stages['policy'], stages, tmp_path)['model']['path'] == str(tmp_path / 'base' / 'model')


def test_a_reference_to_a_later_or_unknown_stage_is_refused():
  with pytest.raises(ConfigError, match=r"stage b: x.path is 'stage:c', .* before it \(a\)"):
    stage_lib.check([Stage('a', 'e', {}), Stage('b', 'e', {'x': {'path': 'stage:c'}}), Stage('c', 'e', {})])


def test_a_stage_is_done_once_it_has_a_summary(tmp_path):
  stages = chain()
  assert states(stages, tmp_path) == {'base': TO_DO, 'policy': TO_DO, 'judged': TO_DO}
  finish(stages['base'], stages, tmp_path)
  assert states(stages, tmp_path)['base'] == DONE
  (tmp_path / 'base' / stage_lib.SUMMARY).unlink()
  assert states(stages, tmp_path)['base'] == BEGUN


def test_settings_without_effect_and_tuples_leave_all_stages_done(finished):
  assert set(states(chain(), finished).values()) == {DONE}
  stages = chain()
  stages['base'].config['eval'] = {'every': 50, 'problems': 3}
  stages['base'].config['data']['names'] = ('a', 'b')
  assert set(states(stages, finished).values()) == {DONE}


@pytest.mark.parametrize(
  ('key', 'stays_done'),
  [
    ('train.microbatch', True),
    ('microbatch', True),
    ('model.remat', True),
    ('rollout.chunk', True),
    ('rollout.slots', True),
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
def test_only_settings_that_affect_the_result_make_a_stage_stale(tmp_path, key, stays_done):
  def stages_with(value):
    config = value
    for part in reversed(key.split('.')):
      config = {part: config}
    return {'a': Stage('a', 'train', config)}

  finish(stages_with('1')['a'], stages_with('1'), tmp_path)
  assert states(stages_with('2'), tmp_path) == {'a': DONE if stays_done else STALE}


def test_a_setting_that_a_record_lacks_makes_a_stage_stale_only_where_it_is_on(tmp_path):
  stages_with = lambda **rollout: {'a': Stage('a', 'rl', {'ways': {'zero': {'rollout': {'prompts': 4} | rollout}}})}
  finish(stages_with()['a'], stages_with(), tmp_path)
  assert states(stages_with(weight_dtype='', cache_dtype=''), tmp_path) == {'a': DONE}
  assert states(stages_with(weight_dtype='int8', cache_dtype=''), tmp_path) == {'a': STALE}


def test_eval_settings_affect_the_result_of_an_evaluation(tmp_path):
  stages_with = lambda n: {'a': Stage('a', 'evaluate', {'eval': {'final_samples': n}, 'mesh': {'tp': n}})}
  finish(stages_with(4)['a'], stages_with(4), tmp_path)
  assert states(stages_with(4), tmp_path) == {'a': DONE}
  assert why(stages_with(8), tmp_path, 'a') == ['eval.final_samples was 4, is 8']


def test_a_changed_setting_is_reported_and_makes_later_stages_stale(finished):
  stages = chain(rate=0.2)
  assert states(stages, finished) == {'base': DONE, 'policy': STALE, 'judged': STALE}
  assert why(stages, finished, 'policy') == ['optimizer.rate was 0.1, is 0.2']
  assert why(stages, finished, 'judged') == ['input policy (sources.0) is stale']
  stages = chain(extra=3)
  assert why(stages, finished, 'base') == ['data.extra was absent, is 3']


def test_another_experiment_or_input_is_reported(finished):
  stages = chain()
  stages['policy'] = Stage('policy', 'other', {'model': {'path': 'stage:base/notes.txt'}, 'optimizer': {'rate': 0.1}})
  assert why(stages, finished, 'policy') == [
    "experiment was 'train', is 'other'",
    "model.path was 'stage:base', is 'stage:base/notes.txt'",
  ]


def test_inputs_are_compared_by_content(finished):
  (finished / 'base' / 'model' / 'weights').write_text('y')
  assert why(chain(), finished, 'policy') == ['input base (model.path) has changed']
  assert states(chain(), finished) == {'base': DONE, 'policy': STALE, 'judged': STALE}
  (finished / 'base' / 'model' / 'weights').write_text('x')
  assert set(states(chain(), finished).values()) == {DONE}
  (finished / 'base' / 'notes.txt').write_text('z')  # only judged reads it
  assert why(chain(), finished, 'judged') == ['input base (sources.1) has changed']


def test_a_stage_whose_input_is_gone_is_stale(finished):
  os.rename(finished / 'base', finished / 'elsewhere')
  assert states(chain(), finished) == {'base': TO_DO, 'policy': STALE, 'judged': STALE}
  assert why(chain(), finished, 'policy') == ['input base (model.path) is to do']


def test_external_files_are_compared_by_content(tmp_path):
  data = tmp_path / 'problems.jsonl'
  data.write_text('1')
  stages = chain(eval_path=str(data))
  finish(stages['base'], stages, tmp_path)
  assert states(stages, tmp_path)['base'] == DONE
  data.write_text('2')
  assert why(stages, tmp_path, 'base') == [f'data.eval_path: the content of {data} has changed']


def test_files_are_recognised_by_their_keys(tmp_path, monkeypatch):
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


def test_each_input_is_read_once_for_all_stages(finished, monkeypatch):
  paths, digest = [], stage_lib.digest
  monkeypatch.setattr(stage_lib, 'digest', lambda path: paths.append(str(path)) or digest(path))
  stages = chain() | {'again': Stage('again', 'train', {'model': {'path': 'stage:base'}})}
  finish(stages['again'], stages, finished)
  paths.clear()
  assert set(states(stages, finished).values()) == {DONE} and len(paths) == len(set(paths)) == 3


def test_a_digest_depends_on_contents_and_names_only(tmp_path):
  for name in 'ab':
    finish(chain()['base'], chain(), tmp_path / name)
  one, two = tmp_path / 'a' / 'base', tmp_path / 'b' / 'base'
  (two / stage_lib.SUMMARY).write_text('{"seconds": 3}')
  assert stage_lib.digest(one) == stage_lib.digest(two) != ''
  (two / 'model' / 'more').write_text('')
  assert stage_lib.digest(one) != stage_lib.digest(two)
  assert stage_lib.digest(tmp_path / 'nowhere') == ''


def test_a_change_at_the_end_of_a_large_file_changes_the_digest(tmp_path):
  file = tmp_path / 'large'
  with open(file, 'wb') as f:
    f.truncate(16 << 20)
  before = stage_lib.digest(file)
  with open(file, 'r+b') as f:
    f.seek(-1, 2)
    f.write(b'x')
  assert stage_lib.digest(file) != before


def test_lineage_lists_each_stage_once(finished):
  workdir, name = stage_lib.find(finished / 'judged' / 'model' / 'weights')
  assert (workdir, name) == (str(finished), 'judged')
  entries = stage_lib.lineage(workdir, name)
  assert [(e['stage'], e['depth'], e['experiment']) for e in entries] == [
    ('judged', 0, 'judge'),
    ('policy', 1, 'train'),
    ('base', 1, 'make'),
  ]
  assert entries[1]['inputs']['model.path']['path'] == str(finished / 'base' / 'model')
  assert entries[2]['seed'] == 0 and entries[2]['digest'] == stage_lib.digest(finished / 'base' / 'model')
  assert not any(i['changed'] for e in entries for i in e['inputs'].values())
  (finished / 'policy' / 'model' / 'weights').write_text('changed')
  assert stage_lib.lineage(workdir, name)[0]['inputs']['sources.0']['changed']


def test_lineage_of_a_stage_that_was_set_aside(finished):
  stage_lib.set_aside(finished, 'judged')
  workdir, name = stage_lib.find(finished / 'old' / 'judged-1' / 'model')
  assert (workdir, name) == (str(finished), 'old/judged-1')
  entries = stage_lib.lineage(workdir, name)
  assert [(e['stage'], e['experiment']) for e in entries] == [
    ('old/judged-1', 'judge'),
    ('policy', 'train'),
    ('base', 'make'),
  ]
  assert not any(i['changed'] for e in entries for i in e['inputs'].values())


def test_lineage_needs_a_record(tmp_path):
  with pytest.raises(ConfigError, match='stage.json'):
    stage_lib.find(tmp_path)
  (tmp_path / stage_lib.RECORD).write_text('{')
  with pytest.raises(ConfigError, match='stage.json: '):
    stage_lib.find(tmp_path / 'model')


def test_set_aside_moves_a_stage_to_a_new_name(finished):
  assert stage_lib.set_aside(finished, 'policy') == str(finished / 'old' / 'policy-1')
  assert (finished / 'old' / 'policy-1' / 'model' / 'weights').read_text() == 'x' and not (finished / 'policy').exists()
  finish(chain()['policy'], chain(), finished)
  assert stage_lib.set_aside(finished, 'policy') == str(finished / 'old' / 'policy-2')


def test_a_damaged_record_is_refused(finished):
  (finished / 'base' / stage_lib.RECORD).write_text('{')
  with pytest.raises(ConfigError, match='stage.json: .*delete'):
    states(chain(), finished)
