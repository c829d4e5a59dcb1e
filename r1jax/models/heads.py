"""What is read off the hidden states. Logits exist only for a chunk of positions at a time."""
import jax
import jax.numpy as jnp

from r1jax.models.layers import product


def token_logprobs(hidden, unembed, targets, chunk, temperature=1.0):
  """Log-probability of each target and entropy of its distribution, in chunks forward and backward.

  Each chunk's logits are recomputed in the backward pass, so at most [chunk, vocab] of them exist.

  Args:
    hidden: [N, embed].
    unembed: [embed, vocab].
    targets: i32[N].
    chunk: positions at a time.
    temperature: logits are divided by it; the sampler's, so that ratios compare like with like.

  Returns:
    logp f32[N], entropy f32[N] (nats).
  """
  n = hidden.shape[0]
  chunks = -(-n // chunk)
  size = -(-n // chunks)                                # even chunks: less padding than a short last one
  pad = chunks * size - n
  hidden = jnp.pad(hidden, ((0, pad), (0, 0))).reshape(chunks, size, -1)
  targets = jnp.pad(targets, (0, pad)).reshape(chunks, size)

  @jax.checkpoint
  def one(h, y):
    logits = product('nd,dv->nv', h, unembed.astype(h.dtype)) / temperature
    logits -= jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True))
    total = jnp.exp(logits).sum(axis=-1)
    log_total = jnp.log(total)
    entropy = log_total - (jnp.exp(logits) * logits).sum(axis=-1) / total
    return jnp.take_along_axis(logits, y[:, None], axis=-1)[:, 0] - log_total, entropy

  if chunks == 1:
    logp, entropy = one(hidden[0], targets[0])
  else:
    logp, entropy = jax.lax.map(lambda xs: one(*xs), (hidden, targets))
  return logp.reshape(-1)[:n], entropy.reshape(-1)[:n]


def scores(params, hidden):
  """One number a position: a critic's values, or what `score_at` reads a reward off.

  Args:
    params: of a model with head 'score'. hidden: [..., embed].

  Returns:
    f32[...].
  """
  return product('...d,ds->...s', hidden, params['score'].astype(hidden.dtype))[..., 0]


def score_at(scores, positions):
  """Scores at chosen positions: a response's last token (outcome reward), or the marks after its steps (process).

  Args:
    scores: f32[B, T]. positions: i32[B] or i32[B, S]; negative ones, which fill up a row, give 0.

  Returns:
    f32, like positions.
  """
  at = positions.reshape(len(scores), -1)
  found = jnp.where(at < 0, 0.0, jnp.take_along_axis(scores, jnp.maximum(at, 0), axis=1))
  return found.reshape(positions.shape)
