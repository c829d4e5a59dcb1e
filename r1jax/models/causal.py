"""Causal attention without a cache, by the implementation that suits the platform and the length.

A query attends to its prompt's keys, shared by the group, and to its own row up to itself; in a row packed of several
texts (segments), to its own text only. 'xla' holds every score in memory and 'chunked' those of a block of queries at
a time, on any platform; 'splash' (TPU, Pallas) and 'cudnn' (NVIDIA, no segments) hold none.
"""

import dataclasses
import math

import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from r1jax.config import require
from r1jax.models import layout
from r1jax.models.attention import softmax_attention

BLOCK = 512  # queries (and, for splash, keys) at a time
LANES = 128  # a block of splash is a multiple of it
SCORES = 1 << 20  # queries x keys of a row from which 'auto' no longer holds all scores
PLATFORMS = {'splash': ('tpu', 'cpu'), 'cudnn': ('gpu', 'cuda')}  # on a CPU splash is interpreted; others run anywhere
SAVED = 'attention'  # name of the result of attention, for remat policies


@dataclasses.dataclass(frozen=True)
class Attention:
  """Which attention implementation is used, and over which devices.

  Attributes:
    name: a key of IMPLEMENTATIONS, or 'auto'.
    mesh: the devices; None is one device of unknown kind, for which 'auto' takes what runs anywhere.
  """

  name: str = 'auto'
  mesh: jax.sharding.Mesh | None = None

  def __post_init__(self):
    known = PLATFORMS.get(self.name)
    require(
      self.mesh is None or not known or self.platform in known,
      f'model.attention is {self.name!r}, which runs '
      f"on {' or '.join(known or ())} only, but the devices are of platform {self.platform!r}; use 'auto'.",
    )

  @property
  def platform(self):
    """'cpu', 'gpu' or 'tpu': of the mesh's devices, which need not be this process's (a plan has none)."""
    return 'cpu' if self.mesh is None else self.mesh.devices.flat[0].platform

  def choose(self, queries, keys, dtype, segments=False):
    """The implementation for rows of so many queries and keys, computed in `dtype`; segments: packed of several texts.

    Raises ConfigError where the one asked for knows no segments.
    """
    require(
      not segments or self.name != 'cudnn',
      "model.attention is 'cudnn', which cannot keep the texts of a packed row apart; use 'auto' or 'chunked'.",
    )
    if self.name != 'auto':
      return self.name
    if queries * keys < SCORES:
      return 'xla'
    if self.platform == 'tpu':
      return 'splash'
    # cuDNN has no float32 attention, and no segments.
    fused = self.platform in ('gpu', 'cuda') and jnp.dtype(dtype).itemsize == 2 and not segments
    return 'cudnn' if fused else 'chunked'


def causal_attention(q, parts, scale, attention):
  """Attention of T queries a row to their prompt and to their own row.

  Args:
    q: [P, K, G, R, T, D].
    parts: [(own KV, mask)] of T keys, or [(the prompt's KV, mask), (own KV, mask)], with the masks of
      `attention_masks`.
    scale: of the scores.
    attention: Attention.

  Returns:
    [P, G, T, K * R, Dv].
  """
  *prompt, (own, mask) = parts
  prefix, length = prompt[0] if prompt else (None, None)
  if mask is not None and mask.dtype == bool:
    return _checkpointed(softmax_attention(q, parts, scale))
  segments, queries = mask, q.shape[4]
  keys = queries + (0 if prefix is None else prefix.k.shape[-1])
  name = attention.choose(queries, keys, q.dtype, segments is not None)
  return IMPLEMENTATIONS[name](q, own, prefix, length, segments, scale, attention)


def cached_attention(q, parts, scale, mesh):
  """`softmax_attention` of decoding: queries move to where the cached keys of their rows and heads lie."""
  out = softmax_attention(layout.constrain(q, mesh, layout.ROWS, layout.HEADS), parts, scale)
  # First as the cache lies: else the compiler may gather values along fsdp, rather than what comes of them.
  out = layout.constrain(out, mesh, layout.ROWS, None, None, layout.HEADS)
  return layout.constrain(out, mesh, layout.DATA, None, None, layout.HEADS)


def attention_masks(attention, queries, prefix, length, dtype, segments=None):
  """The masks that go with the prompt's KV and with the own one, made once for all layers.

  Implementations that never hold all scores build their own masks; they get length and segments unchanged.

  Args:
    attention: Attention. queries: T.
    prefix: number of the prompt's keys, padding included. length: i32[P], real ones, or None without a prompt.
    segments: i32[P, G, T], equal for tokens of one text; None where each row is one text.
  """
  if attention.choose(queries, queries + prefix, dtype, segments is not None) != 'xla':
    return length, segments
  own = _causal_mask(jnp.arange(queries), queries, segments, segments)
  return None if length is None else (jnp.arange(prefix) < length[:, None])[:, None, None], own


def _checkpointed(x):
  return checkpoint_name(x, SAVED)


def _parts(own, prefix, length, mask):
  if prefix is None:
    return [(own, mask)]
  return [(prefix, (jnp.arange(prefix.k.shape[-1]) < length[:, None])[:, None, None]), (own, mask)]


def _causal_mask(positions, keys, segments, query_segments):
  """bool[P or 1, G or 1, queries, keys]: which keys of a row the queries at these positions attend to.

  Args:
    segments: i32[P, G, keys], or None. query_segments: i32[P, G, queries].
  """
  causal = (jnp.arange(keys) <= positions[:, None])[None, None]
  return causal if segments is None else causal & (query_segments[..., None] == segments[..., None, :])


def _xla(q, own, prefix, length, segments, scale, attention):
  t = q.shape[4]
  mask = _causal_mask(jnp.arange(t), t, segments, segments)
  return _checkpointed(softmax_attention(q, _parts(own, prefix, length, mask), scale))


def _chunked(q, own, prefix, length, segments, scale, attention):
  """A block of queries at a time, its scores recomputed in the backward pass: memory is linear in T."""
  t = q.shape[4]
  blocks = -(-t // BLOCK)
  size = -(-t // blocks)  # equal blocks need the least padding
  split = lambda x, axis: jnp.moveaxis(
    _pad(x, axis, blocks * size).reshape(*x.shape[:axis], blocks, size, *x.shape[axis + 1 :]), axis, 0
  )

  @jax.checkpoint
  def one(block, start, query_segments):
    mask = _causal_mask(start + jnp.arange(size), t, segments, query_segments)
    return softmax_attention(block, _parts(own, prefix, length, mask), scale)

  query_segments = None if segments is None else split(segments, 2)
  out = jax.lax.map(lambda xs: one(*xs), (split(q, 4), size * jnp.arange(blocks), query_segments))
  out = jnp.moveaxis(out, 0, 2)  # [P, G, blocks, size, heads, Dv]
  out = out.reshape(*out.shape[:2], -1, *out.shape[4:])[:, :, :t]
  return _checkpointed(out)


def _splash(q, own, prefix, length, segments, scale, attention):
  """The Pallas kernel on each device's rows and heads; interpreted, slowly, on a CPU."""
  # Where there are heads enough, devices along 'seq' take some heads of whole rows each, not a part of every row.
  axes = [a for a in ((layout.HEADS, layout.TOKENS), (layout.HEADS,)) if _fit(q, layout.size(attention.mesh, *a))]
  heads = axes[0] if axes else None
  q, own, prefix = _split_heads(q, own, prefix, layout.size(attention.mesh, *heads) if heads else 1)
  local = lambda *args: _splash_local(*args, scale=scale, interpret=attention.platform == 'cpu')
  if attention.mesh is not None:
    rows = layout.ROWS
    row_heads = PartitionSpec(rows, heads)
    # Mosaic kernels carry no types of varying axes.
    local = jax.shard_map(
      local,
      mesh=attention.mesh,
      in_specs=(row_heads, row_heads, row_heads, PartitionSpec(rows), PartitionSpec(rows)),
      out_specs=PartitionSpec(rows, None, None, heads),
      check_vma=False,
    )
  return local(q, own, prefix, length, segments)


def _splash_local(q, own, prefix, length, segments, *, scale, interpret):
  # Here, since Pallas takes half a second to import.
  from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash_lib
  from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as splash_masks

  p, k, g, r, t, d = q.shape
  keys, values = own.k.swapaxes(-1, -2), own.v  # [P, K, G, S, ...]
  if prefix is not None:
    shared = lambda x: jnp.broadcast_to(x[:, :, None], (*x.shape[:2], g, *x.shape[2:]))
    keys = jnp.concatenate([shared(prefix.k.swapaxes(-1, -2)), keys], axis=3)
    values = jnp.concatenate([shared(prefix.v), values], axis=3)
  total = keys.shape[3]
  block_q, block_k = (min(BLOCK, -(-n // LANES) * LANES) for n in (t, total))
  padded_q, padded_k = -(-t // block_q) * block_q, -(-total // block_k) * block_k
  each = None if segments is None else 0  # a prompt's padding is the same for its group
  if segments is not None:  # without a prompt: as many queries as keys
    padded = _pad(segments, 2, padded_q)
    segments = splash_lib.SegmentIds(padded, padded)
  elif prefix is not None:
    unreal = (jnp.arange(total) < prefix.k.shape[-1]) & (jnp.arange(total) >= length[:, None])
    real = jnp.pad((~unreal).astype(jnp.int32), ((0, 0), (0, padded_k - total)))
    segments = splash_lib.SegmentIds(jnp.ones((p, padded_q), jnp.int32), real)
  # Padding comes last, behind every key that a query attends to.
  rows = lambda x, axis, n: jnp.swapaxes(_pad(x, axis, n), 1, 2)
  queries = rows((q * scale).astype(q.dtype), 4, padded_q).reshape(p, g, k * r, padded_q, d)
  mask = splash_masks.CausalMask((padded_q, padded_k), offset=total - t)
  kernel = splash_lib.make_splash_mha(
    splash_masks.MultiHeadMask([mask] * (k * r)),
    head_shards=1,
    q_seq_shards=1,
    interpret=interpret,
    residual_checkpoint_name=SAVED,
    block_sizes=splash_lib.BlockSizes(
      block_q=block_q,
      block_kv=block_k,
      block_kv_compute=block_k,
      block_q_dkv=block_q,
      block_kv_dkv=block_k,
      block_kv_dkv_compute=block_k,
      block_q_dq=block_q,
      block_kv_dq=block_k,
    ),
  )
  group = jax.vmap(kernel, in_axes=(0, 0, 0, each))
  out = jax.vmap(group)(queries, rows(keys, 3, padded_k), rows(values, 3, padded_k), segments)
  out = out[:, :, :, :t]  # pyright: ignore[reportCallIssue, reportArgumentType]  (a tuple only with save_residuals)
  return out.swapaxes(2, 3)  # [P, G, T, K * R, Dv]


def _fit(q, shards):
  """Whether each of `shards` devices can have heads of its own. q: [P, K, G, R, T, D]."""
  return q.shape[3] % (shards // math.gcd(q.shape[1], shards)) == 0


def _split_heads(q, own, prefix, shards):
  """Repeats KV heads as far as `shards` devices, which `_fit`, need to have one each."""
  heads, r = q.shape[1], q.shape[3]
  times = shards // math.gcd(heads, shards)
  q = jnp.moveaxis(q.reshape(*q.shape[:3], times, r // times, *q.shape[4:]), 3, 2)
  repeat = lambda kv: None if kv is None else jax.tree.map(lambda x: jnp.repeat(x, times, axis=1), kv)
  return q.reshape(q.shape[0], heads * times, *q.shape[3:]), repeat(own), repeat(prefix)


def _cudnn(q, own, prefix, length, segments, scale, attention):
  """cuDNN's fused attention, which knows only causal masks from the first key on, with padding at the end.

  So each row's keys are packed, its own right behind the real ones of its prompt, and its queries likewise, with
  unused queries in the prompt's place.
  """
  p, k, g, r, t, d = q.shape
  q = q.transpose(0, 2, 4, 1, 3, 5).reshape(p, g, t, k * r, d)
  keys, values = (x.transpose(0, 2, 3, 1, 4) for x in (own.k.swapaxes(-1, -2), own.v))  # [P, G, T, K, ...]
  if prefix is not None:
    s = prefix.k.shape[-1]
    before = lambda x: jnp.broadcast_to(x.swapaxes(1, 2)[:, None], (p, g, s, k, x.shape[-1]))
    write = jax.vmap(lambda row, new, at: jax.lax.dynamic_update_slice_in_dim(row, new, at, axis=1))
    pack = lambda x, own: write(_pad(x, 2, s + t), own, length)
    keys, values = pack(before(prefix.k.swapaxes(-1, -2)), keys), pack(before(prefix.v), values)
    q = pack(jnp.zeros((p, g, s, k * r, d), q.dtype), q)
  v_dim = values.shape[-1]
  values = _pad(values, 4, d)  # one head size for all
  rows = lambda x: x.reshape(p * g, *x.shape[2:])
  out = jax.nn.dot_product_attention(
    rows(q), rows(keys), rows(values), scale=scale, is_causal=True, implementation='cudnn'
  )
  out = out.reshape(p, g, *out.shape[1:])[..., :v_dim]
  if prefix is not None:
    out = jax.vmap(lambda row, at: jax.lax.dynamic_slice_in_dim(row, at, t, axis=1))(out, length)
  return _checkpointed(out)


def _pad(x, axis, size):
  """x with zeros up to `size` on one axis."""
  return jnp.pad(x, [(0, size - n if i == axis else 0) for i, n in enumerate(x.shape)])


IMPLEMENTATIONS = {'xla': _xla, 'chunked': _chunked, 'splash': _splash, 'cudnn': _cudnn}
