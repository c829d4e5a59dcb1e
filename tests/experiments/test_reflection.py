"""experiments.reflection on the tiny base: what is missing is sampled again, to the same bytes."""

import json
import shutil

import pytest

SETTINGS = {
  'data.source': 'trial',
  'problems': 6,
  'rollout.prompts': 2,
  'rollout.samples': 4,
  'rollout.max_prompt': 32,
  'rollout.max_response': 32,
  'rollout.slots': 8,
  'temperatures': '(1.0,)',
}


def contents(workdir):
  return {str(p.relative_to(workdir)): p.read_bytes() for p in workdir.rglob('*') if p.is_file()}


@pytest.mark.slow
def test_a_study_goes_on_where_it_was_stopped(runs, tmp_path):
  study = lambda **more: runs.finish(
    tmp_path / 'w', SETTINGS | more, module='reflection', config='configs/reflection.py:toy'
  )
  base = {'models.base': runs.base}
  study(**base)
  want = contents(tmp_path / 'w')
  assert {'table.md', 'table.json', 'rate.svg', 'base/t1/00002-of-00003.jsonl'} <= want.keys()
  rows = [json.loads(line) for name in sorted(want) if name.endswith('.jsonl') for line in want[name].splitlines()]
  assert len(rows) == 24 and [row['sample'] for row in rows] == [0, 1, 2, 3] * 6
  assert all(('answered' in row) == bool(row['at']) for row in rows)
  (tmp_path / 'w' / 'base' / 't1' / '00001-of-00003.jsonl').unlink()
  study(**base)
  assert contents(tmp_path / 'w') == want
  shutil.rmtree(tmp_path / 'w' / 'base')
  study(**base, **{'models.again': runs.base, 'rollout.slots': 4})
  found = contents(tmp_path / 'w')
  assert {name: found[name] for name in want if name.endswith('.jsonl')} == {
    name: x for name, x in want.items() if name.endswith('.jsonl')
  }
  assert found['again/t1/00000-of-00003.jsonl'] == want['base/t1/00000-of-00003.jsonl']
