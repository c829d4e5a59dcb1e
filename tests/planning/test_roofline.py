"""Analytic counts of FLOPs and bytes against sums written out and against compiled programs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax import config, models, parallel
from r1jax import params as params_lib
from r1jax.planning import compiled, programs, roofline, topology
from r1jax.sampling import weights
from r1jax.training import policy

DENSE = models.ModelConfig(vocab=96, embed=32, layers=3, heads=4, kv_heads=2, head_dim=16, mlp=80, context=128)
MIXED = models.PRESETS['toy_deepseek']


def config_of(**train):
  return config.RL(
    seed=0,
    steps=10,
    model=config.Model('none'),
    data=config.Data('jsonl'),
    rollout=config.Rollout(prompts=4, samples=2, max_prompt=8, max_response=16),
    reward=config.Reward({'x': 1.0}, 'x'),
    loss=config.Loss('grpo', kl_coef=0.1),
    optimizer=config.Optimizer(1e-2),
    train=config.Train(**train),
    eval=config.Evaluation(1, 1, 1),
    checkpoint=config.Checkpoint(1),
  )


def test_weights_of_a_layer():
  # q and o 32 x 64 each, k and v 32 x 32 each; three of 32 x 80.
  assert roofline.layer_weights(DENSE, mixed=False) == 2 * 32 * 64 + 2 * 32 * 32 + 3 * 32 * 80
  # All of a dense model's parameters but norms and the embedding multiply each token.
  outside = DENSE.embed * (2 * DENSE.layers + 1) + DENSE.vocab * DENSE.embed
  assert 3 * roofline.layer_weights(DENSE, False) + 96 * 32 == params_lib.count(models.specs(DENSE)) - outside


def test_only_visited_experts_count():
  mixed = MIXED.layers - MIXED.dense_layers
  weights = MIXED.dense_layers * roofline.layer_weights(MIXED, False) + mixed * roofline.layer_weights(MIXED, True)
  m = MIXED.mla
  norms = MIXED.layers * (2 * MIXED.embed + m.q_rank + m.kv_rank) + MIXED.embed + mixed * MIXED.moe.experts
  idle = (MIXED.moe.experts - MIXED.moe.top_k) * 3 * MIXED.embed * MIXED.moe.mlp * mixed
  assert weights + 2 * MIXED.vocab * MIXED.embed == params_lib.count(models.specs(MIXED)) - idle - norms


def test_flops_of_a_forward_pass():
  forward = roofline.forward_flops(DENSE, prompts=2, rows=3, prompt_tokens=8, response_tokens=5, causal=False)
  tokens = 2 * (8 + 3 * 4)
  assert forward['weights'] == 2 * tokens * 3 * roofline.layer_weights(DENSE, False)
  assert forward['logits'] == 2 * 2 * 3 * 5 * 32 * 96
  # A score is a product over 16 dimensions, and so is weighting its value; 4 heads.
  assert forward['attention'] == 3 * (2 * 8 * 8 + 6 * (4 * 8 + 4 * 4)) * 4 * 4 * 16
  causal = roofline.forward_flops(DENSE, prompts=2, rows=3, prompt_tokens=8, response_tokens=5, causal=True)
  assert causal['attention'] == 3 * (2 * 36 + 6 * (4 * 8 + 10)) * 4 * 4 * 16


@pytest.mark.parametrize('model', [DENSE, dataclasses.replace(MIXED, moe=None, layers=2)], ids=['dense', 'latent'])
@pytest.mark.parametrize('remat', ['none', 'full', 'attention', 'qkv', 'products'])
def test_the_compiled_gradient_agrees(model, remat):
  shape = dict(prompts=2, rows=3, prompt_tokens=8, response_tokens=9)
  ids = lambda *s: jnp.zeros(s, jnp.int32)

  options = models.ForwardOptions(remat=remat)

  def loss(params):
    hidden = models.response_hidden(params, model, ids(2, 8), jnp.full(2, 8), ids(2, 3, 9), options=options).hidden
    flat = hidden.reshape(1, -1, model.embed)
    logp, _ = models.logprobs(flat, models.unembedding(params), ids(1, 54), 27)
    return logp.sum()

  text = jax.jit(jax.value_and_grad(loss)).lower(params_lib.abstract(models.specs(model))).compile().as_text()
  flops, open_loops = compiled.dot_flops(text)
  analytic = roofline.update_flops(roofline.forward_flops(model, causal=False, **shape), remat)
  np.testing.assert_allclose(flops, analytic['products'] + analytic['attention'], rtol=1e-6)
  assert not open_loops


def test_bytes_of_a_decoding_step():
  assert roofline.cache_bytes(DENSE, 2) == 3 * 2 * 2 * 2 * 16
  assert roofline.cache_bytes(MIXED, 2) == 3 * 2 * (32 + 8)
  # One row visits 2 of 8 experts in each of two layers; many visit all.
  all_of_it = params_lib.count(models.specs(MIXED)) - 512 * 64
  assert sum(roofline.weights_read(MIXED, 100, 1)) == all_of_it
  assert roofline.weights_read(MIXED, 1, 1) == (2 * 2 * 3 * 64 * 64, all_of_it - 2 * 8 * 3 * 64 * 64)
  assert roofline.weights_read(DENSE, 1, 2) == (0, 2 * (params_lib.count(models.specs(DENSE)) - 96 * 32))


def test_only_the_matrices_of_layers_are_read_in_low_precision():
  """Embeddings, norms, biases and routers keep the dtype of the computation, here two bytes."""
  layer = 2 * 32 * 64 + 2 * 32 * 32 + 3 * 32 * 80
  for model, extra in (
    (DENSE, 0),
    (dataclasses.replace(DENSE, tied=True), 0),
    (dataclasses.replace(DENSE, qkv_bias=True, qk_norm=True), 3 * (64 + 2 * 32 + 2 * 16)),
  ):
    others = 96 * 32 + 7 * 32 + extra  # the unembedding or the tied embedding, and the norms
    assert roofline.weights_read(model, 9, 2) == (0, 2 * (3 * layer + others))
    assert roofline.weights_read(model, 9, 2, 'int8') == (0, 3 * layer + 2 * others)
    # Half a byte, and four bytes of a scale for 32 weights.
    assert roofline.weights_read(model, 9, 2, 'int4') == (0, 3 * layer * (0.5 + 4 / 32) + 2 * others)
  # Latent attention: two queries' and two keys' and values' matrices, and the output; a dense layer and two mixtures.
  attention = 64 * 48 + 48 * 4 * 24 + 64 * (32 + 8) + 32 * 4 * (16 + 16) + 4 * 16 * 64
  matrices = 3 * attention + 3 * 64 * 176 + 2 * 3 * 64 * 64  # with the shared experts
  others = 512 * 64 + 7 * 64 + 3 * (48 + 32) + 2 * 8 * (64 + 1)  # norms of latents too; routers and their biases
  assert roofline.weights_read(MIXED, 1, 2, 'int8') == (2 * 2 * 3 * 64 * 64, matrices + 2 * others)


def test_the_bytes_of_low_precision_are_those_of_the_samplers_copy():
  wider = dataclasses.replace(DENSE, embed=64, head_dim=32, mlp=96)  # whole tiles of 32 inputs
  for model, weight_dtype in ((wider, 'int8'), (wider, 'int4'), (MIXED, 'int8')):
    copy = weights.weights_program(
      params_lib.abstract(models.specs(model)),
      parallel.make_mesh(config.Mesh(), jax.devices()[:1]),
      model,
      weights.Precision('bfloat16', weight_dtype),
    )[1]
    stored = {at[0].key: 0 for at, _ in jax.tree_util.tree_leaves_with_path(copy)}
    for at, x in jax.tree_util.tree_leaves_with_path(copy):
      stored[at[0].key] += x.size * (0.5 if x.dtype == 'int4' else x.dtype.itemsize)
    counted = sum(roofline.weights_read(model, 1000, 2, weight_dtype))
    # Scales of channels and float32 routers are not counted, nor is the last norm's other half.
    assert 0.9 * (sum(stored.values()) - stored['embed']) < counted <= sum(stored.values()) - stored['embed']


def test_a_phase_takes_the_longer_of_compute_and_memory_time():
  slice_ = topology.find('v5e:2x2')
  mesh = {'data': 1, 'fsdp': 4, 'expert': 1, 'tp': 1, 'seq': 1}
  model = models.PRESETS['qwen2_5_7b']
  cfg = config_of()
  cfg = dataclasses.replace(
    cfg,
    model=config.Model('none', 'bfloat16', 'full'),
    rollout=dataclasses.replace(cfg.rollout, max_prompt=1024, max_response=2048),
  )
  phases = {p.name: p for p in roofline.step(cfg, model, slice_, mesh)}
  assert list(phases) == ['prefill', 'decode', 'logprobs', 'update']
  decode, update = phases['decode'], phases['update']
  assert decode.seconds == decode.bytes / 0.82e12 > decode.flops / 197e12
  assert update.seconds == update.flops / 197e12 > update.bytes / 0.82e12
  # For each token a chip reads at least its shard of the weights: 7.07e9 of 2 bytes, without the embedding.
  assert decode.seconds > 2048 * 2 * 7.07e9 / 4 / 0.82e12
  # Six FLOPs for each parameter and token, eight with recomputation, plus attention.
  tokens = 4 * (1024 + 2 * 2047)
  assert 6 * 6.5e9 < update.flops * 4 / tokens < 8 * 8e9


def test_microbatches_cover_the_minibatch():
  cfg = config_of(microbatch=2, length_slices=2)
  assert policy.microbatch_shape(cfg) == (1, 2) and programs.microbatches(cfg) == 4
  assert programs.microbatches(config_of()) == 1
