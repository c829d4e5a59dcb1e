"""A pass over samples: planted faults are found, and an interrupted pass ends with the same bytes."""

import dataclasses
import json

import pytest

from r1jax import config
from r1jax.data import reader
from r1jax.recipes import contamination, dataset, filters, planted, rejection

COUNT = 420
CFG = config.Curate(samples='x', per_prompt=2, chunk=83)


class Interrupted(Exception):
  pass


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp('planted')
  planted.write(path, COUNT)
  return path


@pytest.fixture(scope='module')
def index(folder):
  held_out = dataset.held_out(str(folder / 'evaluation.jsonl'))
  return contamination.Index(((('held out', name), text) for name, text in held_out), 50, 0.5)


def sources(folder):
  return [
    filters.Source('samples', tuple(map(str, dataset.files(folder))), True),
    filters.Source('general', (str(folder / 'general.jsonl'),), False, 0, 'general', 'en'),
  ]


def run(folder, sources, index, stop=None, cfg=CFG, judge=None):
  """(bytes of the rows, state) of a pass over sources, interrupted after every `stop` chunks if that is given."""
  while True:
    curation, chunks_left = rejection.Pass(folder, cfg, sources, index, judge), [stop]

    def report(state, chunks_left=chunks_left):
      chunks_left[0] = chunks_left[0] and chunks_left[0] - 1
      if chunks_left[0] == 0:
        raise Interrupted

    try:
      state = curation.run(report)
      return curation.rows.read_bytes(), state
    except Interrupted:
      with open(curation.rows, 'ab') as f:
        f.write(b'{"torn')  # as a killed pass may leave after its last chunk
    finally:
      curation.close()


@pytest.fixture(scope='module')
def uninterrupted(folder, index, tmp_path_factory):
  return run(tmp_path_factory.mktemp('uninterrupted'), sources(folder), index)


def test_each_planted_fault_is_found_and_counted(folder, uninterrupted):
  expected = json.loads((folder / 'planted.json').read_text())
  rows, state = uninterrupted
  for source, counts in expected.items():
    assert state['sources'][source] == {'kept': counts.pop(''), 'dropped': counts}
  assert set(state['sources']['samples']['dropped']) == set(filters.REASONS) - {'judge'}
  assert state['read'] == COUNT + COUNT // 20
  assert state['read'] == state['rows'] + sum(sum(s['dropped'].values()) for s in state['sources'].values())
  assert state['rows'] == rows.count(b'\n') == sum(kind['rows'] for kind in state['kinds'].values())
  assert state['bytes'] == len(rows)
  assert all(len(names) <= rejection.EXAMPLES for names in state['examples'].values())


def test_no_evaluation_problem_is_left(uninterrupted):
  """Checked by letters and digits alone, independently of n-grams."""
  letters = lambda text: ''.join(c for c in text.casefold() if c.isalnum())
  held_out = {letters(row['problem']) for row, _ in planted.held_out()}
  for line in uninterrupted[0].splitlines():
    text = letters(filters.problem_text(json.loads(line)))
    assert not any(problem in text for problem in held_out)


def test_per_prompt_limits_the_samples_of_a_problem_over_all_sources(folder, index, tmp_path):
  """With the same samples in two sources, those of the second are duplicates or exceed the limit."""
  samples = sources(folder)[0]
  both = [samples, dataclasses.replace(samples, name='again')]
  rows, state = run(tmp_path, both, index)
  kept = [json.loads(line)['problem'] for line in rows.splitlines()]
  assert max(map(kept.count, kept)) == 2
  assert state['sources']['again']['kept'] == 0 and state['sources']['again']['dropped']['duplicate'] > 0


@pytest.mark.parametrize('stop', [1, 2])
def test_an_interrupted_pass_ends_with_the_same_bytes(folder, index, uninterrupted, tmp_path, stop):
  assert run(tmp_path, sources(folder), index, stop) == uninterrupted


def test_a_limit_ends_a_source_also_after_an_interruption(folder, index, tmp_path, uninterrupted):
  cfg, source = dataclasses.replace(CFG, chunk=10), dataclasses.replace(sources(folder)[1], limit=12)
  rows, state = run(tmp_path / 'a', [source], index, cfg=cfg)
  assert (
    state['sources']['general'] == {'kept': 12, 'dropped': {'contaminated': 2, 'enough': 6}} and state['read'] == 20
  )
  assert rows == b''.join(
    uninterrupted[0].splitlines(keepends=True)[-uninterrupted[1]['sources']['general']['kept'] :][:12]
  )
  assert run(tmp_path / 'b', [source], index, 1, cfg) == (rows, state)


def test_the_judge_only_scores_samples_that_no_other_filter_drops(folder, index, tmp_path, uninterrupted):
  judged = []

  def judge(items):
    judged.extend(items)
    return [float(item['sample'] == 0 or item['correct']) * 0.75 for item in items]

  cfg = dataclasses.replace(CFG, judge={'path': 'x'}, judged=('math',))
  rows, state = run(tmp_path, sources(folder), index, cfg=cfg, judge=judge)
  wrong = uninterrupted[1]['sources']['samples']['dropped']['wrong']
  assert state['sources']['samples']['dropped'].get('wrong') is None
  contaminated = state['sources']['samples']['dropped']['contaminated']
  newly_contaminated = contaminated - uninterrupted[1]['sources']['samples']['dropped']['contaminated']
  assert state['sources']['samples']['dropped']['judge'] == wrong - newly_contaminated
  assert rows == uninterrupted[0]
  assert all(item['stop'] != 'length' and 'answer' in item for item in judged)


def test_a_missing_file_is_refused(index, tmp_path):
  source = filters.Source('samples', (str(tmp_path / 'none.jsonl'),), True)
  curation = rejection.Pass(tmp_path, CFG, [source], index, None)
  with pytest.raises(reader.DataError, match='there is no file'):
    curation.run()
  curation.close()


@pytest.mark.slow
def test_several_processes_give_the_same_result(folder, index, tmp_path, uninterrupted):
  assert run(tmp_path, sources(folder), index, cfg=dataclasses.replace(CFG, workers=2)) == uninterrupted
