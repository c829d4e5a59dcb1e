"""The programs of training, lowered for arrays that need not exist: what a plan compiles.

Arguments are ShapeDtypeStructs with shardings, and pytrees of them.
"""

import jax
import jax.numpy as jnp

from r1jax import parallel
from r1jax.batch import RolloutBatch
from r1jax.training import accumulate, critic, policy
from r1jax.typed import shape_struct


def lower_accumulate(trainer, state, batch, totals):
  """`accumulate.accumulate` of a Trainer, for a TrainState, a microbatch and the totals that its loss takes."""
  grads = _gradient(trainer, state)
  return accumulate.accumulate_program.lower(
    state.params, grads, batch, totals, state.frozen, loss_fn=trainer.loss_fn, shardings=accumulate.shardings_of(grads)
  )


def lower_apply(trainer, state, load=None):
  """`accumulate.apply` of a Trainer. load: f32[layers, experts], of a model with experts."""
  grads, state = _gradient(trainer, state), state.trained()
  return accumulate.apply_program.lower(
    state,
    grads,
    load,
    optimizer=trainer.optimizer,
    balance_rate=trainer.balance_rate,
    shardings=accumulate.shardings_of(state),
  )


def lower_logprobs(params, cfg, fn):
  """`policy.logprobs` of a config.RL by a LogProbFn."""
  replayed = fn.model if 'old' in policy.logprob_passes(cfg) else None  # the reference policy routes as it likes
  return policy.logprobs_program.lower(params, rollout_microbatch(cfg, fn.options.mesh, False, replayed), fn=fn)


def lower_values(params, cfg, fn):
  """`critic.with_values` for a config.RL by a ValueLoss."""
  return critic.values_program.lower(params, rollout_microbatch(cfg, fn.options.mesh, False), fn=fn)


def _gradient(trainer, state):
  dtype = lambda x: x.dtype if trainer.grad_dtype == 'param' else jnp.dtype(trainer.grad_dtype)
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype(x), sharding=x.sharding), state.params)


def rollout_microbatch(cfg, mesh, with_advantage=True, replayed=None):
  """The largest microbatch of a config.RL: RolloutBatch with responses of full length.

  with_advantage: with all that the update reads; else as a log-prob pass has it.
  replayed: ModelConfig, with whose experts the batch comes if train.routing_replay is set; or None.
  """
  sharding, rollout = parallel.batch_sharding(mesh), cfg.rollout
  of = lambda *shape, dtype=jnp.float32: shape_struct(shape, dtype, sharding)
  g, p = policy.microbatch_shape(cfg, None if with_advantage else rollout.prompts)
  tokens = (p, g, policy.padded_length(rollout.max_response, rollout.max_response))
  routes = lambda *shape: (
    of(*shape[:-1], *replayed.routes, shape[-1], dtype=jnp.dtype(replayed.moe.index_dtype))
    if replayed and cfg.train.routing_replay
    else None
  )
  return RolloutBatch(
    prompts=of(p, rollout.max_prompt, dtype=jnp.int32),
    prompt_lengths=of(p, dtype=jnp.int32),
    tokens=of(*tokens, dtype=jnp.int32),
    lengths=of(p, g, dtype=jnp.int32),
    loss_mask=of(*tokens, dtype=jnp.bool),
    sampler_logp=of(*tokens),
    threshold=of(*tokens) if rollout.restricted else None,
    old_logp=of(*tokens) if with_advantage and 'old' in policy.logprob_passes(cfg) else None,
    ref_logp=of(*tokens) if with_advantage and cfg.loss.kl_coef else None,
    advantage=of(*(tokens if cfg.has_critic or cfg.reward.step_credit else (p, g, 1))) if with_advantage else None,
    values=of(*tokens) if with_advantage and cfg.has_critic else None,
    returns=of(*tokens) if with_advantage and cfg.has_critic else None,
    teacher=of(p, dtype=jnp.int32) if with_advantage and cfg.distill.coef else None,
    mean_length=of(p) if with_advantage else None,
    prompt_experts=routes(p, rollout.max_prompt),
    experts=routes(*tokens),
  )
