"""scripts/convert and experiments.score on small random models."""

import dataclasses
import json
import logging
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import numpy as safetensors

from experiments import convert, score
from r1jax import checkpoint, models, tokenizers
from r1jax import params as params_lib
from r1jax.checkpoint import families, hf
from r1jax.config import ConfigError
from r1jax.data import DataError

MODEL = dataclasses.replace(models.PRESETS['toy_deepseek'], vocab=320, context=64)
TEXT = 'Two and 2 make 4. 二加二得四。 '


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  """(directory, its parameters): random, in bfloat16 but for the correction biases."""
  path = tmp_path_factory.mktemp('made')
  tokenizers.train([TEXT * 3, 'abc ' * 20], path / 'tokenizer.model', 300)
  params = params_lib.init(models.specs(MODEL), jax.random.key(0))
  params = jax.tree.map(lambda x: (x + 0.1 * x.mean()).astype(jnp.bfloat16), params)
  bias = jax.random.normal(jax.random.key(1), (2, 8))
  params['layers']['moe']['router_bias'] = bias
  hf.save(
    path / 'hf',
    MODEL,
    params,
    families.for_export(families.to_hf(MODEL), 'bfloat16'),
    [path / 'tokenizer.model'],
    shard_bytes=100_000,
  )
  return path / 'hf', params


def tensors(path):
  return {k: v for file in path.glob('*.safetensors') for k, v in safetensors.load_file(file).items()}


def test_out_of_our_checkpoint_comes_what_went_in(made, tmp_path, capsys):
  path, _ = made
  assert convert.main(['import', '--input', str(path), '--output', str(tmp_path / 'ours')]) == 0
  assert convert.main(['export', '--input', str(tmp_path / 'ours'), '--output', str(tmp_path / 'back')]) == 0
  want, got = tensors(path), tensors(tmp_path / 'back')
  assert want.keys() == got.keys() and len(list(path.glob('*.safetensors'))) > 3
  assert [k for k in want if want[k].dtype != got[k].dtype or want[k].tobytes() != got[k].tobytes()] == []
  assert json.loads((path / 'config.json').read_text()) == json.loads((tmp_path / 'back/config.json').read_text())
  assert (path / 'tokenizer.model').read_bytes() == (tmp_path / 'back' / 'tokenizer.model').read_bytes()


def test_paths_may_be_relative(made, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'in.jsonl').write_text('{"tokens": [1, 2]}\n')
  assert convert.main(['import', '--input', str(made[0]), '--output', 'ours']) == 0
  assert convert.main(['export', '--input', 'ours', '--output', 'back']) == 0
  assert score.score('ours', 'in.jsonl', 'out.jsonl', '', 8) == 1


def test_what_cannot_be_written_says_so_first(made, tmp_path):
  (tmp_path / 'file').touch()
  (tmp_path / 'in.jsonl').write_text('{"tokens": [1, 2]}\n')
  path = str(made[0])
  for command in (
    ['import', '--input', path, '--output', str(tmp_path / 'file' / 'x')],
    ['export', '--input', path, '--output', str(tmp_path / 'file')],
  ):
    with pytest.raises(SystemExit, match='file'):
      convert.main(command)
  with pytest.raises(ConfigError, match='is a folder'):
    score.score(path, str(tmp_path / 'in.jsonl'), str(tmp_path), '', 8)
  assert sorted(p.name for p in tmp_path.iterdir()) == ['file', 'in.jsonl']


def test_a_tokenizer_is_missed_before_anything_is_read(made, tmp_path):
  shutil.copytree(made[0], tmp_path / 'bare')
  (tmp_path / 'bare' / 'tokenizer.model').unlink()
  for command in ('import', 'export'):
    with pytest.raises(SystemExit, match='no tokenizer'):
      convert.main([command, '--input', str(tmp_path / 'bare'), '--output', str(tmp_path / 'x')])
  assert [p.name for p in tmp_path.iterdir()] == ['bare']


def test_dtype_of_the_parameters_can_be_chosen(made, tmp_path):
  path, _ = made
  assert convert.main(['import', '--input', str(path), '--output', str(tmp_path / 'x'), '--dtype', 'float32']) == 0
  assert set(checkpoint.open_model(tmp_path / 'x').dtypes().values()) == {'float32'}
  config = json.loads((tmp_path / 'x' / 'config.json').read_text())
  assert config['torch_dtype'] == 'float32'


def test_check_names_every_tensor_that_does_not_fit(made, tmp_path, capsys):
  path, _ = made
  assert convert.main(['import', '--check', '--input', str(path)]) == 0
  found = tensors(path)
  del found['model.layers.0.mlp.up_proj.weight'], found['lm_head.weight']
  found['model.layers.1.mlp.experts.3.up_proj.weight'] = np.zeros((2, 3), np.float32)
  found['model.layers.2.mlp.experts.8.up_proj.weight'] = np.zeros((2, 3), np.float32)
  (tmp_path / 'bad').mkdir()
  safetensors.save_file(found, tmp_path / 'bad' / 'model.safetensors')
  (tmp_path / 'bad' / 'config.json').write_bytes((path / 'config.json').read_bytes())
  capsys.readouterr()
  assert convert.main(['import', '--check', '--input', str(tmp_path / 'bad')]) == 1
  lines = capsys.readouterr().out.splitlines()
  assert lines[:-1] == [
    'lm_head.weight is missing',
    'model.layers.0.mlp.up_proj.weight is missing',
    'model.layers.2.mlp.experts.8.up_proj.weight is unexpected',
    'model.layers.1.mlp.experts.3.up_proj.weight has shape [2, 3], not [64, 64]',
  ]


def test_a_dry_run_writes_nothing(made, tmp_path, capsys):
  path, _ = made
  for command in ('import', 'export'):
    assert convert.main([command, '--dry_run', '--input', str(path), '--output', str(tmp_path / 'no')]) == 0
    out = capsys.readouterr().out
    assert f'{params_lib.count(models.specs(MODEL)):,} parameters' in out and 'layers.moe.gate' in out
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
  'argv, said',
  [
    (['import', '--input', 'nowhere', '--output', 'x'], 'nowhere holds no config.json'),
    (['export', '--input', 'nowhere', '--output', 'x', '--step', '3'], 'no step 3'),
  ],
)
def test_errors_are_one_line(argv, said, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(SystemExit) as error:
    convert.main(argv)
  assert said in str(error.value) and '\n' not in str(error.value)


def test_import_does_not_overwrite(made, tmp_path):
  with pytest.raises(SystemExit, match='is there already'):
    convert.main(['import', '--input', str(made[0]), '--output', str(tmp_path)])


@pytest.mark.parametrize('kind', ['hf', 'ours'])
def test_scores_are_the_log_probs_of_the_full_forward(made, tmp_path, kind):
  path, params = made
  if kind == 'ours':
    assert convert.main(['import', '--input', str(path), '--output', str(tmp_path / 'ours')]) == 0
    path = tmp_path / 'ours'
  rng = np.random.default_rng(0)
  rows = [{'tokens': rng.integers(0, 320, n).tolist(), 'id': n} for n in (1, 0, 2, 40, 5, 33)] + [{'text': TEXT}]
  (tmp_path / 'in.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  assert score.score(str(path), str(tmp_path / 'in.jsonl'), str(tmp_path / 'out.jsonl'), 'float32', 3) == 7
  out = [json.loads(line) for line in (tmp_path / 'out.jsonl').read_text().splitlines()]
  assert [row.get('id') for row in out] == [1, 0, 2, 40, 5, 33, None]
  assert out[-1]['tokens'] == tokenizers.load(path).encode(TEXT) and out[-1]['text'] == TEXT
  for row in out:
    assert len(row['logprobs']) == max(len(row['tokens']) - 1, 0)
    if row['logprobs']:
      tokens = jnp.asarray(row['tokens'])[None, None]
      hidden = models.forward(params, MODEL, tokens, jnp.arange(tokens.shape[2])[None, None]).hidden
      every = jax.nn.log_softmax(hidden[0, 0] @ params['unembed'].astype(jnp.float32))
      want = every[np.arange(len(row['tokens']) - 1), row['tokens'][1:]]
      np.testing.assert_allclose(row['logprobs'], want, atol=2e-5)


@pytest.mark.parametrize(
  'row, said',
  [
    ({'tokens': [320]}, 'row 2 of .* holds id 320, but the model has 320'),
    ({'tokens': [1] * 65}, '65 tokens, over the model'),
    ({'tokens': ['a']}, "line 2: 'tokens' is no list of ids"),
    ({'tokens': [True]}, "line 2: 'tokens' is no list of ids"),
    ({}, "line 2: neither 'tokens'"),
  ],
)
def test_a_bad_row_is_named_and_nothing_written(made, tmp_path, row, said):
  (tmp_path / 'in.jsonl').write_text('{"tokens": [1, 2]}\n' + json.dumps(row) + '\n')
  with pytest.raises((ConfigError, DataError), match=said):
    score.score(str(made[0]), str(tmp_path / 'in.jsonl'), str(tmp_path / 'out.jsonl'), '', 3)
  assert [p.name for p in tmp_path.iterdir()] == ['in.jsonl']


@pytest.mark.slow
def test_transformers_answers_as_a_trained_policy_does(runs, straight, tmp_path, caplog):
  """Greedy answers of a run's last checkpoint, through our sampler and through an exported directory."""
  transformers = pytest.importorskip('transformers', reason='transformers is installed by the extra torch-parity')
  import torch

  from r1jax import config as config_lib
  from r1jax import parallel, sampling
  from r1jax.data.toy import arithmetic

  assert convert.main(['export', '--input', str(straight), '--output', str(tmp_path / 'hf')]) == 0
  with caplog.at_level(logging.WARNING):
    model, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / 'hf', output_loading_info=True)
  assert not any(info.values()), info
  tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / 'hf')
  source = checkpoint.open_model(straight)
  ours, own = score.Scorer(source, 'float32', 8), source.load_tokenizer()
  prompts = [p['problem'] + '\n' for p in arithmetic.problems('trial', 0, 16, held_out=True)]
  engine = sampling.Engine(ours.cfg, own, parallel.make_mesh(config_lib.Mesh()), max_prompt=32, max_response=64)
  ids = [own.encode(p) for p in prompts]
  out = engine.sample(ours.params, ids, sampling.row_keys(jax.random.key(0), 16, 1), sampling.Sampling(0.0))
  for prompt, prompt_ids, tokens, length in zip(prompts, ids, out.tokens[:, 0], out.lengths[:, 0]):
    encoded = tokenizer(prompt, return_tensors='pt', add_special_tokens=False).input_ids
    assert encoded[0].tolist() == prompt_ids
    with torch.no_grad():
      answer = model.generate(encoded, do_sample=False, max_new_tokens=64)[0, len(prompt_ids) :].tolist()
    assert answer == tokens[:length].tolist()
    assert tokenizer.decode(answer, skip_special_tokens=True) == own.decode(tokens[:length])
