"""What is read off the hidden states. Logits exist only for a chunk of positions at a time."""

import functools

import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from r1jax.models import layout
from r1jax.models.layers import product
from r1jax.typed import Array, Bool, Float, Int, typed

EXCLUDED = -1e30  # finite, so that its product with a probability of 0 is 0
VOCAB = (layout.HEADS, layout.FSDP)  # the axes of a mesh that split the vocabulary of a chunk's logits


@typed
def logprobs(
  hidden: Float[Array, 'p n embed'],
  unembed: Float[Array, 'vocab embed'],
  targets: Int[Array, 'p n'],
  chunk: int,
  mesh: jax.sharding.Mesh | None = None,
  temperature: float = 1.0,
  threshold: Float[Array, 'p n'] | None = None,
) -> tuple[Float[Array, 'p n'], Float[Array, 'p n']]:
  """Log-probability of each target and entropy of its distribution, in chunks forward and backward.

  Several chunks' logits are recomputed in the backward pass, so at most [chunk, vocab] of them exist.

  Args:
    hidden: [P, N, embed], P over the rows of the mesh.
    unembed: [vocab, embed].
    targets: i32[P, N].
    chunk: positions at a time.
    mesh: the devices; one device where None.
    temperature: logits are divided by it; the sampler's, so that ratios compare like with like.
    threshold: f32[P, N], see `sampling.logits.threshold`: tokens below it, but for the target, are left out of the
      distribution, as the sampler left them out (DeepSeek-V3.2, arXiv 2512.02556, "Keep Sampling Mask").

  Returns:
    logp f32[P, N], entropy f32[P, N] (nats).
  """
  if mesh is not None and mesh.size > 1:
    return _logprobs_on_mesh(hidden, unembed, targets, chunk, mesh, temperature, threshold)
  flat = hidden.reshape(-1, hidden.shape[-1])
  limit = None if threshold is None else threshold.reshape(-1)
  logp, entropy = _logprobs_on_one_device(flat, unembed, targets.reshape(-1), chunk, temperature, limit)
  return logp.reshape(targets.shape), entropy.reshape(targets.shape)


def _restrict(logits, targets, threshold):
  """Scores, the largest of each row 0, without those below the threshold; all where that is None."""
  if threshold is None:
    return logits
  own = targets[..., None] == jnp.arange(logits.shape[-1])
  return jnp.where((logits >= threshold[..., None]) | own, logits, EXCLUDED)


def _logprobs_on_one_device(hidden, unembed, targets, chunk, temperature, threshold):
  """hidden [N, embed], targets i32[N], threshold f32[N] or None -> f32[N], f32[N]."""
  n = hidden.shape[0]
  chunks = -(-n // chunk)
  size = -(-n // chunks)  # even chunks: less padding than a short last one
  pad = chunks * size - n
  hidden = jnp.pad(hidden, ((0, pad), (0, 0))).reshape(chunks, size, -1)
  targets, threshold = jax.tree.map(lambda x: jnp.pad(x, (0, pad)).reshape(chunks, size), (targets, threshold))

  @functools.partial(jax.checkpoint, policy=jax.checkpoint_policies.save_only_these_names('logits'))
  def one(h, y, limit):
    logits = product('nd,vd->nv', h, unembed.astype(h.dtype))
    logits = (checkpoint_name(logits, 'logits') if chunks == 1 else logits) / temperature
    logits = _restrict(logits - jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True)), y, limit)
    total = jnp.exp(logits).sum(axis=-1)
    log_total = jnp.log(total)
    entropy = log_total - (jnp.exp(logits) * logits).sum(axis=-1) / total
    return jnp.take_along_axis(logits, y[:, None], axis=-1)[:, 0] - log_total, entropy

  if chunks == 1:
    logp, entropy = one(*jax.tree.map(lambda x: x[0], (hidden, targets, threshold)))
  else:
    logp, entropy = jax.lax.map(lambda xs: one(*xs), (hidden, targets, threshold))
  return logp.reshape(-1)[:n], entropy.reshape(-1)[:n]


def _logprobs_on_mesh(hidden, unembed, targets, chunk, mesh, temperature, threshold):
  """Shards the vocabulary over fsdp and tp; a chunk holds positions of all rows.

  Hidden states are small and move to the unembedding, whose gradient is summed where it lies.
  """
  unembed = layout.constrain(unembed.astype(hidden.dtype), mesh, VOCAB, None)

  @jax.checkpoint
  def one(h, y, limit):
    h = layout.constrain(h, mesh, layout.DATA, None, None)
    logits = layout.constrain(product('pnd,vd->pnv', h, unembed) / temperature, mesh, layout.DATA, None, VOCAB)
    logits = _restrict(logits - jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True)), y, limit)
    total = jnp.exp(logits).sum(axis=-1)
    log_total = jnp.log(total)
    entropy = log_total - (jnp.exp(logits) * logits).sum(axis=-1) / total
    # Not an index, which would bring the whole vocabulary to one place.
    own = jnp.where(y[..., None] == jnp.arange(logits.shape[-1]), logits, 0).sum(axis=-1)
    return own - log_total, entropy

  return in_chunks(one, (hidden, targets, threshold), chunk, mesh)


@typed
def likelihood(
  hidden: Float[Array, 'p n embed'],
  unembed: Float[Array, 'vocab embed'],
  targets: Int[Array, 'p n'],
  chunk: int,
  mesh: jax.sharding.Mesh | None = None,
) -> tuple[Float[Array, 'p n'], Bool[Array, 'p n']]:
  """Log-probability of each target, and whether greedy decoding would choose it; without a backward pass.

  Args:
    hidden, unembed, targets, chunk, mesh: as for `logprobs`.

  Returns:
    logp f32[P, N]; bool[P, N].
  """
  unembed = layout.constrain(unembed.astype(hidden.dtype), mesh, VOCAB, None)

  def one(h, y):
    h = layout.constrain(h, mesh, layout.DATA, None, None)
    logits = layout.constrain(product('pnd,vd->pnv', h, unembed), mesh, layout.DATA, None, VOCAB)
    own = jnp.where(y[..., None] == jnp.arange(logits.shape[-1]), logits, 0).sum(axis=-1)
    return own - jax.nn.logsumexp(logits, axis=-1), logits.argmax(axis=-1) == y

  return in_chunks(one, (hidden, targets), chunk, mesh)


def in_chunks(one, arrays, chunk, mesh):
  """Maps a function over chunks of positions; a chunk holds positions of all rows, `chunk` in sum.

  Args:
    one: function of one chunk of each of `arrays`, [P, size, ...], to arrays of the same leading axes.
    arrays: tuple of [P, N, ...], or None.

  Returns:
    what `one` gives, [P, N], P over the rows of the mesh.
  """
  p, n = arrays[0].shape[:2]
  chunks = -(-n // max(1, chunk // p))
  size = -(-n // chunks)
  split = lambda x: jnp.moveaxis(
    jnp.pad(x, [(0, 0), (0, chunks * size - n)] + [(0, 0)] * (x.ndim - 2)).reshape(p, chunks, size, *x.shape[2:]), 1, 0
  )
  joined = lambda x: layout.constrain(jnp.moveaxis(x, 0, 1).reshape(p, -1)[:, :n], mesh, layout.ROWS, None)
  return jax.tree.map(joined, jax.lax.map(lambda xs: one(*xs), jax.tree.map(split, arrays)))


@typed
def scores(params: dict, hidden: Float[Array, '*b embed']) -> Float[Array, '*b']:
  """One number a position: a critic's values, or what `score_at` reads a reward off.

  Args:
    params: of a model with head 'score'. hidden: [..., embed].

  Returns:
    f32[...].
  """
  return product('...d,ds->...s', hidden, params['score'].astype(hidden.dtype))[..., 0]


@typed
def score_at(scores: Float[Array, 'b t'], positions: Int[Array, 'b ...']) -> Float[Array, 'b ...']:
  """Scores at chosen positions: a response's last token (outcome reward), or the marks after its steps (process).

  Args:
    scores: f32[B, T]. positions: i32[B] or i32[B, S]; negative ones, which fill up a row, give 0.

  Returns:
    f32, like positions.
  """
  at = positions.reshape(len(scores), -1)
  found = jnp.where(at < 0, 0.0, jnp.take_along_axis(scores, jnp.maximum(at, 0), axis=1))
  return found.reshape(positions.shape)
