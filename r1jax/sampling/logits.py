"""From logits to a token: the sampling distribution, and one draw from it per row."""

import dataclasses

import jax
import jax.numpy as jnp

from r1jax.typed import Array, Float, Int, Key, Scalar, typed

NEVER = -1e30


@dataclasses.dataclass(frozen=True)
class Restriction:
  """Which tokens the sampling distribution leaves out; as it stands, none."""

  top_p: float = 1.0
  top_k: int = 0
  min_p: float = 0.0


@typed
def restrict(logits: Float[Array, 'n vocab'], temperature: Scalar, cfg: Restriction) -> Float[Array, 'n vocab']:
  """Log-probabilities of the sampling distribution: temperature, then top-k, top-p, min-p.

  Args:
    logits: f32[N, vocab].
    temperature: f32[], not static, so that an evaluation at another one compiles nothing new. 0 is greedy.
    cfg: Restriction.

  Returns:
    f32[N, vocab], normalised; excluded tokens are at or below -1e30.
  """
  # Greedy is the limit of low temperatures. A finite one keeps ties and the arithmetic finite; at 1e-6 a lead of
  # 1e-4 in the logits already leaves the others nothing.
  logp = jax.nn.log_softmax(logits / jnp.maximum(temperature, 1e-6))
  keep = jnp.ones(logp.shape, bool)
  if cfg.top_k and cfg.top_k < logp.shape[-1]:
    keep &= logp >= jax.lax.top_k(logp, cfg.top_k)[0][:, -1:]
  if cfg.top_p < 1:
    # The smallest set whose mass reaches top_p: a token stays while the mass before it is below top_p.
    ordered = jnp.sort(logp, axis=-1, descending=True)
    before = jnp.cumsum(jnp.exp(ordered), axis=-1) - jnp.exp(ordered)
    least = jnp.min(jnp.where(before < cfg.top_p, ordered, jnp.inf), axis=-1, keepdims=True)
    keep &= logp >= least
  if cfg.min_p:
    keep &= logp >= logp.max(axis=-1, keepdims=True) + jnp.log(cfg.min_p)
  if cfg != Restriction():
    logp = jax.nn.log_softmax(jnp.where(keep, logp, NEVER))
  return logp


@typed
def draw(keys: Key[jax.Array, ' n'], logp: Float[Array, 'n vocab']) -> Int[Array, ' n']:
  """One token per row, by inverting the cumulative distribution at one uniform number per row.

  One random number per row instead of one per vocabulary entry, and none shared between rows: a row's
  token depends on its key and its own distribution alone.

  Args:
    keys: a PRNG key per row, [N].
    logp: f32[N, vocab], normalised.

  Returns:
    i32[N].
  """
  n, vocab = logp.shape
  u = jax.vmap(lambda k: jax.random.uniform(k, ()))(keys)
  # Two levels, blocks and then tokens of one block: cheaper than one long cumulative sum, and more exact.
  width = max(1, int(vocab**0.5))
  blocks = -(-vocab // width)
  p = jnp.pad(jnp.exp(logp), ((0, 0), (0, blocks * width - vocab))).reshape(n, blocks, width)
  mass = p.sum(axis=2)
  u, block = _invert(u * mass.sum(axis=1), mass)
  inside = jnp.take_along_axis(p, block[:, None, None], axis=1)[:, 0]
  _, token = _invert(jnp.minimum(u, inside.sum(axis=1)), inside)
  return block * width + token


def _invert(u, mass):
  """Index whose interval of the cumulative mass holds u, never one of mass 0; and u counted from its start."""
  upto = jnp.cumsum(mass, axis=1)
  index = (upto <= u[:, None]).sum(axis=1)
  last = mass.shape[1] - 1 - jnp.argmax((mass > 0)[:, ::-1], axis=1)
  index = jnp.minimum(index, last).astype(jnp.int32)
  start = jnp.take_along_axis(upto - mass, index[:, None], axis=1)[:, 0]
  return jnp.maximum(u - start, 0), index
