"""experiments.search with a small real policy, and scorers that are made up."""

import dataclasses
import json
import zlib

import jax
import pytest

from configs import search as configs
from experiments import search
from r1jax import config as config_lib
from r1jax.config import ConfigError
from r1jax.rewards.workers import pool

METHODS = ('vote', 'best_by_outcome', 'best_by_rule', 'weighted', 'beam_2', 'mcts')


def score(items):
  return [zlib.crc32(item['response'].encode()) % 100 / 100 for item in items]


@pytest.fixture
def cfg(runs, monkeypatch):
  """Four problems of the world `chain`, whose steps are cut after five tokens."""
  graders = lambda reward: (pool.Grader({'math': {}}, 1, 5.0), {'process': score, 'preference': score})
  monkeypatch.setattr(search.grading, 'make_graders', graders)
  c = configs.get_config('toy')
  c.update(problems=4, step_tokens=5)
  c.model.path, c.data.source = str(runs.base), 'chain'
  c.rollout.update(prompts=4, samples=4, max_response=16, slots=8)
  for name in [name for name in c.methods if name not in METHODS]:
    del c.methods[name]
  c.methods.mcts.update(simulations=6, samples=2)
  return config_lib.convert(c, config_lib.Search)


def test_all_methods_are_compared_and_nothing_is_run_twice(cfg, tmp_path, monkeypatch):
  lines = search.run_search(cfg, str(tmp_path))
  budgets = {name: [x['budget'] for x in lines if x['method'] == name] for name in METHODS}
  assert budgets == {name: [1, 2, 4] for name in METHODS[:4]} | {'beam_2': [4], 'mcts': [1, 2, 4, 6]}
  assert all(0 <= x['accuracy'][1] <= x['accuracy'][0] <= x['accuracy'][2] <= 1 for x in lines)
  tokens = [x['tokens'] for x in lines if x['method'] == 'mcts']
  assert tokens == sorted(tokens) and all(n <= 2 * 5 * b for n, b in zip(tokens, budgets['mcts']))
  table = (tmp_path / 'table.md').read_text()
  assert table.count('\n') == 2 + len(lines) + 2 and (tmp_path / 'accuracy_against_tokens.svg').exists()
  found = [json.loads(line) for line in (tmp_path / 'mcts.labels.jsonl').read_text().splitlines()]
  assert found and len({(row['id'], row['response']) for row in found}) == len(found)
  for row in found:
    assert ''.join(row['steps']).split() == row['response'].split() and len(row['labels']) == len(row['steps'])
    alike = [x for x in found if x['id'] == row['id'] and x['response'].startswith(row['steps'][0])]
    assert row['labels'][0] == pytest.approx(sum(x['labels'][-1] for x in alike) / len(alike))
  right = [json.loads(line)['response'] for line in (tmp_path / 'mcts.solutions.jsonl').read_text().splitlines()]
  assert sorted(right) == sorted(row['response'] for row in found if row['labels'][-1] == 1)
  files = {name: (tmp_path / f'{name}.json').read_bytes() for name in METHODS}
  (tmp_path / 'mcts.json').unlink()
  fewer = dataclasses.replace(cfg, rollout=dataclasses.replace(cfg.rollout, slots=4, prompts=2))
  monkeypatch.setattr(search, 'sample_all', None)  # not called: its methods are done
  again = search.run_search(fewer, str(tmp_path))
  assert [{k: v for k, v in x.items() if k != 'occupancy'} for x in again] == [
    {k: v for k, v in x.items() if k != 'occupancy'} for x in lines
  ]
  assert json.loads(files['mcts'])['problems'] == json.loads((tmp_path / 'mcts.json').read_text())['problems']
  with pytest.raises(ConfigError, match='other settings: seed'):
    search.run_search(dataclasses.replace(cfg, seed=1), str(tmp_path))


def test_steps_end_with_a_line_a_response_or_the_limit(cfg, tmp_path):
  run = search.make_run(cfg, str(tmp_path))
  steps = search.make_steps(run, search.load_weights(run), jax.random.key(0), 'process')
  newline = set(search.steps_lib.step_ends(run.tokenizer, 'line'))
  assert newline and all('\n' in run.tokenizer.decode([i]) for i in newline)
  first = steps.extend([search.search.Prefix(0), search.search.Prefix(1)], 3)
  flat = [x for group in first for x in group if not x.ended]
  second = steps.extend(flat, 2)
  assert steps.extend(flat[1:2], 2) == second[1:2]  # whatever else is in the batch
  for parent, group in zip(flat, second, strict=True):
    for x in group:
      step = x.tokens[len(parent.tokens) :]
      assert x.tokens[: len(parent.tokens)] == parent.tokens and 1 <= len(step) <= 5
      assert not set(step[:-1]) & ({*run.tokenizer.eos} | newline)
      assert len(step) == 5 or step[-1] in {*run.tokenizer.eos} | newline
      assert x.ended == (step[-1] in run.tokenizer.eos or len(x.tokens) == 16)
  assert 0 < steps.occupancy <= 1
  run.grader.close()


def test_settings_that_cannot_work_are_refused(cfg, tmp_path):
  rule = dataclasses.replace(cfg.methods['mcts'], scorer='math')
  with pytest.raises(ConfigError, match="methods.mcts: 'math' is a rule"):
    search.run_search(dataclasses.replace(cfg, methods={'mcts': rule}), str(tmp_path))
  for changes, message in (
    ({'scorer': ''}, "way is 'tree'; name its scorer"),
    ({'way': 'vote'}, 'way is vote, which has no scorer'),
    ({'way': 'dfs'}, "way is 'dfs'; known"),
  ):
    with pytest.raises(ConfigError, match=message):
      dataclasses.replace(cfg.methods['mcts'], **changes)
  with pytest.raises(ConfigError, match="scorer is 'judge', which is not in reward.parts"):
    dataclasses.replace(cfg, methods={'a': config_lib.Method('best', 'judge')})
  with pytest.raises(ConfigError, match='rollout.slots is 0'):
    dataclasses.replace(cfg, rollout=dataclasses.replace(cfg.rollout, slots=0))
