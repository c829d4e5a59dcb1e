"""A policy as the searches see it: it samples steps, and a model judges what there is so far."""

import functools
import zlib

import jax
import numpy as np

from r1jax.data.conversation import SEPARATORS
from r1jax.rollout.prompts import grading_item
from r1jax.search.prefix import Prefix


def step_ends(tokenizer, rule):
  """Ids of the tokens that end a step: those whose text contains a line break, or for 'paragraph' an empty line.

  rule: one of config.STEP_RULES.
  """
  return tuple(i for i in range(tokenizer.vocab) if SEPARATORS[rule] in tokenizer.decode([i]))


class StepTokenizer:
  """A tokenizer with which a sampling.Engine also stops at the end of a step."""

  def __init__(self, tokenizer, rule):
    self.eos = (*tokenizer.eos, *step_ends(tokenizer, rule))
    self.decode = tokenizer.decode


class Steps:
  """`prefix.Extend` and `prefix.Value` of a model.

  Args:
    engine: sampling.Engine with slots and a StepTokenizer; its max_response is the most tokens of a step.
    weights: as `Engine.prepare_params` gives them.
    tokenizer: of the model.
    problems: list of dicts. prompts: [(text, ids)] of each, as from `rollout.encode_prompt`.
    limit: tokens of a response.
    sampling: SamplingParams. key: PRNG key. A step depends on its problem's number, the prefix and the key alone.
    score: function from grading items to numbers; the value of a prefix is its score as a response.

  Attributes:
    decoded: tokens decoded so far; the first token of a step is not, as its prompt's pass gives it.
    row_steps: rows of slots decoded for them.
  """

  def __init__(self, engine, weights, tokenizer, problems, prompts, *, limit, sampling, key, score):
    self._engine, self._weights, self._tokenizer, self._limit = engine, weights, tokenizer, limit
    self._problems, self._prompts, self._sampling, self._key, self._score = problems, prompts, sampling, key, score
    self.decoded = self.row_steps = 0

  def extend(self, prefixes, count):
    """See `prefix.Extend`."""
    numbers = [zlib.crc32(np.array([x.problem, *x.tokens], np.int32).tobytes()) for x in prefixes]
    prompts = [[*self._prompts[x.problem][1], *x.tokens] for x in prefixes]
    keys = _keys(self._key, np.array(numbers, np.uint32), count=count)
    out = self._engine.sample(self._weights, prompts, keys, self._sampling)
    self.decoded, self.row_steps = self.decoded + int((out.lengths - 1).sum()), self.row_steps + self._engine.row_steps
    step = lambda i, g: out.tokens[i, g, : out.lengths[i, g]].tolist()
    return [[self._longer(prefix, step(i, g)) for g in range(count)] for i, prefix in enumerate(prefixes)]

  def _longer(self, prefix, step):
    tokens = (*prefix.tokens, *step)[: self._limit]
    return Prefix(prefix.problem, tokens, tokens[-1] in self._tokenizer.eos or len(tokens) == self._limit)

  def item(self, prefix):
    """The grading item of a prefix as a response."""
    text, control = self._tokenizer.response(prefix.tokens)
    return grading_item(
      self._problems[prefix.problem], self._prompts[prefix.problem][0], text, control, len(prefix.tokens)
    )

  def value(self, prefixes):
    """See `prefix.Value`."""
    return self._score([self.item(x) for x in prefixes]) if prefixes else []

  @property
  def occupancy(self):
    """Share of the slots' work that went into tokens of steps."""
    return self.decoded / self.row_steps if self.row_steps else 1.0


@functools.partial(jax.jit, static_argnames='count')
def _keys(key, numbers, *, count):
  one = lambda number: jax.vmap(lambda i: jax.random.fold_in(jax.random.fold_in(key, number), i))(np.arange(count))
  return jax.vmap(one)(numbers)
