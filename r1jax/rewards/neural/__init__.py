"""Rewards by a model. NEURAL: name -> function from the options of a config to a function from items to scores."""

from r1jax.rewards.neural import endpoint, judge, preference, process

__all__ = ['NEURAL', 'endpoint', 'judge', 'preference', 'process']

NEURAL = {'judge': judge.load, 'preference': preference.load, 'process': process.load}
