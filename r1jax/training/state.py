"""What a training run carries from step to step."""

import flax.struct
import jax
import jax.numpy as jnp
import optax

from r1jax import parallel
from r1jax import params as params_lib
from r1jax.models import lora
from r1jax.models.moe import FLOAT32_PARAMS
from r1jax.training.optimizer import map_moments
from r1jax.typed import Array, shape_struct


class TrainState(flax.struct.PyTreeNode):
  """What is trained, and what is kept beside it.

  Attributes:
    params, opt_state: of the model being trained; opt_step: i32[], optimizer steps taken.
    reference: the reference policy's parameters, or None.
    critic: the value network's own TrainState, or None.
    frozen: what the loss reads and no step changes, or None. It is not saved: a run loads it from where it came. With
      LoRA `params` are an adapter, and 'base' of `frozen` is the `lora.Base` that it adapts.
  """

  params: dict
  opt_state: optax.OptState
  opt_step: Array
  reference: dict | None = None
  critic: 'TrainState | None' = None
  frozen: dict | None = None

  def trained(self):
    """What an optimizer step of this model changes, without the rest (the reference may lie in the host's memory)."""
    return self.replace(reference=None, critic=None, frozen=None)

  def saved(self):
    """What a checkpoint holds."""
    return self.replace(frozen=None)

  @property
  def base(self) -> lora.Base | None:
    return (self.frozen or {}).get('base')

  def model(self):
    """The parameters to run the trained model with: `params`, with LoRA attached to their base; nothing is copied."""
    return self.base.attach(self.params) if self.base else self.params

  def reference_policy(self):
    """The reference policy's parameters: with LoRA those of the base."""
    return self.base.params if self.base else self.reference


def abstract_state(specs, optimizer, mesh, param_dtype='float32', reference_dtype=None, reference_memory='device'):
  """TrainState of ShapeDtypeStructs with shardings: what is restored, compiled for, or planned.

  Args:
    optimizer: optax transformation; None for parameters alone.
    param_dtype: of parameters, but for those of `models.FLOAT32_PARAMS`, which stay float32.
    reference_dtype: the same of the reference policy; None without one.
    reference_memory: 'device' or 'host', where the reference lies.
  """
  sharding = parallel.shardings(specs, mesh)
  laid_out = lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)
  of = lambda dtype: params_lib.abstract(specs, dtypes(specs, dtype), sharding)
  params = of(param_dtype)
  everywhere = parallel.replicated(mesh)
  # An optimizer's moments lie as the parameter they belong to; its counters lie everywhere.
  opt_state = (
    ()
    if optimizer is None
    else map_moments(laid_out, jax.eval_shape(optimizer.init, params), sharding, lambda x: laid_out(x, everywhere))
  )
  return TrainState(
    params,
    opt_state,
    shape_struct((), jnp.int32, everywhere),
    move_to_memory(of(reference_dtype), reference_memory) if reference_dtype else None,
  )


def move_to_memory(tree, memory):
  """Arrays, or ShapeDtypeStructs, in the memory of 'device' or 'host', laid out over devices as they are."""
  kind = {'device': 'device', 'host': 'pinned_host'}[memory]
  if all(x.sharding.memory_kind in (None, kind) for x in jax.tree.leaves(tree)):
    return tree

  def move(x):
    to = x.sharding.with_memory_kind(kind)
    return (
      jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=to)
      if isinstance(x, jax.ShapeDtypeStruct)
      else (jax.device_put(x, to))
    )

  return jax.tree.map(move, tree)


def dtypes(specs, dtype):
  """{dotted name: dtype} of parameters kept in `dtype`."""
  named = jax.tree_util.tree_leaves_with_path(specs, is_leaf=params_lib.is_spec)
  return {
    jax.tree_util.keystr(at, simple=True, separator='.'): jnp.dtype(
      'float32' if at[-1].key in FLOAT32_PARAMS else dtype
    )
    for at, _ in named
  }


def refresh(params, reference):
  """A copy of `params` in the dtypes, the layout and the memory of `reference`."""
  copy = lambda x, like: jnp.copy(x) if x.dtype == like.dtype else x.astype(like.dtype)
  return jax.tree.map(lambda x, like: jax.device_put(copy(x, like), like.sharding), params, reference)


def new_state(params, optimizer, like):
  """TrainState at step 0, laid out as `like` (from `abstract_state`)."""
  out = jax.tree.map(lambda x: x.sharding, like.replace(reference=None))
  build = lambda params: TrainState(params, optimizer.init(params), jnp.zeros((), jnp.int32), None)
  state = jax.jit(build, out_shardings=out)(params)
  return state if like.reference is None else state.replace(reference=refresh(state.params, like.reference))
