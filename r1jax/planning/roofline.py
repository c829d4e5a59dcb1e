"""Counts by hand: FLOPs, bytes and the least time of each phase, as plain functions of a model's shapes."""

import dataclasses
import math

from r1jax import models
from r1jax import params as params_lib
from r1jax.config import RL, SFT
from r1jax.planning import programs

WIDTH = {'float32': 4, 'bfloat16': 2}  # bytes


def inputs_weights(model):
  """Weights of one layer that give queries, keys and values."""
  d, m = model.embed, model.mla
  if not m:
    return d * (model.heads + 2 * model.kv_heads) * model.head_dim
  queries = (d + model.heads * model.head_dim) * m.q_rank if m.q_rank else d * model.heads * model.head_dim
  return queries + d * (m.kv_rank + m.rope_dim) + expansion(model)


def layer_weights(model, mixed):
  """Weights that one token is multiplied with in a layer. mixed: whether it holds experts; those visited count."""
  d = model.embed
  mixer = inputs_weights(model) + model.heads * (model.mla.v_dim if model.mla else model.head_dim) * d
  if not mixed:
    return mixer + 3 * d * model.mlp
  e = model.moe
  return mixer + d * e.experts + 3 * d * e.mlp * (e.top_k + e.shared)


def expansion(model):
  """Weights that turn a latent vector into keys and values; 0 without MLA."""
  m = model.mla
  return m.kv_rank * model.heads * (m.nope_dim + m.v_dim) if m else 0


def pair_flops(model, absorbed=False):
  """FLOPs of one layer for a query that meets a key: the score and the weighted value, over all heads."""
  m = model.mla
  if not m:
    return 4 * model.heads * model.head_dim
  return 2 * model.heads * (2 * m.kv_rank + m.rope_dim if absorbed else model.head_dim + m.v_dim)


def forward_flops(model, prompts, rows, prompt_tokens, response_tokens, causal):
  """One forward of `rows` responses to each of `prompts` prompts, as `models.response_hidden` and the log-probs.

  Args:
    causal: only keys that a query sees count; else all that it is compared with where they are masked afterwards.

  Returns:
    {'weights', 'attention', 'logits'}: FLOPs; and of the weights' those of the products at the end of each layer
    ('last') and of those that give attention's inputs ('inputs').
  """
  t = response_tokens - 1  # the first is predicted by the prompt's end
  tokens = prompts * (prompt_tokens + rows * t)
  seen = lambda n: n * (n + 1) // 2 if causal else n * n
  pairs = prompts * (seen(prompt_tokens) + rows * (t * prompt_tokens + seen(t)))
  mixed = model.layers - model.dense_layers
  weights = sum(
    layers * layer_weights(model, kind) for layers, kind in ((model.dense_layers, False), (mixed, True)) if layers
  )
  # The prompt's latents are expanded once for the prompt and once for its responses.
  again = prompts * prompt_tokens * model.layers * expansion(model)
  last = model.dense_layers * model.mlp + mixed * (model.moe.shared * model.moe.mlp if model.moe else 0)
  return {
    'weights': 2 * (tokens * weights + again),
    'attention': model.layers * pairs * pair_flops(model),
    'logits': 2 * prompts * rows * response_tokens * model.embed * model.vocab,
    'last': 2 * tokens * last * model.embed,
    'inputs': 2 * (tokens * model.layers * inputs_weights(model) + again),
  }


def total(forward):
  """FLOPs of a `forward_flops`."""
  return forward['weights'] + forward['attention'] + forward['logits']


def update_flops(forward, remat):
  """Forward and backward: {'products', 'attention'}, FLOPs. Logits are always computed again.

  Args:
    remat: config.Model's. What is not kept of a layer is computed again, but for its last product, whose result no
      gradient needs.
  """
  again = {'none': 0, 'full': 1, 'attention': 1, 'qkv': 1}[remat] * (forward['weights'] - forward['last'])
  again -= forward['inputs'] if remat == 'qkv' else 0
  scores = {'none': 0, 'full': 1, 'attention': 0.5, 'qkv': 0.5}[remat]
  return {
    'products': 3 * forward['weights'] + again + 4 * forward['logits'],
    'attention': (3 + scores) * forward['attention'],
  }


def decode_flops(model, rows, context):
  """One token of each of `rows` rows, `context` keys behind it."""
  mixed = model.layers - model.dense_layers
  weights = sum(
    layers * layer_weights(model, kind) for layers, kind in ((model.dense_layers, False), (mixed, True)) if layers
  )
  attention = model.layers * context * pair_flops(model, absorbed=True)
  return rows * (2 * (weights + model.embed * model.vocab) + attention)


def cache_bytes(model, width):
  """Bytes of one token's keys and values in all layers. width: bytes of a number."""
  m = model.mla
  return model.layers * width * (m.kv_rank + m.rope_dim if m else 2 * model.kv_heads * model.head_dim)


def weights_read(model, rows, width):
  """Bytes of the parameters that `rows` tokens together need: of experts (no more than they can visit), of the rest."""
  e = model.moe
  expert = (model.layers - model.dense_layers) * 3 * model.embed * e.mlp if e else 0  # one of each layer
  table = 0 if model.tied else model.embed * model.vocab  # of the embedding, a few rows are read
  rest = params_lib.count(models.specs(model)) - table - expert * (e.experts if e else 0)
  return width * expert * (min(e.experts, rows * e.top_k) if e else 0), width * rest


@dataclasses.dataclass(frozen=True)
class Phase:
  """The least a phase costs: FLOPs and bytes of memory traffic on one chip, and seconds by the worse of the two."""

  name: str
  flops: float
  bytes: float
  seconds: float


def step(cfg, model, topology, mesh):
  """The phases of one training step, every response at its longest.

  Args:
    cfg: config.RL. model: ModelConfig. topology: topology.Topology. mesh: {axis: size}, the sampler's.

  Returns:
    list of Phase.
  """
  out, r, passes = sampling_phases(cfg, model, topology, mesh), cfg.rollout, cfg.train.epochs
  once = forward_flops(model, r.prompts, r.samples, r.max_prompt, r.max_response, causal=True)
  scored = (cfg.loss.kl_coef > 0) + (cfg.train.minibatches * passes > 1)
  if scored:
    out.append(_phase('logprobs', scored * total(once), 0, cfg, topology))
  moved = optimizer_bytes(cfg.train.param_dtype, cfg.train.grad_dtype, cfg.optimizer.moment_dtype, model)
  moved *= passes * cfg.train.minibatches / topology.chips
  return [*out, _phase('update', passes * sum(update_flops(once, cfg.model.remat).values()), moved, cfg, topology)]


def sampling_phases(cfg, model, topology, mesh):
  """The phases of sampling one rollout of a config.RL, or one file of a config.Generate; see `step`."""
  r, width = cfg.rollout, WIDTH[cfg.model.dtype]
  chips = topology.chips // mesh['seq']  # along 'seq' all sample the same
  chunk = programs.sampling(cfg).prompts
  chunks, rows = r.prompts // chunk, chunk * r.samples
  # In a prefill, weights are gathered along fsdp; in decoding each chip reads those that it holds.
  experts, rest = weights_read(model, rows, width)
  gathered = (experts / mesh['expert'] + rest) / mesh['tp']
  held = gathered / mesh['fsdp']
  cached = cache_bytes(model, width) / chips
  keys = chunk * r.max_prompt + rows * r.max_response / 2
  prompt = total(forward_flops(model, r.prompts, 0, r.max_prompt, r.max_response, causal=True))
  decode = decode_flops(model, 1, r.max_prompt + r.max_response / 2) * r.prompts * r.samples * r.max_response
  return [
    _phase('prefill', prompt, chunks * gathered, cfg, topology, chips),
    _phase('decode', decode, chunks * r.max_response * (held + keys * cached), cfg, topology, chips),
  ]


def _phase(name, flops, moved, cfg, topology, chips=None):
  """Phase of `flops` over `chips` (all where None), each moving `moved` bytes."""
  flops, limit = flops / (chips or topology.chips), topology.chip.flops
  limit = limit if WIDTH[cfg.model.dtype] == 2 else limit / 2
  return Phase(name, flops, moved, max(flops / limit, moved / topology.chip.bandwidth))


def packed_flops(model, rows, tokens, causal):
  """As `forward_flops`, of packed rows. A row counts as one text: a kernel computes masked segments too."""
  # A prompt of no tokens, whose response's first has nothing to tell it.
  forward = forward_flops(model, rows, 1, 0, tokens + 1, causal)
  return forward | {'logits': forward['logits'] * tokens // (tokens + 1) if model.head == 'tokens' else 0}


def labelled_step(cfg, model, topology):
  """The phase of one optimizer step of a config.SFT or config.RewardModel, its rows full."""
  once = packed_flops(model, cfg.batch * programs.rows_of(cfg), cfg.data.max_length, causal=True)
  moved = optimizer_bytes(cfg.param_dtype, cfg.grad_dtype, cfg.optimizer.moment_dtype, model) / topology.chips
  flops = sum(update_flops(once, cfg.model.remat).values())
  return _phase(programs.phases(cfg)[0], flops, moved, cfg, topology)


def optimizer_bytes(param_dtype, grad_dtype, moment_dtype, model):
  """Bytes that one optimizer step moves: it reads parameters, gradients and two moments, writes all but gradients."""
  param, moment = WIDTH[param_dtype], WIDTH[moment_dtype]
  grad = param if grad_dtype == 'param' else 4
  return (2 * param + grad + 4 * moment) * params_lib.count(models.specs(model))


def by_hand(cfg, model, name):
  """FLOPs of one run of the program `name` over all chips: {'products', 'attention'}; None for a program not counted.

  Attention's are those of every score, seen or masked, as XLA computes them; a kernel leaves most masked ones out.
  """
  if not isinstance(cfg, RL | SFT):
    return None
  if isinstance(cfg, SFT):
    forward = packed_flops(model, cfg.microbatch or cfg.batch, cfg.data.max_length, causal=False)
    return update_flops(forward, cfg.model.remat) if name == 'sft/accumulate' else None
  groups, rows = programs.microbatch_shape(cfg)
  forward = forward_flops(model, groups, rows, cfg.rollout.max_prompt, cfg.rollout.max_response, causal=False)
  once = {'products': forward['weights'] + forward['logits'], 'attention': forward['attention']}
  return {'update/accumulate': update_flops(forward, cfg.model.remat), 'logprobs': once}.get(name)


def chips_needed(used, limit, chips):
  """Chips over which what `chips` need in all would fit, were it split evenly."""
  return math.ceil(chips * used / limit)
