"""The beginning of a response, which a search extends by one step at a time."""

from collections.abc import Callable
import dataclasses


@dataclasses.dataclass(frozen=True)
class Prefix:
  """The tokens of a response so far.

  Attributes:
    problem: number of the problem.
    tokens: ids, exactly as sampled.
    ended: whether the response is complete: its last token ends it, or the limit is reached.
  """

  problem: int
  tokens: tuple[int, ...] = ()
  ended: bool = False


# (prefixes, count) -> for each prefix a list of `count` samples of it with one more step, which depend on it alone.
Extend = Callable[[list[Prefix], int], list[list[Prefix]]]
Value = Callable[[list[Prefix]], list[float]]  # how likely each is to become a right response, in [0, 1]


def grow(prefixes, count, extend: Extend, value: Value):
  """Extends prefixes and judges what comes out, all in one batch.

  Returns:
    for each prefix its different samples as a list of (Prefix, value) in the order of their first appearance, and for
    each prefix the number of tokens that were sampled.
  """
  samples = extend(prefixes, count)
  tokens = [
    sum(len(x.tokens) - len(prefix.tokens) for x in group) for prefix, group in zip(prefixes, samples, strict=True)
  ]
  different = [list(dict.fromkeys(group)) for group in samples]
  values = iter(value([x for group in different for x in group]))
  return [[(x, float(next(values))) for x in group] for group in different], tokens
