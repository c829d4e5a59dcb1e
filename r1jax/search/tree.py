"""Monte Carlo tree search over steps, as in the paper's unsuccessful attempts (v1, section 4.2): a model of values
guides the search, and a limit on the extensions of a node keeps it from drowning in the breadth of language.

The trees of all problems advance together, so that one call of the sampler extends a leaf of each. A tree is plain
Python: libraries for search on a device, such as mctx, have a fixed set of actions, while here each action is a text
that the sampler has to write first.
"""

import math

from r1jax.search.prefix import Prefix, grow


class Node:
  """A prefix in a tree.

  Attributes:
    prefix: Prefix. parent: Node, or None for the root.
    children: list of Nodes; empty until the node is extended.
    visits: how many prefixes at or below the node have been judged. total: the sum of their values.
    closed: whether nothing below is left to extend.
  """

  def __init__(self, prefix, parent=None):
    self.prefix, self.parent, self.children = prefix, parent, []
    self.visits, self.total, self.closed = 0, 0.0, prefix.ended

  def select(self, exploration):
    """The leaf to extend: from here down, the open child with the highest upper confidence bound, UCT.

    total / visits + exploration * sqrt(ln(visits of the parent) / visits) (Kocsis and Szepesvari 2006); the first one
    where bounds are equal.
    """
    node = self
    while node.children:
      log = math.log(node.visits)
      bound = lambda child, log=log: child.total / child.visits + exploration * math.sqrt(log / child.visits)
      node = max((child for child in node.children if not child.closed), key=bound)
    return node

  def extend(self, judged):
    """Adds children, [(Prefix, value)], and backs their values up to the root."""
    for prefix, value in judged:
      child = Node(prefix, self)
      self.children.append(child)
      node = child
      while node:
        node.visits, node.total, node = node.visits + 1, node.total + value, node.parent
    node = self
    while node and all(child.closed for child in node.children):
      node.closed, node = True, node.parent


class Tree:
  """The tree of a problem.

  Attributes:
    root: Node.
    found: [(number of the simulation, Prefix, value)] of the complete responses, in the order in which they were found.
    tokens: [tokens sampled so far] after each simulation.
  """

  def __init__(self, problem):
    self.root, self.found, self.tokens = Node(Prefix(problem)), [], []


def mcts(problems, extend, value, *, simulations, extensions, exploration):
  """Searches all problems at once.

  A simulation selects a leaf, samples `extensions` steps from it, judges the different ones, and backs their values up.
  A tree in which everything is complete stops.

  Args:
    problems: how many.
    extend, value: `prefix.Extend`, `prefix.Value`.
    simulations: of each tree, at most. extensions: of a node. exploration: of `Node.select`.

  Returns:
    a Tree for each problem.
  """
  trees = [Tree(i) for i in range(problems)]
  for number in range(simulations):
    open_trees = [tree for tree in trees if not tree.root.closed]
    if not open_trees:
      break
    leaves = [tree.root.select(exploration) for tree in open_trees]
    grown, counts = grow([leaf.prefix for leaf in leaves], extensions, extend, value)
    for tree, leaf, judged, count in zip(open_trees, leaves, grown, counts, strict=True):
      leaf.extend(judged)
      tree.found += [(number, prefix, x) for prefix, x in judged if prefix.ended]
      tree.tokens.append(count + (tree.tokens[-1] if tree.tokens else 0))
  return trees
