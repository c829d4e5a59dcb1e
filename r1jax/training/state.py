"""What a training run carries from step to step."""
import flax.struct
import jax
import jax.numpy as jnp
import optax

from r1jax import parallel
from r1jax import params as params_lib


@flax.struct.dataclass
class TrainState:
  """params, optimizer state, the number of optimizer steps taken (i32[]), and the reference policy or None."""
  params: dict
  opt_state: optax.OptState
  opt_step: jax.Array
  reference: dict | None


def abstract_state(specs, optimizer, mesh, reference):
  """TrainState of ShapeDtypeStructs with shardings: what is restored, compiled for, or planned."""
  sharding = parallel.shardings(specs, mesh)
  laid_out = lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)
  params = jax.tree.map(laid_out, params_lib.abstract(specs), sharding)
  everywhere = parallel.replicated(mesh)
  # An optimizer's moments lie as the parameter they belong to; its counters lie everywhere.
  opt_state = optax.tree.map_params(
      optimizer, laid_out, jax.eval_shape(optimizer.init, params), sharding,
      transform_non_params=lambda x: laid_out(x, everywhere))
  return TrainState(params, opt_state, jax.ShapeDtypeStruct((), jnp.int32, sharding=everywhere),
                    params if reference else None)


def new_state(params, optimizer, like, reference):
  """TrainState at step 0, laid out as `like` (from `abstract_state`)."""
  out = jax.tree.map(lambda x: x.sharding, like)

  @jax.jit
  def build(params):
    return TrainState(params, optimizer.init(params), jnp.zeros((), jnp.int32),
                      jax.tree.map(jnp.copy, params) if reference else None)

  return jax.jit(build, out_shardings=out)(params)
