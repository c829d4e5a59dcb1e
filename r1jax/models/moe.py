"""Mixture of experts without dropped tokens: tokens sorted by expert, then one ragged product for all experts.

Routing after DeepSeek-V3 (section 2.1.2): sigmoid scores, a correction bias that takes part in the choice only, experts
chosen among the best groups; or Qwen3's softmax.
"""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from r1jax.models import layout
from r1jax.models.layers import mlp, mlp_specs
from r1jax.params import Spec

# Routers are compared at small differences: these stay in float32 whatever the computation's dtype.
FLOAT32_PARAMS = ('router', 'router_bias')
TILE = 512  # rows and columns that the kernel takes at a time
CHUNK = 4096  # tokens dispatched to their experts at a time


def moe_specs(cfg):
  m = cfg.moe
  specs = {
    'router': Spec((cfg.embed, m.experts), ('embed', 'experts')),
    'gate': Spec((m.experts, cfg.embed, m.mlp), ('experts', 'embed', 'mlp')),
    'up': Spec((m.experts, cfg.embed, m.mlp), ('experts', 'embed', 'mlp')),
    'down': Spec((m.experts, m.mlp, cfg.embed), ('experts', 'mlp', 'embed')),
  }
  if m.score == 'sigmoid':
    specs['router_bias'] = Spec((m.experts,), ('norm',), 'zeros')
  if m.shared:
    specs |= {'shared': mlp_specs(cfg.embed, m.mlp * m.shared)}
  return specs


def route(p, m, x, experts=None):
  """The experts each token is sent to, and their weights.

  Args:
    p: the layer's parameters. m: MoE. x: [N, embed].
    experts: int[N, top_k], in the place of the router's own choice (routing replay, arXiv 2510.11370 section 3.2);
      None: the router chooses. The weights are the router's scores of these experts either way, so that it is trained.

  Returns:
    weights f32[N, top_k], experts i32[N, top_k].
  """
  logits = jnp.dot(x.astype(jnp.float32), p['router'].astype(jnp.float32), precision='highest')
  scores = jax.nn.softmax(logits) if m.score == 'softmax' else jax.nn.sigmoid(logits)
  experts = _choose(p, m, scores) if experts is None else experts.astype(jnp.int32)
  weights = jnp.take_along_axis(scores, experts, axis=-1)
  if m.normalise:
    weights = weights / (weights.sum(axis=-1, keepdims=True) + 1e-20)
  return weights * m.scale, experts


def _choose(p, m, scores):
  """The experts with the best scores, i32[N, top_k]. scores: f32[N, experts]."""
  choice = scores + p['router_bias'] if 'router_bias' in p else scores
  if m.top_groups < m.groups:
    grouped = choice.reshape(-1, m.groups, m.experts // m.groups)
    best = jax.lax.top_k(grouped, 2)[0].sum(axis=-1)  # a group is as good as its two best experts
    _, chosen = jax.lax.top_k(best, m.top_groups)
    allowed = (chosen[..., None] == jnp.arange(m.groups)).any(axis=1)
    choice = jnp.where(allowed[..., None], grouped, -jnp.inf).reshape(choice.shape)
  return jax.lax.top_k(choice, m.top_k)[1]


def moe(p, m, x, real=None, mesh=None, stationary=False, replayed=None):
  """The weighted sum of each token's experts, plus the shared experts.

  Args:
    x: [P, G, T, embed]; P divides over the mesh's batch axes.
    real: bool[P, G, T], which tokens count in the load; all where None.
    mesh: the devices that share the work, each axis by `parallel.rules`; None leaves it to the compiler.
    stationary: whether weights stay sharded, as in decoding on a mesh; x is laid out by `layout.weight_stationary`.
    replayed: int[P, G, T, top_k], experts that are not the router's choice (see `route`); or None.

  Returns:
    Like x; the load f32[experts], the tokens sent to each expert; and the experts of each token, i32[P, G, T, top_k].
  """
  given = None if replayed is None else replayed.reshape(-1, m.top_k)
  weights, experts = route(p, m, x.reshape(-1, x.shape[-1]), given)
  dispatch = _dispatch if mesh is None or mesh.size == 1 else functools.partial(_dispatch_on_mesh, mesh, stationary)
  by_token = lambda a: a.reshape(*x.shape[:-1], -1)
  weights, chosen = by_token(weights), by_token(experts)
  out = dispatch(x, weights, chosen, p['gate'], p['up'], p['down'])
  counted = jnp.ones(experts.shape[0]) if real is None else real.reshape(-1).astype(jnp.float32)
  load = jnp.zeros(m.experts).at[experts.reshape(-1)].add(jnp.repeat(counted, m.top_k))
  return out + mlp(p['shared'], x) if m.shared else out, load, chosen


def _dispatch(x, weights, experts, *matrices, **options):
  """`_dispatch_chunk` for CHUNK tokens at a time, as each token takes top_k rows of memory, forward and backward.

  With several chunks these rows are recomputed in the backward pass whatever the remat policy, and the gradients of
  the matrices are summed in the matrices' dtype.
  """
  tokens = x.size // x.shape[-1]
  chunks = -(-tokens // CHUNK)
  if chunks == 1:
    return _dispatch_chunk(x, weights, experts, *matrices, **options)
  size = -(-tokens // chunks)
  # Padding goes to the first expert with weight 0.
  split = lambda a: jnp.pad(a.reshape(tokens, -1), ((0, chunks * size - tokens), (0, 0))).reshape(chunks, size, -1)
  one = jax.checkpoint(lambda xs: _dispatch_chunk(*xs, *matrices, **options))
  return jax.lax.map(one, tuple(map(split, (x, weights, experts)))).reshape(-1, x.shape[-1])[:tokens].reshape(x.shape)


def _dispatch_chunk(x, weights, experts, gate, up, down, partial=False, psum=lambda a: a):
  """The weighted sum of each token's experts.

  Args:
    x: [..., embed]. weights, experts: [..., top_k].
    gate, up, down: [experts, ...].
    partial: whether `experts` may name experts that are not among these; they contribute zero.
    psum: sums the products with gate and up over devices, where each holds a part of the features of x.
  """
  count, top_k = len(gate), experts.shape[-1]
  flat = experts.reshape(-1)  # [N * top_k]
  if partial:
    flat = jnp.where((flat >= 0) & (flat < count), flat, count)  # sorted behind all groups
  order = jnp.argsort(flat, stable=True)
  sizes = (flat[:, None] == jnp.arange(count)).sum(axis=0, dtype=jnp.int32)
  # A ragged product leaves rows behind its groups undefined, forward and backward.
  mask = (lambda a: jnp.where((flat[order] < count)[:, None], a, 0)) if partial else lambda a: a
  by_expert = lambda a, w: mask(ragged(a, w, sizes))
  tokens = mask(x.reshape(-1, x.shape[-1])[order // top_k])
  inner = jax.nn.silu(psum(by_expert(tokens, gate))) * psum(by_expert(tokens, up))
  # Weighted before `down`, where rows are narrower.
  inner = (inner * weights.reshape(-1)[order][:, None]).astype(x.dtype)
  out = by_expert(inner, down)[jnp.argsort(order)].reshape(-1, top_k, x.shape[-1])
  return out.sum(axis=1, dtype=jnp.float32).astype(x.dtype).reshape(x.shape)


@jax.custom_vjp
def ragged(a, w, sizes):
  """Rows, sorted by group, times the matrix of their group.

  Args:
    a: [N, k]. w: [groups, k, n]. sizes: i32[groups], rows of each; those behind all groups come out as anything.

  Returns:
    [N, n], in a's dtype.
  """
  return jax.lax.ragged_dot(a, w, sizes)


def _ragged_backward(saved, g):
  a, w, sizes = saved
  return ragged(g, w.swapaxes(1, 2), sizes), by_group(a, g, sizes, w.dtype), None


ragged.defvjp(lambda a, w, sizes: (ragged(a, w, sizes), (a, w, sizes)), _ragged_backward)


def by_group(a, b, sizes, dtype):
  """The sum over each group's rows of a (x) b, in float32: dtype[groups, k, n], for a [N, k], b [N, n] by group."""
  # The TPU's compiler would multiply every row with every group, and leave most out afterwards.
  run = lambda f: functools.partial(f, dtype=dtype)
  return jax.lax.platform_dependent(a, b, sizes, tpu=run(by_group_kernel), default=run(_by_group))


def _by_group(a, b, sizes, dtype):
  summed = jax.lax.RaggedDotDimensionNumbers(
    (((0,), (0,)), ((), ())), lhs_ragged_dimensions=[0], rhs_group_dimensions=[]
  )
  return jax.lax.ragged_dot_general(a, b, sizes, summed, preferred_element_type=jnp.float32).astype(dtype)


def by_group_kernel(a, b, sizes, dtype, interpret=False):
  """`by_group` by a Pallas kernel."""
  from jax.experimental.pallas.ops.tpu.megablox.gmm import tgmm  # takes half a second to import

  rows = -(-len(a) // TILE) * TILE
  fill = lambda x: jnp.pad(x, ((0, rows - len(x)), (0, 0)))
  return tgmm(fill(a).swapaxes(0, 1), fill(b), sizes, dtype, (TILE,) * 3, interpret=interpret)


def _dispatch_on_mesh(mesh, stationary, x, weights, experts, gate, up, down):
  """`_dispatch` on a mesh, the experts split over axis 'expert'.

  Devices along 'expert' all-gather their tokens, compute what their own experts contribute, and reduce-scatter the
  sums back, so that nothing is dropped however uneven the load. Along fsdp a layer's weights are gathered; where they
  are stationary, the products of their shards are summed instead.
  """
  t = x.shape[2]
  # A row's tokens are split along 'seq', padded to a multiple; the single token of decoding is not.
  over = 'seq' if t > 1 else None
  fill = lambda a: jnp.pad(a, ((0, 0), (0, 0), (0, -t % mesh.shape['seq'] if over else 0), (0, 0)))
  rows, shard = (layout.DATA, layout.FSDP) if stationary else (layout.ROWS, None)
  tokens, features = PartitionSpec(rows, None, over), PartitionSpec(rows, None, over, shard)
  inner, outer = PartitionSpec('expert', shard, 'tp'), PartitionSpec('expert', 'tp', shard)
  psum = (lambda a: jax.lax.psum(a, shard)) if stationary else lambda a: a

  def local(x, weights, experts, gate, up, down):
    x, weights, experts = (jax.lax.all_gather(a, 'expert', tiled=True) for a in (x, weights, experts))
    first = jax.lax.axis_index('expert') * len(gate)
    out = _dispatch(x, weights, experts - first, gate, up, down, partial=mesh.shape['expert'] > 1, psum=psum)
    return jax.lax.psum_scatter(jax.lax.psum(out, 'tp'), 'expert', tiled=True)

  # Mosaic kernels carry no types of varying axes.
  sharded = jax.shard_map(
    local, mesh=mesh, in_specs=(features, tokens, tokens, inner, inner, outer), out_specs=features, check_vma=False
  )
  return sharded(fill(x), fill(weights), fill(experts), gate, up, down)[:, :, :t]


def balance(params, before, load, rate):
  """Moves correction biases by `rate` in favour of experts with a load below the mean (DeepSeek-V3, section 2.1.2).

  Args:
    params, before: parameters after and before an optimizer step. The bias is that of `before`, as weight decay
      changed it.
    load: f32[layers, experts] of the step; that of 'mtp', where it is trained, last.

  Returns:
    params with the biases of `before`, moved.
  """
  if 'router_bias' not in params.get('layers', {}).get('moe', {}):  # also not in an adapter (see `lora`)
    return params
  move, out = rate * jnp.sign(load.mean(axis=-1, keepdims=True) - load), dict(params)
  for name in ('layers', 'mtp') if 'mtp' in params else ('layers',):
    group, bias = params[name], before[name]['moe']['router_bias']
    bias, move = bias + move[: len(bias)].astype(bias.dtype), move[len(bias) :]
    out[name] = group | {'moe': group['moe'] | {'router_bias': bias}}
  return out
