"""The weights that bulk sampling computes with."""

import types

import jax
import numpy as np
import pytest

from configs import generate
from r1jax import checkpoint, config
from r1jax.models import quantized
from r1jax.runs import generation
from r1jax.sampling.weights import Precision, cast_weights
from tests.checkpoint import model_dirs


def opened(monkeypatch, path, **rollout):
  """The sampler's copy of the weights of a directory, with a computation in bfloat16."""
  monkeypatch.setattr(checkpoint.Source, 'load_tokenizer', lambda *_: types.SimpleNamespace(eos=(1,), chats=False))
  c = generate.get_config('toy')
  c.model.update(path=str(path), dtype='bfloat16')
  c.rollout.update(max_prompt=8, max_response=8, **rollout)
  return generation._open_model(config.convert(c, config.Generate))[2]


def leaves(tree):
  return {jax.tree_util.keystr(at): np.asarray(x) for at, x in jax.tree_util.tree_leaves_with_path(tree)}


@pytest.mark.parametrize('stored', ['float32', 'bfloat16'])
@pytest.mark.parametrize(('name', 'weight_dtype'), [('qwen3_moe', 'int8'), ('llama', 'int4')])
def test_weights_are_quantized_from_their_stored_values_as_in_rl(tmp_path, monkeypatch, name, weight_dtype, stored):
  model = model_dirs.MODELS[name]
  path = model_dirs.write(tmp_path / 'm', model, model_dirs.random_tensors(model, model_dirs.KINDS[stored]))
  _, exact, _ = model_dirs.load(path, 'float32')
  sampled = opened(monkeypatch, path, weight_dtype=weight_dtype)
  model_dirs.same(leaves(sampled), leaves(cast_weights(exact, model, Precision('bfloat16', weight_dtype))))
  q = sampled['layers'][1]['attention']['q']
  assert quantized.is_quantized(q)
  if weight_dtype == 'int8':  # by hand: an output channel's largest magnitude is 127.5 steps
    w = np.asarray(exact['layers']['attention']['q'][1])
    steps = w / np.abs(w).max(axis=0, keepdims=True) * np.float32(127.5)
    assert np.abs(q.qvalue - steps).max() < 0.501  # 0.78 if the weights were rounded to bfloat16 first


def test_without_quantization_weights_are_rounded_and_routers_are_not(tmp_path, monkeypatch):
  model = model_dirs.MODELS['qwen3_moe']
  path = model_dirs.write(tmp_path / 'm', model, model_dirs.random_tensors(model, np.float32))
  _, exact, _ = model_dirs.load(path, 'float32')
  sampled = opened(monkeypatch, path)['layers'][0]
  assert sampled['attention']['q'].dtype == 'bfloat16'
  np.testing.assert_array_equal(sampled['moe']['router'], exact['layers']['moe']['router'][0])
