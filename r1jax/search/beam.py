"""Beam search over steps, scored by a value or process model."""

from r1jax.search.prefix import Prefix, grow


def beam_search(problems, extend, value, *, width, samples):
  """Searches all problems at once.

  In each round every unfinished beam is extended by `samples` steps; of these and of the finished beams the `width`
  with the highest values are kept, earlier ones first where values are equal (Snell et al., arXiv 2408.03314, section
  5.2, where finished beams compete too). A problem is done when all of its beams are finished.

  Args:
    problems: how many.
    extend, value: `prefix.Extend`, `prefix.Value`.
    width: beams to keep. samples: of each beam and round.

  Returns:
    for each problem its finished beams as a list of (Prefix, value), best first; and the tokens sampled for it.
  """
  beams = [[(Prefix(i), 0.0)] for i in range(problems)]
  tokens = [0] * problems
  while live := [x for kept in beams for x, _ in kept if not x.ended]:
    grown, counts = grow(live, samples, extend, value)
    candidates = [[pair for pair in kept if pair[0].ended] for kept in beams]
    for parent, children, count in zip(live, grown, counts, strict=True):
      candidates[parent.problem] += children
      tokens[parent.problem] += count
    beams = [sorted(pairs, key=lambda pair: -pair[1])[:width] for pairs in candidates]
  return beams, tokens
