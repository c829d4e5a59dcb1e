"""The loss of the layer for multi-token prediction, against a decoder written out in NumPy, position by position."""

import dataclasses
import functools
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax import config, models
from r1jax import params as params_lib
from r1jax.config import ConfigError
from r1jax.data import packing
from r1jax.sampling import weights
from r1jax.training import sft
from tests.training.test_sft import LENGTH, MODEL, cfg, close, texts, updated

DENSE = dataclasses.replace(MODEL, mtp=1)
MIXED = dataclasses.replace(models.PRESETS['toy_deepseek'], vocab=40, mtp=1)
COEF = 0.3


def drawn(model):
  """Parameters that are random in every entry, norms too."""
  specs = models.specs(model)
  init = jax.jit(functools.partial(params_lib.init, specs))(jax.random.key(0))
  rng = np.random.default_rng(1)
  return jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape).astype(np.float32), init)


@pytest.fixture(scope='module')
def params():
  return drawn(DENSE)


@pytest.fixture(scope='module')
def alone(params):
  """Each text in a row of its own, all at once."""
  return updated(params, [[text] for text in texts()], model=DENSE, mtp_coef=COEF)


# A decoder of one text, in float64, without anything of the package: see DeepSeek-V3, section 2.2.


def norm(scale, x):
  return scale * x / np.sqrt(np.mean(x * x) + DENSE.norm_eps)


def rotated(x, position):
  half = len(x) // 2
  angle = position * DENSE.rope_theta ** (-np.arange(half) / half)
  a, b = x[:half], x[half:]
  return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)])


def layer(p, xs):
  """One layer over the positions of a text, each after the other."""
  keys, values, out = [], [], []
  for t, x in enumerate(xs):
    h = norm(p['attention_norm'], x)
    a = p['attention']
    keys.append(rotated(h @ a['k'][:, 0], t))  # one head of keys and values for all
    values.append(h @ a['v'][:, 0])
    for head in range(DENSE.heads):
      scores = np.stack(keys) @ rotated(h @ a['q'][:, head], t) / np.sqrt(DENSE.head_dim)
      chances = np.exp(scores - scores.max())
      x = x + (chances / chances.sum()) @ np.stack(values) @ a['o'][head]
    h = norm(p['mlp_norm'], x)
    gate = h @ p['mlp']['gate']
    out.append(x + (gate / (1 + np.exp(-gate)) * (h @ p['mlp']['up'])) @ p['mlp']['down'])
  return out


def log_prob(hidden, token, p):
  logits = hidden @ p['unembed']
  return logits[token] - logits.max() - np.log(np.exp(logits - logits.max()).sum())


def by_hand(params):
  """(loss of the next token, loss of the token after it), each a sum over the texts' response tokens."""
  p = jax.tree.map(np.float64, params)
  at = lambda group, i: jax.tree.map(lambda x: x[i], p[group])
  first = second = 0.0
  for ids, start in texts():
    xs = [p['embed'][token] for token in ids]
    for i in range(DENSE.layers):
      xs = layer(at('layers', i), xs)
    hidden = [norm(p['norm'], x) for x in xs]
    first -= sum(log_prob(hidden[t - 1], ids[t], p) for t in range(start, len(ids)))
    m, joined = at('mtp', 0), []
    for t in range(len(ids) - 1):  # the last position knows no next token
      both = np.concatenate([norm(m['enorm'], p['embed'][ids[t + 1]]), norm(m['hnorm'], hidden[t])])
      joined.append(both @ m['eh_proj'])
    ahead = [norm(m['head_norm'], x) for x in layer(m, joined)]
    second -= sum(log_prob(ahead[t - 2], ids[t], p) for t in range(max(start, 2), len(ids)))
  return first, second


def test_both_losses_are_those_of_a_decoder_written_out(params, alone):
  count = sum(len(ids) - start for ids, start in texts())
  assert any(start == 1 for _, start in texts())  # whose second token is told by the first loss only
  first, second = by_hand(params)
  for metrics, prefix in ((alone[1], 'train/'), (alone[2], '')):
    np.testing.assert_allclose(metrics[f'{prefix}loss'], first / count, rtol=1e-5)
    np.testing.assert_allclose(metrics[f'{prefix}mtp_loss'], second / count, rtol=1e-5)


def test_the_gradient_is_that_of_the_written_out_losses(params, alone):
  """Along a random direction in each group of parameters, by differences in float64."""
  count = sum(len(ids) - start for ids, start in texts())
  rng, exact = np.random.default_rng(2), jax.tree.map(np.float64, params)

  def slopes(group, along, step=1e-5):
    moved = lambda by: exact | {group: jax.tree.map(lambda x, d: x + by * d, exact[group], along)}
    return [(a - b) / (2 * step * count) for a, b in zip(by_hand(moved(step)), by_hand(moved(-step)))]

  for group in params:
    along = jax.tree.map(lambda x: rng.normal(size=x.shape), params[group])
    first, second = slopes(group, along)
    got = sum(jax.tree.leaves(jax.tree.map(lambda g, d: (g * d).sum(), alone[0][group], along)))
    np.testing.assert_allclose(got, first + COEF * second, rtol=1e-3, err_msg=group)
    assert abs(COEF * second) > 0.01 * abs(got), group  # the second loss reaches all of them


def test_packed_rows_are_their_texts_alone(params, alone):
  rows = packing.first_fit([len(ids) for ids, _ in texts()], LENGTH)
  assert len(rows) < 6
  grads, metrics, _ = updated(params, [[texts()[i] for i in row] for row in rows], model=DENSE, mtp_coef=COEF)
  close(grads, alone[0])
  assert metrics == pytest.approx(alone[1], rel=1e-4)


def test_microbatches_add_up_to_the_whole(params, alone):
  rows = [[text] for text in texts()[:4]] + [texts()[4:6], texts()[6:8], texts()[8:], []]
  grads, metrics, held_out = updated(params, rows, 2, model=DENSE, mtp_coef=COEF, remat='full')
  close(grads, alone[0])
  assert metrics == pytest.approx(alone[1], rel=1e-5) and held_out == pytest.approx(alone[2], rel=1e-5)


def test_experts_of_the_layer_are_balanced_by_its_own_load():
  params = drawn(MIXED)
  batch = sft.PackedBatch(*packing.pack([texts(2), texts(1)], LENGTH))
  loss = sft.SFTLoss(MIXED, models.ForwardOptions(), 64, COEF)
  metrics = jax.jit(lambda params: loss(params, batch, jnp.float32(1))[1])(params)
  lengths = [len(ids) for ids, _ in [*texts(2), *texts(1)]]
  # The layer's own row comes last; a text's last position has no next token to join.
  want = MIXED.moe.top_k * np.array([sum(lengths), sum(lengths), sum(lengths) - len(lengths)])
  np.testing.assert_allclose(metrics['moe/load'].sum(axis=1), want)
  moved, load = models.balance(params, params, metrics['moe/load'], 0.01), metrics['moe/load']
  for group, of in (('layers', load[:2]), ('mtp', load[2:])):
    step = moved[group]['moe']['router_bias'] - params[group]['moe']['router_bias']
    np.testing.assert_allclose(step, 0.01 * np.sign(of.mean(axis=1, keepdims=True) - of), atol=1e-6)


def test_the_samplers_copy_leaves_the_layer_out(params):
  rest, plain = {name: x for name, x in params.items() if name != 'mtp'}, dataclasses.replace(DENSE, mtp=0)
  precision = weights.Precision(weights='int8')
  got, want = (
    jax.eval_shape(lambda p, c=c: weights.cast_weights(p, c, precision), p) for p, c in ((params, DENSE), (rest, plain))
  )
  assert got == want
  jax.tree.map(np.testing.assert_array_equal, models.unstack(params), models.unstack(rest))


@pytest.mark.slow
def test_a_mesh_changes_nothing():
  script = pathlib.Path(__file__).with_name('mtp_on_meshes.py')
  env = os.environ | {'JAX_PLATFORMS': 'cpu', 'JAX_NUM_CPU_DEVICES': '8', 'PYTHONPATH': str(script.parents[2])}
  done = subprocess.run([sys.executable, script], env=env, capture_output=True, text=True, timeout=900)
  assert done.returncode == 0, done.stderr[-3000:]


def test_what_cannot_be_trained_is_refused():
  with pytest.raises(ConfigError, match='mtp_coef is 0.3, but .* has 0 layers for multi-token prediction, not 1; set'):
    sft.check_mtp(dataclasses.replace(cfg(8), mtp_coef=0.3), MODEL)
  with pytest.raises(ConfigError, match='has 2 layers for multi-token prediction, not 1'):
    sft.check_mtp(dataclasses.replace(cfg(8), mtp_coef=0.3), dataclasses.replace(MODEL, mtp=2))
  sft.check_mtp(cfg(8), MODEL)
  with pytest.raises(ConfigError, match='mtp_coef is -0.1; it must lie in'):
    config.convert(config.to_dict(cfg(8)) | {'mtp_coef': -0.1}, config.SFT)
