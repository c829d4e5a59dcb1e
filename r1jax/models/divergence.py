"""How far a policy's distributions are from its teachers', with logits of a chunk of positions at a time."""

import jax
import jax.numpy as jnp

from r1jax import losses
from r1jax.models import layout
from r1jax.models.heads import EXCLUDED, VOCAB, in_chunks
from r1jax.models.layers import product
from r1jax.typed import Array, Float, Int, typed


@typed
def divergence(
  hidden: Float[Array, 'p n embed'],
  unembed: Float[Array, 'rows embed'],
  taught: tuple,
  tables: tuple,
  teacher: Int[Array, ' p'],
  objective: str,
  vocab: int,
  chunk: int,
  mesh: jax.sharding.Mesh | None = None,
  temperature: float = 1.0,
) -> Float[Array, 'p n']:
  """The divergence of the policy from its teacher at each position, in chunks forward and backward.

  All logits are recomputed in the backward pass. Only `hidden` and `unembed` should have a gradient.

  Args:
    hidden: [P, N, embed], the policy's, P over the rows of the mesh. unembed: [rows, embed], its own.
    taught: K hidden states [P, N, embed of that teacher]; those of another teacher's prompts may be anything.
    tables: K unembeddings [rows, embed of that teacher].
    teacher: i32[P], the index of the teacher that scores a prompt's positions; where it is none of them, what is
      returned means nothing.
    objective: a key of losses.DIVERGENCES.
    vocab: the first rows that make up the vocabulary; the others fill up some model's table and are left out.
    chunk: positions at a time. mesh: the devices; one device where None.
    temperature: all logits are divided by it: the sampler's, as for `logprobs`.

  Returns:
    f32[P, N] (nats).
  """
  cast = lambda table: layout.constrain(table.astype(hidden.dtype), mesh, VOCAB, None)
  unembed, tables = cast(unembed), tuple(map(cast, tables))

  def logits_of(h, table):
    h = layout.constrain(h, mesh, layout.DATA, None, None)
    return layout.constrain(product('pnd,vd->pnv', h, table), mesh, layout.DATA, None, VOCAB)

  def normalised(logits):
    logits = jnp.where(jnp.arange(logits.shape[-1]) < vocab, logits / temperature, EXCLUDED)
    logits = logits - jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True))
    return logits - jnp.log(jnp.exp(logits).sum(axis=-1, keepdims=True))

  @jax.checkpoint
  def one(h, *of_teachers):
    own = logits_of(h, unembed)
    target = jnp.zeros_like(own)
    nothing = lambda *_: jnp.zeros_like(own)
    for k, (x, table) in enumerate(zip(of_teachers, tables, strict=True)):
      mine = teacher == k
      given = jax.lax.cond(mine.any(), logits_of, nothing, x, table)
      target = jnp.where(mine[:, None, None], given, target)
    return losses.DIVERGENCES[objective](normalised(own), normalised(target))

  return in_chunks(one, (hidden, *taught), chunk, mesh)
