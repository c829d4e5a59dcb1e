"""Interfaces of what is passed around. Anything with these methods will do.

`sampling.Engine` and `recipes.policy.Teacher` are engines, `tokenizers.Tokenizer` is a tokenizer,
`rewards.workers.pool.Grader` a grader and `recipes.policy.Policy` a policy.
"""

from collections.abc import Callable, Sequence
import concurrent.futures
from typing import Any, Protocol

import jax

from r1jax.batch import Pending, RolloutBatch
from r1jax.typed import Key

Item = dict[str, Any]  # what a reward reads: see r1jax.rewards
Reward = Callable[..., Sequence[float]]  # (items, **options) -> a score per item


class Engine(Protocol):
  """Samples responses to prompts.

  Attributes:
    shards: the number of prompts of a call must be a multiple of it, unless any_batch.
    any_batch: whether a call may have any number of prompts, without compiling another program for it.
    watch: called now and then with the fraction of a call that has been sampled; or None.
  """

  shards: int
  any_batch: bool
  watch: Any

  def prepare_params(self, params: Any) -> Any:
    """The engine's own copy of a policy's parameters, on its own devices; such a copy is returned as it is."""
    ...

  def sample(
    self, params: Any, prompts: list | tuple, keys: Key[jax.Array, 'p g'], sampling: Any, version: int = 0, /
  ) -> RolloutBatch:
    """Samples one response per key for each of P prompts. version: the training step of the parameters."""
    ...


class Tokenizer(Protocol):
  """Text to token ids and back."""

  def encode(self, text: str, *, bos: bool = False) -> list: ...

  def decode(self, ids: Sequence) -> str: ...

  def chat(self, messages: list[dict], generate: bool = True) -> list:
    """The ids of a conversation by the chat template; generate: with what opens the assistant's turn."""
    ...

  def response(self, ids: Sequence) -> tuple[str, Sequence]:
    """A response's text without its end token, and the control tokens within it."""
    ...


class Grader(Protocol):
  """Scores items by rule, in the background."""

  def submit(self, items: list[Item], parts: list | None = None) -> concurrent.futures.Future:
    """A future of `rewards.workers.pool.Scores`. parts: of each item the names of the rewards that score it."""
    ...

  def close(self) -> None: ...


class Policy(Protocol):
  """Graded samples of problems: of a model here, or of one behind an endpoint."""

  def fits(self, problem: Item, template: Any) -> bool:
    """Whether the problem's prompt is short enough."""
    ...

  def start(self, problems: list[Item], template: Any, number: int) -> Pending:
    """Pending (rows, timeouts); see `recipes.policy.Policy.start`."""
    ...
