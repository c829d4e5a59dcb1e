"""Log-likelihoods of given continuations, in batches of few shapes so that few programs are compiled."""

import collections
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from r1jax import models, parallel
from r1jax.config import require
from r1jax.typed import Bool, Float, Int, typed

LOGIT_CHUNK = 1024  # positions whose logits exist at a time
MOST = 8  # continuations of a context in one row of a batch


class Likelihood(NamedTuple):
  """The log-probability of a whole continuation, in nats, and whether greedy decoding would write it."""

  total: float
  greedy: bool


def windows(tokens, prefix, limit):
  """Cuts a text for models with a limited context: each token is predicted once, from as many as fit before it.

  The parts to predict are disjoint and as long as possible; a shorter last one gets a longer context.

  Args:
    tokens: list of ids. prefix: id that stands before the first one.
    limit: most tokens that a model reads at once.

  Returns:
    list of (context, continuation), lists of ids. The model reads all but the last one of a pair: at most `limit`.
  """
  whole = [prefix, *tokens]
  starts = range(0, len(tokens), limit)
  ends = [min(start + limit, len(tokens)) for start in starts]
  return [(whole[max(0, end - limit) : start + 1], whole[start + 1 : end + 1]) for start, end in zip(starts, ends)]


def padded(length, least):
  """The padded length for `length` tokens: a power of two from `least` on; above 1024 a multiple of that."""
  return max(least, 1 << (length - 1).bit_length()) if length <= 1024 else -(-length // 1024) * 1024


class Batch(NamedTuple):
  """G continuations of each of P contexts: i32[P, Tp], i32[P], i32[P, G, T], i32[P, G].

  rows: for each of the first contexts, the pairs (context, continuation) of its continuations; the rest fills up.
  """

  contexts: np.ndarray
  context_lengths: np.ndarray
  tokens: np.ndarray
  lengths: np.ndarray
  rows: list


def batches(pairs, rows, shards=1):
  """Yields Batches of different pairs (context, continuation), tuples of ids that are not empty.

  Continuations of one context lie side by side, so that it is run once for them. Contexts with equally many
  continuations are sorted by length, the longest first, so that what needs most memory is seen at once.

  Args:
    rows: most continuations of a batch. shards: contexts of a batch are a multiple of it.
  """
  of_context = collections.defaultdict(list)
  for context, continuation in dict.fromkeys(pairs):
    of_context[context].append(continuation)
  groups = collections.defaultdict(list)
  for context, found in of_context.items():
    found.sort(key=len)
    for first in range(0, len(found), MOST):
      part = found[first : first + MOST]
      groups[1 << (len(part) - 1).bit_length()].append((context, part))
  for width, waiting in sorted(groups.items()):
    waiting.sort(key=lambda group: (padded(len(group[0]), 16), padded(len(group[1][-1]), 4)), reverse=True)
    count = max(1, rows // (width * shards)) * shards
    for first in range(0, len(waiting), count):
      yield _batch(waiting[first : first + count], count, width)


def _batch(groups, count, width):
  size = padded(max(len(context) for context, _ in groups), 16)
  length = padded(max(len(found[-1]) for _, found in groups), 4)
  contexts, tokens = np.zeros((count, size), np.int32), np.zeros((count, width, length), np.int32)
  context_lengths, lengths = np.ones(count, np.int32), np.ones((count, width), np.int32)
  for p, (context, found) in enumerate(groups):
    contexts[p, : len(context)], context_lengths[p] = context, len(context)
    for g, ids in enumerate(found):
      tokens[p, g, : len(ids)], lengths[p, g] = ids, len(ids)
  return Batch(contexts, context_lengths, tokens, lengths, [[(c, ids) for ids in found] for c, found in groups])


@functools.partial(jax.jit, static_argnames=('cfg', 'options'))
@typed
def likelihood_program(
  params: dict,
  contexts: Int[jax.Array, 'p tp'],
  context_lengths: Int[jax.Array, ' p'],
  tokens: Int[jax.Array, 'p g t'],
  lengths: Int[jax.Array, 'p g'],
  *,
  cfg: models.ModelConfig,
  options: models.ForwardOptions,
) -> tuple[Float[jax.Array, 'p g'], Bool[jax.Array, 'p g']]:
  """The two fields of Likelihood of each continuation of a Batch."""
  out = models.response_hidden(params, cfg, contexts, context_lengths, tokens, lengths, options)
  flat = lambda x: x.reshape(len(x), -1, *x.shape[3:])  # [P, G * T, ...]
  unembed = models.unembedding(out.params)
  logp, best = models.likelihood(flat(out.hidden), unembed, flat(tokens), LOGIT_CHUNK, options.mesh)
  real = jnp.arange(tokens.shape[2]) < lengths[..., None]
  logp, best = logp.reshape(tokens.shape), best.reshape(tokens.shape)
  return jnp.where(real, logp, 0).sum(axis=2), jnp.all(best | ~real, axis=2)


class Scorer:
  """Likelihoods under one model.

  Args:
    cfg: ModelConfig. params: stacked or as `sampling.Engine.prepare_params` gives them.
    options: models.ForwardOptions with the mesh.
    limit: most tokens that the model reads at once.
    rows: continuations at a time.
  """

  def __init__(self, cfg, params, options, limit, rows):
    self.cfg, self.params, self.options, self.limit, self.rows = cfg, params, options, limit, rows

  def __call__(self, requests, watch=lambda done: None):
    """Likelihoods of continuations.

    A context that is too long loses its beginning, as in lm-evaluation-harness.

    Args:
      requests: list of (context, continuation), lists of ids that are not empty.
      watch: called with the number of different requests done.

    Returns:
      list of Likelihood.

    Raises:
      ConfigError: a continuation alone is longer than the limit.
    """
    longest = max((len(ids) for _, ids in requests), default=0)
    require(
      longest <= self.limit,
      f'a continuation has {longest} tokens, over the {self.limit} that the model reads at once; raise max_length, or '
      'use another model.',
    )
    fit = lambda context, ids: (tuple(context[-(self.limit + 1 - len(ids)) :]), tuple(ids))
    pairs, found = [fit(*request) for request in requests], {}
    mesh = self.options.mesh
    for batch in batches(pairs, self.rows, parallel.batch_shards(mesh)):
      arrays = parallel.to_global(tuple(batch[:4]), parallel.batch_sharding(mesh))
      totals, greedy = parallel.to_host(likelihood_program(self.params, *arrays, cfg=self.cfg, options=self.options))
      for p, row in enumerate(batch.rows):
        for g, pair in enumerate(row):
          found[pair] = Likelihood(float(totals[p, g]), bool(greedy[p, g]))
      watch(len(found))
    return [found[pair] for pair in pairs]
