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


@dataclasses.dataclass(frozen=True)
class SamplingParams:
  """Which distribution to sample from; temperature 0 is greedy.

  thresholds: whether the samples come with what a trainer needs to leave out the same tokens, see `threshold`.
  experts: whether they come with the experts that a mixture sent each token to, for routing replay.
  """

  temperature: float = 1.0
  top_p: float = 1.0
  top_k: int = 0
  min_p: float = 0.0
  thresholds: bool = False
  experts: bool = False


@typed
def restrict(logits: Float[Array, 'n vocab'], temperature: Scalar, cfg: Restriction) -> Float[Array, 'n vocab']:
  """Log-weights of the sampling distribution: temperature, then top-k, top-p, min-p.

  A token is as likely as the exponential of its log-weight; they are not normalised.

  Args:
    logits: f32[N, vocab].
    temperature: f32[], not static, so that an evaluation at another one compiles nothing new. 0 is greedy.
    cfg: Restriction. Tokens with equal logits are all kept or all excluded.

  Returns:
    f32[N, vocab], the largest of each row 0; excluded tokens are -1e30.
  """
  # Greedy is the limit of low temperatures. A finite one keeps ties and the arithmetic finite; at 1e-6 a lead of
  # 1e-4 in the logits already leaves the others nothing.
  scores = (logits - logits.max(axis=-1, keepdims=True)) / jnp.maximum(temperature, 1e-6)
  # The bits of floats that are not negative, read as integers, have the order of the floats.
  distance = jax.lax.bitcast_convert_type(jnp.abs(scores), jnp.int32)
  keep = jnp.ones(scores.shape, bool)
  if cfg.top_k and cfg.top_k < scores.shape[-1]:
    keep &= distance <= _reach(distance, jnp.ones_like(scores), jnp.full(len(scores), cfg.top_k, jnp.float32))
  if cfg.top_p < 1:
    weights = jnp.exp(scores)
    keep &= distance <= _reach(distance, weights, cfg.top_p * weights.sum(axis=-1))
  if cfg.min_p:
    keep &= scores >= jnp.log(cfg.min_p)
  return jnp.where(keep, scores, NEVER) if cfg != Restriction() else scores


@typed
def threshold(
  logits: Float[Array, 'n vocab'], temperature: Scalar, scores: Float[Array, 'n vocab']
) -> Float[Array, ' n']:
  """The log-probability ratio to the likeliest token that separates kept tokens from excluded ones.

  It lies halfway between the two, so that a trainer, whose logits differ by rounding, keeps the same tokens.

  Args:
    logits, temperature: of `restrict`. scores: what it returned.

  Returns:
    f32[N], not positive; -1e30 where nothing is excluded.
  """
  every = (logits - logits.max(axis=-1, keepdims=True)) / jnp.maximum(temperature, 1e-6)
  kept = scores > NEVER
  lowest, highest = (jnp.where(kept, every, 0).min(axis=-1), jnp.where(kept, NEVER, every).max(axis=-1))
  return jnp.where(kept.all(axis=-1), NEVER, (lowest + highest) / 2)


def _reach(distance, weights, limit):
  """The largest distance, for each row, at which everything nearer weighs less than `limit`.

  A token belongs to the smallest set of likely tokens that weighs `limit` if all likelier ones together weigh less.
  The distance is found bit by bit, as sorting a vocabulary takes far longer than 31 sums over it.

  Args:
    distance: i32[N, vocab], not negative. weights: f32[N, vocab]. limit: f32[N].

  Returns:
    i32[N, 1].
  """

  def try_bit(i, reach):
    further = reach + jnp.left_shift(1, 30 - i)
    nearer = jnp.where(distance < further, weights, 0).sum(axis=-1, keepdims=True)
    return jnp.where(nearer < limit[:, None], further, reach)

  return jax.lax.fori_loop(0, 31, try_bit, jnp.zeros((len(distance), 1), jnp.int32))


@typed
def draw(keys: Key[jax.Array, ' n'], scores: Float[Array, 'n vocab']) -> tuple[Int[Array, ' n'], Float[Array, ' n']]:
  """One token per row, by inverting the cumulative distribution at one uniform number per row.

  One random number per row instead of one per vocabulary entry, and none shared between rows: a row's
  token depends on its key and its own distribution alone.

  Args:
    keys: a PRNG key per row, [N].
    scores: f32[N, vocab], log-weights as `restrict` gives them.

  Returns:
    token i32[N], and its log-probability f32[N].
  """
  n, vocab = scores.shape
  u = jax.vmap(lambda k: jax.random.uniform(k, ()))(keys)
  # Two levels, blocks and then tokens of one block: cheaper than one long cumulative sum, and more exact.
  width = max(1, int(vocab**0.5))
  blocks = -(-vocab // width)
  weights = jnp.pad(jnp.exp(scores), ((0, 0), (0, blocks * width - vocab))).reshape(n, blocks, width)
  mass = weights.sum(axis=2)
  total = mass.sum(axis=1)
  u, block = _invert(u * total, mass)
  inside = jnp.take_along_axis(weights, block[:, None, None], axis=1)[:, 0]
  _, within = _invert(jnp.minimum(u, inside.sum(axis=1)), inside)
  token = block * width + within
  return token, jnp.take_along_axis(scores, token[:, None], axis=1)[:, 0] - jnp.log(total)


def _invert(u, mass):
  """Index whose interval of the cumulative mass holds u, never one of mass 0; and u counted from its start."""
  upto = jnp.cumsum(mass, axis=1)
  index = (upto <= u[:, None]).sum(axis=1)
  last = mass.shape[1] - 1 - jnp.argmax((mass > 0)[:, ::-1], axis=1)
  index = jnp.minimum(index, last).astype(jnp.int32)
  start = jnp.take_along_axis(upto - mass, index[:, None], axis=1)[:, 0]
  return jnp.maximum(u - start, 0), index
