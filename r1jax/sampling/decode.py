"""The sampler's compiled programs: prefill, a chunk of decoding, and making the batch smaller.

Rows lie as [P, G]: the G samples of P prompts. A prompt's keys and values exist once; each row keeps
only those of its own response.
"""

import dataclasses
import functools

import flax.struct
import jax
import jax.numpy as jnp

from r1jax import models
from r1jax.models import KV, layout
from r1jax.models.layers import product
from r1jax.sampling import logits as logits_lib
from r1jax.typed import Array, Int, Key, Scalar, typed

CHUNK = 64  # most tokens between two looks of the host, and room in the first cache
SHRINK, GROW = 2, 4  # rows of a group and room in the cache change by these: few shapes to compile


@dataclasses.dataclass(frozen=True)
class DecodeOptions:
  """Static settings of the programs below.

  Attributes:
    model: ModelConfig. restriction: logits.Restriction. eos: ids that end a response.
    forward: models.ForwardOptions, of which dtype, mesh and return_experts count. cache: as Precision.cache.
    thresholds: see SamplingParams.
  """

  model: models.ModelConfig
  restriction: logits_lib.Restriction
  eos: tuple[int, ...]
  forward: models.ForwardOptions
  cache: str = ''
  thresholds: bool = False

  @property
  def cache_dtype(self):
    return jnp.dtype(self.cache or self.forward.dtype)

  def to_cache(self, kv):
    """Prompts' keys and values, {layer group: [KV]}, as they are kept."""
    return jax.tree.map(models.quantize_cache, kv, is_leaf=lambda x: isinstance(x, KV)) if self.cache else kv


class DecodeState(flax.struct.PyTreeNode):
  """Where decoding stands.

  Attributes:
    step: i32[], tokens sampled so far, the same for all rows.
    token: i32[P, G], the last one sampled, not yet in the cache.
    done: bool[P, G].
    keys: PRNG key of each row, [P, G]; token t is drawn with fold_in(key, t).
    cache: own keys and values, {layer group: [one KV of S tokens per layer]}.
  """

  step: Array
  token: Array
  done: Array
  keys: jax.Array
  cache: dict


class Sampled(flax.struct.PyTreeNode):
  """Tokens i32[P, G, C], and f32[P, G, C] their log-probs under the distribution they were sampled from.

  threshold: f32[P, G, C], see `logits.threshold`; None unless they were asked for.
  experts: uint[P, G, MoE layers, top_k, C], of the token before each, which the model was run on to draw it; with a
    response's first token, uint[P, MoE layers, top_k, Tp] of its prompt; None unless they were asked for.
  """

  token: Array
  logp: Array
  threshold: Array | None = None
  experts: Array | None = None

  @classmethod
  def empty(cls, *shape, options):
    zeros, experts = functools.partial(jnp.zeros, shape), None
    if options.forward.return_experts:
      experts = jnp.zeros((*shape[:-1], *options.model.routes, shape[-1]), options.model.moe.index_dtype)
    return cls(zeros(jnp.int32), zeros(jnp.float32), zeros(jnp.float32) if options.thresholds else None, experts)


def constrain(tree, mesh, put=layout.constrain):
  """A prefix or DecodeState laid out on a mesh, as the programs below leave it.

  put: function (array, mesh, *axes) -> the array laid out so.
  """
  is_kv = lambda x: isinstance(x, KV)
  place = lambda x: layout.cached(x, mesh, put) if is_kv(x) else put(x, mesh, *[layout.ROWS][: x.ndim])
  return jax.tree.map(place, tree, is_leaf=is_kv)


def smaller(width, live):
  """The smallest of width, width / SHRINK, ... that holds `live` rows."""
  while width % SHRINK == 0 and width // SHRINK >= live:
    width //= SHRINK
  return width


def sample_token(unembed, hidden, keys, step, temperature, options):
  """Samples token number `step` of each row. hidden: [P, G, embed]; keys [P, G]; step: i32[] or i32[P, G]."""
  mesh = options.forward.mesh
  hidden = layout.constrain(hidden, mesh, layout.DATA, None, layout.FSDP)
  logits = layout.constrain(product('pgd,vd->pgv', hidden, unembed), mesh, layout.ROWS)
  steps = jnp.broadcast_to(step, keys.shape).reshape(-1)
  logits = logits.reshape(-1, logits.shape[-1])
  scores = logits_lib.restrict(logits, temperature, options.restriction)
  token, logp = logits_lib.draw(jax.vmap(jax.random.fold_in)(keys.reshape(-1), steps), scores)
  found = Sampled(token, logp, logits_lib.threshold(logits, temperature, scores) if options.thresholds else None)
  return jax.tree.map(lambda x: x.reshape(keys.shape), found)


def ends(token, eos):
  """Whether each token is one of the ids `eos`, a tuple."""
  return (token[..., None] == jnp.asarray(eos, jnp.int32)).any(axis=-1)


@functools.partial(jax.jit, static_argnames=('options', 'capacity'))
@typed
def prefill(
  params: dict,
  prompts: Int[Array, 'p t'],
  lengths: Int[Array, ' p'],
  keys: Key[jax.Array, 'p g'],
  temperature: Scalar,
  *,
  options: DecodeOptions,
  capacity: int,
):
  """Runs the prompts once and samples each row's first token.

  Args:
    params: as `cast_weights` gives them.
    prompts: i32[P, Tp], right-padded; lengths: i32[P].
    keys: PRNG keys [P, G].
    temperature: f32[]. options: DecodeOptions.
    capacity: response tokens the first cache holds.

  Returns:
    prefix (shared keys and values, as DecodeState.cache), DecodeState, Sampled of one token.
  """
  (p, g), cfg, dtype = keys.shape, options.model, options.cache_dtype
  prompt = models.prefill(params, cfg, prompts, lengths, options.forward)
  # The group's first token comes from one distribution: only the draw differs.
  hidden = jnp.broadcast_to(prompt.hidden[:, None], (p, g, prompt.hidden.shape[-1]))
  sampled = sample_token(models.unembedding(params), hidden, keys, 0, temperature, options)
  cache = {name: [models.empty_cache(cfg, p, g, capacity, dtype)] * n for name, n in models.layer_groups(cfg).items()}
  state = DecodeState(jnp.ones((), jnp.int32), sampled.token, ends(sampled.token, options.eos), keys, cache)
  prefix, state = constrain((options.to_cache(prompt.kv), state), options.forward.mesh)
  return prefix, state, jax.tree.map(lambda x: x[..., None], sampled).replace(experts=prompt.experts)


@functools.partial(jax.jit, static_argnames=('options', 'length'), donate_argnames=('state',))
def decode_chunk(params, prefix, lengths, state, limit, fewest, temperature, *, options, length):
  """Decodes until no group has more than `fewest` live rows, `length` tokens are sampled, or state.step is `limit`.

  Args:
    limit: i32[], value of state.step to stop at: at most max_response, and the capacity of the cache plus one.
    fewest: i32[], below the number of samples.
    length: most tokens of one call.

  Returns:
    DecodeState, Sampled of [P, G, length] (zeros after the stop), number of tokens sampled i32[].
  """
  unembed = models.unembedding(params)
  begin = state.step

  def go_on(loop):
    state, _ = loop
    left = (~state.done).sum(axis=1).max()
    return (left > fewest) & (state.step < limit) & (state.step < begin + length)

  def body(loop):
    state, out = loop
    at = state.step - 1  # the token's place in the response
    new = models.forward(
      params,
      options.model,
      state.token[..., None],
      jnp.broadcast_to((lengths + at)[:, None, None], (*state.token.shape, 1)),
      prefix=models.Cached(prefix, lengths),
      cache=models.Cached(state.cache, at),
      options=options.forward,
    )
    sampled = sample_token(unembed, new.hidden[:, :, 0], state.keys, state.step, temperature, options)
    sampled = sampled.replace(experts=None if new.experts is None else new.experts[..., 0])
    write = lambda o, s: jax.lax.dynamic_update_slice_in_dim(o, s[..., None], state.step - begin, axis=o.ndim - 1)
    done = state.done | ends(sampled.token, options.eos)
    state_ = DecodeState(state.step + 1, sampled.token, done, state.keys, new.kv)
    return constrain(state_, options.forward.mesh), jax.tree.map(write, out, sampled)

  state, out = jax.lax.while_loop(go_on, body, (state, Sampled.empty(*state.token.shape, length, options=options)))
  return state, out, state.step - begin


@functools.partial(jax.jit, static_argnames=('capacity', 'mesh'))
@typed
def compact(state: DecodeState, rows: Int[Array, 'p g'], *, capacity: int, mesh=None) -> DecodeState:
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

  grown = lambda kv: kv.map(lambda x: grow(x, 4), lambda x: grow(x, 3))
  cache = {name: [grown(kv) for kv in kvs] for name, kvs in state.cache.items()}
  state = state.replace(token=keep(state.token), done=keep(state.done), keys=keep(state.keys), cache=cache)
  return constrain(state, mesh)
