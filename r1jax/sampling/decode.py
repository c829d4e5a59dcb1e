"""The sampler's compiled programs: prefill, a stretch of decoding, and making the batch smaller.

Rows lie as [P, G]: the G samples of P prompts. A prompt's keys and values exist once; each row keeps
only those of its own response.
"""

import functools

import flax.struct
import jax
import jax.numpy as jnp

from r1jax.models import KV, empty_cache, forward, layout, prefill, runs, unembedding, unstack
from r1jax.models.layers import product
from r1jax.models.moe import EXACT
from r1jax.sampling import logits as logits_lib


@flax.struct.dataclass
class Carry:
  """Where decoding stands.

  Attributes:
    step: i32[], tokens sampled so far, the same for all rows.
    token: i32[P, G], the last one sampled, not yet in the cache.
    done: bool[P, G].
    keys: PRNG key of each row, [P, G]; token t is drawn with fold_in(key, t).
    cache: own keys and values, {run of layers: [one KV of S tokens a layer]}.
  """

  step: jax.Array
  token: jax.Array
  done: jax.Array
  keys: jax.Array
  cache: dict


@flax.struct.dataclass
class Drawn:
  """What a stretch of decoding adds: tokens i32[P, G, C], and f32[P, G, C] log-probs of each
  under the model's own (untempered) distribution and under the one it was sampled from."""

  token: jax.Array
  logp: jax.Array
  sampling_logp: jax.Array


def laid_out(tree, mesh, put=layout.constrain):
  """A prefix or Carry as the programs below leave it on a mesh. put: (array, mesh, *axes) -> array, in its place."""
  is_kv = lambda x: isinstance(x, KV)
  return jax.tree.map(
    lambda x: layout.cached(x, mesh, put) if is_kv(x) else put(x, mesh, *[layout.ROWS][: x.ndim]), tree, is_leaf=is_kv
  )


def weights(params, dtype):
  """Parameters as the programs below take them: in the computation's dtype, each layer's on its own.

  The last norm stays as it is, as `models.forward` uses it.
  """
  exact = lambda at: at[-1].key in EXACT or at[0].key == 'norm'
  return unstack(jax.tree_util.tree_map_with_path(lambda at, w: w if exact(at) else w.astype(dtype), params))


def _pick(unembed, hidden, keys, step, temperature, restriction, mesh):
  """Samples a token for each row. hidden: [P, G, embed]; keys [P, G]."""
  hidden = layout.constrain(hidden, mesh, layout.DATA, None, layout.FSDP)
  logits = layout.constrain(product('pgd,dv->pgv', hidden, unembed), mesh, layout.ROWS)
  flat = logits.reshape(-1, logits.shape[-1])
  distribution = logits_lib.restrict(flat, temperature, restriction)
  token = logits_lib.draw(jax.vmap(jax.random.fold_in, (0, None))(keys.reshape(-1), step), distribution)
  take = lambda table: jnp.take_along_axis(table, token[:, None], axis=-1)[:, 0]
  own = take(flat) - jax.nn.logsumexp(flat, axis=-1)
  fold = lambda x: x.reshape(keys.shape)
  return Drawn(fold(token), fold(own), fold(take(distribution)))


def _ends(token, eos):
  """Whether each token is one of the ids `eos`, a tuple."""
  return (token[..., None] == jnp.asarray(eos, jnp.int32)).any(axis=-1)


@functools.partial(jax.jit, static_argnames=('cfg', 'restriction', 'eos', 'capacity', 'dtype', 'mesh'))
def start(params, prompts, lengths, keys, temperature, *, cfg, restriction, eos, capacity, dtype, mesh=None):
  """Runs the prompts once and samples each row's first token.

  Args:
    params: as `weights` gives them.
    prompts: i32[P, Tp], right-padded; lengths: i32[P].
    keys: PRNG keys [P, G].
    temperature: f32[]. restriction: logits.Restriction. cfg: ModelConfig.
    capacity: response tokens the first cache holds.

  Returns:
    prefix (shared keys and values, as Carry.cache), Carry, Drawn of one token.
  """
  p, g = keys.shape
  prompt = prefill(params, cfg, prompts, lengths, dtype=dtype, mesh=mesh)
  # The group's first token comes from one distribution: only the draw differs.
  hidden = jnp.broadcast_to(prompt.hidden[:, None], (p, g, prompt.hidden.shape[-1]))
  drawn = _pick(unembedding(params), hidden, keys, 0, temperature, restriction, mesh)
  cache = {run: [empty_cache(cfg, p, g, capacity, dtype)] * layers for run, layers in runs(cfg).items()}
  carry = Carry(jnp.ones((), jnp.int32), drawn.token, _ends(drawn.token, eos), keys, cache)
  return *laid_out((prompt.kv, carry), mesh), jax.tree.map(lambda x: x[..., None], drawn)


@functools.partial(
  jax.jit, static_argnames=('cfg', 'restriction', 'eos', 'length', 'dtype', 'mesh'), donate_argnames=('carry',)
)
def stretch(
  params, prefix, lengths, carry, limit, fewest, temperature, *, cfg, restriction, eos, length, dtype, mesh=None
):
  """Decodes until no group has more than `fewest` rows left, `length` tokens are sampled, or carry.step is `limit`.

  Args:
    limit: i32[], value of carry.step to stop at: at most the response's limit, and what the cache holds plus one.
    fewest: i32[], below the number of samples.
    length: most tokens of one call.

  Returns:
    Carry, Drawn of [P, G, length] (zeros after the stop), number of tokens sampled i32[].
  """
  unembed = unembedding(params)
  begin = carry.step

  def go_on(loop):
    carry, _ = loop
    left = (~carry.done).sum(axis=1).max()
    return (left > fewest) & (carry.step < limit) & (carry.step < begin + length)

  def body(loop):
    carry, out = loop
    at = carry.step - 1  # the token's place in the response
    positions = jnp.broadcast_to((lengths + at)[:, None, None], (*carry.token.shape, 1))
    new = forward(
      params,
      cfg,
      carry.token[..., None],
      positions,
      prefix=prefix,
      prefix_length=lengths,
      cache=carry.cache,
      cache_length=at,
      dtype=dtype,
      mesh=mesh,
    )
    drawn = _pick(unembed, new.hidden[:, :, 0], carry.keys, carry.step, temperature, restriction, mesh)
    out = jax.tree.map(
      lambda o, d: jax.lax.dynamic_update_slice_in_dim(o, d[..., None], carry.step - begin, axis=2), out, drawn
    )
    done = carry.done | _ends(drawn.token, eos)
    return laid_out(Carry(carry.step + 1, drawn.token, done, carry.keys, new.kv), mesh), out

  zeros = lambda dtype: jnp.zeros((*carry.token.shape, length), dtype)
  carry, out = jax.lax.while_loop(go_on, body, (carry, Drawn(zeros(jnp.int32), zeros(jnp.float32), zeros(jnp.float32))))
  return carry, out, carry.step - begin


@functools.partial(jax.jit, static_argnames=('capacity', 'mesh'))
def reshape(carry, rows, *, capacity, mesh=None):
  """Keeps `rows` of each group and gives the cache room for `capacity` tokens.

  Args:
    rows: i32[P, G'], which of the G rows to keep. Rows move within their prompt only, so that on a
      mesh sharded over prompts nothing is sent between devices.
  """

  def keep(x, axis=1):
    index = rows.reshape(rows.shape[0], *[1] * (axis - 1), rows.shape[1], *[1] * (x.ndim - axis - 1))
    return jnp.take_along_axis(x, index, axis=axis)

  def grow(x, axis):
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, capacity - x.shape[axis])
    return jnp.pad(keep(x, 2), widths)

  grown = lambda kv: KV(grow(kv.k, 4), None if kv.v is None else grow(kv.v, 3))
  cache = {run: [grown(kv) for kv in kvs] for run, kvs in carry.cache.items()}
  carry = carry.replace(token=keep(carry.token), done=keep(carry.done), keys=keep(carry.keys), cache=cache)
  return laid_out(carry, mesh)
