"""The update of supervised fine-tuning: rows packed or not, in microbatches or not, are one gradient."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from r1jax import config, models, parallel
from r1jax import params as params_lib
from r1jax.config import ConfigError
from r1jax.data import packing
from r1jax.models import causal
from r1jax.training import sft
from r1jax.training import state as state_lib
from r1jax.training.finite import NonFiniteError

MODEL = models.ModelConfig(vocab=40, embed=16, layers=2, heads=2, kv_heads=1, head_dim=8, mlp=24, context=256)
LENGTH = 32


def texts(count=10):
  rng = np.random.default_rng(0)
  return [(rng.integers(0, 40, n).astype(np.int32), int(rng.integers(1, n))) for n in rng.integers(3, 17, count)]


def cfg(batch, microbatch=0, mtp_coef=0.0, **model):
  return config.SFT(
    seed=0,
    epochs=1.0,
    batch=batch,
    microbatch=microbatch,
    mtp_coef=mtp_coef,
    model=config.Model(path='', **model),
    data=config.SFTData('jsonl', max_length=LENGTH),
    optimizer=config.Optimizer(learning_rate=1e-2, grad_clip=0.0),
    eval=config.SFTEvaluation(every=1),
    checkpoint=config.Checkpoint(every=1),
  )


def updated(params, rows, microbatch=0, model=MODEL, **settings):
  """What one step of SGD of rate 1 takes from the parameters, the gradient; its metrics; and the held-out figures."""
  mesh = parallel.make_mesh(config.Mesh())
  c = cfg(len(rows), microbatch, **settings)
  trainer = sft.make_trainer(c, model, optax.sgd(1.0), mesh)
  like = state_lib.abstract_state(models.specs(model), optax.sgd(1.0), mesh)
  state = state_lib.new_state(
    jax.device_put(params, jax.tree.map(lambda x: x.sharding, like.params)), optax.sgd(1.0), like
  )
  batch, size = sft.PackedBatch(*packing.pack(rows, LENGTH)), microbatch or len(rows)
  parts = [jax.tree.map(lambda x, i=i: x[i : i + size], batch) for i in range(0, len(rows), size)]
  held_out = sft.evaluate(trainer, state.params, parts, size)
  state, metrics = sft.update(trainer, state, batch, c, 0)
  return jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), params, state.params), metrics, held_out


@pytest.fixture(scope='module')
def params():
  return jax.jit(functools.partial(params_lib.init, models.specs(MODEL)))(jax.random.key(0))


@pytest.fixture(scope='module')
def alone(params):
  """Each text in a row of its own, all at once."""
  return updated(params, [[text] for text in texts()])


def nll(params):
  """Nats of each text's response, from whole logits of rows that hold one text each."""
  tokens = np.stack([np.resize(ids, 16) for ids, _ in texts()])  # what fills up comes after the text
  hidden = models.forward(params, MODEL, tokens[:, None], np.broadcast_to(np.arange(16), tokens.shape)[:, None]).hidden
  logp = jax.nn.log_softmax(hidden[:, 0] @ models.unembedding(params).T)
  told = np.array([[start <= t < len(ids) for t in range(1, 16)] for ids, start in texts()])
  return -(jnp.take_along_axis(logp[:, :-1], tokens[:, 1:, None], axis=2)[..., 0] * told).sum()


def close(got, want):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5), got, want)


def test_the_loss_is_the_mean_over_response_tokens_and_over_nothing_else(params, alone):
  count = sum(len(ids) - start for ids, start in texts())
  value, grads = jax.jit(jax.value_and_grad(lambda params: nll(params) / count))(params)
  np.testing.assert_allclose(alone[1]['train/loss'], value, rtol=1e-5)
  np.testing.assert_allclose(alone[2]['loss'], value, rtol=1e-5)
  close(alone[0], grads)


@pytest.mark.parametrize('attention', ['xla', 'chunked', 'splash'])
def test_packed_rows_give_the_loss_and_the_gradient_of_their_texts_alone(params, alone, attention, monkeypatch):
  monkeypatch.setattr(causal, 'BLOCK', 128 if attention == 'splash' else 8)
  rows = packing.first_fit([len(ids) for ids, _ in texts()], LENGTH)
  assert len(rows) < 6
  grads, metrics, _ = updated(params, [[texts()[i] for i in row] for row in rows], attention=attention)
  close(grads, alone[0])
  for name, value in alone[1].items():
    np.testing.assert_allclose(metrics[name], value, rtol=1e-4, err_msg=name)


@pytest.mark.parametrize('settings', [dict(microbatch=2), dict(microbatch=1, remat='full')])
def test_microbatches_of_unequal_responses_add_up_to_the_whole(params, alone, settings):
  rows = [[text] for text in texts()[:4]] + [texts()[4:6], texts()[6:8], texts()[8:], []]
  grads, metrics, held_out = updated(params, rows, **settings)
  close(grads, alone[0])
  np.testing.assert_allclose(metrics['train/loss'], alone[1]['train/loss'], rtol=1e-5)
  assert held_out == pytest.approx(alone[2], rel=1e-5)


def test_what_lies_in_prompts_and_padding_is_not_learned(params):
  """The unembedding of a token that no response holds is moved only as one that was not chosen."""
  ids, start = np.array([3, 4, 5, 6, 7], np.int32), 3
  grads, _, _ = updated(params, [[(ids, start)]])
  wrong = grads['unembed']
  hidden = models.forward(params, MODEL, ids[None, None], np.arange(5)[None, None]).hidden
  told = np.asarray(hidden[0, 0, 2:4], np.float64)  # the two places that tell the response's tokens
  probabilities = np.asarray(jax.nn.softmax(jnp.asarray(told) @ params['unembed']))
  right = np.zeros((2, 40))
  right[[0, 1], ids[3:]] = 1
  np.testing.assert_allclose(wrong, told.T @ (probabilities - right) / 2, atol=1e-5)


def test_a_mixture_counts_real_tokens_only():
  model = dataclasses.replace(models.PRESETS['toy_deepseek'], vocab=64)
  params = jax.jit(functools.partial(params_lib.init, models.specs(model)))(jax.random.key(0))
  batch = sft.PackedBatch(*packing.pack([texts(2), texts(1)], LENGTH))
  _, metrics, _ = jax.jit(sft.SFTLoss(model, models.ForwardOptions(), 64))(params, batch, jnp.float32(1))
  tokens = sum(len(ids) for ids, _ in [*texts(2), *texts(1)])
  np.testing.assert_allclose(metrics['moe/load'].sum(axis=1), tokens * model.moe.top_k)


def test_a_loss_that_is_no_number_stops_the_run(params):
  with pytest.raises(NonFiniteError, match='train/loss and train/grad_norm not finite at step 0'):
    updated(jax.tree.map(lambda x: x * np.nan, params), [texts(1)])


def test_what_does_not_divide_is_refused():
  with pytest.raises(ConfigError, match='a batch of 8 rows does not divide into microbatches of 3'):
    cfg(8, 3)
  with pytest.raises(ConfigError, match="'cudnn', which cannot keep"):
    cfg(8, attention='cudnn')
