"""Sampling from a model: prefill once per prompt, then decode the group together."""

from r1jax.sampling.engine import Engine, SamplingParams, row_keys

__all__ = ['Engine', 'SamplingParams', 'row_keys']
