"""Prompts -> responses -> rewards -> a batch to learn from."""

from r1jax.rollout.advantage import assign_advantage
from r1jax.rollout.dynamic_sampling import DynamicSampling
from r1jax.rollout.prompts import encode_prompt
from r1jax.rollout.sampler import Rollout, Sampler, Scores

__all__ = ['DynamicSampling', 'Rollout', 'Sampler', 'Scores', 'assign_advantage', 'encode_prompt']
