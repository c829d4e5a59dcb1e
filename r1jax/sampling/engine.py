"""The sampler: prompts in, responses out. A host loop over a handful of compiled programs.

Decoding returns to the host once at most half of each group's rows are unfinished; the host then drops the finished
ones. The cache grows only when it is full. So a batch costs what its live rows cost. With slots, rows that wait take
the places of finished ones instead (`refill`).
"""

from collections.abc import Callable
import functools
import logging
import time

import jax
import numpy as np

from r1jax import models, parallel
from r1jax.batch import EOS, LENGTH, STOP_STRING, RolloutBatch
from r1jax.config import require
from r1jax.sampling import decode, refill
from r1jax.sampling import weights as weights_lib
from r1jax.sampling.decode import CHUNK, GROW, SHRINK
from r1jax.sampling.logits import Restriction, SamplingParams
from r1jax.sampling.weights import Precision
from r1jax.typed import Int, Key, typed

log = logging.getLogger('r1jax')

FLOAT32 = Precision()


class SamplingError(FloatingPointError):
  """A model's log-probs are not numbers."""


class Engine:
  """Samples from a model.

  Args:
    cfg: ModelConfig.
    tokenizer: gives `eos`, the ids that end a response, and decodes where stop strings are used.
    mesh: rows are split over it by prompt. It may be another one than that of the parameters, over the same devices.
    max_prompt, max_response: tokens.
    stop: strings that end a response; it is cut after the token that completes one.
    precision: weights.Precision.
    slots: rows decoded at a time, each replaced when it has ended (see `refill`); 0 decodes all rows of a call at once.
    prefill: with slots, the most prompts that are run at a time; 0 is all.

  Attributes:
    watch: function that is told now and then which share of a call is sampled, or None.
    row_steps: rows decoded in the last call, summed over its steps.

  Raises:
    ConfigError: the slots do not divide over the mesh.
  """

  def __init__(self, cfg, tokenizer, mesh, *, max_prompt, max_response, stop=(), precision=FLOAT32, slots=0, prefill=0):
    self.cfg, self.tokenizer, self.stop, self.precision = cfg, tokenizer, tuple(stop), precision
    self.mesh, self.shards = mesh, parallel.batch_shards(mesh)
    self.by_prompt, self.everywhere = parallel.batch_sharding(mesh), parallel.replicated(mesh)
    self.max_prompt, self.max_response, self.slots, self.prefill = max_prompt, max_response, slots, prefill
    self.any_batch = slots > 0
    self.watch: Callable[[float], None] | None = None
    self.row_steps = 0
    self._compiled, self._cast_weights = set(), None
    require(
      slots >= 0 and slots % self.shards == 0,
      f"rollout.slots is {slots}, which does not divide over {self.shards} devices on axes 'data', 'fsdp' and "
      f"'expert'; set it to a multiple of {self.shards}, or to 0.",
    )

  @typed
  def sample(
    self, params: dict, prompts: list | tuple, keys: Key[jax.Array, 'p g'], sampling: SamplingParams, version: int = 0
  ) -> RolloutBatch:
    """Samples one response a key.

    Args:
      params: parameters, stacked, of any dtype; or what `prepare_params` gives.
      prompts: list of P lists of token ids, none empty or over max_prompt.
      keys: PRNG keys [P, G], as `row_keys` makes them.
      sampling: SamplingParams.
      version: training step of the parameters.

    Returns:
      RolloutBatch of NumPy arrays; T is max_response, and tokens behind a response's end are zeros.

    Raises:
      SamplingError; ConfigError: P does not divide over the mesh, without slots; or parameters lie on other devices.
    """
    self.require_divisible(len(prompts))
    weights = self.prepare_params(params)
    padded, lengths = pad_prompts(prompts, self.max_prompt)
    out = Output((*keys.shape, self.max_response), self.cfg, sampling)
    collect = functools.partial(refill.collect, self) if self.slots else self._lock_step
    collect(out, weights, padded, lengths, keys, sampling)
    self.row_steps = out.row_steps
    batch = out.finish(self.tokenizer, self.stop, padded, lengths, version)
    bad = (~np.isfinite(batch.sampler_logp).all(axis=2)).sum()
    if bad:
      raise SamplingError(
        f"the policy's log-probs at step {version} are not numbers in {bad} of {keys.size} responses: it diverged, or "
        'its files are damaged. Go back to an earlier checkpoint, and lower optimizer.learning_rate if training did it.'
      )
    return batch

  def _lock_step(self, out, weights, padded, lengths, keys, sampling):
    """Fills an Output with all rows together. padded: i32[P, Tp], lengths: i32[P], keys: [P, G]."""
    (p, g), scalar = keys.shape, lambda x: parallel.to_global(x, self.everywhere)
    tokens, lengths, keys = parallel.to_global((padded, lengths, keys), self.by_prompt)
    temperature, options = scalar(np.float32(sampling.temperature)), self.options(sampling)
    capacity = min(CHUNK, self.max_response)
    prefix, state, sampled = self.run(
      decode.prefill, weights, tokens, lengths, keys, temperature, capacity=capacity, options=options
    )
    rows = np.arange(p * g).reshape(p, g)
    add = lambda sampled, count: out.add(
      jax.tree.map(lambda x: x.reshape(rows.size, *x.shape[2:]), sampled), rows.ravel(), count
    )
    sampled = parallel.to_host(sampled)
    out.prompt_experts.append(sampled.experts)
    add(sampled.replace(experts=None), 1)
    step = 1
    while step < self.max_response:
      done = np.array(parallel.to_host(state.done))
      if self.stop:
        done[~done] = out.find_stop(self.tokenizer, self.stop, rows[~done])
        state = state.replace(done=parallel.to_global(done, self.by_prompt))
      if done.all():
        break
      width = decode.smaller(g, int((~done).sum(axis=1).max()))
      # A response's t-th token is written to the cache when token t + 1 is drawn.
      room = capacity if step <= capacity else min(GROW * capacity, self.max_response)
      if width < rows.shape[1] or room > capacity:
        live_first = np.argsort(done, axis=1, kind='stable')[:, :width].astype(np.int32)
        keep = parallel.to_global(live_first, self.by_prompt)
        state = self.run(decode.compact, state, keep, capacity=room, mesh=self.mesh)
        rows, capacity = np.take_along_axis(rows, live_first, axis=1), room
      limit = scalar(np.int32(min(self.max_response, capacity + 1)))
      fewest = scalar(np.int32(width // SHRINK if width % SHRINK == 0 else 0))
      state, sampled, count = self.run(
        decode.decode_chunk, weights, prefix, lengths, state, limit, fewest, temperature, length=CHUNK, options=options
      )
      sampled, count = parallel.to_host((sampled, count))
      add(sampled, int(count))
      step += int(count)
      out.row_steps += int(count) * rows.size
      if self.watch:
        self.watch(step / self.max_response)

  def options(self, sampling):
    restriction = Restriction(sampling.top_p, sampling.top_k, sampling.min_p)
    forward = models.ForwardOptions(self.precision.compute, mesh=self.mesh, return_experts=sampling.experts)
    return decode.DecodeOptions(
      self.cfg, restriction, self.tokenizer.eos, forward, self.precision.cache, sampling.thresholds
    )

  def require_divisible(self, prompts):
    """Raises ConfigError where a call with so many prompts does not divide over the devices; with slots it may."""
    require(
      self.slots or prompts % self.shards == 0,
      f"{prompts} prompts do not divide over {self.shards} devices on axes 'data', 'fsdp' and 'expert'; "
      'set rollout.prompts, rollout.chunk and the number of problems to evaluate to multiples of '
      f'{self.shards}, or use a smaller mesh.',
    )

  def prepare_params(self, params):
    """The copy of parameters that is sampled with: cast or quantized, unstacked, laid out over the sampler's mesh.

    Such a copy is returned as it is.
    """
    if isinstance(params['layers'], list):
      return params
    if self._cast_weights is None:
      weights_lib.log_moved_bytes(params, self.mesh, self.cfg, self.precision)
      self._cast_weights, _ = weights_lib.weights_program(params, self.mesh, self.cfg, self.precision)
    return self.run(self._cast_weights, params)

  def run(self, program, *args, **kwargs):
    """Calls a compiled program; logs how long it took where it had to be compiled first."""
    shapes = tuple(x.shape for x in jax.tree.leaves(args[1:]))  # of the same model
    key = (program.__name__, shapes, tuple(sorted((k, repr(v)) for k, v in kwargs.items())))
    if key in self._compiled:
      return program(*args, **kwargs)
    self._compiled.add(key)
    began = time.perf_counter()
    result = program(*args, **kwargs)
    log.info('sampler: compiled %s in %.1f s', program.__name__, time.perf_counter() - began)
    return result


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
    prompt_experts: [uint[prompts, MoE layers, top_k, Tp]], of all prompts in their order, where they are collected.
    row_steps: rows decoded, summed over the decode steps.
  """

  def __init__(self, shape, model, sampling):
    self.shape, rows, length = shape, shape[0] * shape[1], shape[2]
    self.tokens, self.logp = np.zeros((rows, length), np.int32), np.zeros((rows, length), np.float32)
    self.threshold = np.zeros((rows, length), np.float32) if sampling.thresholds else None
    self.experts = np.zeros((rows, *model.routes, length), model.moe.index_dtype) if sampling.experts else None
    self.prompt_experts = []
    self.cut = np.full(rows, length + 1)  # length at which a stop string ends the row; none: past the end
    self.count = np.zeros(rows, int)
    self.row_steps = 0

  def add(self, sampled, rows, count):
    """Appends the first `count` tokens of `sampled`, Sampled of [n, C], to `rows`, i64[n]; the excess is dropped."""
    at = self.count[rows][:, None] + np.arange(count)
    inside = at < self.shape[2]
    to = np.broadcast_to(rows[:, None], at.shape)[inside], at[inside]
    self.tokens[to], self.logp[to] = sampled.token[:, :count][inside], sampled.logp[:, :count][inside]
    if self.threshold is not None:
      self.threshold[to] = sampled.threshold[:, :count][inside]
    if self.experts is not None and sampled.experts is not None:  # of the tokens before these
      self.experts[to[0], ..., to[1] - 1] = np.moveaxis(sampled.experts[..., :count], -1, 1)[inside]
    self.count[rows] = np.minimum(self.count[rows] + count, self.shape[2])

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
    """The RolloutBatch, everything behind a response's end zero, and the experts of its last token."""
    length = self.shape[2]
    if stop:  # rows that ended of themselves since the last look
      self.find_stop(tokenizer, stop, np.flatnonzero(self.cut > length))
    is_eos = np.isin(self.tokens, tokenizer.eos)
    ended = is_eos.any(axis=1)
    to_eos = np.where(ended, is_eos.argmax(axis=1) + 1, length + 1)
    lengths = np.minimum(np.minimum(to_eos, self.cut), length).astype(np.int32)
    real = np.arange(length) < lengths[:, None]
    by_prompt = lambda x: x.reshape(*self.shape[:2], *x.shape[1:])
    if self.experts is not None:
      self.experts *= (np.arange(length) < lengths[:, None] - 1)[:, None, None]  # in place: they are large
    return RolloutBatch(
      prompts,
      prompt_lengths,
      tokens=by_prompt(np.where(real, self.tokens, 0)),
      lengths=by_prompt(lengths),
      loss_mask=by_prompt(real),
      sampler_logp=by_prompt(np.where(real, self.logp, 0)),
      threshold=None if self.threshold is None else by_prompt(np.where(real, self.threshold, 0)),
      stop=by_prompt(np.where(self.cut < to_eos, STOP_STRING, np.where(ended, EOS, LENGTH))),
      policy_version=np.full(self.shape, version, np.int32),
      prompt_experts=None if self.experts is None else np.concatenate(self.prompt_experts),
      experts=None if self.experts is None else by_prompt(self.experts),
    )
