"""Rewards by a model. NEURAL: name -> function that takes the options of a config and returns a reward function."""

from r1jax.rewards.neural import endpoint, judge, preference, process

__all__ = ['NEURAL', 'endpoint', 'judge', 'preference', 'process']

NEURAL = {'judge': judge.Judge, 'preference': preference.load, 'process': process.load}
