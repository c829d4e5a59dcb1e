"""The table of several groups of runs, against hand-made records."""

import json

import pytest

from experiments import table
from r1jax.config import ConfigError


@pytest.fixture
def run(tmp_path):
  """A function that writes a run: the accuracy by step, and what it used. Returns its folder."""

  def write(name, accuracy, seconds=(9.0, 2.0, 3.0), memory=1.5):
    path = tmp_path / name
    path.mkdir()
    lines = [{'step': i, 'time/processor': s} for i, s in enumerate(seconds)]
    lines += [{'step': step, 'eval/pass@1': value} for step, value in accuracy.items()]
    (path / 'metrics.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
    (path / 'summary.json').write_text(json.dumps({'peak_memory_gb': memory} if memory else {}))
    return str(path)

  return write


def test_a_line_for_each_group(run):
  fast = run('a', {0: 0.1, 10: 0.85, 20: 0.8, 30: 0.9}), run('b', {0: 0.1, 10: 0.5, 20: 0.8, 30: 1.0}, (5.0,), 2.5)
  slow = run('c', {0: 0.1, 30: 0.5}), run('d', {0: 0.1, 30: 0.8})
  never = run('e', {0: 0.25, 30: None})  # of a value that is not finite, the one before counts
  lines = table.table([f'GRPO={fast[0]},{fast[1]}', f'PPO={",".join(slow)}', f'x={never}'], ['eval/pass@1'], 0.8)
  assert lines[2:] == [
    '| GRPO | 0.95 (0.9 to 1) | 15 (10 to 20) | 4 (3 to 5) | 2.50 |',
    '| PPO | 0.65 (0.5 to 0.8) | 30, 1 of 2 runs | 3 (3 to 3) | 1.50 |',
    '| x | 0.25 | never | 3 | 1.50 |',
  ]
  two = table.table([f'GRPO={fast[0]},{fast[1]}'], ['eval/pass@1', 'step'], 0.8)
  assert two[0].startswith('| | eval/pass@1 at the end | step at the end | steps to 0.8 |')
  assert two[2] == '| GRPO | 0.95 (0.9 to 1) | 30 (30 to 30) | 15 (10 to 20) | 4 (3 to 5) | 2.50 |'


def test_what_is_missing_is_named(run, tmp_path):
  whole = run('a', {0: 0.1})
  with pytest.raises(ConfigError, match="GRPO has no metric 'eval/pass'"):
    table.table([f'GRPO={whole}'], ['eval/pass'], 0.8)
  with pytest.raises(ConfigError, match='older'):
    table.table([f'GRPO={run("b", {0: 0.1}, memory=None)}'], ['eval/pass@1'], 0.8)
  with pytest.raises(ConfigError, match='time/processor'):
    table.table([f'GRPO={run("c", {0: 0.1}, ())}'], ['eval/pass@1'], 0.8)
  (tmp_path / 'a' / 'summary.json').unlink()
  with pytest.raises(ConfigError, match='has not ended'):
    table.table([f'GRPO={whole}'], ['eval/pass@1'], 0.8)
