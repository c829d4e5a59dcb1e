"""Which teacher scores which problem, what a checkpoint remembers of them, and which are refused."""

import dataclasses
import pathlib
import types

import pytest

from r1jax import config, models
from r1jax.config import ConfigError
from r1jax.runs import teachers as teachers_lib
from r1jax.runs.settings import fingerprint

MODEL = models.ModelConfig(vocab=40, embed=16, layers=1, heads=2, kv_heads=1, head_dim=8, mlp=24, context=64)
PROBLEMS = [{'kind': 'math'}, {'kind': 'code'}, {}, {'kind': 'open'}, {'kind': 'logic'}]
IDS = {'<eos>': 0, 'a': 1, 'b': 2}


def source(path='policy', ids=IDS, **shape):
  tokenizer = types.SimpleNamespace(ids=ids)
  return types.SimpleNamespace(
    path=pathlib.Path(path),
    cfg=dataclasses.replace(MODEL, **shape),
    load_tokenizer=lambda: tokenizer,
    digest=f'digest of {path}',
    config={},
  )


SOURCES = [
  source('general'),
  source('solver', embed=24, vocab=48),
  source('other', IDS | {'a': 2, 'b': 1}),
  source('more', IDS | {'<think>': 3}),
  source('judge', head='score'),
  source('short', context=32),
]


@pytest.fixture(autouse=True)
def models_on_disk(monkeypatch):
  known = {str(of.path): of for of in SOURCES}
  monkeypatch.setattr(teachers_lib.checkpoint, 'open_model', known.__getitem__)


def config_of(**distill):
  return config.RL(
    seed=0,
    steps=3,
    model=config.Model('policy'),
    data=config.Data('jsonl'),
    rollout=config.Rollout(prompts=4, samples=2, max_prompt=8, max_response=32),
    reward=config.Reward({'x': 1.0}, 'x'),
    loss=config.Loss('dapo'),
    optimizer=config.Optimizer(1e-2),
    eval=config.Evaluation(1, 1, 1),
    train=config.Train(),
    checkpoint=config.Checkpoint(1),
    distill=config.convert(distill, config.Distill),
  )


def opened(**distill):
  policy = source()
  return teachers_lib.open_teachers(config_of(**distill), policy, policy.load_tokenizer(), PROBLEMS)


def test_each_kind_has_its_teacher_and_others_have_the_default_one():
  of_kinds = {'math': 'solver', 'logic': 'solver', 'open': ''}
  found = opened(coef=1.0, path='general', path_by_kind=of_kinds)
  assert [str(of.path) for of in found.sources] == ['general', 'solver'] == list(found.cfg.paths)
  assert found.names == ['default', 'math+logic'] and [of.vocab for of in found.models] == [40, 48]
  assert found.of(PROBLEMS).tolist() == [1, 0, 0, -1, 1]
  alone = opened(coef=1.0, path_by_kind={'code': 'general'})
  assert alone.of(PROBLEMS).tolist() == [-1, 0, -1, -1, -1] and alone.names == ['code']
  assert opened() is None


def test_a_checkpoint_remembers_the_teachers_by_their_content():
  identity = lambda **distill: fingerprint(config_of(**distill), source(), None, opened(**distill)).get('distill')
  want = {'coef': 1.0, 'objective': 'jsd', 'default': 'digest of general', 'by_kind': {'math': 'digest of solver'}}
  assert identity(coef=1.0, objective='jsd', path='general', path_by_kind={'math': 'solver'}) == want
  assert identity(coef=1.0, path='solver') != identity(coef=1.0, path='general')
  assert identity() is None  # as in checkpoints from before there were teachers


@pytest.mark.parametrize(
  ('distill', 'match'),
  [
    (dict(coef=-1.0, path='general'), r'coef is -1.0; it must lie in \[0, '),
    (dict(coef=0.5), 'distill.coef is 0.5, but there is no teacher; .*--config.distill.path=DIR'),
    (dict(coef=1.0, path_by_kind={'math': ''}), 'there is no teacher'),
    (dict(path='general'), 'distill has the teacher general, but distill.coef is 0'),
    (dict(coef=1.0, path_by_kind={'maths': 'general'}), 'the kind maths, of which .* are: code, logic, math, open.'),
    (dict(coef=1.0, path='judge'), 'judge is a reward model, .*a teacher must be a policy'),
    (
      dict(coef=1.0, path='other'),
      "other has another tokenizer than the policy policy: 'a' has the id 2 in .* the id 1",
    ),
    (
      dict(coef=1.0, path='more'),
      "more has another tokenizer .*'<think>' has the id 3 .* and does not exist in the pol",
    ),
    (dict(coef=1.0, path='short'), "8 .* 32 = 40 tokens exceed the teacher short's context of 32; .* by 8"),
  ],
)
def test_teachers_that_cannot_teach_are_refused(distill, match):
  with pytest.raises(ConfigError, match=match) as error:
    opened(**distill)
  assert '\n' not in str(error.value)
