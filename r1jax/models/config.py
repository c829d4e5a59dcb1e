"""Shapes of a dense decoder, and the published ones as presets."""
import dataclasses

from r1jax.config import convert, require


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  vocab: int
  embed: int
  layers: int
  heads: int
  kv_heads: int
  head_dim: int
  mlp: int
  context: int                    # tokens the model was made for
  rope_theta: float = 10_000.0
  norm_eps: float = 1e-6
  qkv_bias: bool = False          # Qwen2.5
  qk_norm: bool = False           # Qwen3
  tied: bool = False              # the unembedding is the embedding, transposed

  def __post_init__(self):
    require(self.heads % self.kv_heads == 0, f'{self.heads} heads do not divide over {self.kv_heads} KV heads.')
    require(self.head_dim % 2 == 0, f'head_dim {self.head_dim} is odd; RoPE rotates pairs.')


def from_dict(fields):
  """ModelConfig from a model directory's config.json; raises ConfigError."""
  return convert(fields, ModelConfig, 'model config: ')


def _llama3(**shape):
  return ModelConfig(vocab=128_256, head_dim=128, context=8192, rope_theta=500_000.0, norm_eps=1e-5, **shape)


def _qwen2_5(**shape):
  return ModelConfig(context=32_768, rope_theta=1_000_000.0, qkv_bias=True, **shape)


def _qwen3(**shape):
  return ModelConfig(vocab=151_936, head_dim=128, context=40_960, rope_theta=1_000_000.0, qk_norm=True, **shape)


PRESETS = {
    'llama3_8b': _llama3(embed=4096, layers=32, heads=32, kv_heads=8, mlp=14_336),
    'llama3_70b': _llama3(embed=8192, layers=80, heads=64, kv_heads=8, mlp=28_672),
    'qwen2_5_1_5b': _qwen2_5(vocab=151_936, embed=1536, layers=28, heads=12, kv_heads=2, head_dim=128, mlp=8960,
                             tied=True),
    'qwen2_5_7b': _qwen2_5(vocab=152_064, embed=3584, layers=28, heads=28, kv_heads=4, head_dim=128, mlp=18_944),
    'qwen2_5_32b': _qwen2_5(vocab=152_064, embed=5120, layers=64, heads=40, kv_heads=8, head_dim=128, mlp=27_648),
    'qwen3_1_7b': _qwen3(embed=2048, layers=28, heads=16, kv_heads=8, mlp=6144, tied=True),
    'qwen3_8b': _qwen3(embed=4096, layers=36, heads=32, kv_heads=8, mlp=12_288),
    # The benchmark's shape, and the base models of the two toy worlds (vocabulary set by their tokenizer).
    'bench': ModelConfig(vocab=8192, embed=512, layers=8, heads=8, kv_heads=2, head_dim=64, mlp=1536, context=4096,
                         qk_norm=True),
    'toy': ModelConfig(vocab=512, embed=64, layers=3, heads=4, kv_heads=4, head_dim=16, mlp=176, context=4096),
}
