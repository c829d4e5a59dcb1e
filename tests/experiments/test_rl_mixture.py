"""RL over problems of several kinds, on public data, through the config that a real model would use."""

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
  """Settings that name each part's file."""
  names = {
    'gsm8k': 'math/gsm8k_train.jsonl.gz',
    'cmath': 'zh/cmath.jsonl',
    'mbpp': 'code/mbpp.jsonl',
    'knights': 'logic/knights_knaves_train.jsonl.gz',
  }
  return {f'data.parts.{part}.path': str(data_dir / name) for part, name in names.items()}


@pytest.fixture(scope='module')
def base(files, tmp_path_factory):
  """Directory of a random model whose tokenizer has seen the problems."""
  path = tmp_path_factory.mktemp('random')
  rows = [itertools.islice(data.reader._lines(name), 100) for name in files.values()]
  texts = [json.loads(line) for some in rows for _, line in some]
  tokenizers.train([row.get('problem', row.get('prompt')) for row in texts], path / 'tokenizer.model', 2048)
  cfg = dataclasses.replace(models.PRESETS['toy'], vocab=2048)
  params = jax.jit(lambda key: params_lib.init(models.specs(cfg), key))(jax.random.key(0))
  hf.save(path / 'model', cfg, params, families.for_export(families.to_hf(cfg), 'float32'), [path / 'tokenizer.model'])
  return path / 'model'


def rows_of(workdir):
  return [json.loads(line) for path in sorted((workdir / 'samples').glob('*')) for line in open(path, encoding='utf-8')]


def test_mathematics_in_two_languages_code_and_logic(runs, base, files, tmp_path):
  settings = files | {'model.path': base, 'steps': 4} | dict.fromkeys(PLAIN)
  runs.finish(tmp_path / 'whole', settings, config=CONFIG)
  rows = runs.metrics(tmp_path / 'whole')
  # Weights 20 and 6 of mathematics, 25 of code and 15 of logic: of 4 steps of 8 prompts 12.6, 12.1 and 7.3.
  drawn = {kind: sum(row[f'kind/{kind}/prompts'] for row in rows[:4]) for kind in ('math', 'code', 'logic')}
  assert sum(drawn.values()) == 32 and all(abs(drawn[k] - n) < 2 for k, n in zip(drawn, (12.6, 12.1, 7.3)))
  own = {'math': 'math', 'code': 'code', 'logic': 'logic'}
  found = rows_of(tmp_path / 'whole')
  assert {(row['kind'], row['target']) for row in found} == {
    ('math', 'en'),
    ('math', 'zh'),
    ('code', 'en'),
    ('logic', 'en'),
  }
  for row in found:
    assert set(row['parts']) == {'format', 'language', own[row['kind']]}
    assert row['reward'] == pytest.approx(sum(row['parts'].values()), abs=1e-6)
    assert row['parts']['language'] == pytest.approx(row['language'], abs=1e-6)  # by the same target, per problem
  summary = json.loads((tmp_path / 'whole' / 'summary.json').read_text())
  for kind, language in (('kind/math', 'language/zh'), ('kind/code', 'language/en')):
    assert {f'{kind}/pass@1', f'{kind}/greedy', f'{language}/language_consistency'} <= summary['final'].keys()
  # Killed and resumed it is the same run.
  saved = tmp_path / 'cut' / 'checkpoints' / 'step_000002'
  runs.kill(tmp_path / 'cut', saved.exists, settings, config=CONFIG)
  runs.finish(tmp_path / 'cut', settings, config=CONFIG)
  runs.same(tmp_path / 'cut', tmp_path / 'whole')


def test_mistakes_cost_one_line_before_anything_compiles(runs, base, files, tmp_path):
  refuse = lambda **more: runs.refuse(
    tmp_path,
    files
    | {'model.path': base}
    | dict.fromkeys(PLAIN)
    | {key.replace('__', '.'): value for key, value in more.items()},
    config=CONFIG,
  )
  assert 'pass the JSON Lines file of problems with --config.data.parts.knights.path=FILE' in refuse(
    data__parts__knights__path=''
  )
  assert 'no reward says whether problems of kind puzzle are solved' in refuse(data__parts__knights__kind='puzzle')
  assert "language 'xx' is not known; known: zh" in refuse(data__language='xx')
  assert "language 'xx' is not known; known: zh" in refuse(data__parts__cmath__language='xx')
  assert "data.parts.mbpp.template is 'boxed'; known: r1_zero" in refuse(data__parts__mbpp__template='boxed')
  assert 'data.parts.gsm8k.weight is -1.0; it must lie in [0, 1,000,000]' in refuse(data__parts__gsm8k__weight=-1.0)


# Keys of the settings that the fixture's runs have for toys, which are to be left to the config here.
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
