"""Rewards by a model. NEURAL: name -> function that takes the options of a config and returns a reward function.

Those of 'judge' and 'pairwise' also have a method `verdicts`, from items to dicts that explain the scores.
"""

from r1jax.rewards.neural import endpoint, judge, pairwise, preference, process

__all__ = ['NEURAL', 'endpoint', 'judge', 'pairwise', 'preference', 'process']

NEURAL = {'judge': judge.Judge, 'pairwise': pairwise.Pairwise, 'preference': preference.load, 'process': process.load}
