"""What a training run carries from step to step."""
import flax.struct
import jax
import jax.numpy as jnp
import optax

from r1jax import parallel
from r1jax import params as params_lib
from r1jax.models.moe import EXACT
from r1jax.training.optimizer import map_moments


@flax.struct.dataclass
class TrainState:
  """params, optimizer state, the number of optimizer steps taken (i32[]), and the reference policy or None."""
  params: dict
  opt_state: optax.OptState
  opt_step: jax.Array
  reference: dict | None


def abstract_state(specs, optimizer, mesh, reference, param_dtype='float32', reference_dtype='float32'):
  """TrainState of ShapeDtypeStructs with shardings: what is restored, compiled for, or planned.

  Args:
    reference: whether there is a reference policy.
    param_dtype, reference_dtype: of their parameters, but for routers (`models.EXACT`), which stay float32.
  """
  sharding = parallel.shardings(specs, mesh)
  laid_out = lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)
  of = lambda dtype: params_lib.abstract(specs, dtypes(specs, dtype), sharding)
  params = of(param_dtype)
  everywhere = parallel.replicated(mesh)
  # An optimizer's moments lie as the parameter they belong to; its counters lie everywhere.
  opt_state = map_moments(laid_out, jax.eval_shape(optimizer.init, params), sharding, lambda x: laid_out(x, everywhere))
  return TrainState(params, opt_state, jax.ShapeDtypeStruct((), jnp.int32, sharding=everywhere),
                    of(reference_dtype) if reference else None)


def dtypes(specs, dtype):
  """{dotted name: dtype} of parameters kept in `dtype`."""
  named = jax.tree_util.tree_leaves_with_path(specs, is_leaf=params_lib.is_spec)
  return {jax.tree_util.keystr(at, simple=True, separator='.'): jnp.dtype('float32' if at[-1].key in EXACT else dtype)
          for at, _ in named}


def refresh(params, reference):
  """A copy of `params` in the dtypes of `reference`."""
  copy = lambda x, like: jnp.copy(x) if x.dtype == like.dtype else x.astype(like.dtype)
  return jax.tree.map(copy, params, reference)


def new_state(params, optimizer, like, reference):
  """TrainState at step 0, laid out as `like` (from `abstract_state`)."""
  out = jax.tree.map(lambda x: x.sharding, like)

  @jax.jit
  def build(params):
    return TrainState(params, optimizer.init(params), jnp.zeros((), jnp.int32),
                      refresh(params, like.reference) if reference else None)

  return jax.jit(build, out_shardings=out)(params)
