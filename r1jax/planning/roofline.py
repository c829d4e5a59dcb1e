"""Analytic counts of FLOPs and bytes, and the least time of each phase, as functions of a model's shapes."""

import dataclasses
import math

import jax

from r1jax import models
from r1jax import params as params_lib
from r1jax.config import RL, SFT, LoRA
from r1jax.models import quantized
from r1jax.planning import programs
from r1jax.training import distill, lora, policy

WHOLE = LoRA()  # of runs that train the whole model
WIDTH = {'float32': 4, 'bfloat16': 2, 'int8': 1, 'int4': 0.5}  # bytes
SCALES = {'int8': 0, 'int4': 4 / quantized.TILE}  # bytes for each weight; a channel's one scale does not count


def inputs_weights(model):
  """Number of weights of one layer that compute queries, keys and values."""
  d, m = model.embed, model.mla
  if not m:
    return d * (model.heads + 2 * model.kv_heads) * model.head_dim
  queries = (d + model.heads * model.head_dim) * m.q_rank if m.q_rank else d * model.heads * model.head_dim
  return queries + d * (m.kv_rank + m.rope_dim) + expansion(model)


def kept_weights(model):
  """Those of `inputs_weights` whose results are attention's inputs themselves; without MLA all."""
  m = model.mla
  return model.heads * model.head_dim * (m.q_rank or model.embed) if m else inputs_weights(model)


def layer_weights(model, mixed):
  """Number of weights that one token is multiplied with in a layer; of experts (`mixed`) those that it visits."""
  d = model.embed
  mixer = inputs_weights(model) + model.heads * (model.mla.v_dim if model.mla else model.head_dim) * d
  if not mixed:
    return mixer + 3 * d * model.mlp
  e = model.moe
  return mixer + d * e.experts + 3 * d * e.mlp * (e.top_k + e.shared)


def expansion(model):
  """Number of weights that expand a latent vector into keys and values; 0 without MLA."""
  m = model.mla
  return m.kv_rank * model.heads * (m.nope_dim + m.v_dim) if m else 0


def pair_flops(model, absorbed=False):
  """FLOPs of one layer for one pair of a query and a key: the score and the weighted value, over all heads."""
  m = model.mla
  if not m:
    return 4 * model.heads * model.head_dim
  return 2 * model.heads * (2 * m.kv_rank + m.rope_dim if absorbed else model.head_dim + m.v_dim)


def forward_flops(model, prompts, rows, prompt_tokens, response_tokens, causal):
  """FLOPs of one forward pass over `rows` responses to each of `prompts` prompts, with log-probs.

  It is that of `models.response_hidden`, where the responses share the computation of their prompt.

  Args:
    causal: count only the keys that a query may attend to; otherwise also those that are masked after the product.

  Returns:
    dict of FLOPs: 'weights', 'attention' and 'logits', which add up to the whole; and parts of 'weights': the last
    products of each layer ('last'); the products for attention's inputs whose results remat policies name ('kept'), and
    the others ('latent'); the router's and the experts' but for their last ('experts').
  """
  t = response_tokens - 1  # the first token is predicted by the end of the prompt
  tokens = prompts * (prompt_tokens + rows * t)
  self_pairs = lambda n: n * (n + 1) // 2 if causal else n * n
  pairs = prompts * (self_pairs(prompt_tokens) + rows * (t * prompt_tokens + self_pairs(t)))
  mixed = model.layers - model.dense_layers
  # The latents of a prompt are expanded once for the prompt and once for its responses.
  second_expansion = prompts * prompt_tokens * model.layers * expansion(model)
  last = model.dense_layers * model.mlp + mixed * (model.moe.shared * model.moe.mlp if model.moe else 0)
  return {
    'weights': 2 * (tokens * _all_layer_weights(model) + second_expansion),
    'attention': model.layers * pairs * pair_flops(model),
    'logits': 2 * prompts * rows * response_tokens * model.embed * model.vocab,
    'last': 2 * tokens * last * model.embed,
    'kept': 2 * tokens * model.layers * kept_weights(model),
    'latent': 2 * tokens * model.layers * (inputs_weights(model) - kept_weights(model)) + 2 * second_expansion,
    'experts': 2 * tokens * mixed * model.embed * (e.experts + 2 * e.top_k * e.mlp) if (e := model.moe) else 0,
  }


def _all_layer_weights(model):
  """`layer_weights` summed over all layers."""
  mixed = model.layers - model.dense_layers
  return sum(
    layers * layer_weights(model, kind) for layers, kind in ((model.dense_layers, False), (mixed, True)) if layers
  )


def total(forward):
  """All FLOPs in a result of `forward_flops`."""
  return forward['weights'] + forward['attention'] + forward['logits']


def update_flops(forward, remat):
  """FLOPs of forward and backward pass: {'products', 'attention'}. Logits are always recomputed.

  Args:
    forward: result of `forward_flops`.
    remat: as in config.Model. Activations of a layer that are not kept are recomputed, except for its last product,
      whose result no gradient needs.
  """
  whole = forward['weights'] - forward['last']
  recomputed = {
    'none': 0,
    'full': whole,
    'attention': whole,
    'qkv': whole - forward['kept'],
    'products': forward['latent'] + forward['experts'],
  }[remat]
  scores = 0 if remat == 'none' else 1  # as XLA's attention does; splash recomputes half
  return {
    'products': 3 * forward['weights'] + recomputed + 4 * forward['logits'],
    'attention': (3 + scores) * forward['attention'],
  }


def decode_flops(model, rows, context):
  """FLOPs of decoding one token of each of `rows` rows with `context` keys in the cache."""
  attention = model.layers * context * pair_flops(model, absorbed=True)
  return rows * (2 * (_all_layer_weights(model) + model.embed * model.vocab) + attention)


def cache_bytes(model, width):
  """Bytes of one token's keys and values in all layers. width: bytes of a value."""
  m = model.mla
  return model.layers * width * (m.kv_rank + m.rope_dim if m else 2 * model.kv_heads * model.head_dim)


def weights_read(model, rows, width, weight_dtype=''):
  """(bytes of experts, bytes of other parameters) that `rows` tokens read together.

  Only as many experts count as the tokens can visit.

  Args:
    width: bytes of a value. weight_dtype: of the layers' matrices, as in config.Rollout; all others have `width`.
  """
  e = model.moe
  of_matrix = WIDTH[weight_dtype] + SCALES[weight_dtype] if weight_dtype else width
  expert = (model.layers - model.dense_layers) * 3 * model.embed * e.mlp if e else 0  # one expert in each layer
  table = 0 if model.tied else model.embed * model.vocab  # only a few rows of the embedding are read
  all_experts = expert * (e.experts if e else 0)
  matrices = _layer_matrices(model) - all_experts
  others = params_lib.count(models.specs(model)) - table - all_experts - matrices
  visited = expert * (min(e.experts, rows * e.top_k) if e else 0)
  return of_matrix * visited, of_matrix * matrices + width * others


def _layer_matrices(model):
  """Number of weights that `rollout.weight_dtype` applies to: those of the layers' matrices, all experts included."""
  specs = jax.tree_util.tree_leaves_with_path(models.specs(model, stacked=False), is_leaf=params_lib.is_spec)
  return sum(math.prod(spec.shape) for path, spec in specs if quantized.is_matrix(path, spec))


@dataclasses.dataclass(frozen=True)
class Phase:
  """Lower bound of a phase: FLOPs and bytes of memory traffic on one chip, and seconds by the slower of the two."""

  name: str
  flops: float
  bytes: float
  seconds: float


def step(cfg, model, topology, mesh):
  """The phases of one training step with every response at its maximum length.

  Args:
    cfg: config.RL.
    model: ModelConfig.
    topology: topology.Topology.
    mesh: {axis: size} of the sampler.

  Returns:
    list of Phase.
  """
  out, r, epochs = sampling_phases(cfg, model, topology, mesh), cfg.rollout, cfg.train.epochs
  forward = forward_flops(model, r.prompts, r.samples, r.max_prompt, r.max_response, causal=True)
  if passes := policy.logprob_passes(cfg):
    out.append(_phase('logprobs', len(passes) * total(forward), 0, cfg, topology))
  dtypes = cfg.train.param_dtype, cfg.train.grad_dtype, cfg.optimizer.moment_dtype
  steps_a_chip = epochs * cfg.train.minibatches / topology.chips
  moved = steps_a_chip * optimizer_bytes(*dtypes, model, cfg.lora)
  flops = epochs * sum(update_flops(forward, cfg.model.remat).values())
  out.append(_phase('update', flops, moved, cfg, topology))
  if cfg.distill.coef:  # one teacher scores a prompt: at most the largest
    flops = epochs * sum(teaching_flops(cfg, model, r.prompts, r.samples, True, max).values())
    out.append(_phase('teacher', flops, 0, cfg, topology))
  if cfg.has_critic:  # of the policy's shape, with one output in the place of the vocabulary
    forward |= {'logits': 0}
    flops = total(forward) + epochs * sum(update_flops(forward, cfg.model.remat).values())
    moved = steps_a_chip * optimizer_bytes('float32' if cfg.lora.rank else dtypes[0], *dtypes[1:], model)
    out.append(_phase('critic', flops, moved, cfg, topology))
  return out


def teaching_flops(cfg, model, prompts, rows, causal, over):
  """FLOPs that teachers add to the update: {'products', 'attention'}, zeros without any.

  A teacher's logits are computed twice; the policy's four times, as for log-probs, which then need no backward pass
  where nothing is learned through them.

  Args:
    prompts, rows, causal: as for `forward_flops`.
    over: `max` or `sum` over the teachers.
  """
  forward = lambda of: forward_flops(of, prompts, rows, cfg.rollout.max_prompt, cfg.rollout.max_response, causal)
  each = [forward(distill.fitted(teacher, model)) for teacher in programs.teacher_models(cfg, model)]
  if not each:
    return {'products': 0, 'attention': 0}
  own = forward(model)['logits'] * (4 if cfg.loss.reads_logprobs else 1)
  products = own + over(f['weights'] + 2 * f['logits'] for f in each)
  return {'products': products, 'attention': over(f['attention'] for f in each)}


def sampling_phases(cfg, model, topology, mesh):
  """The phases of sampling one rollout of a config.RL, or one file of samples of a config.Generate; see `step`."""
  r, width = cfg.rollout, WIDTH[cfg.model.dtype]
  chips = topology.chips // mesh['seq']  # devices along 'seq' sample the same rows
  chunks = r.prompts // r.prefill
  slots = min(r.slots, r.prompts * r.samples)
  rows = slots or r.prefill * r.samples
  # Prefill gathers weights along fsdp; in decoding each chip reads only its own shard.
  experts, rest = weights_read(model, rows, width, r.weight_dtype)
  gathered = (experts / mesh['expert'] + rest) / mesh['tp']
  held = gathered / mesh['fsdp']
  cached = cache_bytes(model, WIDTH[r.cache_dtype] if r.cache_dtype else width) / chips
  # Slots have a copy of their prompt each.
  keys = (slots or r.prefill) * r.max_prompt + rows * r.max_response / 2
  steps = r.prompts * r.samples / rows * r.max_response
  prompt = total(forward_flops(model, r.prompts, 0, r.max_prompt, r.max_response, causal=True))
  decode = decode_flops(model, 1, r.max_prompt + r.max_response / 2) * r.prompts * r.samples * r.max_response
  return [
    _phase('prefill', prompt, chunks * gathered, cfg, topology, chips),
    _phase('decode', decode, steps * (held + keys * cached), cfg, topology, chips),
  ]


def _phase(name, flops, moved, cfg, topology, chips=None):
  """The Phase of `flops` spread over `chips` (None: all of the slice), where each chip moves `moved` bytes."""
  flops, limit = flops / (chips or topology.chips), topology.chip.flops
  limit = limit if WIDTH[cfg.model.dtype] == 2 else limit / 2
  return Phase(name, flops, moved, max(flops / limit, moved / topology.chip.bandwidth))


def packed_flops(model, rows, tokens, causal):
  """`forward_flops` of packed rows. A row counts as one text, because a kernel computes masked segments too.

  A layer for multi-token prediction is one more, with a projection before it and logits of its own.
  """
  # As responses to empty prompts, which leave the first token unpredicted.
  forward = forward_flops(dataclasses.replace(model, layers=model.layers + model.mtp), rows, 1, 0, tokens + 1, causal)
  projected = 2 * rows * tokens * model.mtp * 2 * model.embed**2
  logits = forward['logits'] * tokens // (tokens + 1) * (1 + model.mtp) if model.head == 'tokens' else 0
  return forward | {name: forward[name] + projected for name in ('weights', 'latent')} | {'logits': logits}


def supervised_step(cfg, model, topology):
  """The Phase of one optimizer step of a config.SFT or config.RewardModel with rows of the maximum length."""
  forward = packed_flops(model, cfg.batch * programs.rows_of(cfg), cfg.data.max_length, causal=True)
  adapters = getattr(cfg, 'lora', WHOLE)  # a reward model has none
  moved = optimizer_bytes(cfg.param_dtype, cfg.grad_dtype, cfg.optimizer.moment_dtype, model, adapters) / topology.chips
  flops = sum(update_flops(forward, cfg.model.remat).values())
  return _phase(programs.phases(cfg)[0], flops, moved, cfg, topology)


def optimizer_bytes(param_dtype, grad_dtype, moment_dtype, model, adapters=WHOLE):
  """Bytes that one optimizer step moves: reads parameters, gradients and two moments, writes all but the gradients.

  adapters: config.LoRA, with whose rank these are of the adapter, in float32.
  """
  param_dtype = 'float32' if adapters.rank else param_dtype
  param, moment = WIDTH[param_dtype], WIDTH[moment_dtype]
  grad = param if grad_dtype == 'param' else 4
  return (2 * param + grad + 4 * moment) * params_lib.count(lora.specs(adapters, model))


def analytic_flops(cfg, model, name) -> dict[str, float] | None:
  """Analytic FLOPs of one execution of the program `name`, summed over all chips.

  Attention counts every score, masked or not, as XLA computes them; a kernel skips most masked ones.

  Returns:
    {'products', 'attention'}; None for a program that is not counted.
  """
  if not isinstance(cfg, RL | SFT):
    return None
  if isinstance(cfg, SFT):
    forward = packed_flops(model, cfg.microbatch or cfg.batch, cfg.data.max_length, causal=False)
    return update_flops(forward, cfg.model.remat) if name == 'sft/accumulate' else None
  rows, groups = policy.microbatch_shape(cfg)
  forward = forward_flops(model, groups, rows, cfg.rollout.max_prompt, cfg.rollout.max_response, causal=False)
  logprobs = {'products': forward['weights'] + forward['logits'], 'attention': forward['attention']}
  taught = teaching_flops(cfg, model, groups, rows, False, sum)
  update = {part: x + taught[part] for part, x in update_flops(forward, cfg.model.remat).items()}
  return {'update/accumulate': update, 'logprobs': logprobs}.get(name)


def chips_needed(used, limit, chips):
  """Number of chips on which the memory used by `chips` chips would fit if it were split evenly."""
  return math.ceil(chips * used / limit)
