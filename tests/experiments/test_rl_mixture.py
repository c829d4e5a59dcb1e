"""RL on problems of several kinds, on public data, with the config for a real model."""

import dataclasses
import itertools
import json

import jax
import pytest

from r1jax import data, models, tokenizers
from r1jax import params as params_lib
from r1jax.checkpoint import families, hf

pytestmark = pytest.mark.slow
CONFIG = 'configs/r1_rl.py:small'


@pytest.fixture(scope='module')
def files(data_dir):
  """Overrides that set the file of each part."""
  names = {
    'gsm8k': 'math/gsm8k_train.jsonl.gz',
    'cmath': 'zh/cmath.jsonl',
    'mbpp': 'code/mbpp.jsonl',
    'knights': 'logic/knights_knaves_train.jsonl.gz',
  }
  return {f'data.parts.{part}.path': str(data_dir / name) for part, name in names.items()}


@pytest.fixture(scope='module')
def base(files, tmp_path_factory):
  """Directory of a random model whose tokenizer is trained on the problems."""
  path = tmp_path_factory.mktemp('random')
  rows = [itertools.islice(data.reader.raw_lines(name), 100) for name in files.values()]
  texts = [json.loads(line) for lines in rows for _, line in lines]
  tokenizers.train([row.get('problem', row.get('prompt')) for row in texts], path / 'tokenizer.model', 2048)
  cfg = dataclasses.replace(models.PRESETS['toy'], vocab=2048)
  params = jax.jit(lambda key: params_lib.init(models.specs(cfg), key))(jax.random.key(0))
  hf.save(path / 'model', cfg, params, families.for_export(families.to_hf(cfg), 'float32'), [path / 'tokenizer.model'])
  return path / 'model'


def read_samples(workdir):
  return [json.loads(line) for path in sorted((workdir / 'samples').glob('*')) for line in open(path, encoding='utf-8')]


def test_mathematics_in_two_languages_code_and_logic(runs, base, files, tmp_path):
  settings = files | {'model.path': base, 'steps': 4} | dict.fromkeys(PLAIN)
  runs.finish(tmp_path / 'uninterrupted', settings, config=CONFIG)
  rows = runs.metrics(tmp_path / 'uninterrupted')
  # With weights 20 and 6 for mathematics, 25 for code and 15 for logic, 4 steps of 8 prompts have 12.6, 12.1 and 7.3.
  drawn = {kind: sum(row[f'kind/{kind}/prompts'] for row in rows[:4]) for kind in ('math', 'code', 'logic')}
  assert sum(drawn.values()) == 32 and all(abs(drawn[k] - n) < 2 for k, n in zip(drawn, (12.6, 12.1, 7.3)))
  samples = read_samples(tmp_path / 'uninterrupted')
  assert {(row['kind'], row['target']) for row in samples} == {
    ('math', 'en'),
    ('math', 'zh'),
    ('code', 'en'),
    ('logic', 'en'),
  }
  for row in samples:
    assert set(row['parts']) == {'format', 'language', row['kind']}
    assert row['reward'] == pytest.approx(sum(row['parts'].values()), abs=1e-6)
    assert row['parts']['language'] == pytest.approx(row['language'], abs=1e-6)  # the target is that of each problem
  summary = json.loads((tmp_path / 'uninterrupted' / 'summary.json').read_text())
  for kind, language in (('kind/math', 'language/zh'), ('kind/code', 'language/en')):
    assert {f'{kind}/pass@1', f'{kind}/greedy', f'{language}/language_consistency'} <= summary['final'].keys()
  # A killed and resumed run is the same.
  saved = tmp_path / 'killed' / 'checkpoints' / 'step_000002'
  runs.kill(tmp_path / 'killed', saved.exists, settings, config=CONFIG)
  runs.finish(tmp_path / 'killed', settings, config=CONFIG)
  runs.same(tmp_path / 'killed', tmp_path / 'uninterrupted')


def test_mistakes_are_refused_with_one_line_before_anything_compiles(runs, base, files, tmp_path):
  refuse = lambda **overrides: runs.refuse(
    tmp_path,
    files
    | {'model.path': base}
    | dict.fromkeys(PLAIN)
    | {key.replace('__', '.'): value for key, value in overrides.items()},
    config=CONFIG,
  )
  assert '--config.data.parts.knights.path=FILE' in refuse(data__parts__knights__path='')
  assert 'reward.parts_by_kind.puzzle' in refuse(data__parts__knights__kind='puzzle')
  assert "language 'xx'" in refuse(data__language='xx')
  assert "language 'xx'" in refuse(data__parts__cmath__language='xx')
  assert "data.parts.mbpp.template is 'boxed'" in refuse(data__parts__mbpp__template='boxed')
  assert 'data.parts.gsm8k.weight is -1.0' in refuse(data__parts__gsm8k__weight=-1.0)


# Settings that the fixture overrides for toys, but that are left to the config here.
PLAIN = (
  'train.length_slices',
  'rollout.prompts',
  'rollout.samples',
  'rollout.chunk',
  'rollout.max_response',
  'eval.every',
  'eval.problems',
  'eval.samples',
  'eval.final_problems',
  'eval.final_samples',
  'checkpoint.every',
)
