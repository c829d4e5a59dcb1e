"""Models as pure functions over declared parameters."""
from r1jax.models.config import PRESETS, ModelConfig
from r1jax.models.heads import token_logprobs
from r1jax.models.transformer import KV, forward, prefill, response_hidden, specs, unembedding, unstack

__all__ = ['KV', 'PRESETS', 'ModelConfig', 'forward', 'prefill', 'response_hidden', 'specs', 'token_logprobs',
           'unembedding', 'unstack']
