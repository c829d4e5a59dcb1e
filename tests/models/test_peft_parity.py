"""Adapters against PEFT: ours opened there and theirs opened here give the same logits."""

import dataclasses

import jax
import numpy as np
import pytest

from r1jax import checkpoint, config, models, parallel
from r1jax import params as params_lib
from r1jax.checkpoint import adapters
from r1jax.models import lora
from tests.checkpoint.model_dirs import MODELS, random_tensors, write

MODEL = dataclasses.replace(MODELS['llama'], layers=2)
TOKENS = np.random.default_rng(0).integers(0, MODEL.vocab, (2, 12)).astype(np.int32)
RANK, ALPHA = 4, 10.0


@pytest.fixture(scope='module')
def peft():
  reason = "needs PyTorch, transformers and PEFT: pip install -e '.[torch-parity]'."
  pytest.importorskip('torch', reason=reason)
  pytest.importorskip('transformers', reason=reason)
  return pytest.importorskip('peft', reason=reason)


@pytest.fixture(scope='module')
def base(tmp_path_factory):
  tensors = random_tensors(MODEL, np.float32)
  return write(tmp_path_factory.mktemp('base'), MODEL, {k: 0.3 * x for k, x in tensors.items()})


def logits(source):
  """Of a checkpoint.Source with an adapter, attached and merged."""
  mesh = parallel.make_mesh(config.Mesh(), jax.devices()[:1])
  specs = source.adapter.specs(MODEL)
  whole = source.base.load(source.abstract(mesh))
  attached = lora.Base(whole, source.adapter.scale).attach(source.adapter.load(MODEL, parallel.shardings(specs, mesh)))
  out = []
  for params in (attached, source.load(source.abstract(mesh))):
    positions = np.broadcast_to(np.arange(TOKENS.shape[1], dtype=np.int32), TOKENS.shape)
    hidden = models.forward(params, MODEL, TOKENS[:, None], positions[:, None]).hidden[:, 0]
    out.append(np.asarray(hidden @ models.unembedding(params).T))
  return out


def theirs(model):
  import torch

  with torch.no_grad():
    return model.eval()(torch.from_numpy(TOKENS).long()).logits.numpy()


def load_base(base):
  import transformers

  return transformers.AutoModelForCausalLM.from_pretrained(base, dtype='float32', attn_implementation='eager')


@pytest.mark.slow
@pytest.mark.parametrize('targets', [(), ('attention.q', 'attention.o', 'mlp.down')])
def test_our_adapter_gives_the_same_logits_in_peft(targets, peft, base, tmp_path):
  rng, step = np.random.default_rng(1), tmp_path / 'run'
  specs = lora.adapter_specs(models.specs(MODEL), RANK, targets)
  draw = lambda s: 0.3 * rng.normal(size=s.shape).astype(np.float32)
  with checkpoint.Store(step, config.Checkpoint(every=1), {}) as store:
    store.save(0, {'params': jax.tree.map(draw, specs, is_leaf=params_lib.is_spec)})
  source = checkpoint.open_model(base)
  found = adapters.Adapter(step / 'step_000000', config.LoRA(RANK, ALPHA, targets), '', True)
  adapters.save_peft(tmp_path / 'peft', found, MODEL, base)
  want = theirs(load_base(base))
  got = theirs(peft.PeftModel.from_pretrained(load_base(base), tmp_path / 'peft'))
  assert np.abs(got - want).max() > 0.1
  for ours in logits(dataclasses.replace(source, adapter=found, base=source)):
    np.testing.assert_allclose(ours, got, rtol=1e-4, atol=1e-4)
  for ours in logits(source.with_adapter(tmp_path / 'peft')):
    np.testing.assert_allclose(ours, got, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_an_adapter_of_peft_gives_the_same_logits_here(peft, base, tmp_path):
  import torch

  torch.manual_seed(0)
  settings = peft.LoraConfig(
    r=RANK, lora_alpha=ALPHA, target_modules=['q_proj', 'v_proj', 'up_proj'], init_lora_weights=False
  )
  model = peft.get_peft_model(load_base(base), settings)
  model.save_pretrained(tmp_path / 'peft')
  source = checkpoint.open_model(base).with_adapter(tmp_path / 'peft')
  assert set(source.adapter.settings.targets) == {'attention.q', 'attention.v', 'mlp.up'}
  want = theirs(model)
  assert np.abs(want - theirs(load_base(base))).max() > 0.1
  for ours in logits(source):
    np.testing.assert_allclose(ours, want, rtol=1e-4, atol=1e-4)
