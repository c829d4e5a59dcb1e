"""The policy update: compiled programs for log-probs, gradients of one microbatch, and the optimizer step."""

import functools

import flax.struct
import jax
import jax.numpy as jnp
import optax

from r1jax import losses, models, parallel


@flax.struct.dataclass
class PolicyBatch:
  """G responses to each of P prompts, graded.

  Attributes:
    prompts: i32[P, Tp], right-padded; prompt_lengths: i32[P].
    responses: i32[P, G, T], right-padded; lengths: i32[P, G].
    advantage: f32[P, G], or f32[P, G, T] where each token has its own.
    sampler_logp: f32[P, G, T], of the distribution each token was drawn from.
    old_logp: f32[P, G, T], the behaviour policy's, by the trainer; None where this is the only
      update of the rollout and they equal the policy's own.
    ref_logp: f32[P, G, T], the reference policy's; None without a KL term.
  """

  prompts: jax.Array
  prompt_lengths: jax.Array
  responses: jax.Array
  lengths: jax.Array
  advantage: jax.Array
  sampler_logp: jax.Array
  old_logp: jax.Array | None
  ref_logp: jax.Array | None


@flax.struct.dataclass
class Totals:
  """f32[] each: responses and response tokens in the whole minibatch, the divisors of every microbatch."""

  rows: jax.Array
  tokens: jax.Array


@flax.struct.dataclass
class Options:
  """How log-probs are computed: static settings of the programs below."""

  temperature: float = flax.struct.field(pytree_node=False)
  logit_chunk: int = flax.struct.field(pytree_node=False)
  dtype: str = flax.struct.field(pytree_node=False)
  remat: str = flax.struct.field(pytree_node=False)
  mesh: jax.sharding.Mesh | None = flax.struct.field(pytree_node=False, default=None)
  attention: str = flax.struct.field(pytree_node=False, default='auto')

  def __post_init__(self):
    models.Attention(self.attention, self.mesh)  # refuses what the devices cannot do before anything compiles


def _logprobs(params, cfg, batch, options):
  """Log-probs and entropies of the responses, f32[P, G, T] each, the load of experts (see `models.forward`), and params
  for who adds gradients up in place (see `models.remat`)."""
  out = models.response_hidden(
    params,
    cfg,
    batch.prompts,
    batch.prompt_lengths,
    batch.responses,
    batch.lengths,
    dtype=jnp.dtype(options.dtype),
    remat=options.remat,
    attention=options.attention,
    mesh=options.mesh,
  )
  flat = lambda x: x.reshape(len(x), -1, *x.shape[3:])
  logp, entropy = logprobs_of(flat(out.hidden), models.unembedding(out.params), flat(batch.responses), options)
  return logp.reshape(batch.responses.shape), entropy.reshape(batch.responses.shape), out.expert_load, out.params


def logprobs_of(hidden, unembed, targets, options):
  """Log-probs and entropies, f32[P, N] each, of targets i32[P, N] from hidden states [P, N, embed] that tell them."""
  if options.mesh is not None and options.mesh.size > 1:
    return models.sharded_logprobs(hidden, unembed, targets, options.logit_chunk, options.mesh, options.temperature)
  found = models.token_logprobs(
    hidden.reshape(-1, hidden.shape[-1]), unembed, targets.reshape(-1), options.logit_chunk, options.temperature
  )
  return tuple(x.reshape(targets.shape) for x in found)


@functools.partial(jax.jit, static_argnames=('cfg', 'options'))
def logprobs(params, batch, *, cfg, options):
  """f32[P, G, T] log-probs of the responses under `params`; values after a row's end mean nothing."""
  return _logprobs(params, cfg, batch, options)[0]


def policy_loss(params, batch, totals, *, cfg, options, loss, max_response):
  """This microbatch's share of the minibatch's loss; and that of its metrics, and params as `_logprobs` gives them."""
  logp, entropy, load, params = _logprobs(params, cfg, batch, options)
  flat = lambda x: x.reshape(-1, x.shape[-1])
  logp, entropy = flat(logp), flat(entropy)
  own = jax.lax.stop_gradient(logp)
  mask = jnp.arange(logp.shape[1]) < batch.lengths.reshape(-1, 1)
  terms = losses.PolicyTerms(
    mask=mask,
    advantage=flat(batch.advantage) if batch.advantage.ndim == 3 else batch.advantage.reshape(-1),
    old_logp=own if batch.old_logp is None else flat(batch.old_logp),
    ref_logp=own if batch.ref_logp is None else flat(batch.ref_logp),
    sampler_logp=flat(batch.sampler_logp),
    rows=totals.rows,
    tokens=totals.tokens,
    max_length=max_response,
  )
  value, metrics = losses.LOSSES[loss.name](logp, terms, loss)
  entropy = jnp.where(mask, entropy, 0).sum() / totals.tokens
  metrics = metrics | {'policy/entropy': entropy, 'policy/loss': value}
  if batch.ref_logp is None:
    del metrics['policy/kl']
  if load is not None:
    metrics['moe/load'] = load
  return value - loss.entropy_coef * entropy, (metrics, params)


def accumulate(params, grads, batch, totals, *, cfg, options, loss, max_response):
  """Adds a microbatch's gradient to `grads`, which is donated. Returns grads, metrics."""
  return _accumulate(
    params,
    grads,
    batch,
    totals,
    cfg=cfg,
    options=options,
    loss=loss,
    max_response=max_response,
    places=places_of(grads),
  )


@functools.partial(
  jax.jit, static_argnames=('cfg', 'options', 'loss', 'max_response', 'places'), donate_argnames=('grads',)
)
def _accumulate(params, grads, batch, totals, *, cfg, options, loss, max_response, places):
  run = functools.partial(
    policy_loss, batch=batch, totals=totals, cfg=cfg, options=options, loss=loss, max_response=max_response
  )
  return add_gradient(run, params, grads, options.remat, places)


def add_gradient(loss, params, grads, remat, places):
  """grads with the gradient of loss(params) -> value, (metrics, params as `models.Output`); and metrics."""
  if remat == 'none':
    (_, (metrics, _)), new = jax.value_and_grad(loss, has_aux=True)(params)
    return _lay(jax.tree.map(lambda total, g: total + g.astype(total.dtype), grads, new), places), metrics

  def threaded(params):
    value, (metrics, params) = loss(params)
    return (value, params), metrics

  (value, _), back, metrics = jax.vjp(threaded, params, has_aux=True)
  # The sum so far goes in where the last layers' gradient begins, and comes out with the microbatch's added.
  (grads,) = back((jnp.ones_like(value), grads))
  return _lay(grads, places), metrics


def apply(state, grads, load=None, *, optimizer, balance_rate=0.0):
  """One optimizer step.

  Args:
    state: TrainState; donated.
    grads: like its params.
    load: f32[layers, experts] of the step, for `models.balance`; None without experts.
    balance_rate: how far correction biases move in a step.

  Returns:
    TrainState, and the gradient's global norm before clipping.
  """
  reference, state = state.reference, state.replace(reference=None)  # may lie in the host's memory
  state, norm = _apply(state, grads, load, optimizer=optimizer, balance_rate=balance_rate, places=places_of(state))
  return state.replace(reference=reference), norm


@functools.partial(jax.jit, static_argnames=('optimizer', 'balance_rate', 'places'), donate_argnames=('state',))
def _apply(state, grads, load, *, optimizer, balance_rate, places):
  updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  if load is not None:
    params = models.balance(params, state.params, load, balance_rate)
  new = state.replace(params=params, opt_state=opt_state, opt_step=state.opt_step + 1)
  return _lay(new, places), optax.global_norm(grads)


def zeros_like(params, dtype='float32'):
  """Zeros of `dtype` ('param': their own) laid out as `params`."""
  return _zeros(params, dtype=dtype, places=places_of(params))


@functools.partial(jax.jit, static_argnames=('dtype', 'places'))
def _zeros(params, *, dtype, places):
  return _lay(jax.tree.map(lambda x: jnp.zeros_like(x, None if dtype == 'param' else dtype), params), places)


def places_of(tree):
  """Where a tree's arrays lie, as a static argument: the compiler is free to lay out a result otherwise than its
  input (zeros on every device, norms split), and the next step would then be another program."""
  return tuple(parallel.plain(x.sharding) for x in jax.tree.leaves(tree))


def _lay(tree, places):
  return jax.tree.map(jax.lax.with_sharding_constraint, tree, jax.tree.unflatten(jax.tree.structure(tree), places))


def combine(metrics):
  """Metrics of a list of microbatches: sums, except maxima (`_max`) and minima (`_min`)."""
  return {
    name: (max if name.endswith('_max') else min if name.endswith('_min') else sum)(m[name] for m in metrics)
    for name in metrics[0]
  }
