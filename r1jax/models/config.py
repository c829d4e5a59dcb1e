"""Shapes of a decoder, and the published ones as presets."""

import dataclasses
from typing import Any

from r1jax.config import require


@dataclasses.dataclass(frozen=True)
class RopeScaling:
  """How rotary frequencies are stretched beyond the context a model was first trained on."""

  kind: str  # 'linear', 'llama3' or 'yarn'
  factor: float
  original_context: int = 0  # tokens; llama3 and yarn
  low_freq_factor: float = 1.0  # llama3
  high_freq_factor: float = 4.0  # llama3
  beta_fast: float = 32.0  # yarn, as all below: rotations within the original context
  beta_slow: float = 1.0
  truncate: bool = True  # the range between the two is widened to whole dimensions
  attention_factor: float = 0.0  # of cosines and sines; 0: from mscale and mscale_all_dim
  attn_factor: float = 1.0  # times this
  mscale: float = 0.0
  mscale_all_dim: float = 0.0  # DeepSeek: its square scales the scores too

  def __post_init__(self):
    require(self.kind in ('linear', 'llama3', 'yarn'), f'rope scaling {self.kind!r}; known: linear, llama3, yarn.')
    require(self.factor >= 1, f'rope scaling by {self.factor}; it must be at least 1.')
    require(self.kind == 'linear' or self.original_context > 0, f'{self.kind} needs the original context.')
    require(
      self.kind != 'llama3' or self.low_freq_factor < self.high_freq_factor,
      f'low_freq_factor {self.low_freq_factor} must be below high_freq_factor {self.high_freq_factor}.',
    )
    require(
      self.kind != 'yarn' or self.beta_fast > self.beta_slow > 0,
      f'beta_fast {self.beta_fast} must be above beta_slow {self.beta_slow}, and both above 0.',
    )
    require(self.attn_factor > 0, f'attn_factor {self.attn_factor} must be above 0.')


@dataclasses.dataclass(frozen=True)
class MLA:
  """Multi-head latent attention (DeepSeek-V2, section 2.1): keys and values of all heads from one latent vector."""

  q_rank: int  # of the queries' latent vector; 0: none
  kv_rank: int
  nope_dim: int  # of a head's query and key, without position
  rope_dim: int  # the same, rotated; the key's is shared by all heads
  v_dim: int


@dataclasses.dataclass(frozen=True)
class MoE:
  """A mixture of experts in the place of the MLP."""

  experts: int
  top_k: int
  mlp: int  # of one expert
  shared: int = 0  # experts that every token visits
  first_dense: int = 0  # layers before the first mixture
  score: str = 'softmax'  # or 'sigmoid': DeepSeek-V3, with a correction bias that only chooses
  groups: int = 1  # experts are chosen among the best top_groups of these
  top_groups: int = 1
  normalise: bool = True  # the chosen experts' weights sum to 1,
  scale: float = 1.0  # times this

  def __post_init__(self):
    require(self.score in ('softmax', 'sigmoid'), f'moe.score {self.score!r}; known: softmax, sigmoid.')
    require(self.experts % self.groups == 0, f'{self.experts} experts do not divide into {self.groups} groups.')
    require(self.top_groups <= self.groups, f'the best {self.top_groups} of {self.groups} groups: too many.')
    require(
      self.top_k <= self.experts // self.groups * self.top_groups,
      f'{self.top_k} experts a token from {self.top_groups} groups of {self.experts // self.groups}: too many.',
    )

  @property
  def index_dtype(self):
    """The smallest dtype that holds an expert's number."""
    return 'uint8' if self.experts <= 256 else 'uint16'


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  vocab: int
  embed: int
  layers: int
  heads: int
  kv_heads: int
  head_dim: int  # with MLA: of queries and keys, nope_dim + rope_dim
  mlp: int
  context: int  # tokens the model was made for
  family: str = 'llama'  # a key of r1jax.checkpoint.families.FAMILIES: how files name its tensors
  rope_theta: float = 10_000.0
  rope: RopeScaling | None = None
  norm_eps: float = 1e-6
  qkv_bias: bool = False  # Qwen2.5
  qk_norm: bool = False  # Qwen3
  tied: bool = False  # the unembedding is the embedding, transposed
  mla: MLA | None = None  # DeepSeek-V3
  moe: MoE | None = None  # DeepSeek-V3, Qwen3-MoE
  mtp: int = 0  # layers for multi-token prediction behind the others, where they are loaded (DeepSeek-V3)
  head: str = 'tokens'  # or 'score': one number a position, in the unembedding's place (see heads.py)

  def __post_init__(self):
    require(self.heads % self.kv_heads == 0, f'{self.heads} heads do not divide over {self.kv_heads} KV heads.')
    require(
      self.rope_dim > 0 and self.rope_dim % 2 == 0,
      f'{self.rope_dim} rotated dimensions a head are none or odd; RoPE rotates pairs.',
    )
    require(self.rope_theta > 1, f'rope_theta {self.rope_theta} must be above 1.')
    require(
      not self.moe or self.moe.first_dense <= self.layers,
      f'the first {self.moe and self.moe.first_dense} of {self.layers} layers are dense: too many.',
    )
    require(self.head in ('tokens', 'score'), f'head {self.head!r}; known: tokens, score.')

  @property
  def rope_dim(self):
    return self.mla.rope_dim if self.mla else self.head_dim

  @property
  def dense_layers(self):
    """How many layers, the first ones, have a plain MLP."""
    return self.moe.first_dense if self.moe else self.layers

  @property
  def routes(self):
    """(MoE layers, top_k): the experts that one token is sent to. For a model with experts."""
    assert self.moe is not None
    return self.layers - self.dense_layers, self.moe.top_k


def _llama3(*, vocab=128_256, head_dim=128, context=131_072, factor=8.0, **shape):
  rope = RopeScaling('llama3', factor, 8192, low_freq_factor=1.0, high_freq_factor=4.0)
  return ModelConfig(
    vocab=vocab, head_dim=head_dim, context=context, rope_theta=500_000.0, rope=rope, norm_eps=1e-5, **shape
  )


def _qwen2_5(*, vocab=152_064, head_dim=128, context=32_768, rope_theta=1_000_000.0, **shape):
  return ModelConfig(
    vocab=vocab, head_dim=head_dim, context=context, family='qwen2', rope_theta=rope_theta, qkv_bias=True, **shape
  )


def _qwen3(*, family='qwen3', **shape):
  return ModelConfig(
    vocab=151_936, head_dim=128, context=40_960, family=family, rope_theta=1_000_000.0, qk_norm=True, **shape
  )


_LLAMA_8B = dict(embed=4096, layers=32, heads=32, kv_heads=8, mlp=14_336)
_LLAMA_70B = dict(embed=8192, layers=80, heads=64, kv_heads=8, mlp=28_672)
_QWEN_0_5B = dict(vocab=151_936, embed=896, layers=24, heads=14, kv_heads=2, head_dim=64, mlp=4864)
_QWEN_1_5B = dict(vocab=151_936, embed=1536, layers=28, heads=12, kv_heads=2, mlp=8960)
_QWEN_3B = dict(vocab=151_936, embed=2048, layers=36, heads=16, kv_heads=2, mlp=11_008)
_QWEN_7B = dict(embed=3584, layers=28, heads=28, kv_heads=4, mlp=18_944)
_QWEN_14B: dict[str, Any] = dict(embed=5120, layers=48, heads=40, kv_heads=8, mlp=13_824, norm_eps=1e-5)
_QWEN_32B: dict[str, Any] = dict(embed=5120, layers=64, heads=40, kv_heads=8, mlp=27_648, norm_eps=1e-5)
_QWEN_72B: dict[str, Any] = dict(embed=8192, layers=80, heads=64, kv_heads=8, mlp=29_568, norm_eps=1e-5)
_MATH: dict[str, Any] = dict(context=4096, rope_theta=10_000.0)  # Qwen2.5-Math
_R1 = dict(context=131_072)  # the distilled students

PRESETS = {
  'llama3_1_8b': _llama3(**_LLAMA_8B),
  'llama3_3_70b': _llama3(**_LLAMA_70B),
  'smollm2_135m': ModelConfig(
    vocab=49_152,
    embed=576,
    layers=30,
    heads=9,
    kv_heads=3,
    head_dim=64,
    mlp=1536,
    context=8192,
    rope_theta=100_000.0,
    norm_eps=1e-5,
    tied=True,
  ),
  'qwen2_5_0_5b': _qwen2_5(**_QWEN_0_5B, tied=True),
  'qwen2_5_1_5b': _qwen2_5(**_QWEN_1_5B, tied=True, context=131_072),
  'qwen2_5_3b': _qwen2_5(**_QWEN_3B, tied=True),
  'qwen2_5_7b': _qwen2_5(**_QWEN_7B, context=131_072),
  'qwen2_5_14b': _qwen2_5(**_QWEN_14B, context=131_072),
  'qwen2_5_32b': _qwen2_5(**_QWEN_32B, context=131_072),
  'qwen2_5_72b': _qwen2_5(**_QWEN_72B, context=131_072),
  'qwen2_5_math_1_5b': _qwen2_5(**_QWEN_1_5B, **_MATH, tied=True),
  'qwen2_5_math_7b': _qwen2_5(**_QWEN_7B, **_MATH),
  'qwen2_5_math_72b': _qwen2_5(**_QWEN_72B, **_MATH),
  'qwen3_1_7b': _qwen3(embed=2048, layers=28, heads=16, kv_heads=8, mlp=6144, tied=True),
  'qwen3_8b': _qwen3(embed=4096, layers=36, heads=32, kv_heads=8, mlp=12_288),
  'qwen3_30b_a3b': _qwen3(
    family='qwen3_moe', embed=2048, layers=48, heads=32, kv_heads=4, mlp=6144, moe=MoE(experts=128, top_k=8, mlp=768)
  ),
  'qwen3_235b_a22b': _qwen3(
    family='qwen3_moe', embed=4096, layers=94, heads=64, kv_heads=4, mlp=12_288, moe=MoE(experts=128, top_k=8, mlp=1536)
  ),
  # DeepSeek-V3, V3-Base, R1 and R1-Zero; with mtp=1 the layer for multi-token prediction too.
  'deepseek_v3': ModelConfig(
    vocab=129_280,
    embed=7168,
    layers=61,
    heads=128,
    kv_heads=128,
    head_dim=192,
    mlp=18_432,
    context=163_840,
    family='deepseek_v3',
    rope=RopeScaling('yarn', 40.0, 4096, mscale=1.0, mscale_all_dim=1.0),
    mla=MLA(q_rank=1536, kv_rank=512, nope_dim=128, rope_dim=64, v_dim=128),
    moe=MoE(
      experts=256, top_k=8, mlp=2048, shared=1, first_dense=3, score='sigmoid', groups=8, top_groups=4, scale=2.5
    ),
  ),
  # The six students of DeepSeek-R1, with the chat template 'r1' of r1jax.tokenizers.
  'r1_distill_qwen_1_5b': _qwen2_5(**_QWEN_1_5B, **_R1, rope_theta=10_000.0),
  'r1_distill_qwen_7b': _qwen2_5(**_QWEN_7B, **_R1, rope_theta=10_000.0),
  'r1_distill_llama_8b': _llama3(**_LLAMA_8B),
  'r1_distill_qwen_14b': _qwen2_5(**_QWEN_14B, **_R1),
  'r1_distill_qwen_32b': _qwen2_5(**_QWEN_32B, **_R1),
  'r1_distill_llama_70b': _llama3(**_LLAMA_70B),
  # The benchmark's shape, and the base models of the two toy worlds (vocabulary set by their tokenizer).
  'bench': ModelConfig(
    vocab=8192,
    embed=512,
    layers=8,
    heads=8,
    kv_heads=2,
    head_dim=64,
    mlp=1536,
    context=4096,
    family='qwen3',
    qk_norm=True,
  ),
  'toy': ModelConfig(vocab=512, embed=64, layers=3, heads=4, kv_heads=4, head_dim=16, mlp=176, context=4096),
  # The student in the recipe's toy world: a third of that or less.
  'toy_student': ModelConfig(
    vocab=512, embed=32, layers=3, heads=2, kv_heads=2, head_dim=16, mlp=88, context=4096, tied=True
  ),
  # DeepSeek-V3 in small, in the place of 'toy': latent attention, a dense layer and two mixtures.
  'toy_deepseek': ModelConfig(
    vocab=512,
    embed=64,
    layers=3,
    heads=4,
    kv_heads=4,
    head_dim=24,
    mlp=176,
    context=4096,
    family='deepseek_v3',
    mla=MLA(q_rank=48, kv_rank=32, nope_dim=16, rope_dim=8, v_dim=16),
    moe=MoE(experts=8, top_k=2, mlp=64, shared=1, first_dense=1, score='sigmoid', groups=4, top_groups=2, scale=2.5),
  ),
}
