"""One rollout as arrays, from the sampler to the loss."""

import functools

import flax.struct
import jax
import numpy as np

from r1jax.typed import Array, Bool, Float, Int, UInt


class RolloutBatch(flax.struct.PyTreeNode):
  """G responses to each of P prompts: NumPy arrays on the host, jax.Arrays inside a program.

  Arrays over tokens are right-padded to T; what lies behind a response's end may be anything. A microbatch holds some
  of the groups, some rows of each, and fewer tokens where its responses are shorter.

  Attributes:
    prompts: i32[P, Tp], right-padded; prompt_lengths: i32[P].
    tokens: i32[P, G, T], the responses; lengths: i32[P, G], a closing EOS counted.
    loss_mask: bool[P, G, T], the tokens that are learned from, all within `lengths`.
    sampler_logp: f32[P, G, T], log-prob of each token under the distribution it was sampled from.
    threshold: f32[P, G, T], where top-p and the like began to leave tokens out, see `sampling.logits.threshold`; None
      where they left out none.
    stop: str[P, G], why each response ended: EOS, LENGTH or STOP_STRING; None inside programs.
    policy_version: i32[P, G, T], training step of the policy that sampled each token; None inside programs.
    prompt_experts: uint8 or uint16 [P, MoE layers, top_k, Tp], the experts that the sampler sent each token of a prompt
      to; experts: [P, G, MoE layers, top_k, T], each token of a response, but for its last one, which the sampler never
      runs: zeros. None without routing replay.
    old_logp: f32[P, G, T], the old policy's log-probs: of the parameters that sampled, as the trainer computes them.
      None where `training.policy.logprob_passes` has no 'old'; the loss then uses the current log-probs.
    ref_logp: f32[P, G, T], the reference policy's; None without a KL term.
    values: f32[P, G, T], a critic's before the rollout's first update; None without a critic.
    advantage: f32[P, G, 1], or f32[P, G, T] where each token has its own; None until rewards are known.
    returns: f32[P, G, T], what a critic is trained towards; None without one.
    teacher: i32[P], which teacher scores the responses to each prompt, -1 for none; None without distillation.
    mean_length: f32[P], tokens under the loss mask of each prompt's whole group / G, though a microbatch may hold some
      of its rows only; None until the update.
  """

  prompts: Int[Array, 'p tp']
  prompt_lengths: Int[Array, ' p']
  tokens: Int[Array, 'p g t']
  lengths: Int[Array, 'p g']
  loss_mask: Bool[Array, 'p g t']
  sampler_logp: Float[Array, 'p g t']
  threshold: Float[Array, 'p g t'] | None = None
  stop: np.ndarray | None = None
  policy_version: Int[np.ndarray, 'p g t'] | None = None
  prompt_experts: UInt[Array, 'p l k tp'] | None = None
  experts: UInt[Array, 'p g l k t'] | None = None
  old_logp: Float[Array, 'p g t'] | None = None
  ref_logp: Float[Array, 'p g t'] | None = None
  values: Float[Array, 'p g t'] | None = None
  advantage: Float[Array, 'p g _'] | None = None
  returns: Float[Array, 'p g t'] | None = None
  teacher: Int[Array, ' p'] | None = None
  mean_length: Float[Array, ' p'] | None = None

  @property
  def replayed(self):
    """(prompt_experts, experts), as `models.response_hidden` takes them; None without routing replay."""
    return None if self.experts is None else (self.prompt_experts, self.experts)

  def without_experts(self):
    """The same, for a model that routes as it likes."""
    return self.replace(prompt_experts=None, experts=None)


EOS, LENGTH, STOP_STRING = 'eos', 'length', 'stop'


def concatenate(batches):
  """Batches of several prompts as one, prompts padded to the longest. NumPy arrays."""
  if len(batches) == 1:
    return batches[0]
  width = max(batch.prompts.shape[1] for batch in batches)
  pad = lambda x: np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, width - x.shape[-1])])
  of_prompts = lambda b: dict(prompts=b.prompts, prompt_experts=b.prompt_experts)
  padded = [batch.replace(**jax.tree.map(pad, of_prompts(batch))) for batch in batches]
  return jax.tree.map(lambda *xs: np.concatenate(xs), *padded)


class Pending:
  """A result that is still being computed: `result()` waits for it. wait: function that returns it."""

  def __init__(self, wait):
    self.result = functools.cache(wait)
