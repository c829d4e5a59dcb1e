"""Sampling from a model: prefill once per prompt, then decode the group together."""

from r1jax.keys import row_keys
from r1jax.sampling.engine import Engine, SamplingError
from r1jax.sampling.logits import SamplingParams
from r1jax.sampling.weights import Precision

__all__ = ['Engine', 'Precision', 'SamplingError', 'SamplingParams', 'row_keys']
