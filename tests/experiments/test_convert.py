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
def model_dir(tmp_path_factory):
  """(model directory, its parameters): random, bfloat16 except for the correction biases."""
  path = tmp_path_factory.mktemp('model')
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


def test_import_and_export_are_bit_exact(model_dir, tmp_path, capsys):
  path, _ = model_dir
  assert convert.main(['import', '--input', str(path), '--output', str(tmp_path / 'ours')]) == 0
  assert convert.main(['export', '--input', str(tmp_path / 'ours'), '--output', str(tmp_path / 'back')]) == 0
  want, got = tensors(path), tensors(tmp_path / 'back')
  assert want.keys() == got.keys() and len(list(path.glob('*.safetensors'))) > 3
  assert [k for k in want if want[k].dtype != got[k].dtype or want[k].tobytes() != got[k].tobytes()] == []
  assert json.loads((path / 'config.json').read_text()) == json.loads((tmp_path / 'back/config.json').read_text())
  assert (path / 'tokenizer.model').read_bytes() == (tmp_path / 'back' / 'tokenizer.model').read_bytes()


def test_paths_may_be_relative(model_dir, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'in.jsonl').write_text('{"tokens": [1, 2]}\n')
  assert convert.main(['import', '--input', str(model_dir[0]), '--output', 'ours']) == 0
  assert convert.main(['export', '--input', 'ours', '--output', 'back']) == 0
  assert score.score('ours', 'in.jsonl', 'out.jsonl', '', 8) == 1


def test_an_unwritable_output_is_reported_first(model_dir, tmp_path):
  (tmp_path / 'file').touch()
  (tmp_path / 'in.jsonl').write_text('{"tokens": [1, 2]}\n')
  path = str(model_dir[0])
  for command in (
    ['import', '--input', path, '--output', str(tmp_path / 'file' / 'x')],
    ['export', '--input', path, '--output', str(tmp_path / 'file')],
  ):
    with pytest.raises(SystemExit, match='file'):
      convert.main(command)
  with pytest.raises(ConfigError, match='is a directory'):
    score.score(path, str(tmp_path / 'in.jsonl'), str(tmp_path), '', 8)
  assert sorted(p.name for p in tmp_path.iterdir()) == ['file', 'in.jsonl']


def test_a_missing_tokenizer_is_reported_before_anything_is_read(model_dir, tmp_path):
  shutil.copytree(model_dir[0], tmp_path / 'bare')
  (tmp_path / 'bare' / 'tokenizer.model').unlink()
  for command in ('import', 'export'):
    with pytest.raises(SystemExit, match='tokenizer'):
      convert.main([command, '--input', str(tmp_path / 'bare'), '--output', str(tmp_path / 'x')])
  assert [p.name for p in tmp_path.iterdir()] == ['bare']


def test_the_dtype_of_the_parameters_can_be_chosen(model_dir, tmp_path):
  path, _ = model_dir
  assert convert.main(['import', '--input', str(path), '--output', str(tmp_path / 'x'), '--dtype', 'float32']) == 0
  assert set(checkpoint.open_model(tmp_path / 'x').dtypes().values()) == {'float32'}
  config = json.loads((tmp_path / 'x' / 'config.json').read_text())
  assert config['torch_dtype'] == 'float32'


def test_check_lists_every_tensor_that_does_not_match(model_dir, tmp_path, capsys):
  path, _ = model_dir
  assert convert.main(['import', '--check', '--input', str(path)]) == 0
  contents = tensors(path)
  del contents['model.layers.0.mlp.up_proj.weight'], contents['lm_head.weight']
  contents['model.layers.1.mlp.experts.3.up_proj.weight'] = np.zeros((2, 3), np.float32)
  contents['model.layers.2.mlp.experts.8.up_proj.weight'] = np.zeros((2, 3), np.float32)
  (tmp_path / 'bad').mkdir()
  safetensors.save_file(contents, tmp_path / 'bad' / 'model.safetensors')
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


def test_a_dry_run_writes_nothing(model_dir, tmp_path, capsys):
  path, _ = model_dir
  for command in ('import', 'export'):
    assert convert.main([command, '--dry_run', '--input', str(path), '--output', str(tmp_path / 'no')]) == 0
    out = capsys.readouterr().out
    assert f'{params_lib.count(models.specs(MODEL)):,} parameters' in out and 'layers.moe.gate' in out
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
  ('argv', 'words'),
  [
    (['import', '--input', 'nowhere', '--output', 'x'], 'nowhere holds no config.json'),
    (['export', '--input', 'nowhere', '--output', 'x', '--step', '3'], 'no step 3'),
  ],
)
def test_errors_are_one_line(argv, words, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(SystemExit) as error:
    convert.main(argv)
  assert words in str(error.value) and '\n' not in str(error.value)


def test_import_does_not_overwrite(model_dir, tmp_path):
  with pytest.raises(SystemExit, match='already exists'):
    convert.main(['import', '--input', str(model_dir[0]), '--output', str(tmp_path)])


@pytest.mark.parametrize('kind', ['hf', 'imported'])
def test_scores_are_the_log_probs_of_the_full_forward(model_dir, tmp_path, kind):
  path, params = model_dir
  if kind == 'imported':
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
  ('row', 'words'),
  [
    ({'tokens': [320]}, 'row 2 of .* id 320, .* 320'),
    ({'tokens': [1] * 65}, 'row 2 of .* 65 tokens.* 64'),
    ({'tokens': ['a']}, "line 2: 'tokens' "),
    ({'tokens': [True]}, "line 2: 'tokens' "),
    ({}, "line 2: .*'tokens'.*'text'"),
  ],
)
def test_a_bad_row_is_named_and_nothing_written(model_dir, tmp_path, row, words):
  (tmp_path / 'in.jsonl').write_text('{"tokens": [1, 2]}\n' + json.dumps(row) + '\n')
  with pytest.raises((ConfigError, DataError), match=words):
    score.score(str(model_dir[0]), str(tmp_path / 'in.jsonl'), str(tmp_path / 'out.jsonl'), '', 3)
  assert [p.name for p in tmp_path.iterdir()] == ['in.jsonl']


@pytest.mark.slow
def test_transformers_generates_the_same_as_a_trained_policy(runs, straight, tmp_path, caplog):
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
  scorer, our_tokenizer = score.Scorer(source, 'float32', 8), source.load_tokenizer()
  prompts = [p['problem'] + '\n' for p in arithmetic.problems('trial', 0, 16, held_out=True)]
  engine = sampling.Engine(
    scorer.cfg, our_tokenizer, parallel.make_mesh(config_lib.Mesh()), max_prompt=32, max_response=64
  )
  ids = [our_tokenizer.encode(p) for p in prompts]
  out = engine.sample(scorer.params, ids, sampling.row_keys(jax.random.key(0), 16, 1), sampling.SamplingParams(0.0))
  for prompt, prompt_ids, tokens, length in zip(prompts, ids, out.tokens[:, 0], out.lengths[:, 0]):
    encoded = tokenizer(prompt, return_tensors='pt', add_special_tokens=False).input_ids
    assert encoded[0].tolist() == prompt_ids
    with torch.no_grad():
      answer = model.generate(encoded, do_sample=False, max_new_tokens=64)[0, len(prompt_ids) :].tolist()
    assert answer == tokens[:length].tolist()
    assert tokenizer.decode(answer, skip_special_tokens=True) == our_tokenizer.decode(tokens[:length])
