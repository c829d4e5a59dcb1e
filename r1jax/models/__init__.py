"""Models as pure functions over declared parameters."""
from r1jax.models.attention import KV, empty_cache
from r1jax.models.config import PRESETS, ModelConfig
from r1jax.models.heads import score_at, scores, token_logprobs
from r1jax.models.moe import balance
from r1jax.models.transformer import forward, prefill, response_hidden, runs, specs, unembedding, unstack

__all__ = ['KV', 'PRESETS', 'ModelConfig', 'balance', 'empty_cache', 'forward', 'prefill', 'response_hidden', 'runs',
           'score_at', 'scores', 'specs', 'token_logprobs', 'unembedding', 'unstack']
