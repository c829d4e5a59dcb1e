"""Searches against plain implementations, on made-up trees."""

import itertools
import math
import random
import zlib

import numpy as np
import pytest

from r1jax import search
from r1jax.search import Prefix

DEPTH, BRANCHES = 4, 3


def extend(prefixes, count):
  """Samples with repetitions: a step is one of BRANCHES ids, drawn by a hash of problem, prefix and sample."""
  draw = lambda x, n: zlib.crc32(repr((x.problem, x.tokens, n)).encode()) % BRANCHES
  longer = lambda x, n: Prefix(x.problem, (*x.tokens, draw(x, n)), len(x.tokens) + 1 == DEPTH)
  return [[longer(x, n) for n in range(count)] for x in prefixes]


def value(prefixes):
  return [zlib.crc32(repr((x.tokens, x.problem)).encode()) % 1000 / 1000 for x in prefixes]


def plain_mcts(problem, simulations, extensions, exploration):
  """MCTS with dicts by prefix. Returns {tokens: visits}, {tokens: sum of values}."""
  children, visits, total = {}, {(): 0}, {(): 0.0}
  ended = lambda t: len(t) == DEPTH

  def closed(t):
    return ended(t) or (t in children and all(closed(c) for c in children[t]))

  for _ in range(simulations):
    if closed(()):
      break
    path = [()]
    while path[-1] in children:
      here, best, best_bound = path[-1], None, -math.inf
      for child in children[here]:
        if not closed(child):
          bound = total[child] / visits[child] + exploration * math.sqrt(math.log(visits[here]) / visits[child])
          if bound > best_bound:
            best, best_bound = child, bound
      path.append(best)
    leaf, children[path[-1]] = path[-1], []
    for sample in extend([Prefix(problem, leaf)], extensions)[0]:
      if sample.tokens in children[leaf]:
        continue
      children[leaf].append(sample.tokens)
      visits[sample.tokens], total[sample.tokens] = 0, 0.0
      for t in [*path, sample.tokens]:
        visits[t] += 1
        total[t] += value([sample])[0]
  return visits, total


def nodes(node):
  yield node
  for child in node.children:
    yield from nodes(child)


@pytest.mark.parametrize('exploration', [0.0, 0.3, 1.0])
@pytest.mark.parametrize('simulations', [1, 7, 30, 200])
def test_visits_and_values_equal_those_of_a_plain_search(simulations, exploration):
  trees = search.mcts(5, extend, value, simulations=simulations, extensions=4, exploration=exploration)
  for problem, tree in enumerate(trees):
    visits, total = plain_mcts(problem, simulations, 4, exploration)
    assert {n.prefix.tokens: n.visits for n in nodes(tree.root)} == visits
    assert {n.prefix.tokens: n.total for n in nodes(tree.root)} == pytest.approx(total)
    ends = {t for t in visits if len(t) == DEPTH}
    assert {prefix.tokens for _, prefix, _ in tree.found} == ends
    assert tree.tokens == [4 * (i + 1) for i in range(len(tree.tokens))]
    assert all(len(n.children) <= BRANCHES for n in nodes(tree.root))


PLANTED = (2, 0, 1, 2, 1, 0)


def planted_extend(prefixes, count):
  """The most likely step is always 0; each other one is also among the samples."""
  longer = lambda x, n: Prefix(x.problem, (*x.tokens, n % 3), len(x.tokens) + 1 == len(PLANTED))
  return [[longer(x, n) for n in range(count)] for x in prefixes]


def planted_value(prefixes):
  return [float(x.tokens == PLANTED[: len(x.tokens)]) for x in prefixes]


def test_with_perfect_values_the_planted_solution_is_found_where_greedy_fails():
  greedy = Prefix(0)
  while not greedy.ended:
    greedy = planted_extend([greedy], 1)[0][0]
  assert greedy.tokens != PLANTED
  for exploration in (0.0, 0.5):
    (tree,) = search.mcts(1, planted_extend, planted_value, simulations=60, extensions=3, exploration=exploration)
    assert max(tree.found, key=lambda found: found[2])[1].tokens == PLANTED
  (beams,), _ = search.beam_search(1, planted_extend, planted_value, width=2, samples=3)
  assert beams[0][0].tokens == PLANTED and len(beams) == 2


def test_beams_are_those_of_a_plain_search():
  width, samples = 3, 4
  beams, tokens = search.beam_search(6, extend, value, width=width, samples=samples)
  for problem in range(6):
    kept, count = [Prefix(problem)], 0
    for _ in range(DEPTH):
      count += samples * len(kept)
      pool = [x for parent in kept for x in dict.fromkeys(extend([parent], samples)[0])]
      kept = sorted(pool, key=lambda x: -value([x])[0])[:width]
    assert [x for x, _ in beams[problem]] == kept and tokens[problem] == count
    assert [v for _, v in beams[problem]] == value(kept)


def test_a_finished_beam_competes_and_may_lose():
  ends = {(0,): 0.5, (1, 0): 0.9}
  grown = lambda prefixes, count: [
    [Prefix(0, (*x.tokens, n), (*x.tokens, n) in ends or len(x.tokens) == 2) for n in range(count)] for x in prefixes
  ]
  judged = lambda prefixes: [ends.get(x.tokens, 0.6 if x.tokens == (1,) else 0.1) for x in prefixes]
  (beams,), _ = search.beam_search(1, grown, judged, width=1, samples=2)
  assert [x.tokens for x, _ in beams] == [(1, 0)]


def brute_force(n, total, choose):
  return np.mean([choose(subset) for subset in itertools.combinations(range(total), n)])


@pytest.mark.parametrize('n', [1, 2, 3, 6])
def test_best_of_n_is_the_mean_over_all_subsets(n):
  scores, correct = [0.9, 0.1, 0.5, 0.5, 0.7, 0.1], [False, True, True, False, True, True]

  def choose(subset):
    top = max(scores[i] for i in subset)
    return np.mean([correct[i] for i in subset if scores[i] == top])

  assert search.best_of(scores, correct, n) == pytest.approx(brute_force(n, 6, choose))


def test_weighted_votes_add_scores():
  scores, voted = [0.9, 0.3, 0.3, 0.2, 5.0], ['a', 'b', 'b', 'c', None]
  correct = [False, True, True, False, True]
  assert search.weighted_vote(scores, voted, correct, 5) == 0
  assert search.weighted_vote([0.5, *scores[1:]], voted, correct, 5) == 1
  assert search.weighted_vote([1.0], [None], [True], 1) == 0

  def choose(subset):
    sums = {}
    for i in subset:
      if voted[i]:
        sums[voted[i]] = sums.get(voted[i], 0) + scores[i]
    return bool(sums) and max(sums, key=lambda a: sums[a]) == 'b'

  for n in (1, 2, 3):
    drawn = search.weighted_vote(scores, voted, correct, n)
    assert drawn == search.weighted_vote(scores, voted, correct, n)
    assert abs(drawn - brute_force(n, 5, choose)) < 0.2  # 64 draws


def test_equal_scores_make_a_weighted_vote_a_plain_one():
  rng = random.Random(0)
  voted = [rng.choice('aabbc') for _ in range(9)]
  correct = [v == 'b' for v in voted]
  top = max('abc', key=lambda a: (voted.count(a), -voted.index(a)))
  assert search.weighted_vote([0.5] * 9, voted, correct, 9) == (top == 'b')
