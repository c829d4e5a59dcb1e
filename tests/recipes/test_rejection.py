"""The pass over samples: what is planted is found, and a pass that is interrupted ends with the same bytes."""

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


def run(where, found, index, stop=None, cfg=CFG, judge=None):
  """(rows, what was counted) of a pass over sources; stop: chunks after which it is interrupted, again and again."""
  while True:
    one, left = rejection.Pass(where, cfg, found, index, judge), [stop]

    def report(now, left=left):
      left[0] = left[0] and left[0] - 1
      if left[0] == 0:
        raise Interrupted

    try:
      now = one.run(report)
      return one.rows.read_bytes(), now
    except Interrupted:
      with open(one.rows, 'ab') as f:
        f.write(b'{"torn')  # what a killed pass may leave behind its last chunk
    finally:
      one.close()


@pytest.fixture(scope='module')
def whole(folder, index, tmp_path_factory):
  return run(tmp_path_factory.mktemp('whole'), sources(folder), index)


def test_each_planted_fault_is_found_and_counted(folder, whole):
  expected = json.loads((folder / 'planted.json').read_text())
  rows, now = whole
  for source, wanted in expected.items():
    assert now['sources'][source] == {'kept': wanted.pop(''), 'dropped': wanted}
  assert set(now['sources']['samples']['dropped']) == set(filters.REASONS) - {'judge'}
  assert now['read'] == COUNT + COUNT // 20
  assert now['read'] == now['rows'] + sum(sum(s['dropped'].values()) for s in now['sources'].values())
  assert now['rows'] == rows.count(b'\n') == sum(kind['rows'] for kind in now['kinds'].values())
  assert now['bytes'] == len(rows)
  assert all(len(names) <= rejection.EXAMPLES for names in now['examples'].values())


def test_no_evaluation_problem_is_left(whole):
  """By the letters and digits alone, which is another way of looking than n-grams."""
  letters = lambda text: ''.join(c for c in text.casefold() if c.isalnum())
  held_out = {letters(row['problem']) for row, _ in planted.held_out()}
  for line in whole[0].splitlines():
    found = letters(filters.problem_text(json.loads(line)))
    assert not any(problem in found for problem in held_out)


def test_at_most_so_many_samples_of_a_problem_wherever_they_come_from(folder, index, tmp_path):
  """The same samples in two sources: the second time they are duplicates, and others of these problems too many."""
  samples = sources(folder)[0]
  both = [samples, dataclasses.replace(samples, name='again')]
  rows, now = run(tmp_path, both, index)
  kept = [json.loads(line)['problem'] for line in rows.splitlines()]
  assert max(map(kept.count, kept)) == 2
  assert now['sources']['again']['kept'] == 0 and now['sources']['again']['dropped']['duplicate'] > 0


@pytest.mark.parametrize('stop', [1, 2])
def test_interrupted_after_any_chunk_it_ends_the_same(folder, index, whole, tmp_path, stop):
  assert run(tmp_path, sources(folder), index, stop) == whole


def test_a_limit_ends_a_source_and_holds_after_an_interruption(folder, index, tmp_path, whole):
  cfg, source = dataclasses.replace(CFG, chunk=10), dataclasses.replace(sources(folder)[1], limit=12)
  rows, now = run(tmp_path / 'a', [source], index, cfg=cfg)
  assert now['sources']['general'] == {'kept': 12, 'dropped': {'contaminated': 2, 'enough': 6}} and now['read'] == 20
  assert rows == b''.join(whole[0].splitlines(keepends=True)[-whole[1]['sources']['general']['kept'] :][:12])
  assert run(tmp_path / 'b', [source], index, 1, cfg) == (rows, now)


def test_a_judge_is_asked_for_its_kinds_and_what_nothing_else_drops(folder, index, tmp_path, whole):
  asked = []

  def judge(items):
    asked.extend(items)
    return [float(item['sample'] == 0 or item['correct']) * 0.75 for item in items]

  cfg = dataclasses.replace(CFG, judge={'path': 'x'}, judged=('math',))
  rows, now = run(tmp_path, sources(folder), index, cfg=cfg, judge=judge)
  wrong = whole[1]['sources']['samples']['dropped']['wrong']
  assert now['sources']['samples']['dropped'].get('wrong') is None
  contaminated = now['sources']['samples']['dropped']['contaminated']
  more = contaminated - whole[1]['sources']['samples']['dropped']['contaminated']
  assert now['sources']['samples']['dropped']['judge'] == wrong - more
  assert rows == whole[0]
  assert all(item['stop'] != 'length' and 'answer' in item for item in asked)


def test_a_missing_file_is_one_line(index, tmp_path):
  one = rejection.Pass(tmp_path, CFG, [filters.Source('samples', (str(tmp_path / 'none.jsonl'),), True)], index)
  with pytest.raises(reader.DataError, match='there is no file'):
    one.run()
  one.close()


@pytest.mark.slow
def test_several_processes_find_the_same(folder, index, tmp_path, whole):
  assert run(tmp_path, sources(folder), index, cfg=dataclasses.replace(CFG, workers=2)) == whole
