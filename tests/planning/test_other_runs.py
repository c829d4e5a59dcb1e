"""Plans of bulk sampling, of reward models, and of RL that uses reward models."""

import dataclasses
import importlib.util
import math

import jax
import pytest

from configs import cold_start, distill, generate, r1, r1_rl, reward_model
from experiments import plan
from r1jax import config, models
from r1jax import params as params_lib
from r1jax.config import ConfigError
from r1jax.planning import meshes, planner, programs, roofline, search, topology
from r1jax.sampling import decode
from r1jax.training import policy

needs_compiler = pytest.mark.skipif(
  not importlib.util.find_spec('libtpu'), reason="compiles for TPUs: needs libtpu, in this project's extra 'plan'"
)
TOY = models.PRESETS['toy']
COUNT = params_lib.count(models.specs(TOY))


def sampling(max_response=64, slots=0):
  c = generate.get_config('stage3')
  c.rollout.update(prompts=8, samples=2, max_prompt=32, max_response=max_response, chunk=4, slots=slots)
  return config.of_run(c)


def scoring(objective='pairs'):
  c = reward_model.get_config('helpful')
  c.update(objective=objective, batch=8, microbatch=4, mesh=dict(fsdp=2, tp=2))
  c.data.max_length = 200
  return config.of_run(c)


def with_reward_models():
  c = r1_rl.get_config('all_scenarios')
  c.rollout.update(prompts=8, samples=2, max_prompt=32, max_response=64, chunk=4)
  c.train.update(minibatches=2, microbatch=8)
  return config.of_run(c)


def names(cfg):
  return programs.names(programs.phases(cfg), cfg)


def test_each_run_has_its_class_and_its_programs():
  assert isinstance(sampling(), config.Generate) and isinstance(scoring(), config.RewardModel)
  assert names(sampling()) == ['sample/weights', 'sample/prefill', 'sample/decode']
  assert names(scoring()) == ['reward_model/accumulate', 'reward_model/apply']
  assert 'rewards' in names(with_reward_models())
  assert 'rewards' not in names(config.of_run(r1_rl.get_config('reasoning')))


def test_slots_are_planned_with_room_for_whole_responses():
  """Each slot has keys and values of prompt, response and the newest tokens; a chunk of prompts waits beside."""
  cfg = sampling(max_response=100, slots=6)
  parts = ['weights', 'prefill', 'fill', 'merge', 'compact', 'decode']
  assert names(cfg) == [f'sample/{name}' for name in parts]
  setting = programs.setting(cfg, TOY, jax.devices()[:1])
  lowered = {name: programs.lower(name, setting) for name in names(cfg)}
  a_token = roofline.cache_bytes(TOY, 2)  # bfloat16
  held = {
    name: sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(low.args_info[0][1]))
    for name, (low, _) in lowered.items()
    if name in ('sample/fill', 'sample/decode')
  }
  slots, prompts = 6 * (32 + 100 + decode.CHUNK) * a_token, 4 * 32 * a_token
  assert slots <= held['sample/decode'] == held['sample/fill'] < slots + 6 * 64
  assert prompts <= lowered['sample/decode'][1]['resident_beside_bytes'] < prompts + 4 * 2 * TOY.embed + 64
  rounded = search.round_up_batches(cfg, 4).rollout
  assert (rounded.slots, rounded.chunk) == (8, 4)


def test_slots_read_a_prompt_each():
  """The bytes of decoding: weights once a step, of which there are as many as rows of full length fill the slots."""
  slice_, mesh = topology.find('v5e:1x1'), {'data': 1, 'fsdp': 1, 'expert': 1, 'tp': 1, 'seq': 1}
  (_, half), (_, full) = (roofline.sampling_phases(sampling(slots=n), TOY, slice_, mesh) for n in (8, 16))
  a_slot = roofline.cache_bytes(TOY, 2) * (32 + 64 / 2)
  weights = roofline.weights_read(TOY, 16, 2)[1]
  assert half.bytes == 2 * 64 * (weights + 8 * a_slot) and full.bytes == 64 * (weights + 16 * a_slot)


def test_the_way_of_cold_start_with_the_most_tokens_is_planned():
  c = cold_start.get_config('deepseek_v3')
  c.ways.direct.rollout.update(max_response=20_000)
  cold = config.of_run(c)
  assert isinstance(cold, config.ColdStart) and programs.as_generate(cold).rollout.max_response == 20_000
  with pytest.raises(ConfigError, match='ways: '):
    programs.as_generate(config.of_run(cold_start.get_config('traces')))


@pytest.mark.parametrize(
  'name',
  [
    name
    for name, stage in r1.get_config('deepseek_v3').stages.items()
    if stage.experiment not in ('external', 'curate')
  ],
)
def test_every_stage_of_deepseek_v3_divides_over_its_slice(name):
  cfg = config.of_run(r1.get_config(f'deepseek_v3/{name}'))
  cfg = programs.as_generate(cfg) if isinstance(cfg, config.ColdStart) else cfg
  slice_ = topology.find(cfg.topology)
  planner.check_context(cfg, plan.model_of(cfg))
  shards = meshes.sizes(cfg.mesh, slice_.chips)['fsdp']
  if isinstance(cfg, config.RL | config.Generate):
    assert programs.sampling(cfg).prompts % shards == 0
  if not isinstance(cfg, config.Generate):
    assert (policy.microbatch_shape(cfg)[1] if isinstance(cfg, config.RL) else cfg.microbatch) % shards == 0


def test_the_roofline_of_a_reward_models_step():
  """A pair has two rows, and there are no logits."""
  slice_ = topology.find('v5e:2x2')
  pairs, points = (planner.phases_of(scoring(o), TOY, slice_, {})[0] for o in ('pairs', 'points'))
  assert pairs.flops == 2 * points.flops and pairs.name == 'reward_model'
  scored = roofline.packed_flops(dataclasses.replace(TOY, head='score'), 16, 200, causal=True)
  assert scored['logits'] == 0 and pairs.flops == sum(roofline.update_flops(scored, 'full').values()) / 4


@needs_compiler
@pytest.mark.parametrize('cfg', [sampling, scoring])
def test_real_programs_compile_for_a_slice(tmp_path, cfg):
  cfg, slice_ = cfg(), topology.find('v5e:2x2')
  out, _lines = planner.plan(cfg, TOY, slice_, [], str(tmp_path), price=1.0)
  rows = {p['name']: p for p in out['programs']}
  assert list(rows) == names(cfg) and out['verdict'] == 'fits' and out['bound']['cost_a_billion'] > 0
  if isinstance(cfg, config.Generate):  # bfloat16 over four chips, and no optimizer
    assert rows['sample/weights']['argument_bytes'] >= 2 * COUNT / 4
    assert rows['sample/weights']['resident_beside_bytes'] == rows['sample/decode']['resident_beside_bytes'] == 0
  else:  # parameters, gradients and two moments, all float32
    assert rows['reward_model/apply']['argument_bytes'] >= 16 * COUNT / 4 * 0.98


@pytest.mark.slow
@needs_compiler
def test_reward_models_are_resident_next_to_a_policy(tmp_path):
  """Two reward models of the policy's shape in float32: one is the program's argument, the other resident."""
  cfg, slice_ = with_reward_models(), topology.find('v5e:2x2')
  out, _ = planner.plan(cfg, TOY, slice_, ['rewards'], str(tmp_path))
  without = dataclasses.replace(cfg, reward=config.Reward({'format': 1.0}, 'format'))
  alone, _ = planner.plan(without, TOY, slice_, ['logprobs'], str(tmp_path))
  (rewards,), (logprobs,) = out['programs'], alone['programs']
  both = rewards['state_bytes'] - logprobs['state_bytes']
  scored = params_lib.count(models.specs(dataclasses.replace(TOY, head='score')))
  assert both == pytest.approx(2 * 4 * scored / 4, rel=0.02)
  assert rewards['resident_beside_bytes'] == rewards['state_bytes'] - both // 2
  assert rewards['argument_bytes'] >= both / 2


def taught(advantage='none', **settings):
  """The toy student with a teacher."""
  c = distill.get_config('toy_on_policy')
  c.rollout.update(prompts=4, samples=2, max_prompt=16, max_response=24, chunk=4)
  c.train.update(microbatch=4, length_slices=1)
  c.loss.advantage = advantage
  c.distill.update(settings)
  return config.of_run(c)


def test_a_teacher_is_resident_and_runs_in_the_update():
  student, one = models.PRESETS['toy_student'], jax.devices()[:1]
  lower = lambda name, **settings: programs.lower(name, programs.setting(taught(**settings), student, one))
  for settings, model in (dict(preset='toy'), TOY), (dict(), student):
    held = 4 * params_lib.count(models.specs(model))  # float32, as the computation
    found, alone = (lower('update/apply', coef=coef, **settings)[1] for coef in (1.0, 0.0))
    assert found['state_bytes'] - alone['state_bytes'] == held
    assert found['resident_beside_bytes'] - alone['resident_beside_bytes'] == held
  lowered, _ = lower('update/accumulate', preset='toy')
  held = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(lowered.args_info[0][4]))
  assert held == 4 * params_lib.count(models.specs(TOY))
  with pytest.raises(ConfigError, match="distill.preset is 'nope'; use '' for the policy's shape, or one of llama3"):
    lower('update/apply', preset='nope')


def test_the_roofline_of_a_teacher():
  """Its forward pass with logits twice, and once more the policy's logits: all of them where rewards teach too."""
  student, flops = models.PRESETS['toy_student'], lambda m: roofline.forward_flops(m, 4, 2, 16, 24, causal=True)
  slice_, mesh = topology.find('v5e:1x1'), {'data': 1, 'fsdp': 1, 'expert': 1, 'tp': 1, 'seq': 1}
  phase = lambda cfg: {p.name: p.flops for p in roofline.step(cfg, student, slice_, mesh)}['teacher']
  want = roofline.total(flops(TOY)) + flops(TOY)['logits']
  assert phase(taught(preset='toy')) == want + 4 * flops(student)['logits']
  assert phase(taught('zero', preset='toy')) == want + flops(student)['logits']
