"""The sampler: prompts in, responses out. A host loop over a handful of compiled programs.

Decoding returns to the host once at most half of each group's rows are unfinished; the host then drops the finished
ones. The cache grows only when it is full. So a batch costs what its live rows cost. With slots, rows that wait take
the places of finished ones instead (`refill`).
"""

from collections.abc import Callable
import dataclasses
import functools
import logging
import time

import jax
import jax.numpy as jnp
import numpy as np

from r1jax import models, parallel
from r1jax.batch import RolloutBatch
from r1jax.config import require
from r1jax.sampling import decode, refill
from r1jax.sampling.decode import CHUNK, GROW, SHRINK
from r1jax.sampling.logits import Restriction
from r1jax.sampling.output import Output, pad_prompts
from r1jax.typed import Key, typed

log = logging.getLogger('r1jax')

FLOAT32 = decode.Precision()


class SamplingError(FloatingPointError):
  """A model's log-probs are not numbers."""


@dataclasses.dataclass(frozen=True)
class SamplingParams:
  """Which distribution to sample from; temperature 0 is greedy."""

  temperature: float = 1.0
  top_p: float = 1.0
  top_k: int = 0
  min_p: float = 0.0


@typed
def row_keys(key: Key[jax.Array, ''], prompts: int, samples: int, first: int = 0) -> Key[jax.Array, 'p g']:
  """PRNG keys [P, G]: row i gets fold_in(key, first + i), so that samples do not depend on the batch's shape."""
  return _fold(key, jax.device_put(np.uint32(first)), prompts=prompts, samples=samples)


@functools.partial(jax.jit, static_argnames=('prompts', 'samples'))
def _fold(key, first, *, prompts, samples):
  numbers = first + jnp.arange(prompts * samples, dtype=jnp.uint32).reshape(prompts, samples)
  return jax.vmap(jax.vmap(lambda i: jax.random.fold_in(key, i)))(numbers)


class Engine:
  """Samples from a model.

  Args:
    cfg: ModelConfig.
    tokenizer: gives `eos`, the ids that end a response, and decodes where stop strings are used.
    mesh: rows are split over it by prompt. It may be another one than that of the parameters, over the same devices.
    max_prompt, max_response: tokens.
    stop: strings that end a response; it is cut after the token that completes one.
    precision: decode.Precision.
    slots: rows decoded at a time, each replaced when it has ended (see `refill`); 0 decodes all rows of a call at once.
    prefill: with slots, the most prompts that are run at a time; 0 is all.

  Attributes:
    watch: function that is told now and then which share of a call is sampled, or None.
    steps, row_steps: decode steps of the last call, and rows decoded in all of them together.

  Raises:
    ConfigError: the slots do not divide over the mesh.
  """

  def __init__(self, cfg, tokenizer, mesh, *, max_prompt, max_response, stop=(), precision=FLOAT32, slots=0, prefill=0):
    self.cfg, self.tokenizer, self.stop, self.precision = cfg, tokenizer, tuple(stop), precision
    self.mesh, self.shards = mesh, parallel.batch_shards(mesh)
    self.by_prompt, self.everywhere = parallel.batch_sharding(mesh), parallel.replicated(mesh)
    self.max_prompt, self.max_response, self.slots, self.prefill = max_prompt, max_response, slots, prefill
    self.watch: Callable[[float], None] | None = None
    self.steps = self.row_steps = 0
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
      ConfigError: P does not divide over the mesh, without slots; or parameters lie on other devices.
      SamplingError: see there.
    """
    self.require_divisible(len(prompts))
    weights = self.prepare_params(params)
    padded, lengths = pad_prompts(prompts, self.max_prompt)
    collect = functools.partial(refill.collect, self) if self.slots else self._lock_step
    out = collect(weights, padded, lengths, keys, sampling)
    self.steps, self.row_steps = out.steps, out.row_steps
    batch = out.finish(self.tokenizer, self.stop, padded, lengths, version)
    bad = (~np.isfinite(batch.sampler_logp).all(axis=2)).sum()
    if bad:
      raise SamplingError(
        f"the model's log-probs are not numbers in {bad} of {keys.size} responses: its parameters are damaged or have "
        'diverged; go back to an earlier checkpoint, and lower optimizer.learning_rate if it was trained here.'
      )
    return batch

  def _lock_step(self, weights, padded, lengths, keys, sampling):
    """The Output of all rows together. padded: i32[P, Tp], lengths: i32[P], keys: [P, G]."""
    (p, g), scalar = keys.shape, lambda x: parallel.to_global(x, self.everywhere)
    tokens, lengths, keys = parallel.to_global((padded, lengths, keys), self.by_prompt)
    temperature, options = scalar(np.float32(sampling.temperature)), self.options(sampling)
    capacity = min(CHUNK, self.max_response)
    prefix, state, sampled = self.run(
      decode.prefill, weights, tokens, lengths, keys, temperature, capacity=capacity, options=options
    )
    out, rows = Output(p, g, self.max_response), np.arange(p * g).reshape(p, g)
    add = lambda sampled, count: out.add(jax.tree.map(lambda x: x.reshape(rows.size, -1), sampled), rows.ravel(), count)
    add(parallel.to_host(sampled), 1)
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
      out.count_steps(int(count), rows.size)
      if self.watch:
        self.watch(step / self.max_response)
    return out

  def options(self, sampling):
    restriction = Restriction(sampling.top_p, sampling.top_k, sampling.min_p)
    forward = models.ForwardOptions(self.precision.compute, mesh=self.mesh)
    return decode.DecodeOptions(self.cfg, restriction, self.tokenizer.eos, forward, self.precision.cache)

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
      self._log_moved_bytes(params)
      self._cast_weights, _ = decode.weights_program(params, self.mesh, self.cfg, self.precision)
    return self.run(self._cast_weights, params)

  def _log_moved_bytes(self, params):
    specs = models.specs(self.cfg)
    after = parallel.shardings(specs, self.mesh)
    devices = jax.tree.leaves(params)[0].sharding.device_set
    require(
      devices == set(self.mesh.devices.flat),
      f"parameters lie on {len(devices)} devices, the sampler's mesh on {self.mesh.size}; lay both over the same ones.",
    )
    entries = jax.tree.map(lambda x, to: parallel.entries_received(x.shape, x.sharding, to), params, after)
    moved = sum(jax.tree.leaves(entries)) * jnp.dtype(self.precision.compute).itemsize
    if moved:
      log.info('sampler: its copy of the weights moves %.3g GB between devices', moved / 1e9)

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
