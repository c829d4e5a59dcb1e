"""Prompts -> responses -> rewards -> a batch to learn from."""

from r1jax.rollout.dynamic_sampling import DynamicSampling, right_responses
from r1jax.rollout.prompts import encode_prompt
from r1jax.rollout.sampler import Rollout, Sampler, Scores, assign_advantage

__all__ = ['DynamicSampling', 'Rollout', 'Sampler', 'Scores', 'assign_advantage', 'encode_prompt', 'right_responses']
