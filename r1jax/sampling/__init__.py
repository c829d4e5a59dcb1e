"""Sampling from a model: prefill once per prompt, then decode the group together."""

from r1jax.sampling.decode import Precision
from r1jax.sampling.engine import Engine, SamplingError, SamplingParams, row_keys

__all__ = ['Engine', 'Precision', 'SamplingError', 'SamplingParams', 'row_keys']
