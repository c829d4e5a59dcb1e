"""The sampler: prompts in, responses out. A host loop over a handful of compiled programs.

Decoding returns to the host once at most half of each group's rows are unfinished; the host then drops the finished
ones. The cache grows only when it is full. So a batch costs what its live rows cost.
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
from r1jax.batch import EOS, LENGTH, STOP_STRING, RolloutBatch
from r1jax.config import require
from r1jax.sampling import decode
from r1jax.sampling.logits import Restriction
from r1jax.typed import Int, Key, typed

log = logging.getLogger('r1jax')

CHUNK = 64  # most tokens between two looks of the host, and room in the first cache
SHRINK, GROW = 2, 4  # rows of a group and room in the cache change by these: few shapes to compile


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
    dtype: of the computation and the cache.
    weight_dtype: of the layers' matrices: 'int8', 'int4', or '' for `dtype`.
  """

  def __init__(self, cfg, tokenizer, mesh, *, max_prompt, max_response, stop=(), dtype=jnp.float32, weight_dtype=''):
    self.cfg, self.tokenizer, self.stop, self.dtype = cfg, tokenizer, tuple(stop), dtype
    self.weight_dtype = weight_dtype
    self.mesh, self.shards = mesh, parallel.batch_shards(mesh)
    self._by_prompt, self._everywhere = parallel.batch_sharding(mesh), parallel.replicated(mesh)
    self.max_prompt, self.max_response = max_prompt, max_response
    self.watch: Callable[[float], None] | None = None  # told now and then which share of max_response is sampled
    self._compiled, self._cast_weights = set(), None

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
      ConfigError: P does not divide over the mesh, or parameters lie on other devices.
    """
    p, g = keys.shape
    self.require_divisible(p)
    weights, scalar = self.prepare_params(params), lambda x: parallel.to_global(x, self._everywhere)
    padded, prompt_lengths = pad_prompts(prompts, self.max_prompt)
    tokens, lengths, keys = parallel.to_global((padded, prompt_lengths, keys), self._by_prompt)
    temperature, options = scalar(np.float32(sampling.temperature)), self._options(sampling)
    capacity = min(CHUNK, self.max_response)
    prefix, state, sampled = self._run(
      decode.prefill, weights, tokens, lengths, keys, temperature, capacity=capacity, options=options
    )
    out = _Output(p, g, self.max_response)
    rows = np.broadcast_to(np.arange(g), (p, g))
    out.add(parallel.to_host(sampled), rows, 0, 1)
    step = 1
    while step < self.max_response:
      done = np.array(parallel.to_host(state.done))
      if self.stop:
        done |= out.find_stop(self.tokenizer, self.stop, rows, done)
        state = state.replace(done=parallel.to_global(done, self._by_prompt))
      if done.all():
        break
      width = _smaller(g, int((~done).sum(axis=1).max()))
      # A response's t-th token is written to the cache when token t + 1 is drawn.
      room = capacity if step <= capacity else min(GROW * capacity, self.max_response)
      if width < rows.shape[1] or room > capacity:
        live_first = np.argsort(done, axis=1, kind='stable')[:, :width].astype(np.int32)
        keep = parallel.to_global(live_first, self._by_prompt)
        state = self._run(decode.compact, state, keep, capacity=room, mesh=self.mesh)
        rows, capacity = np.take_along_axis(rows, live_first, axis=1), room
      limit = scalar(np.int32(min(self.max_response, capacity + 1)))
      fewest = scalar(np.int32(width // SHRINK if width % SHRINK == 0 else 0))
      state, sampled, count = self._run(
        decode.decode_chunk, weights, prefix, lengths, state, limit, fewest, temperature, length=CHUNK, options=options
      )
      sampled, count = parallel.to_host((sampled, count))
      out.add(sampled, rows, step, count)
      step += count
      if self.watch:
        self.watch(step / self.max_response)
    return out.finish(self.tokenizer, self.stop, padded, prompt_lengths, version)

  def _options(self, sampling):
    restriction = Restriction(sampling.top_p, sampling.top_k, sampling.min_p)
    forward = models.ForwardOptions(self.dtype, mesh=self.mesh)
    return decode.DecodeOptions(self.cfg, restriction, self.tokenizer.eos, forward)

  def require_divisible(self, prompts):
    """Raises ConfigError where a call with so many prompts does not divide over the devices."""
    require(
      prompts % self.shards == 0,
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
      self._cast_weights, _ = decode.weights_program(params, self.mesh, self.cfg, self.dtype, self.weight_dtype)
    return self._run(self._cast_weights, params)

  def _log_moved_bytes(self, params):
    specs = models.specs(self.cfg)
    after = parallel.shardings(specs, self.mesh)
    devices = jax.tree.leaves(params)[0].sharding.device_set
    require(
      devices == set(self.mesh.devices.flat),
      f"parameters lie on {len(devices)} devices, the sampler's mesh on {self.mesh.size}; lay both over the same ones.",
    )
    entries = jax.tree.map(lambda x, to: parallel.entries_received(x.shape, x.sharding, to), params, after)
    moved = sum(jax.tree.leaves(entries)) * jnp.dtype(self.dtype).itemsize
    if moved:
      log.info('sampler: its copy of the weights moves %.3g GB between devices', moved / 1e9)

  def _run(self, program, *args, **kwargs):
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


def _smaller(group, live):
  """The smallest of group, group / SHRINK, ... that holds `live` rows."""
  while group % SHRINK == 0 and group // SHRINK >= live:
    group //= SHRINK
  return group


class _Output:
  """Collects what the chunks give, on the host."""

  def __init__(self, prompts, group, length):
    shape = (prompts, group, length)
    self.tokens, self.logp = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
    self.cut = np.full((prompts, group), length + 1)  # length at which a stop string ends the row; none: past the end
    self.count = 0

  def add(self, sampled, rows, at, count):
    prompts = np.arange(rows.shape[0])[:, None]
    self.tokens[prompts, rows, at : at + count] = sampled.token[:, :, :count]
    self.logp[prompts, rows, at : at + count] = sampled.logp[:, :, :count]
    self.count = at + count

  def find_stop(self, tokenizer, stop, rows, skip):
    """Marks rows, but those to skip, whose text holds a stop string; bool like rows."""
    found = np.zeros(rows.shape, bool)
    for p, i in zip(*np.nonzero(~skip)):
      ids = self.tokens[p, rows[p, i], : self.count]
      ends = np.isin(ids, tokenizer.eos)
      ids = ids[: ends.argmax() + 1] if ends.any() else ids
      if any(s in tokenizer.decode(ids) for s in stop):
        # The text of a beginning only grows with it: the first one that holds a stop string is the cut.
        cut = next(n for n in range(1, len(ids) + 1) if any(s in tokenizer.decode(ids[:n]) for s in stop))
        self.cut[p, rows[p, i]] = cut
        found[p, i] = True
    return found

  def finish(self, tokenizer, stop, prompts, prompt_lengths, version):
    """The RolloutBatch, everything behind a response's end zero."""
    p, g, length = self.tokens.shape
    if stop:  # rows that ended of themselves since the last look
      self.find_stop(tokenizer, stop, np.broadcast_to(np.arange(g), (p, g)), self.cut <= length)
    is_eos = np.isin(self.tokens, tokenizer.eos)
    ended = is_eos.any(axis=2)
    to_eos = np.where(ended, is_eos.argmax(axis=2) + 1, length + 1)
    lengths = np.minimum(np.minimum(to_eos, self.cut), length).astype(np.int32)
    real = np.arange(length) < lengths[..., None]
    return RolloutBatch(
      prompts,
      prompt_lengths,
      tokens=np.where(real, self.tokens, 0),
      lengths=lengths,
      loss_mask=real,
      sampler_logp=np.where(real, self.logp, 0),
      stop=np.where(self.cut < to_eos, STOP_STRING, np.where(ended, EOS, LENGTH)),
      policy_version=np.full(self.tokens.shape, version, np.int32),
    )
