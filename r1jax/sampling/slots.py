"""The compiled programs of decoding with refill: S slots, each of which holds one row of any prompt and any length.

A slot has its own copy of its prompt's keys and values: it costs memory, S prompts instead of P, and saves a step from
looking prompts up. All slots advance together, so that new tokens' keys and values are written at one place for all, to
a small cache beside the history. Only when that is full do they join the history, each row's at its own place, which
is slow.
"""

import functools

import flax.struct
import jax
import jax.numpy as jnp

from r1jax import models
from r1jax.models import layout
from r1jax.sampling import decode
from r1jax.typed import Array


class Prompts(flax.struct.PyTreeNode):
  """Prompts whose samples wait for a slot: keys and values as DecodeState has a prefix, and hidden [P, embed].

  experts: as decode.Sampled has them of prompts.
  """

  kv: dict
  hidden: Array
  experts: Array | None = None


class Slots(flax.struct.PyTreeNode):
  """Where the slots stand.

  Attributes:
    history: {layer group: [one KV of S rows of H tokens per layer]}: of a prompt and the begin of its response, without
      padding between them.
    length: i32[S], of the history.
    recent: {layer group: [one own KV of S rows of C tokens per layer]}: of the tokens after the history.
    begin: i32[S], the place of a row's first token in `recent`. count: i32[], where the next token goes, of all rows.
    step: i32[S, 1], tokens sampled so far.
    token: i32[S, 1], the last one sampled, not yet in the history.
    done: bool[S, 1], also of a slot without a row.
    keys: PRNG keys [S, 1]; token t is drawn with fold_in(key, t).
  """

  history: dict
  length: Array
  recent: dict
  begin: Array
  count: Array
  step: Array
  token: Array
  done: Array
  keys: jax.Array


@functools.partial(jax.jit, static_argnames='options')
def prefill(params, prompts, lengths, *, options):
  """The Prompts of i32[P, Tp], right-padded, and their lengths i32[P]. options: DecodeOptions."""
  out = models.prefill(params, options.model, prompts, lengths, options.forward)
  return decode.constrain(Prompts(options.to_cache(out.kv), out.hidden, out.experts), options.forward.mesh)


@functools.partial(jax.jit, static_argnames=('options', 'capacity', 'recent'))
def empty(keys, *, options, capacity, recent):
  """Slots without rows, with room for `capacity` and `recent` tokens each. keys: any PRNG keys [S, 1]."""
  cfg, dtype, s = options.model, options.cache_dtype, len(keys)
  new = models.empty_cache(cfg, s, 1, recent, dtype)
  kv = jax.tree.map(lambda x: x.squeeze(2), models.empty_cache(cfg, s, 1, capacity, dtype))
  layers = lambda kv: {name: [kv] * n for name, n in models.layer_groups(cfg).items()}
  zeros = jnp.zeros((s, 1), jnp.int32)
  at = zeros[:, 0]
  state = Slots(layers(kv), at, layers(new), at, jnp.zeros((), jnp.int32), zeros, zeros, jnp.ones((s, 1), bool), keys)
  return decode.constrain(state, options.forward.mesh)


@functools.partial(jax.jit, static_argnames='options', donate_argnames='state')
def fill(params, state, prompts, new, which, lengths, keys, limit, temperature, *, options):
  """Gives slots new rows and samples the first token of each.

  Args:
    prompts: Prompts.
    new: bool[S], the slots that get a row; the other arrays do not matter elsewhere.
    which: i32[S], the row's prompt among `prompts`. lengths: i32[S], of these prompts. keys: PRNG keys [S, 1].
    limit: i32[], max_response.

  Returns:
    Slots, Sampled of [S, 1].
  """
  mesh = options.forward.mesh
  hidden = prompts.hidden[which][:, None]
  sampled = decode.sample_token(models.unembedding(params), hidden, keys, 0, temperature, options)

  def copy(x, prompt):
    begin = tuple(slice(n) for n in (len(x), *prompt.shape[1:]))  # what lies behind it is masked
    return x.at[begin].set(jnp.where(new.reshape(-1, *[1] * (x.ndim - 1)), prompt[which], x[begin]))

  pick = lambda mine, x: jnp.where(new[:, None], mine, x)
  state = state.replace(
    history=jax.tree.map(copy, state.history, prompts.kv),
    length=jnp.where(new, lengths, state.length),
    begin=jnp.where(new, state.count, state.begin),
    step=pick(1, state.step),
    token=pick(sampled.token, state.token),
    done=pick(decode.ends(sampled.token, options.eos) | (limit == 1), state.done),
    keys=pick(keys, state.keys),
  )
  return decode.constrain((state, sampled), mesh)


@functools.partial(jax.jit, static_argnames='options', donate_argnames='state')
def advance(params, state, fewest, narrow, limit, temperature, *, options):
  """Decodes until at most `fewest` slots are live, or at most `narrow` on every device, or `recent` is full.

  Args:
    state: Slots of which `recent` is not full.
    fewest, narrow: i32[], live slots in all and on one device (of the batch axes).
    limit: i32[], max_response.

  Returns:
    Slots, Sampled of [S, C] (zeros after the stop), number of tokens sampled i32[].
  """
  mesh, unembed = options.forward.mesh, models.unembedding(params)
  first, room = state.count, state.recent['layers'][0].k.shape[-1]
  prefix = models.Cached(state.history, state.length)

  def go_on(loop):
    count, (_, _, done), _, _ = loop
    live = (~done).reshape(layout.size(mesh, *layout.ROWS), -1).sum(axis=1)
    return (live.sum() > fewest) & (live.max() > narrow) & (count < room)

  def body(loop):
    count, (step, token, done), recent, out = loop
    new = models.forward(
      params,
      options.model,
      token[..., None],
      (state.length + count - state.begin)[:, None, None],
      prefix=prefix,
      cache=models.Cached(recent, count, state.begin),
      options=options.forward,
    )
    sampled = decode.sample_token(unembed, new.hidden[:, :, 0], state.keys, step, temperature, options)
    sampled = sampled.replace(experts=None if new.experts is None else new.experts[:, 0])
    write = lambda o, x: jax.lax.dynamic_update_slice_in_dim(o, x, count - first, axis=o.ndim - 1)
    done |= decode.ends(sampled.token, options.eos) | (step + 1 >= limit)
    loop = (step + 1, sampled.token, done), new.kv, jax.tree.map(write, out, sampled)
    return count + 1, *decode.constrain(loop, mesh)

  out = decode.Sampled.empty(len(state.length), room, options=options)
  start = (state.step, state.token, state.done), state.recent, out
  count, (step, token, done), recent, out = jax.lax.while_loop(go_on, body, (first, *decode.constrain(start, mesh)))
  state = state.replace(recent=recent, count=count, step=step, token=token, done=done)
  return *decode.constrain((state, out), mesh), count - first


@functools.partial(jax.jit, static_argnames='mesh', donate_argnames='state')
def merge(state, *, mesh=None):
  """Slots, whose histories have room for it, with what is recent moved there."""
  kept = jnp.where(state.done[:, 0], 0, state.count - state.begin)  # a row that has ended needs no history
  append = functools.partial(_append, state.length, state.begin, kept)
  history = {name: list(map(append, state.history[name], state.recent[name])) for name in state.recent}
  none = jnp.zeros_like
  state = state.replace(history=history, length=state.length + kept, begin=none(state.begin), count=none(state.count))
  return decode.constrain(state, mesh)


def _append(length, begin, count, history, new):
  """The KV `history`, its first length[s] tokens followed by count[s] of the own KV `new` from begin[s]; all i32[S]."""
  tokens, places = new.k.shape[-1], history.k.shape[-1]
  at = jnp.arange(tokens) - begin[:, None]
  to = jnp.where((at >= 0) & (at < count[:, None]), length[:, None] + at, places)  # others fall out of the array
  # A column each: split by tokens over devices, the history stays where it is.
  keys = jax.vmap(lambda to, x, new: x.at[..., to].set(new[:, 0], mode='drop'))
  values = jax.vmap(lambda to, x, new: x.at[:, to].set(new[:, 0], mode='drop'))
  return history.map(functools.partial(keys, to), functools.partial(values, to), new)


@functools.partial(jax.jit, static_argnames=('capacity', 'mesh'))
def resize(state, keep, *, capacity, mesh=None):
  """Keeps some slots of each device, and gives the histories room for `capacity` tokens.

  Args:
    keep: i32[devices of the batch axes, slots of each that are kept]. Nothing is sent between devices.
  """

  def pick(x):
    by_device = x.reshape(keep.shape[0], -1, *x.shape[1:])
    kept = jnp.take_along_axis(by_device, keep.reshape(*keep.shape, *[1] * (x.ndim - 1)), axis=1)
    return kept.reshape(-1, *x.shape[1:])

  grow = lambda x, axis: jnp.pad(x, [(0, capacity - n if i == axis else 0) for i, n in enumerate(x.shape)])
  state = jax.tree.map(lambda x: pick(x) if x.ndim else x, state)
  grown = lambda kv: kv.map(lambda x: grow(x, 3), lambda x: grow(x, 2))
  history = {name: list(map(grown, kvs)) for name, kvs in state.history.items()}
  return decode.constrain(state.replace(history=history), mesh)
