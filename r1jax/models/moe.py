"""Mixtures of experts without dropped tokens: rows sorted by expert, then one ragged product for all experts.

Routing after DeepSeek-V3 (section 2.1.2): sigmoid scores, a correction bias that takes part in the choice only, experts
chosen among the best groups; or Qwen3's softmax.
"""
import jax
import jax.numpy as jnp

from r1jax.models.layers import mlp, mlp_specs
from r1jax.params import Spec

# Routers are compared at small differences: these stay in float32 whatever the computation's dtype.
EXACT = ('router', 'router_bias')


def moe_specs(cfg):
  m = cfg.moe
  specs = {
      'router': Spec((cfg.embed, m.experts), ('embed', 'experts')),
      'gate': Spec((m.experts, cfg.embed, m.mlp), ('experts', 'embed', 'mlp')),
      'up': Spec((m.experts, cfg.embed, m.mlp), ('experts', 'embed', 'mlp')),
      'down': Spec((m.experts, m.mlp, cfg.embed), ('experts', 'mlp', 'embed')),
  }
  if m.score == 'sigmoid':
    specs['router_bias'] = Spec((m.experts,), ('norm',), 'zeros')
  if m.shared:
    specs['shared'] = mlp_specs(cfg.embed, m.mlp * m.shared)
  return specs


def route(p, m, x):
  """Which experts each token visits, and with what weights.

  Args:
    p: the layer's parameters. m: MoE. x: [N, embed].

  Returns:
    weights f32[N, top_k], experts i32[N, top_k].
  """
  logits = jnp.dot(x.astype(jnp.float32), p['router'].astype(jnp.float32), precision='highest')
  scores = jax.nn.softmax(logits) if m.score == 'softmax' else jax.nn.sigmoid(logits)
  choice = scores + p['router_bias'] if 'router_bias' in p else scores
  if m.top_groups < m.groups:
    grouped = choice.reshape(-1, m.groups, m.experts // m.groups)
    best = jax.lax.top_k(grouped, 2)[0].sum(axis=-1)    # a group is as good as its two best experts
    _, chosen = jax.lax.top_k(best, m.top_groups)
    open_ = (chosen[..., None] == jnp.arange(m.groups)).any(axis=1)
    choice = jnp.where(open_[..., None], grouped, -jnp.inf).reshape(choice.shape)
  _, experts = jax.lax.top_k(choice, m.top_k)
  weights = jnp.take_along_axis(scores, experts, axis=-1)
  if m.normalise:
    weights = weights / (weights.sum(axis=-1, keepdims=True) + 1e-20)
  return weights * m.scale, experts


def moe(p, m, x, real=None):
  """Experts' results, weighted, and the shared experts'.

  Args:
    x: [..., embed].
    real: bool[...], which tokens count in the load; all where None.

  Returns:
    Like x; and the load f32[experts]: how many times each expert was visited.
  """
  rows = x.reshape(-1, x.shape[-1])                     # [N, embed]
  weights, experts = route(p, m, rows)
  flat = experts.reshape(-1)                            # [N * top_k]
  order = jnp.argsort(flat, stable=True)
  sizes = (flat[:, None] == jnp.arange(m.experts)).sum(axis=0, dtype=jnp.int32)
  ragged = lambda a, w: jax.lax.ragged_dot(a, w, sizes, preferred_element_type=jnp.float32).astype(a.dtype)
  visiting = rows[order // m.top_k]
  out = ragged(jax.nn.silu(ragged(visiting, p['gate'])) * ragged(visiting, p['up']), p['down'])
  out = out[jnp.argsort(order)].reshape(*experts.shape, -1)
  out = (out * weights[..., None]).sum(axis=1).astype(x.dtype).reshape(x.shape)
  counted = jnp.ones(len(rows)) if real is None else real.reshape(-1).astype(jnp.float32)
  load = jnp.zeros(m.experts).at[flat].add(jnp.repeat(counted, m.top_k))
  return out + mlp(p['shared'], x) if m.shared else out, load


def balance(params, before, load, rate):
  """Moves correction biases by `rate` towards the experts visited less than the mean (DeepSeek-V3, section 2.1.2).

  Args:
    params: a model's after an optimizer step; `before`: the same before it. A bias has no gradient, but decays.
    load: f32[layers, experts] of the step.

  Returns:
    params with the biases of `before`, moved.
  """
  if 'router_bias' not in params['layers']['moe']:
    return params
  bias = before['layers']['moe']['router_bias']
  bias += (rate * jnp.sign(load.mean(axis=-1, keepdims=True) - load)).astype(bias.dtype)
  layers = params['layers']
  return params | {'layers': layers | {'moe': layers['moe'] | {'router_bias': bias}}}
