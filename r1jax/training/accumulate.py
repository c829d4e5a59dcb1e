"""One optimizer step over microbatches, for any loss function; policy, SFT, reward models and critics all use it.

A loss function is called as `loss_fn(params, batch, totals)`, with one microbatch and numbers of the whole batch to
divide by, and returns (loss f32[], {metric: f32[]}, params): this microbatch's share of the batch's
loss and metrics, and the parameters as its forward gave them back (see `r1jax.models.remat`). Metrics add up over
microbatches, but for names ending in `_max` or `_min`; an optional 'moe/load' (f32[layers, experts]) adds up too. It is
a static argument of compiled programs: a frozen dataclass of its settings, equal ones sharing their programs. Where
the state has `frozen` arrays, which the loss reads and nobody trains, they are its fourth argument.
"""

import dataclasses
import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from r1jax import models, parallel


@dataclasses.dataclass(frozen=True)
class Trainer:
  """Optimizer steps of one model.

  Attributes:
    loss_fn: see above; it has `options`, models.ForwardOptions.
    optimizer: optax transformation.
    grad_dtype: of the gradient's sum over microbatches; 'param' for the parameters' own.
    balance_rate: how far the experts' correction biases move in a step (`models.balance`).
    prefix: of the names of the metrics, as 'policy/'.
  """

  loss_fn: Any
  optimizer: optax.GradientTransformation
  grad_dtype: str = 'float32'
  balance_rate: float = 0.0
  prefix: str = ''

  @property
  def mesh(self):
    return self.loss_fn.options.mesh

  def step(self, state, batches, totals):
    """One optimizer step.

    Args:
      state: TrainState; donated. batches: microbatches on the host. totals: for the loss function, on the host.

    Returns:
      TrainState, metrics {name: float} of the whole batch.
    """
    totals = parallel.to_global(totals, parallel.replicated(self.mesh))
    grads, found = zeros_like(state.params, self.grad_dtype), []
    for batch in batches:
      batch = parallel.to_global(batch, parallel.batch_sharding(self.mesh))
      grads, metrics = accumulate(state.params, grads, batch, totals, state.frozen, loss_fn=self.loss_fn)
      found.append(metrics)
    loads = [metrics.pop('moe/load') for metrics in found if 'moe/load' in metrics]
    load = functools.reduce(operator.add, loads) if loads else None
    state, norm = apply(state, grads, load, optimizer=self.optimizer, balance_rate=self.balance_rate)
    found, norm, load = parallel.to_host((found, norm, load))
    metrics = combine(found) | {f'{self.prefix}grad_norm': norm} | expert_metrics(load)
    return state, {name: float(x) for name, x in metrics.items()}


def accumulate(params, grads, batch, totals, frozen=None, *, loss_fn):
  """Adds a microbatch's gradient to `grads`, which is donated. Returns grads, metrics."""
  return accumulate_program(params, grads, batch, totals, frozen, loss_fn=loss_fn, shardings=shardings_of(grads))


@functools.partial(jax.jit, static_argnames=('loss_fn', 'shardings'), donate_argnames=('grads',))
def accumulate_program(params, grads, batch, totals, frozen=None, *, loss_fn, shardings):
  def loss(params):
    value, metrics, params = loss_fn(params, batch, totals, *_given(frozen))
    return value, (metrics, params)

  if loss_fn.options.remat == 'none':
    (_, (metrics, _)), new = jax.value_and_grad(loss, has_aux=True)(params)
    return _lay_out(jax.tree.map(lambda total, g: total + g.astype(total.dtype), grads, new), shardings), metrics

  def threaded(params):
    value, (metrics, params) = loss(params)
    return (value, params), metrics

  (value, _), back, metrics = jax.vjp(threaded, params, has_aux=True)
  # `grads` is the cotangent of the returned params, so the VJP returns `grads` plus this microbatch's gradient.
  (grads,) = back((jnp.ones_like(value), grads))
  return _lay_out(grads, shardings), metrics


@functools.partial(jax.jit, static_argnames=('loss_fn',))
def metrics_of(params, batch, totals, frozen=None, *, loss_fn):
  """The loss function's metrics alone."""
  return loss_fn(params, batch, totals, *_given(frozen))[1]


def _given(frozen):
  return () if frozen is None else (frozen,)


def apply(state, grads, load=None, *, optimizer, balance_rate=0.0):
  """One optimizer step.

  Args:
    state: TrainState; donated.
    grads: like its params.
    load: f32[layers, experts] of the step, for `models.balance`; None without experts.
    balance_rate: how far correction biases move in a step.

  Returns:
    TrainState, and the gradient's global norm before clipping.
  """
  trained = state.trained()
  new, norm = apply_program(
    trained, grads, load, optimizer=optimizer, balance_rate=balance_rate, shardings=shardings_of(trained)
  )
  return state.replace(params=new.params, opt_state=new.opt_state, opt_step=new.opt_step), norm


@functools.partial(jax.jit, static_argnames=('optimizer', 'balance_rate', 'shardings'), donate_argnames=('state',))
def apply_program(state, grads, load, *, optimizer, balance_rate, shardings):
  updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  if load is not None:
    params = models.balance(params, state.params, load, balance_rate)
  new = state.replace(params=params, opt_state=opt_state, opt_step=state.opt_step + 1)
  return _lay_out(new, shardings), optax.global_norm(grads)


def zeros_like(params, dtype='float32'):
  """Zeros of `dtype` ('param': their own) laid out as `params`."""
  return _zeros(params, dtype=dtype, shardings=shardings_of(params))


@functools.partial(jax.jit, static_argnames=('dtype', 'shardings'))
def _zeros(params, *, dtype, shardings):
  return _lay_out(jax.tree.map(lambda x: jnp.zeros_like(x, None if dtype == 'param' else dtype), params), shardings)


def shardings_of(tree):
  """Shardings of a tree's arrays, hashable, so that they can be a static argument.

  Without them the compiler may choose other output shardings than those of the input, and the next step recompiles.
  """
  return tuple(parallel.canonical(x.sharding) for x in jax.tree.leaves(tree))


def _lay_out(tree, shardings):
  return jax.tree.map(jax.lax.with_sharding_constraint, tree, jax.tree.unflatten(jax.tree.structure(tree), shardings))


def combine(metrics):
  """Metrics of a list of microbatches: sums, except maxima (`_max`) and minima (`_min`)."""
  return {
    name: (max if name.endswith('_max') else min if name.endswith('_min') else sum)(m[name] for m in metrics)
    for name in metrics[0]
  }


def expert_metrics(load):
  """moe/*: each expert's load, averaged over layers, and the worst layer's extremes; 1 is an even share.

  load: f32[layers, experts] tokens, or None.
  """
  if load is None:
    return {}
  share = load / np.maximum(load.mean(axis=1, keepdims=True), 1e-9)
  return {f'moe/load/{i:03d}': x for i, x in enumerate(share.mean(axis=0))} | {
    'moe/load_max': share.max(),
    'moe/load_min': share.min(),
  }
