"""What is kept of each layer for the backward pass, and a scan over layers that adds gradients up in place.

The gradient of a plain scan over stacked layers is a second array as large as the parameters, and a third where they
are used twice. Here the scan also *returns* the parameters, unchanged: the gradient with respect to what it returned
is a running sum, to which its backward pass adds one layer's gradient at a time. A caller that passes the returned
parameters on to the next use, and seeds the backward pass with the gradient so far, holds only one such array.
"""

import functools

import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

# 'none' keeps everything; the others a layer's input and what is named here, and compute the rest again.
POLICIES = {
  'none': None,
  'full': (),
  'attention': ('attention',),
  'qkv': ('qkv', 'attention'),
  'products': ('qkv', 'attention', 'residual', 'mlp'),
}


def name(tree, label):
  """Marks arrays that a policy keeps."""
  return jax.tree.map(lambda x: checkpoint_name(x, label), tree)


def checkpoint(f, remat):
  """f with the policy of that name."""
  if remat == 'none':
    return f
  return jax.checkpoint(f, policy=jax.checkpoint_policies.save_only_these_names(*POLICIES[remat]))


def scan(block, remat, weights, x, layers, shared) -> tuple:
  """Runs x through stacked layers.

  Args:
    block: (x, (weights, *layer), shared) -> x, out, of one layer.
    remat: a key of POLICIES.
    weights: pytree stacked over layers.
    x: the first layer's input.
    layers: tuple of pytrees (or None) stacked over layers; integers in them have no gradient.
    shared: what all layers are given; it has no gradient.

  Returns:
    weights, for the next use of them; the last layer's result; out stacked over layers.
  """
  if remat == 'none':
    return weights, *jax.lax.scan(lambda x, layer: block(x, layer, shared), x, (weights, *layers))
  return _scan(block, remat, weights, x, layers, shared)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _scan(block, remat, weights, x, layers, shared):
  return weights, *jax.lax.scan(lambda x, layer: block(x, layer, shared), x, (weights, *layers))


def _forward(block, remat, weights, x, layers, shared):
  found = {}

  def step(x, xs):
    inputs = (x, *xs)
    (x, out), back = jax.vjp(_layer(block, remat, shared), *inputs)
    leaves, found['back'] = jax.tree.flatten(back)
    ids = {id(a): i for i, a in enumerate(jax.tree.leaves((inputs, shared)))}
    # Inputs are sliced again in the backward pass: kept from here they would be copies of all weights.
    found['places'] = [ids.get(id(leaf)) for leaf in leaves]
    return x, (out, inputs[0], [leaf for leaf, at in zip(leaves, found['places']) if at is None])

  x, (out, inputs, kept) = jax.lax.scan(step, x, (weights, *layers))
  return (weights, x, out), (weights, inputs, layers, shared, kept, _Static(found['back'], tuple(found['places'])))


def _backward(block, remat, saved, gradients):
  weights, inputs, layers, shared, kept, static = saved
  total, dx, dout = gradients

  def step(carry, xs):
    total, dx = carry
    at, x, layer, kept, dout = xs
    one = jax.tree.map(lambda w: jax.lax.dynamic_index_in_dim(w, at, keepdims=False), weights)
    leaves, new = jax.tree.leaves(((x, one, *layer), shared)), iter(kept)
    back = jax.tree.unflatten(static.back, [next(new) if i is None else leaves[i] for i in static.places])
    dx, dweights, *dlayer = back((dx, dout))
    dlayer = jax.tree.map(lambda d: None if d.dtype == jax.dtypes.float0 else d, dlayer)
    add = lambda t, d: jax.lax.dynamic_update_index_in_dim(
      t, jax.lax.dynamic_index_in_dim(t, at, keepdims=False) + d, at, 0
    )
    return (jax.tree.map(add, total, dweights), dx), tuple(dlayer)

  count = len(jax.tree.leaves(weights)[0])
  (total, dx), dlayers = jax.lax.scan(step, (total, dx), (jnp.arange(count), inputs, layers, kept, dout), reverse=True)
  return total, dx, dlayers, None


_scan.defvjp(_forward, _backward)


def _layer(block, remat, shared):
  step = checkpoint(block, remat)
  return lambda x, *layer: step(x, layer, shared)


@jax.tree_util.register_static
class _Static:
  """How to put a layer's backward pass together again from its inputs and what was kept."""

  def __init__(self, back, places):
    self.back, self.places = back, places
