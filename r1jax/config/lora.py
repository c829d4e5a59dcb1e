"""The settings of low-rank adapters, for RL and SFT."""

import dataclasses

from r1jax.config.conversion import require


@dataclasses.dataclass(frozen=True)
class LoRA:
  """Low-rank adapters (arXiv 2106.09685): the model stays as it is, and each of its matrices gets a small addition."""

  rank: int = 0  # columns of A and rows of B; 0: no adapters, the whole model is trained
  alpha: float = 32.0  # the product A B is multiplied by alpha / rank
  # Names of the matrices within a layer, as 'attention.q' or 'mlp.up'; empty: all but those of routers.
  targets: tuple[str, ...] = ()
  path: str = ''  # PEFT's directory of an adapter to begin with; '': a new one

  def __post_init__(self):
    require(
      self.rank or not (self.targets or self.path),
      f'lora.{"path" if self.path else "targets"} is set, but lora.rank is 0, which trains the whole model; set '
      'lora.rank.',
    )

  def check(self, optimizer, balance_rate, name):
    """Raises ConfigError for settings that adapters rule out. name: dotted key of `balance_rate`, for the message."""
    require(
      not self.rank or optimizer.name != 'muon',
      f"optimizer.name is 'muon', which would orthogonalise the factors of lora.rank {self.rank} one by one, not their "
      "product; use 'adam'.",
    )
    require(
      not self.rank or not balance_rate,
      f'{name} is {balance_rate}, but with lora.rank {self.rank} the biases of routers stay as they are; set it to 0.',
    )
