"""What goes into the sampler and comes out of it, as arrays on the host."""

import numpy as np

from r1jax.batch import EOS, LENGTH, STOP_STRING, RolloutBatch
from r1jax.typed import Int, typed


@typed
def pad_prompts(prompts: list | tuple, max_prompt: int) -> tuple[Int[np.ndarray, 'p t'], Int[np.ndarray, ' p']]:
  """Right-pads to the next bucket (a power of two from 16, or max_prompt).

  Returns:
    i32[P, Tp], lengths i32[P].
  """
  longest = max(len(p) for p in prompts)
  if longest > max_prompt or not min(len(p) for p in prompts):
    raise ValueError(
      f'prompts of {min(len(p) for p in prompts)} to {longest} tokens; they must hold 1 to {max_prompt}.'
    )
  size = min(max(16, 1 << (longest - 1).bit_length()), max_prompt)
  tokens = np.zeros((len(prompts), size), np.int32)
  for row, p in zip(tokens, prompts):
    row[: len(p)] = p
  return tokens, np.array([len(p) for p in prompts], np.int32)


class Output:
  """Collects what the programs give, in rows numbered by prompt and sample.

  Attributes:
    count: i64[rows], tokens collected of each row; those behind a row's end, sampled until the host saw it, included.
    steps, row_steps: decode steps, and rows decoded in all of them together.
  """

  def __init__(self, prompts, group, length):
    self.shape, rows = (prompts, group, length), prompts * group
    self.tokens, self.logp = np.zeros((rows, length), np.int32), np.zeros((rows, length), np.float32)
    self.cut = np.full(rows, length + 1)  # length at which a stop string ends the row; none: past the end
    self.count = np.zeros(rows, int)
    self.steps = self.row_steps = 0

  def add(self, sampled, rows, count):
    """Appends the first `count` tokens of `sampled`, Sampled of [n, C], to `rows`, i64[n]; the excess is dropped."""
    at = self.count[rows][:, None] + np.arange(count)
    inside = at < self.shape[2]
    to = np.broadcast_to(rows[:, None], at.shape)[inside], at[inside]
    self.tokens[to], self.logp[to] = sampled.token[:, :count][inside], sampled.logp[:, :count][inside]
    self.count[rows] = np.minimum(self.count[rows] + count, self.shape[2])

  def count_steps(self, steps, rows):
    """Counts decode steps of so many rows."""
    self.steps, self.row_steps = self.steps + steps, self.row_steps + steps * rows

  def find_stop(self, tokenizer, stop, rows):
    """Marks rows whose text holds a stop string; bool like rows."""
    found = np.zeros(rows.shape, bool)
    for at, row in np.ndenumerate(rows):
      ids = self.tokens[row, : self.count[row]]
      ends = np.isin(ids, tokenizer.eos)
      ids = ids[: ends.argmax() + 1] if ends.any() else ids
      if any(s in tokenizer.decode(ids) for s in stop):
        # The text of a beginning only grows with it: the first one that holds a stop string is the cut.
        self.cut[row] = next(n for n in range(1, len(ids) + 1) if any(s in tokenizer.decode(ids[:n]) for s in stop))
        found[at] = True
    return found

  def finish(self, tokenizer, stop, prompts, prompt_lengths, version):
    """The RolloutBatch, everything behind a response's end zero."""
    length = self.shape[2]
    if stop:  # rows that ended of themselves since the last look
      self.find_stop(tokenizer, stop, np.flatnonzero(self.cut > length))
    is_eos = np.isin(self.tokens, tokenizer.eos)
    ended = is_eos.any(axis=1)
    to_eos = np.where(ended, is_eos.argmax(axis=1) + 1, length + 1)
    lengths = np.minimum(np.minimum(to_eos, self.cut), length).astype(np.int32)
    real = np.arange(length) < lengths[:, None]
    by_prompt = lambda x: x.reshape(*self.shape[:2], *x.shape[1:])
    return RolloutBatch(
      prompts,
      prompt_lengths,
      tokens=by_prompt(np.where(real, self.tokens, 0)),
      lengths=by_prompt(lengths),
      loss_mask=by_prompt(real),
      sampler_logp=by_prompt(np.where(real, self.logp, 0)),
      stop=by_prompt(np.where(self.cut < to_eos, STOP_STRING, np.where(ended, EOS, LENGTH))),
      policy_version=np.full(self.shape, version, np.int32),
    )
