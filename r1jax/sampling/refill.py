"""Continuous batching: a fixed number of slots is decoded, and rows that wait take the places of those that have ended.

Rows wait in the order of their prompts, whose keys and values are computed a batch of prompts at a time and dropped
once their last sample has a slot. A row's key and prompt decide its tokens, as in lock step; only rounding differs.
"""

import jax
import numpy as np

from r1jax import parallel
from r1jax.sampling import decode, slots

REFILL = 8  # the host refills once one in so many slots has ended, or at its next look


def collect(engine, out, weights, padded, lengths, keys, sampling):
  """Samples one response a key with engine.slots slots.

  Args:
    engine: Engine. out: Output, which is filled.
    weights: as `Engine.prepare_params` gives them.
    padded: i32[P, Tp], prompts. lengths: i32[P]. keys: PRNG keys [P, G].
    sampling: SamplingParams.
  """
  refill = _Refill(engine, out, weights, (padded, lengths, keys), sampling)
  while True:
    refill.fill()
    if refill.done.all():
      return
    refill.resize()
    refill.advance()
    if engine.watch:
      engine.watch((refill.next - int((~refill.done).sum())) / refill.total)


class _Refill:
  """One call of `collect`. Everything about a slot that the host needs is known on the host too.

  Attributes:
    rows: i64[S], the row in each slot, the samples of a prompt adjacent. done: bool[S].
    length: i64[S], tokens of the prompt and of the response but for the last.
    next: the first row that waits. total: number of rows.
  """

  def __init__(self, engine, out, weights, inputs, sampling):
    self.engine, self.out, self.weights = engine, out, weights
    self.padded, self.lengths, keys = inputs
    (p, self.group), self.total, self.next = keys.shape, keys.size, 0
    self.keys, self.key_impl = parallel.to_host(jax.random.key_data(keys.reshape(-1))), jax.random.key_impl(keys)
    self.options = engine.options(sampling)
    self.limit = self._scalar(np.int32(engine.max_response))
    self.temperature = self._scalar(np.float32(sampling.temperature))
    shards = engine.shards
    self.width = decode.smaller(engine.slots // shards, -(-self.total // shards))  # slots of a device
    self.batch = -(-min(engine.prefill or p, p) // shards) * shards  # prompts that are run at a time
    self.prompts, self.first = None, -self.batch  # those run last, the first of which is prompt number `first`
    count = self.width * shards
    self.rows, self.length, self.done = np.zeros(count, int), np.zeros(count, int), np.ones(count, bool)
    self.chunk = min(decode.CHUNK, engine.max_response)  # tokens that have room beside the histories
    self.recent = 0  # tokens there
    self.room = self.chunk  # for tokens of responses in histories, beside the longest prompt
    capacity = self.padded.shape[1] + self.room
    keys = self._keys_of(self.rows)
    self.state = engine.run(slots.empty, keys, options=self.options, capacity=capacity, recent=self.chunk)

  def _scalar(self, x):
    return parallel.to_global(x, self.engine.everywhere)

  def _by_slot(self, x):
    return parallel.to_global(x, self.engine.by_prompt)

  def _keys_of(self, rows):
    return self._by_slot(jax.random.wrap_key_data(jax.device_put(self.keys[rows][:, None]), impl=self.key_impl))

  def fill(self):
    """Gives waiting rows to slots that are done, until no slot or no row is left."""
    while self.next < self.total and self.done.any():
      self._prefill()
      # One slot of each device after the other, so that the last rows are spread evenly.
      order = np.arange(self.done.size).reshape(self.engine.shards, -1).T.ravel()
      free = order[self.done[order]][: min(self.total, (self.first + self.batch) * self.group) - self.next]
      rows = np.arange(self.next, self.next + free.size)
      self.next += free.size
      self.rows[free] = rows
      prompt = self.rows // self.group
      self.length[free] = self.lengths[prompt[free]]
      new = np.zeros(self.done.size, bool)
      new[free] = True
      which = np.where(new, prompt - self.first, 0).astype(np.int32)
      given = self._by_slot((new, which, self.lengths[prompt])), self._keys_of(self.rows)
      self.state, sampled = self.engine.run(
        slots.fill,
        self.weights,
        self.state,
        self.prompts,
        *given[0],
        given[1],
        self.limit,
        self.temperature,
        options=self.options,
      )
      self._collect(sampled, 1, new)

  def _prefill(self):
    """Runs the next batch of prompts, if no row of the last one waits."""
    if self.next < (self.first + self.batch) * self.group:
      return
    self.first += self.batch
    self.prompts = None  # before there are others
    tokens = np.zeros((self.batch, self.padded.shape[1]), np.int32)
    lengths = np.ones(self.batch, np.int32)
    chunk = slice(self.first, self.first + self.batch)
    count = len(self.lengths[chunk])
    tokens[:count], lengths[:count] = self.padded[chunk], self.lengths[chunk]
    prompts = self.engine.run(slots.prefill, self.weights, *self._by_slot((tokens, lengths)), options=self.options)
    if prompts.experts is not None:
      self.out.prompt_experts.append(parallel.to_host(prompts.experts)[:count])
    self.prompts = prompts.replace(experts=None)

  def _collect(self, sampled, count, which):
    """Keeps the first `count` tokens of Sampled for the slots in the mask `which`, and finds out what has ended."""
    sampled, done = parallel.to_host((sampled, self.state.done))
    self.out.add(jax.tree.map(lambda x: x[which], sampled), self.rows[which], count)
    self.done = np.array(done)[:, 0]
    engine = self.engine
    if engine.stop:
      self.done[~self.done] = self.out.find_stop(engine.tokenizer, engine.stop, self.rows[~self.done])
      self.state = self.state.replace(done=self._by_slot(self.done[:, None]))

  def resize(self):
    """Drops slots that nothing waits for, and makes room for as many tokens as `recent` may hold."""
    engine, live = self.engine, ~self.done.reshape(self.engine.shards, -1)
    width = decode.smaller(self.width, int(live.sum(axis=1).max())) if self.next == self.total else self.width
    need = int(self.length[~self.done].max()) + self.chunk - self.padded.shape[1]
    room = self.room
    while room < min(need, engine.max_response):
      room = min(decode.GROW * room, engine.max_response)
    if (width, room) == (self.width, self.room):
      return
    keep = np.argsort(~live, axis=1, kind='stable')[:, :width].astype(np.int32)
    capacity = self.padded.shape[1] + room
    self.state = engine.run(slots.resize, self.state, self._by_slot(keep), capacity=capacity, mesh=engine.mesh)
    pick = lambda x: np.take_along_axis(x.reshape(engine.shards, -1), keep, axis=1).ravel()
    self.rows, self.length, self.done = pick(self.rows), pick(self.length), pick(self.done)
    self.width, self.room = width, room

  def advance(self):
    """Decodes until the host should look again."""
    count = self.done.size
    fewest, narrow = 0, self.width // decode.SHRINK if self.width % decode.SHRINK == 0 else 0
    if self.next < self.total:
      fewest, narrow = count - max(1, count // REFILL), 0
    self.state, sampled, steps = self.engine.run(
      slots.advance,
      self.weights,
      self.state,
      self._scalar(np.int32(fewest)),
      self._scalar(np.int32(narrow)),
      self.limit,
      self.temperature,
      options=self.options,
    )
    steps = int(parallel.to_host(steps))
    self._collect(sampled, steps, ~self.done)
    self.length[~self.done] += steps
    self.out.row_steps += steps * count
    self.recent += steps
    if self.recent == self.chunk:
      self.state, self.recent = self.engine.run(slots.merge, self.state, mesh=self.engine.mesh), 0
