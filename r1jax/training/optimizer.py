"""The optimiser of a run, from its config."""

import jax
import jax.numpy as jnp
import optax

from r1jax.params import is_spec


def schedule(cfg, steps):
  """Learning rate at each optimizer step: linear warm-up, then constant, linear or cosine to a floor."""
  rest = max(steps - cfg.warmup, 1)
  after = {
    'constant': lambda: optax.constant_schedule(cfg.learning_rate),
    'linear': lambda: optax.linear_schedule(cfg.learning_rate, cfg.learning_rate * cfg.final_fraction, rest),
    'cosine': lambda: optax.cosine_decay_schedule(cfg.learning_rate, rest, cfg.final_fraction),
  }[cfg.schedule]()
  if not cfg.warmup:
    return after
  # The first step already moves: (step + 1) / warmup of the rate.
  start = cfg.learning_rate / cfg.warmup
  return optax.join_schedules([optax.linear_schedule(start, cfg.learning_rate, cfg.warmup - 1), after], [cfg.warmup])


def make(cfg, steps, specs, param_dtype='float32'):
  """An optax transformation: gradient clipping by global norm, then Adam (with decoupled weight decay) or Muon.

  Args:
    cfg: config.Optimizer.
    steps: optimizer steps of the whole run.
    specs: parameter specs; Muon orthogonalises the matrices they declare.
    param_dtype: of the parameters to come; optax would keep moments in it.
  """
  exact = cfg.moment_dtype == param_dtype == 'float32'
  return _make(cfg, steps, specs) if exact else keep_moments(_make(cfg, steps, specs), cfg.moment_dtype)


def keep_moments(optimizer, dtype):
  """Wraps an optimizer: it computes in float32, and its state for each parameter is stored in `dtype`."""
  wide = lambda tree: jax.tree.map(lambda x: x.astype(jnp.float32), tree)
  cast = lambda state, params, to: map_moments(lambda x, _: x.astype(to), state, params)
  init = lambda params: cast(optimizer.init(params), params, dtype)

  def update(updates, state, params=None):
    updates, state = optimizer.update(wide(updates), cast(state, params, jnp.float32), wide(params))
    return updates, cast(state, params, dtype)

  return optax.GradientTransformation(init, update)


def map_moments(f, state, like, other=lambda x: x):
  """Maps an optimizer's state: f(leaf, leaf of `like`) for what it keeps per parameter, other(leaf) for the rest.

  A leaf belongs to the parameter whose path is a suffix of its own.
  """
  keystr = jax.tree_util.keystr
  named = {keystr(at): x for at, x in jax.tree_util.tree_leaves_with_path(like)}

  def one(at, x):
    owner = next((named[keystr(at[i:])] for i in range(len(at)) if keystr(at[i:]) in named), None)
    return other(x) if owner is None else f(x, owner)

  return jax.tree_util.tree_map_with_path(one, state)


def _make(cfg, steps, specs):
  rate = schedule(cfg, steps)
  clip = optax.clip_by_global_norm(cfg.grad_clip) if cfg.grad_clip else optax.identity()
  if cfg.name == 'adam':
    return optax.chain(clip, optax.adamw(rate, cfg.b1, cfg.b2, cfg.eps, weight_decay=cfg.weight_decay))
  # An update of a matrix has the root mean square of a typical Adam update, so one learning rate serves both.
  return optax.chain(
    clip,
    optax.contrib.muon(
      rate,
      consistent_rms=0.2,
      eps=cfg.eps,
      weight_decay=cfg.weight_decay,
      adam_b1=cfg.b1,
      adam_b2=cfg.b2,
      adam_weight_decay=cfg.weight_decay,
      muon_weight_dimension_numbers=jax.tree.map(_matrix, specs, is_leaf=is_spec),
    ),
  )


def _matrix(spec):
  """Which axes of a layer's tensor make the matrix; None leaves it to Adam (embeddings, norms, biases)."""
  if spec.axes[0] != 'layers' or spec.init != 'normal':
    return None
  split = spec.stacked + spec.fan_in
  return optax.contrib.MuonDimensionNumbers(tuple(range(spec.stacked, split)), tuple(range(split, len(spec.shape))))
