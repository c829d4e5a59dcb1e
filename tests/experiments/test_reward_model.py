"""Training reward models end to end: tiny runs, killed and resumed, and scoring with the result."""

import dataclasses
import json

import numpy as np
import pytest

from configs import label_steps as label_configs
from configs import reward_model as configs
from experiments import label_steps, reward_model
from r1jax import checkpoint, config
from r1jax.config import ConfigError
from r1jax.data import DataError, labelled, process, shards
from r1jax.data.toy import scored
from r1jax.rewards.neural import NEURAL
from r1jax.rewards.neural import model as model_lib

MODULE = {'module': 'reward_model'}
TINY = {
  'epochs': 0.01,
  'batch': 16,
  'data.max_length': 64,
  'eval.every': 3,
  'eval.examples': 16,
  'checkpoint.every': 2,
  'optimizer.warmup': 2,
}  # 8 steps
VARIANT = 'configs/reward_model.py:toy_{}'


def summary(workdir):
  return json.loads((workdir / 'summary.json').read_text())


@pytest.fixture(scope='module')
def trained(runs, tmp_path_factory):
  """{variant: workdir} of tiny runs of all objectives: pairs from the toy base, the others from random weights."""
  out = {}
  for name, changes in (('preference', {'model.path': runs.base}), ('safety', {'microbatch': 8}), ('process', {})):
    out[name] = tmp_path_factory.mktemp(name)
    runs.finish(out[name], TINY | changes, config=VARIANT.format(name), **MODULE)
  return out


def test_a_run_writes_summary_plots_and_samples(trained):
  for name, workdir in trained.items():
    result = summary(workdir)
    assert result['steps'] == 8 and result['held_out'] == 1000
    assert 0 < result['final']['accuracy'] < 1 and len(result['final']['interval']) == 2
    plots = {p.stem for p in (workdir / 'plots').iterdir()}
    assert {'loss', 'accuracy', 'reliability'} <= plots and ('length_bias' in plots) == (name == 'preference')
    rows = [json.loads(line) for line in (workdir / 'samples' / 'step_000008.jsonl').read_text().splitlines()]
    assert len(rows) == 1000 and len(rows[0]['scores']) == (2 if name == 'preference' else 1)
  assert summary(trained['process'])['final']['first_error']['count'] == 1000


def test_the_saved_model_gives_the_scores_of_the_run(trained):
  for name, kind, make in (('preference', 'preference', scored.pairs), ('safety', 'preference', scored.points)):
    workdir, view = trained[name], 'summary' if name == 'preference' else 'whole'
    row = json.loads((workdir / 'samples' / 'step_000008.jsonl').read_text().splitlines()[0])
    item = make(1, True, view)[0]
    assert row['id'] == item['id']
    about = model_lib.read_about(workdir / 'model')
    assert (about.view, about.form, about.objective) == (view, 'bare', 'pairs' if name == 'preference' else 'points')
    items = [{'prompt': 'as given', 'problem': item['turns'][0]['content'], 'response': text} for text in item['texts']]
    scores = NEURAL[kind](path=str(workdir), scale='logit')(items)
    np.testing.assert_allclose(scores, np.array(row['scores'])[:, 0] - about.center, atol=1e-5)
  row = json.loads((trained['process'] / 'samples' / 'step_000008.jsonl').read_text().splitlines()[0])
  item = scored.steps(1, True)[0]
  text = ''.join(f'{step}\n' for step in item['texts'])
  response = {'prompt': 'p', 'problem': item['turns'][0]['content'], 'response': text}
  (score,) = NEURAL['process'](path=str(trained['process'] / 'model'), aggregate='last')([response])
  np.testing.assert_allclose(score, 1 / (1 + np.exp(-row['scores'][0][-1])), atol=1e-5)


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_bits(runs, trained, tmp_path):
  settings = TINY | {'model.path': runs.base}
  file = tmp_path / 'metrics.jsonl'
  runs.kill(
    tmp_path,
    lambda: file.exists() and file.read_bytes().count(b'\n') >= 5,
    settings,
    config=VARIANT.format('preference'),
    **MODULE,
  )
  assert not (tmp_path / 'summary.json').exists()
  runs.finish(tmp_path, settings, config=VARIANT.format('preference'), **MODULE)
  uninterrupted = trained['preference']
  (step, arrays), (want_step, want) = runs.last_checkpoint(tmp_path), runs.last_checkpoint(uninterrupted)
  assert step == want_step == 8 and [k for k in want if arrays[k].tobytes() != want[k].tobytes()] == []
  assert runs.metrics(tmp_path) == runs.metrics(uninterrupted)
  assert summary(tmp_path)['final'] == summary(uninterrupted)['final']
  assert (tmp_path / 'model/model.safetensors').read_bytes() == (uninterrupted / 'model/model.safetensors').read_bytes()


@pytest.mark.slow
def test_the_base_may_be_a_policy_or_a_reward_model(runs, trained, tmp_path):
  base = runs.weights(runs.base)
  source = checkpoint.open_model(trained['preference'] / 'model')
  assert source.cfg.head == 'score' and 'params.unembed' in base
  first = runs.weights(trained['preference'] / 'model')
  assert {k: v.shape for k, v in base.items() if k != 'params.unembed'} == {
    k: v.shape for k, v in first.items() if k != 'params.score'
  }
  # One step at a tiny learning rate leaves the weights of the first model unchanged.
  settings = TINY | {'model.path': trained['preference'] / 'model', 'epochs': 1e-4, 'optimizer.learning_rate': 1e-12}
  runs.finish(tmp_path, settings, config=VARIANT.format('preference'), **MODULE)
  for name, x in runs.weights(tmp_path / 'model').items():
    np.testing.assert_allclose(x, first[name], atol=1e-7)


@pytest.mark.slow
def test_transformers_reads_the_same_scores(trained):
  transformers = pytest.importorskip('transformers', reason='transformers is installed by the extra torch-parity')
  import torch

  path = trained['preference'] / 'model'
  reference = transformers.AutoModelForSequenceClassification.from_pretrained(path).eval()
  tokenizer = checkpoint.open_model(path).load_tokenizer()
  encoder = model_lib.Encoder(tokenizer, 'bare', 64)
  items = scored.pairs(4, True, 'summary')
  conversations = [(item['turns'], [text]) for item in items for text in item['texts']]
  rows = [encoder.encode_response(turns, text) for turns, (text,) in conversations]
  tokens = torch.full((len(rows), max(len(row.ids) for row in rows)), reference.config.pad_token_id)
  for line, row in zip(tokens, rows):
    line[: len(row.ids)] = torch.tensor(row.ids)
  with torch.no_grad():
    want = reference(tokens, attention_mask=(tokens != reference.config.pad_token_id).int()).logits[:, 0]
  np.testing.assert_allclose(np.array(model_lib.load(path).score(conversations))[:, 0], want, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['preference', 'process'])
def test_a_mesh_gives_the_same_metrics(runs, tmp_path, name):
  settings = TINY | {'epochs': 2e-3, 'microbatch': 8, 'optimizer.name': 'adam', 'optimizer.learning_rate': 1e-3}
  eight = {'JAX_NUM_CPU_DEVICES': '8'}
  for folder, mesh, env in (('one', {}, {}), ('eight', {'mesh.data': 2, 'mesh.fsdp': 2, 'mesh.tp': 2}, eight)):
    runs.finish(tmp_path / folder, settings | mesh, config=VARIANT.format(name), env=env, **MODULE)
  one, many = (runs.metrics(tmp_path / folder) for folder in ('one', 'eight'))
  assert len(one) == len(many) == 3
  for a, b in zip(one, many):
    assert a.keys() == b.keys()
    for metric in a.keys() & {'train/loss', 'eval/loss', 'train/grad_norm'}:
      np.testing.assert_allclose(b[metric], a[metric], rtol=5e-3, err_msg=metric)


@pytest.mark.parametrize(
  ('settings', 'match'),
  [
    ({'model.preset': ''}, "model.path is empty and model.preset is ''"),
    ({'objective': 'triples'}, "objective is 'triples'; known: pairs, points, steps"),
    ({'data.view': 'half'}, "data.view is 'half'; known: summary, whole"),
    ({'data.max_length': 5000}, 'data.max_length 5000 .*4096'),
    ({'data.source': 'jsonl', 'data.eval_fraction': 0.1}, 'data.path is empty'),
    ({'data.form': 'chat'}, 'chat template'),
  ],
)
def test_invalid_configs_are_refused_with_one_line(tmp_path, monkeypatch, settings, match):
  monkeypatch.setattr(scored, 'SPLITS', ((40, False), (10, True)))
  c = configs.get_config('toy_preference')
  for key, value in settings.items():
    *folders, last = key.split('.')
    section = c
    for folder in folders:
      section = section[folder]
    section[last] = value
  with pytest.raises((ConfigError, DataError), match=match) as error:
    reward_model.make_run(config.convert(c, config.RewardModel), str(tmp_path / 'run'))
  assert '\n' not in str(error.value)


def test_a_vocabulary_smaller_than_the_alphabet_is_refused(tmp_path):
  text = ''.join(map(chr, range(0x4E00, 0x4E00 + 400)))
  rows = [{'prompt': f'{i}', 'chosen': text, 'rejected': ''} for i in range(9)]
  (tmp_path / 'f.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  c = configs.get_config('small_preference')
  c.vocab, c.data.path, c.data.eval_path = 400, str(tmp_path / 'f.jsonl'), ''
  with pytest.raises(ConfigError, match='tokenizer of 400 ids .*vocab') as error:
    reward_model.make_run(config.convert(c, config.RewardModel), str(tmp_path / 'run'))
  assert '\n' not in str(error.value)


def label_config(runs, source, **changes):
  c = label_configs.get_config('toy')
  c.model.path, c.input = str(runs.base), str(source)
  c.rollout.update(prompts=2, chunk=2, samples=3, max_prompt=64, max_response=12)
  c.reward.update(parts={'format': 1.0}, accuracy='format')
  c.update(changes)
  return config.convert(c, config.LabelSteps)


def test_steps_are_labelled_by_rollouts_and_a_stopped_command_resumes(runs, tmp_path):
  rows = [
    {'id': i, 'problem': f'{30 + i} a 3 = {33 + i}', 'answer': '3', 'steps': ['a +3', f'{33 + i} ok']} for i in range(5)
  ]
  (tmp_path / 'in.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  cfg = label_config(runs, tmp_path / 'in.jsonl', opening='<think> ')
  workdir, labels = tmp_path / 'w', tmp_path / 'w' / 'labels.jsonl'
  summary = label_steps.run_label_steps(cfg, str(workdir))
  expected = labels.read_bytes()
  items, _dropped = process.read_steps(str(labels), 'line')
  assert len(items) == 5 and all(n == 3 for row in expected.splitlines() for _, n in json.loads(row)['rollouts'])
  assert summary['figures']['steps'] == 10
  for size in (len(expected) // 2, 10, len(expected)):  # truncated within a line, or finished
    labels.write_bytes(expected[:size])
    assert label_steps.run_label_steps(cfg, str(workdir)) == summary and labels.read_bytes() == expected
  with pytest.raises(ConfigError, match='started with other settings: seed'):
    label_steps.run_label_steps(dataclasses.replace(cfg, seed=1), str(workdir))
  short = dataclasses.replace(cfg, rollout=dataclasses.replace(cfg.rollout, max_prompt=8))
  with pytest.raises(ConfigError, match='rollout.max_prompt 8'):
    label_steps.run_label_steps(short, str(tmp_path / 'short'))


def test_samples_train_an_outcome_model_and_are_labelled_step_by_step(runs, tmp_path):
  texts = ['<think>\n 33 a +3\n 36 ok </think>', 'answer 4', 'answer 4', 'answer 5']
  rows = [
    {'id': f'p{i}', 'problem': f'3{i} a 3 = 36', 'prompt': f'3{i} a 3 = 36\n', 'answer': '3', 'sample': n}
    | {'response': text, 'correct': n == 0}
    for i in range(4)
    for n, text in enumerate(texts)
  ]
  shards.Shards(tmp_path / 'd' / 'samples', 1).write(0, rows)
  data = config.RewardModelData('samples', 64, str(tmp_path / 'd'), eval_fraction=0.5)
  train, held_out, _dropped = labelled.load(data, 'points')
  assert len(train) + len(held_out) == 16 and {i['key'] for i in train}.isdisjoint(i['key'] for i in held_out)
  assert all(i['labels'] == [float('ok' in i['texts'][0])] for i in train + held_out)
  with pytest.raises(ConfigError, match="objective is 'steps'; of data.source 'samples'"):
    labelled.load(data, 'steps')
  cfg = label_config(runs, tmp_path / 'd', per_problem=2)
  label_steps.run_label_steps(cfg, str(tmp_path / 'w'))
  found = [json.loads(line) for line in (tmp_path / 'w' / 'labels.jsonl').read_text().splitlines()]
  assert [row['steps'] for row in found] == [['33 a +3', '36 ok </think>'], ['answer 4']] * 4
