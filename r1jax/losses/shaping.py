"""What is added to the reward of a response, and how the scores of its steps become advantages of its tokens."""

import jax.numpy as jnp
import numpy as np


def step_credit(scores, ends, group_size, length, eps=1e-6):
  """Credit of each token for the steps to come, by a process reward (DeepSeekMath, arXiv 2402.03300 section 4.1.3).

  Scores are centred and divided by the standard deviation over all steps of the group; a token has the sum of
  those of the steps that end at it or after it.

  Args:
    scores: B lists of floats, of each response's steps, the G samples of one prompt adjacent.
    ends: B lists of the positions of their last tokens.
    group_size: G.
    length: T.

  Returns:
    f32[B, T] on the host; zeros behind a response's last step, and for a group whose steps all score alike.
  """
  out = np.zeros((len(scores), length), np.float32)
  for first in range(0, len(scores), group_size):
    rows = range(first, min(first + group_size, len(scores)))
    every = np.array([s for row in rows for s in scores[row]], np.float64)
    if not every.size or every.min() == every.max():
      continue
    for row in rows:
      for score, end in zip(scores[row], ends[row], strict=True):
        out[row, : end + 1] += (score - every.mean()) / (every.std() + eps)
  return out


def soft_overlong(length, max_length, buffer):
  """Punishment to add to the reward of a long response (DAPO eq. 13, arXiv 2503.14476).

  0 up to max_length - buffer tokens, then falling linearly to -1 at max_length, and -1 beyond.

  Args:
    length: i32 of any shape, tokens, EOS counted.
    max_length: tokens.
    buffer: tokens, in (0, max_length].

  Returns:
    f32 like length, in [-1, 0].

  Raises:
    ValueError: buffer out of range.
  """
  if not 0 < buffer <= max_length:
    raise ValueError(f'overlong buffer of {buffer} tokens is not in (0, {max_length}]; set it within max_length.')
  return jnp.clip((max_length - buffer - jnp.asarray(length)) / buffer, -1.0, 0.0)
