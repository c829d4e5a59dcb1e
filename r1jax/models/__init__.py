"""Models as pure functions over declared parameters."""

from r1jax.models.attention import KV, empty_cache, quantize_cache
from r1jax.models.causal import IMPLEMENTATIONS, Attention
from r1jax.models.config import PRESETS, ModelConfig
from r1jax.models.divergence import divergence
from r1jax.models.heads import likelihood, logprobs, score_at, scores
from r1jax.models.moe import balance
from r1jax.models.options import ForwardOptions
from r1jax.models.remat import POLICIES
from r1jax.models.scored import marked_scores
from r1jax.models.transformer import (
  Cached,
  Output,
  forward,
  layer_groups,
  predict_ahead,
  prefill,
  response_hidden,
  specs,
  unembedding,
  unstack,
)

__all__ = [
  'IMPLEMENTATIONS',
  'KV',
  'POLICIES',
  'PRESETS',
  'Attention',
  'Cached',
  'ForwardOptions',
  'ModelConfig',
  'Output',
  'balance',
  'divergence',
  'empty_cache',
  'forward',
  'layer_groups',
  'likelihood',
  'logprobs',
  'marked_scores',
  'predict_ahead',
  'prefill',
  'quantize_cache',
  'response_hidden',
  'score_at',
  'scores',
  'specs',
  'unembedding',
  'unstack',
]
