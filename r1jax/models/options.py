"""How a forward pass is computed, as opposed to what it computes."""

import dataclasses

import jax
import jax.numpy as jnp

from r1jax.models.causal import Attention


@dataclasses.dataclass(frozen=True)
class ForwardOptions:
  """Static settings of a forward pass.

  Attributes:
    dtype: of the computation.
    remat: a key of `remat.POLICIES`, what is kept of each layer for the backward pass.
    attention: a key of `causal.IMPLEMENTATIONS` for attention without a cache, or 'auto'.
    mesh: the devices that activations are sharded over; None leaves that to the compiler.
    return_experts: whether the pass says which experts each token was sent to.

  Raises:
    ConfigError: an attention that the mesh's devices do not have, before anything compiles.
  """

  dtype: str = 'float32'
  remat: str = 'none'
  attention: str = 'auto'
  mesh: jax.sharding.Mesh | None = None
  return_experts: bool = False

  def __post_init__(self):
    object.__setattr__(self, 'dtype', jnp.dtype(self.dtype).name)  # equal options share their programs
    Attention(self.attention, self.mesh)


DEFAULTS = ForwardOptions()
