"""GGUF files written by scripts/convert: bit-equal or quantised as the gguf library does, and refused where not."""

import dataclasses
import errno
import json

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import convert
from r1jax import checkpoint, config, models, parallel, tokenizers
from r1jax import params as params_lib
from r1jax.checkpoint import families, gguf_export, gguf_models, hf
from r1jax.models.config import MoE, RopeScaling
from tests.checkpoint import model_dirs

SHAPE = dict(vocab=320, embed=64, layers=2, heads=4, kv_heads=2, head_dim=16, mlp=96, context=64)
MODELS = {
  'llama': models.ModelConfig(
    **SHAPE, rope_theta=5e5, rope=RopeScaling('llama3', 8.0, 64, low_freq_factor=1.0, high_freq_factor=4.0)
  ),
  'qwen2': models.ModelConfig(
    **SHAPE, family='qwen2', qkv_bias=True, tied=True, rope=RopeScaling('yarn', 4.0, 16, beta_fast=16.0)
  ),
  'qwen3': models.ModelConfig(
    **SHAPE | dict(head_dim=32), family='qwen3', qk_norm=True, rope=RopeScaling('linear', 2.0)
  ),
  'qwen3_moe': models.ModelConfig(**SHAPE, family='qwen3_moe', qk_norm=True, moe=MoE(experts=4, top_k=2, mlp=32)),
}


@pytest.fixture(scope='module')
def spm(tmp_path_factory):
  path = tmp_path_factory.mktemp('tokenizer') / 'tokenizer.model'
  tokenizers.train(['Two and 2 make 4. 二加二得四。 ' * 3, 'abc ' * 20], path, 300)
  return path


def random_params(cfg, dtype=jnp.float32):
  noise = lambda s: np.random.default_rng(len(s.shape) + s.shape[-1]).normal(size=s.shape).astype(dtype)
  return jax.tree.map(noise, models.specs(cfg), is_leaf=params_lib.is_spec)


@pytest.fixture
def model(tmp_path, spm):
  """model(cfg, dtype): a Hugging Face directory of random parameters."""

  def make(cfg, dtype=jnp.float32):
    path = tmp_path / 'hf'
    params = random_params(cfg, dtype)
    hf.save(path, cfg, params, families.for_export(families.to_hf(cfg), np.dtype(dtype).name), [spm])
    return path

  return make


def load(path, dtype='keep'):
  source = checkpoint.open_model(path)
  return source, source.load(source.abstract(parallel.make_mesh(config.Mesh()), dtype))


def export(source, target, *options):
  assert convert.main(['export', '--input', str(source), '--output', str(target), *options]) == 0
  return target


def flat(params):
  return {
    jax.tree_util.keystr(k, simple=True, separator='.'): x for k, x in jax.tree_util.tree_leaves_with_path(params)
  }


def assert_same(params, others):
  params, others = flat(params), flat(others)
  assert params.keys() == others.keys()
  assert [n for n, x in params.items() if np.asarray(x).tobytes() != np.asarray(others[n]).tobytes()] == []


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize('name', MODELS)
def test_unquantised_files_come_back_bit_equal(model, tmp_path, name, dtype):
  path = model(MODELS[name], dtype)
  file = export(path, tmp_path / 'm.gguf', '--format', 'gguf')
  source, params = load(file)
  want_source, want = load(path)
  assert source.cfg == want_source.cfg == MODELS[name]
  kinds = {name: x.dtype for name, x in flat(params).items()}
  for name, kind in kinds.items():
    assert kind == (np.float32 if name.endswith(('norm', 'bias', 'router')) else dtype), name
  assert_same(jax.tree.map(lambda x, like: x.astype(like.dtype), params, want), want)
  # And as a Hugging Face directory again.
  back = export(file, tmp_path / 'back', '--dtype', np.dtype(dtype).name)
  assert_same(load(back)[1], want)
  model_dirs.same(model_dirs.read_back(back), model_dirs.read_back(path))
  theirs, ours = (json.loads((p / 'config.json').read_text()) for p in (path, back))
  assert families.from_hf(theirs, path) == families.from_hf(ours, back)
  text = 'Two 二\n😀'
  assert tokenizers.load(back).encode(text) == tokenizers.load(path).encode(text)


def test_the_librarys_own_reader_finds_names_and_shapes(model, tmp_path):
  file = export(model(MODELS['qwen3_moe']), tmp_path / 'm.gguf', '--format', 'gguf')
  reader = gguf.GGUFReader(file)
  arch = gguf.MODEL_ARCH.QWEN3MOE
  known = {gguf.TENSOR_NAMES[kind].format(bid=0) for kind in gguf.MODEL_TENSORS[arch]}
  shapes = {t.name: t.data.shape for t in reader.tensors}
  assert {name.rpartition('.')[0].replace('blk.1.', 'blk.0.') for name in shapes} <= known
  assert shapes['blk.0.ffn_gate_exps.weight'] == (4, 32, 64) and shapes['token_embd.weight'] == (320, 64)
  fields = {key: field.contents() for key, field in reader.fields.items()}
  assert fields['qwen3moe.attention.head_count_kv'] == 2 and fields['general.file_type'] == 0
  assert len(fields['tokenizer.ggml.tokens']) == 320


@pytest.mark.parametrize('quantize', ['q8_0', 'q4_0'])
@pytest.mark.parametrize('name', ['llama', 'qwen3_moe'])
def test_quantised_matrices_are_the_librarys(model, tmp_path, capsys, name, quantize):
  cfg = dataclasses.replace(MODELS[name], mlp=40) if name == 'llama' else MODELS[name]  # rows of 40: no whole blocks
  path = model(cfg)
  file = export(path, tmp_path / 'm.gguf', '--format', 'gguf', '--quantize', quantize)
  kind = gguf_export.QUANTIZE[quantize]
  _, _, read_cfg = gguf_models.open_file(file)
  assert read_cfg == cfg
  want = model_dirs.read_back(path)
  got = model_dirs.read_back(export(file, tmp_path / 'back'))
  assert want.keys() == got.keys()
  kept = []
  for tensor, x in want.items():
    if x.ndim == 2 and not tensor.endswith('mlp.gate.weight') and x.shape[1] % 32 == 0:
      rounded = gguf.quants.dequantize(gguf.quants.quantize(x, kind), kind)
      assert 0 < np.abs(rounded - x).max() < (0.05 if quantize == 'q8_0' else 1)
      x = rounded
    elif x.ndim == 2:
      kept.append(tensor)
    np.testing.assert_array_equal(got[tensor], x, err_msg=tensor)
  kept = [tensor for tensor in kept if 'mlp.gate.weight' not in tensor]
  assert len(kept) == (2 if name == 'llama' else 0)  # the down projections
  assert ('2 matrices are not quantised' in capsys.readouterr().out) == bool(kept)


def test_runs_and_gguf_files_are_exported_too(model, tmp_path):
  path = model(MODELS['qwen3'])
  assert convert.main(['import', '--input', str(path), '--output', str(tmp_path / 'ours')]) == 0
  first = export(tmp_path / 'ours', tmp_path / 'a.gguf', '--format', 'gguf', '--quantize', 'q8_0')
  again = export(first, tmp_path / 'b.gguf', '--format', 'gguf', '--quantize', 'q8_0')
  assert_same(load(first)[1], load(again)[1])
  assert convert.main(['import', '--input', str(first), '--output', str(tmp_path / 'imported')]) == 0
  assert_same(load(tmp_path / 'imported')[1], load(first)[1])
  source = checkpoint.open_model(tmp_path / 'imported')
  assert source.load_tokenizer().encode('Two') == checkpoint.open_model(path).load_tokenizer().encode('Two')


def test_check_and_plan(model, tmp_path, capsys):
  file = export(model(MODELS['qwen2']), tmp_path / 'm.gguf', '--format', 'gguf')
  assert convert.main(['import', '--check', '--input', str(file)]) == 0
  assert '0 are missing' in capsys.readouterr().out
  assert convert.main(['export', '--dry_run', '--input', str(file), '--format', 'gguf']) == 0
  assert 'Qwen2ForCausalLM' in capsys.readouterr().out and [p.name for p in tmp_path.iterdir()] == ['hf', 'm.gguf']


def test_a_tokenizer_that_gguf_cannot_express_is_refused_before_anything_is_written(model, tmp_path, capsys):
  path = model(MODELS['qwen2'])
  (path / 'tokenizer.model').unlink()
  spec = {
    'added_tokens': [{'id': 1, 'content': '</s>', 'special': True}],
    'pre_tokenizer': {'type': 'Whitespace'},
    'decoder': {'type': 'ByteLevel', 'add_prefix_space': False, 'trim_offsets': False, 'use_regex': True},
    'model': {'type': 'BPE', 'vocab': {'a': 0, '</s>': 1}, 'merges': []},
  }
  (path / 'tokenizer.json').write_text(json.dumps(spec))
  (path / 'tokenizer_config.json').write_text('{"eos_token": "</s>"}')
  with pytest.raises(SystemExit) as error:
    convert.main(['export', '--input', str(path), '--output', str(tmp_path / 'm.gguf'), '--format', 'gguf'])
  assert 'GGUF has no name' in str(error.value.code) + capsys.readouterr().err
  assert [p.name for p in tmp_path.iterdir()] == ['hf']


@pytest.mark.parametrize(
  ('cfg', 'words'),
  [
    (model_dirs.DEEPSEEK, "family 'deepseek_v3'"),
    (dataclasses.replace(model_dirs.MODELS['reward'], vocab=320), 'gives scores'),
    (
      dataclasses.replace(MODELS['qwen3_moe'], moe=dataclasses.replace(MODELS['qwen3_moe'].moe, normalise=False)),
      'norm_topk_prob',
    ),
    (dataclasses.replace(MODELS['llama'], rope=RopeScaling('llama3', 8.0, 64, high_freq_factor=8.0)), 'Llama 3 RoPE'),
    (dataclasses.replace(MODELS['qwen2'], rope=RopeScaling('yarn', 4.0, 16, truncate=False)), 'truncate = False'),
  ],
)
def test_models_that_gguf_cannot_express_are_refused(spm, cfg, words):
  with pytest.raises(checkpoint.ModelDirError, match=words) as error:
    gguf_export.metadata(cfg, tokenizers.load(spm))
  assert '\n' not in str(error.value)


def test_a_full_disk_leaves_nothing(tmp_path, spm, monkeypatch):
  cfg, written = MODELS['qwen3'], []

  def fail(self, tensor):
    written.append(tensor)
    raise OSError(errno.ENOSPC, 'No space left on device')

  metadata = gguf_export.metadata(cfg, tokenizers.load(spm))
  monkeypatch.setattr(gguf.GGUFWriter, 'write_tensor_data', fail)
  with pytest.raises(checkpoint.ModelDirError, match='No space left on device') as error:
    gguf_export.save(tmp_path / 'a' / 'm.gguf', cfg, random_params(cfg), metadata)
  assert '\n' not in str(error.value) and written and list((tmp_path / 'a').iterdir()) == []


def test_a_really_full_disk_leaves_nothing(small_disk, spm):
  cfg = dataclasses.replace(MODELS['qwen3'], vocab=20_000)
  metadata = gguf_export.metadata(cfg, tokenizers.load(spm))
  with pytest.raises(checkpoint.ModelDirError, match='could not be written'):
    gguf_export.save(small_disk / 'm.gguf', cfg, random_params(cfg), metadata)
  assert list(small_disk.iterdir()) == []


@pytest.mark.parametrize('target', ['m.bin', 'taken.gguf'])
def test_targets_are_checked_first(tmp_path, target):
  (tmp_path / 'taken.gguf').touch()
  with pytest.raises(checkpoint.ModelDirError, match=target):
    gguf_export.check_target(tmp_path / target)


@pytest.mark.slow
@pytest.mark.parametrize('quantize', ['none', 'q8_0'])
@pytest.mark.parametrize('name', MODELS)
def test_transformers_computes_the_same_logits(model, tmp_path, name, quantize):
  reason = "needs PyTorch, transformers and accelerate: pip install -e '.[torch-parity]'."
  torch, transformers, _ = (pytest.importorskip(n, reason=reason) for n in ('torch', 'transformers', 'accelerate'))
  cfg = dataclasses.replace(MODELS[name], rope=None)  # which transformers does not read from GGUF files
  file = export(model(cfg), tmp_path / 'm.gguf', '--format', 'gguf', '--quantize', quantize)
  settings = transformers.AutoConfig.from_pretrained(str(tmp_path), gguf_file=file.name)
  for key in {'head_dim', 'moe_intermediate_size'} & families.to_hf(cfg).keys():  # which it does not always read
    setattr(settings, key, families.to_hf(cfg)[key])
  theirs = transformers.AutoModelForCausalLM.from_pretrained(
    str(tmp_path), config=settings, gguf_file=file.name, dtype=torch.float32
  )
  tokens = np.random.default_rng(0).integers(0, cfg.vocab, (2, 12))
  _, params = load(file)
  positions = np.broadcast_to(np.arange(12), tokens.shape)
  hidden = models.forward(params, cfg, jnp.asarray(tokens)[:, None], positions[:, None]).hidden[:, 0]
  with torch.no_grad():
    want = theirs.eval()(torch.tensor(tokens)).logits.numpy()
  assert want.std() > 0.1
  np.testing.assert_allclose(hidden @ models.unembedding(params).T, want, rtol=1e-3, atol=1e-3 * want.std())
