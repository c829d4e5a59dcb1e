"""Search at inference: choices among whole samples (`sampled`), and over their steps (`beam`, `tree`).

The searches see a policy as a function `extend` from prefixes to what may follow, and a judge as a function `value`;
`steps` makes both from a model.
"""

from r1jax.search.beam import beam_search
from r1jax.search.prefix import Prefix
from r1jax.search.sampled import best_of, weighted_vote
from r1jax.search.tree import Tree, mcts

__all__ = ['Prefix', 'Tree', 'beam_search', 'best_of', 'mcts', 'weighted_vote']
