"""Run by test_mesh.py in a process with two or eight CPU devices: a mesh must not change what is computed.

python on_many_devices.py MODEL [all]     a key of MODELS; all: every mesh of eight devices, not only the first few
"""

import dataclasses
import functools
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax import config, models, parallel
from r1jax import params as params_lib
from r1jax.batch import RolloutBatch
from r1jax.config import ConfigError
from r1jax.models import layout
from r1jax.models.config import MLA, MoE
from r1jax.sampling import Engine, Precision, SamplingParams, decode, row_keys
from r1jax.sampling.logits import Restriction
from r1jax.training import accumulate, critic, distill, lora, optimizer, policy
from r1jax.training import state as state_lib

SHAPE = dict(vocab=40, embed=16, layers=2, heads=8, kv_heads=2, head_dim=8, mlp=24, context=64)
MODELS = {
  'dense': models.ModelConfig(**SHAPE),
  'qwen3_moe': models.ModelConfig(**SHAPE, qk_norm=True, moe=MoE(experts=8, top_k=3, mlp=16)),
  'deepseek_v3': models.ModelConfig(
    **SHAPE | dict(layers=3, kv_heads=8, head_dim=12),
    mla=MLA(q_rank=10, kv_rank=9, nope_dim=8, rope_dim=4, v_dim=6),
    moe=MoE(8, 2, 16, shared=2, first_dense=1, score='sigmoid', groups=4, top_groups=2, scale=2.5),
  ),
}
TWO = [dict(fsdp=2)]  # meshes of two devices
# Meshes of eight; the first few are tested.
MESHES = {
  'dense': [
    dict(tp=8),
    dict(data=2, fsdp=2, tp=2),
    dict(fsdp=2, tp=2, seq=2),
    dict(fsdp=2, tp=4),
    dict(fsdp=8),
    dict(fsdp=2, seq=4),
  ],
  'qwen3_moe': [dict(fsdp=2, expert=2, tp=2), dict(expert=8), dict(expert=2, seq=4)],
  'deepseek_v3': [
    dict(fsdp=2, expert=4),
    dict(expert=2, tp=2, seq=2),
    dict(fsdp=8),
    dict(expert=8),
    dict(data=2, expert=2, tp=2),
  ],
}
# Sampled on another mesh over the same devices than trained on.
SAMPLERS = {str(dict(fsdp=2, tp=2, seq=2)): dict(data=2, tp=4), str(dict(fsdp=8)): dict(fsdp=2, tp=4)}
# Attention by the TPU's kernel, interpreted: whole rows of some heads each, along tp and seq.
KERNELS = {str(dict(fsdp=2, tp=2, seq=2)): 'splash'}
# How each model is sampled in low precision, and on which mesh.
LOW_PRECISION = {
  'dense': (Precision(weights='int4'), dict(data=2, fsdp=2, tp=2)),
  'qwen3_moe': (Precision(weights='int8', cache='int8'), dict(fsdp=2, expert=2, tp=2)),
  'deepseek_v3': (Precision(weights='int8', cache='int8'), dict(data=2, expert=2, tp=2)),
}
# Where low-rank adapters are trained.
ADAPTERS = {
  'dense': dict(data=2, fsdp=2, tp=2),
  'qwen3_moe': dict(fsdp=2, expert=2, tp=2),
  'deepseek_v3': dict(fsdp=2, tp=2, expert=2),
}
TESTED = {'dense': 3, 'qwen3_moe': 1, 'deepseek_v3': 1}
P, G, T = 8, 2, 16
ONE = dict(data=1, fsdp=1, expert=1, tp=1, seq=1)


def config_of(microbatch, attention='auto', **others):
  cfg = _config_of(microbatch, attention)
  return dataclasses.replace(cfg, **{key: dataclasses.replace(getattr(cfg, key), **of) for key, of in others.items()})


def _config_of(microbatch, attention):
  return config.RL(
    seed=0,
    steps=3,
    model=config.Model('none', attention=attention),
    data=config.Data('jsonl'),
    rollout=config.Rollout(prompts=P, samples=G, max_prompt=8, max_response=T),
    reward=config.Reward({'x': 1.0}, 'x'),
    loss=config.Loss('grpo', kl_coef=0.1),
    optimizer=config.Optimizer(1e-2, eps=1e-3),
    train=config.Train(microbatch=microbatch, balance_rate=1e-3),
    eval=config.Evaluation(1, 1, 1),
    checkpoint=config.Checkpoint(1),
  )


def graded(model):
  """A random RolloutBatch; of DeepSeek's model with random experts to replay."""
  rng = np.random.default_rng(0)
  near = lambda: (-3.7 + 0.3 * rng.normal(size=(P, G, T))).astype(np.float32)
  lengths = rng.integers(1, T + 1, (P, G)).astype(np.int32)
  routes = lambda *shape: rng.integers(0, 8, shape).astype(np.uint8) if model.mla else None
  return RolloutBatch(
    prompts=rng.integers(0, 40, (P, 8)).astype(np.int32),
    prompt_lengths=rng.integers(1, 9, P).astype(np.int32),
    tokens=rng.integers(0, 40, (P, G, T)).astype(np.int32),
    lengths=lengths,
    loss_mask=np.arange(T) < lengths[..., None],
    advantage=rng.normal(size=(P, G, 1)).astype(np.float32),
    sampler_logp=near(),
    threshold=rng.uniform(-3, -1, (P, G, T)).astype(np.float32),
    ref_logp=near(),
    prompt_experts=routes(P, 2, 2, 8),
    experts=routes(P, G, 2, 2, T),
  )


def run(model, mesh, sampler_mesh=None, attention='auto', adapters=()):
  """Host copies of samples, log-probs, the updated state and its metrics; the state; programs compiled.

  adapters: settings of config.LoRA.
  """
  cfg = config_of(16, attention, lora=dict(adapters), train=dict(balance_rate=0.0) if adapters else {})
  specs = lora.specs(cfg.lora, model)
  opt = optimizer.make(cfg.optimizer, 3, specs)
  like = lora.abstract_state(cfg.lora, model, opt, mesh, 'float32', 'float32')
  put = lambda x, like: jax.device_put(np.asarray(x), like.sharding)
  params = params_lib.init(specs, jax.random.key(0))
  if adapters:
    params = jax.tree.map(lambda x: x if x.any() else 0.05 + x, params)  # B too
  state = state_lib.new_state(jax.tree.map(put, params, like.params), opt, like.saved())
  if adapters:
    whole_model = params_lib.init(models.specs(model), jax.random.key(0))
    state = state.replace(frozen={'base': like.base.replace(params=jax.tree.map(put, whole_model, like.base.params))})
  trainer = policy.make_trainer(cfg, model, opt, mesh)
  sampler_mesh = sampler_mesh or mesh
  engine = Engine(model, types.SimpleNamespace(eos=(1,)), sampler_mesh, max_prompt=8, max_response=T)
  keys = jax.device_put(row_keys(jax.random.key(3), P, G), parallel.replicated(sampler_mesh))
  with jax.transfer_guard('disallow'):
    sampling = SamplingParams(min_p=0.05, thresholds=True, experts=bool(model.moe))
    samples = engine.sample(state.model(), [[3, 4, 5 + i] for i in range(P)], keys, sampling)
    batch = graded(model)
    logp = policy.logprobs(state.model(), batch, cfg, lora.whole(trainer.loss_fn).logprobs)
    state, metrics = policy.update(trainer, state, batch, cfg, 0)
    compiled = accumulate.accumulate_program._cache_size()
    state, _ = policy.update(trainer, state, batch, cfg, 1)
  for at, (got, want) in enumerate(zip(jax.tree.leaves(state), jax.tree.leaves(like))):
    assert got.sharding.is_equivalent_to(want.sharding, got.ndim), (at, got.sharding, want.sharding)
  assert accumulate.accumulate_program._cache_size() == compiled, 'the second step compiled another program'
  return samples, logp, jax.device_get(state), metrics, state


def compare(alone, wide, said):
  np.testing.assert_array_equal(wide[0].tokens, alone[0].tokens, err_msg=said)
  np.testing.assert_allclose(wide[0].sampler_logp, alone[0].sampler_logp, atol=1e-5, err_msg=said)
  np.testing.assert_allclose(wide[0].threshold, alone[0].threshold, rtol=1e-5, atol=1e-5, err_msg=said)
  if alone[0].experts is not None:
    np.testing.assert_array_equal(wide[0].experts, alone[0].experts, err_msg=said)
    np.testing.assert_array_equal(wide[0].prompt_experts, alone[0].prompt_experts, err_msg=said)
  np.testing.assert_allclose(wide[1], alone[1], atol=1e-5, err_msg=said)
  worst = 0.0
  for (at, a), b in zip(jax.tree_util.tree_leaves_with_path(wide[2]), jax.tree.leaves(alone[2])):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5, err_msg=f'{said} {jax.tree_util.keystr(at)}')
    worst = max(worst, np.abs(a - b).max(initial=0))
  for name, value in alone[3].items():
    np.testing.assert_allclose(wide[3][name], value, rtol=1e-4, atol=1e-6, err_msg=f'{said} {name}')
  print(
    said, f'worst parameter {worst:.1e}, loss {abs(wide[3]["policy/loss"] - alone[3]["policy/loss"]):.1e}', flush=True
  )


def whole(x):
  """Share of an array that lies on each device."""
  return x.addressable_shards[0].data.size / x.size


def check_layout(wide):
  params, moments = wide[4].params, wide[4].opt_state[1][0].mu
  assert whole(params['layers']['mlp']['up']) == whole(params['embed']) == 1 / 4  # over fsdp and tp
  assert whole(moments['layers']['mlp']['up']) == 1 / 4
  assert whole(accumulate.zeros_like(params)['layers']['mlp']['up']) == 1 / 4  # gradients too


def check_received():
  """Entries of an 8 x 8 array that devices must get from others."""
  mesh = parallel.make_mesh(config.Mesh(**ONE | dict(fsdp=8)))
  by = lambda *spec: jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))
  rows, columns, everywhere = by('fsdp'), by(None, 'fsdp'), by()
  count = lambda before, after: parallel.entries_received((8, 8), before, after)
  assert count(rows, rows) == count(everywhere, rows) == 0
  assert count(rows, everywhere) == 8 * 56 and count(rows, columns) == 8 * 7


def check_programs(model, cache):
  """The sampler's programs leave prefix and cache where `decode.constrain` says, which a plan relies on."""
  mesh = parallel.make_mesh(config.Mesh(**ONE | dict(fsdp=2, tp=4)))
  specs = models.specs(model, stacked=False)
  by_prompt, everywhere = parallel.batch_sharding(mesh), parallel.replicated(mesh)
  of = lambda shape, dtype, sharding=by_prompt: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
  key = jax.eval_shape(lambda: jax.random.key(0)).dtype
  program = decode.prefill.lower(
    params_lib.abstract(specs, jnp.float32, parallel.shardings(specs, mesh)),
    of((P, 8), jnp.int32),
    of((P,), jnp.int32),
    of((P, G), key),
    of((), jnp.float32, everywhere),
    options=decode.DecodeOptions(model, Restriction(), (1,), models.ForwardOptions(mesh=mesh), cache),
    capacity=16,
  )
  prefix, state, _ = program.out_info
  place = lambda x, mesh, *axes: layout.sharding(x.shape, mesh, *axes)
  want = jax.tree.leaves(decode.constrain((prefix, state), mesh, place))
  found = jax.tree.leaves(program.compile().output_shardings[:2])
  for x, a, b in zip(jax.tree.leaves((prefix, state)), found, want, strict=True):
    assert a.is_equivalent_to(b, len(x.shape)), (x, a, b)


def check_low_precision(model, precision, shape):
  """Weights of 4 and 8 bits give the tokens of one device, with a cache of 8 bits too, and lie split like others."""
  params, outs = params_lib.init(models.specs(model), jax.random.key(0)), []
  for mesh in (
    parallel.make_mesh(config.Mesh(**ONE), jax.devices()[:1]),
    parallel.make_mesh(config.Mesh(**ONE | shape)),
  ):
    of_mesh = jax.device_put(params, parallel.shardings(models.specs(model), mesh))
    keys = jax.device_put(row_keys(jax.random.key(3), P, G), parallel.replicated(mesh))
    tokenizer = types.SimpleNamespace(eos=(1,))
    engine = Engine(model, tokenizer, mesh, max_prompt=8, max_response=T, precision=precision)
    sampled = engine.prepare_params(of_mesh)
    with jax.transfer_guard('disallow'):
      outs.append(engine.sample(sampled, [[3, 4, 5 + i] for i in range(P)], keys, SamplingParams()))
  layer = sampled['layers'][-1]
  split = np.prod([shape.get(axis, 1) for axis in ('fsdp', 'tp', *['expert'] * bool(model.moe))])
  assert whole(layer['moe' if model.moe else 'mlp']['up'].qvalue) == 1 / split
  same_samples(outs[1], outs[0], precision, f'{precision} {shape}')


def check_critic(model, shape):
  """A critic's values and its update, sharded as the policy's, are those of one device."""
  cfg, outs = config_of(16, loss=dict(advantage='gae', kl_coef=0.0)), []
  for mesh in (
    parallel.make_mesh(config.Mesh(**ONE), jax.devices()[:1]),
    parallel.make_mesh(config.Mesh(**ONE | shape)),
  ):
    trainer, like = critic.make(cfg, model, mesh)
    first = params_lib.init(models.specs(trainer.loss_fn.model), jax.random.key(0))
    placed = jax.tree.map(lambda x, s: jax.device_put(np.asarray(x), s.sharding), first, like.params)
    state = state_lib.new_state(placed, trainer.optimizer, like)
    with jax.transfer_guard('disallow'):
      batch = critic.with_values(trainer, state, graded(model), cfg)
      batch = batch.replace(returns=batch.values + 1, ref_logp=None)
      state, metrics = critic.update(trainer, state, batch, cfg, 0)
    outs.append((np.where(batch.loss_mask, batch.values, 0), jax.device_get(state.params), metrics))
  split = np.prod([shape.get(axis, 1) for axis in ('fsdp', 'tp')])
  assert whole(state.params['layers']['mlp']['up']) == 1 / split
  assert np.abs(outs[0][0]).max() > 0.1
  for a, b in zip(jax.tree.leaves(outs[1]), jax.tree.leaves(outs[0]), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5, err_msg=f'critic {shape}')


def check_adapters(model, shape):
  """Adapters are merged shard by shard, and their gradients are summed over the shards of the matrix."""
  run_on = lambda mesh: run(model, mesh, adapters=dict(rank=3, alpha=6.0))
  alone = run_on(parallel.make_mesh(config.Mesh(**ONE), jax.devices()[:1]))
  wide = run_on(parallel.make_mesh(config.Mesh(**ONE | shape)))
  compare(alone, wide, f'adapters {shape}')
  o = wide[4].params['layers']['attention']['o']
  assert (whole(o['a']), whole(o['b'])) == (1 / shape['tp'], 1 / shape['fsdp'])


def same_samples(wide, alone, precision, said):
  """The same tokens, with the same log-probs but for rows in which a cached value was rounded to the other side."""
  off = np.abs(wide.sampler_logp - alone.sampler_logp)
  exact = (off < 1e-5).all(axis=2).mean()
  print(f'{said} worst log-prob {off.max():.1e}, rows that agree {exact:.0%}', flush=True)
  np.testing.assert_array_equal(wide.tokens, alone.tokens, err_msg=said)
  assert exact >= (0.7 if precision.cache else 1.0) and off.max() < 1e-2


def draw(model, mesh, abstract=None):
  """Parameters of a model, laid out over a mesh."""
  specs = models.specs(model)
  return jax.device_put(params_lib.init(specs, jax.random.key(model.embed)), parallel.shardings(specs, mesh))


def check_teachers(model, shape):
  """Two teachers, one with more rows than the policy: the update of one device, the vocabulary split over the mesh."""
  cfg = config_of(16, loss=dict(kl_coef=0.0, advantage='zero'), distill=dict(coef=1.0))
  teachers = [dataclasses.replace(model, embed=8), dataclasses.replace(model, embed=24, vocab=48, tied=True)]
  batch = graded(model).replace(ref_logp=None, teacher=np.arange(P, dtype=np.int32) % 3 - 1)
  found, adam = [], optimizer.make(cfg.optimizer, 3, models.specs(model))
  for mesh in (parallel.make_mesh(config.Mesh(**ONE), jax.devices()[:1]), parallel.make_mesh(config.Mesh(**shape))):
    trainer = distill.with_teachers(policy.make_trainer(cfg, model, adam, mesh), cfg, model, teachers, 'ab')
    sources = [types.SimpleNamespace(cfg=of, load=functools.partial(draw, of, mesh)) for of in teachers]
    state = state_lib.new_state(draw(model, mesh), adam, state_lib.abstract_state(models.specs(model), adam, mesh))
    state = state.replace(frozen={'teachers': [distill.load(of, model, cfg, mesh) for of in sources]})
    with jax.transfer_guard('disallow'):
      state, metrics = policy.update(trainer, state, batch, cfg, 0)
    found.append((jax.device_get(state.params), metrics))
  assert found[0][1]['policy/grad_norm'] > 1e-2
  for a, b in zip(jax.tree.leaves(found[1][0]), jax.tree.leaves(found[0][0])):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
  for name, value in found[0][1].items():
    np.testing.assert_allclose(found[1][1][name], value, rtol=1e-4, atol=1e-6, err_msg=name)
  print(f'teachers on {shape}: KL {distill.by_token(found[1][1])["distill/kl"]:.4f}', flush=True)


def refusals(model):
  mesh = parallel.make_mesh(config.Mesh(data=2, fsdp=2, tp=2))
  with pytest.raises(ConfigError, match='1 prompts per microbatch do not divide over 4 devices.*multiple of 8'):
    policy.make_trainer(config_of(microbatch=2), model, None, mesh)
  # Microbatches of 4 prompts fit 4 devices, but the 6 prompts of a minibatch leave 2 over.
  uneven = dict(rollout=dict(prompts=12, samples=16), train=dict(minibatches=2, length_slices=4))
  with pytest.raises(
    ConfigError,
    match='the 6 prompts of a minibatch in microbatches of 4 .16 responses, 4 of a '
    'prompt. leave 2 over, which do not divide over 4 devices',
  ):
    policy.make_trainer(config_of(16, **uneven), model, None, mesh)
  policy.make_trainer(config_of(16, **uneven | dict(rollout=dict(prompts=16, samples=16))), model, None, mesh)
  with pytest.raises(ConfigError, match="'cudnn', which runs on gpu or cuda only, but .*'cpu'; use 'auto'"):
    policy.make_trainer(config_of(16, 'cudnn'), model, None, mesh)
  engine = Engine(model, types.SimpleNamespace(eos=(1,)), mesh, max_prompt=8, max_response=T)
  with pytest.raises(ConfigError, match='3 prompts do not divide over 4 devices'):
    engine.sample({}, [[3]] * 3, row_keys(jax.random.key(3), 3, G), SamplingParams())


def main(name, every):
  model, shapes = MODELS[name], MESHES[name] if every else MESHES[name][: TESTED[name]]
  alone = run(model, parallel.make_mesh(config.Mesh(**ONE), jax.devices()[:1]))
  assert len({tuple(t) for t in alone[0].tokens.reshape(P * G, T)}) > P
  for shape in TWO if jax.device_count() == 2 else shapes:
    sampler = parallel.make_mesh(config.Mesh(**ONE | SAMPLERS[str(shape)])) if str(shape) in SAMPLERS else None
    wide = run(model, parallel.make_mesh(config.Mesh(**ONE | shape)), sampler, KERNELS.get(str(shape), 'auto'))
    compare(alone, wide, f'{name} {shape}')
    if shape == dict(data=2, fsdp=2, tp=2):
      check_layout(wide)
    if 'expert' in shape:
      share = whole(wide[4].params['layers']['moe']['up']) * shape.get('fsdp', 1) * shape.get('tp', 1)
      assert share == 1 / shape['expert']
  if name == 'dense':
    check_critic(model, TWO[0] if jax.device_count() == 2 else shapes[1])
  if jax.device_count() == 2:
    return
  for cache in sorted({'', LOW_PRECISION[name][0].cache}):
    check_programs(model, cache)
  check_low_precision(model, *LOW_PRECISION[name])
  check_adapters(model, ADAPTERS[name])
  if name == 'dense':
    check_teachers(model, ONE | dict(data=2, fsdp=2, tp=2))
    refusals(model)
    check_received()


if __name__ == '__main__':
  main(sys.argv[1], 'all' in sys.argv[2:])
