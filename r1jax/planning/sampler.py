"""The sampler's programs at their largest shapes, lowered for devices that need not exist."""

import dataclasses

import jax
import jax.numpy as jnp

from r1jax import config as config_lib
from r1jax import models, parallel
from r1jax.models import layout
from r1jax.sampling import decode, slots, weights
from r1jax.sampling.logits import Restriction


@dataclasses.dataclass(frozen=True)
class SamplerShapes:
  """The sampler's largest batch.

  Attributes:
    prompts, samples: rows [prompts, samples] that are sampled together; with slots, of prompts that are run together.
    slots: rows decoded at a time, of any prompts; 0 is all.
    max_prompt, max_response: tokens.
    restriction: logits.Restriction. precision: weights.Precision.
    experts: whether the experts of tokens are collected.
  """

  prompts: int
  samples: int
  slots: int
  max_prompt: int
  max_response: int
  restriction: Restriction
  precision: weights.Precision
  experts: bool = False

  @property
  def rows(self):
    """Rows decoded at a time."""
    return self.slots or self.prompts * self.samples


def has_sampling(cfg):
  """Whether a run samples, in training or evaluation."""
  return cfg.eval.problems > 0 if isinstance(cfg, config_lib.SFT) else not isinstance(cfg, config_lib.RewardModel)


def sampling(cfg):
  """The SamplerShapes of a run that samples."""
  if isinstance(cfg, config_lib.SFT):
    e = cfg.eval
    restriction, precision = Restriction(e.top_p), weights.Precision(cfg.model.dtype)
    samples = max(e.samples, e.final_samples)
    return SamplerShapes(e.batch, samples, 0, e.max_prompt, e.max_response, restriction, precision)
  r = cfg.rollout
  samples, experts = r.samples, False
  if isinstance(cfg, config_lib.RL):
    samples, experts = max(samples, cfg.eval.samples, cfg.eval.final_samples), cfg.train.routing_replay
  restriction = Restriction(r.top_p, r.top_k, r.min_p)
  precision = weights.Precision(cfg.model.dtype, r.weight_dtype, r.cache_dtype)
  slots = min(r.slots, r.prompts * samples)  # no more than there are rows
  return SamplerShapes(r.prefill, samples, slots, r.max_prompt, r.max_response, restriction, precision, experts)


def names(cfg):
  """Names of the sampler's programs in a run which samples."""
  shapes = sampling(cfg)
  cache_grows = len(set(capacities(shapes.max_response))) > 1
  refill, compact = ['sample/fill', 'sample/merge'] * bool(shapes.slots), ['sample/compact'] * cache_grows
  return ['sample/weights', 'sample/prefill', *refill, *compact, 'sample/decode']


def capacities(max_response):
  """(before, after): tokens for which the cache has room before and after its last growth."""
  before = full = min(decode.CHUNK, max_response)
  while full < max_response:
    before, full = full, min(decode.GROW * full, max_response)
  return before, full


def lower(name, s):
  """Lowers one of the sampler's programs with all rows live, decoding with the cache at its full size.

  Args:
    name: one of `names`.
    s: programs.Setting.

  Returns:
    jax.stages.Lowered, the part of s.state among its arguments, and other arrays in memory.
  """
  shapes, mesh = sampling(s.cfg), s.sampler_mesh
  cast, params = weights.weights_program(s.state.model(), mesh, s.model, shapes.precision)
  if name == 'sample/weights':
    return cast.lower(s.state.model()), s.state.model(), None
  # The end-of-sequence ids are constants of the program and do not change its size.
  forward = models.ForwardOptions(s.cfg.model.dtype, mesh=mesh, return_experts=shapes.experts)
  options = decode.DecodeOptions(s.model, shapes.restriction, (0,), forward, shapes.precision.cache)
  lowered, extra = (_with_slots if shapes.slots else _lock_step)(name, shapes, params, options)
  return lowered, None, extra


def _structs(mesh):
  """Functions that make arguments of the programs on a mesh, and what a program gives, as ShapeDtypeStructs.

  Returns:
    (shape, dtype) -> a batch; dtype -> a scalar; (program, arguments) -> its results.
  """
  batch = lambda shape, dtype=jnp.int32: jax.ShapeDtypeStruct(shape, dtype, sharding=parallel.batch_sharding(mesh))
  scalar = lambda dtype=jnp.int32: jax.ShapeDtypeStruct((), dtype, sharding=parallel.replicated(mesh))
  place = lambda x, mesh, *axes: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout.sharding(x.shape, mesh, *axes))
  output = lambda program, *args, **static: decode.constrain(program.eval_shape(*args, **static), mesh, place)
  return batch, scalar, output


def _key_dtype():
  return jax.eval_shape(lambda: jax.random.key(0)).dtype


def _lock_step(name, shapes, params, options):
  """The program lowered, and other arrays in memory."""
  mesh, p, g = options.forward.mesh, shapes.prompts, shapes.samples
  batch, scalar, output = _structs(mesh)
  before, full = capacities(shapes.max_response)
  lengths, keys, temperature = batch((p,)), batch((p, g), _key_dtype()), scalar(jnp.float32)
  args = params, batch((p, shapes.max_prompt)), lengths, keys, temperature
  if name == 'sample/prefill':
    capacity = min(decode.CHUNK, shapes.max_response)
    return decode.prefill.lower(*args, options=options, capacity=capacity), None
  prefix, state, _ = output(decode.prefill, *args, options=options, capacity=before)
  rows = batch((p, g))
  if name == 'sample/compact':
    return decode.compact.lower(state, rows, capacity=full, mesh=mesh), (params, prefix)
  if full > before:
    state = output(decode.compact, state, rows, capacity=full, mesh=mesh)
  args = params, prefix, lengths, state, scalar(), scalar(), temperature
  return decode.decode_chunk.lower(*args, length=decode.CHUNK, options=options), None


def _with_slots(name, shapes, params, options):
  """The same with refill. Prompts whose samples wait are in memory beside all other programs than their own."""
  mesh, n, max_prompt = options.forward.mesh, shapes.slots, shapes.max_prompt
  batch, scalar, output = _structs(mesh)
  shards = parallel.batch_shards(mesh)
  p = -(-shapes.prompts // shards) * shards
  before, full = capacities(shapes.max_response)
  keys, limit, temperature = batch((n, 1), _key_dtype()), scalar(), scalar(jnp.float32)
  recent = min(decode.CHUNK, shapes.max_response)
  state_of = lambda room: output(slots.empty, keys, options=options, capacity=max_prompt + room, recent=recent)
  args = params, batch((p, max_prompt)), batch((p,))
  if name == 'sample/prefill':
    return slots.prefill.lower(*args, options=options), state_of(full)
  prompts = output(slots.prefill, *args, options=options).replace(experts=None)  # they go to the host at once
  if name == 'sample/compact':
    keep = batch((shards, n // shards))
    return slots.resize.lower(state_of(before), keep, capacity=max_prompt + full, mesh=mesh), (params, prompts)
  if name == 'sample/fill':
    args = params, state_of(full), prompts, batch((n,), bool), batch((n,)), batch((n,)), keys, limit, temperature
    return slots.fill.lower(*args, options=options), None
  if name == 'sample/merge':
    return slots.merge.lower(state_of(full), mesh=mesh), (params, prompts)
  args = params, state_of(full), scalar(), scalar(), limit, temperature
  return slots.advance.lower(*args, options=options), prompts
