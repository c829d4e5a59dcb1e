"""Plans of supervised fine-tuning: its phases, its shapes, and lower bounds of its cost."""

import dataclasses
import importlib.util
import json

import jax
import jax.numpy as jnp
import pytest

from configs import distill, r1, sft
from r1jax import config, models
from r1jax import params as params_lib
from r1jax.config import ConfigError
from r1jax.planning import compiled, meshes, planner, processes, programs, roofline, topology, verdict
from r1jax.training import sft as sft_lib

needs_compiler = pytest.mark.skipif(
  not importlib.util.find_spec('libtpu'), reason="compiles for TPUs: needs libtpu, in this project's extra 'plan'"
)


def config_of(problems=0, **mesh):
  c = sft.get_config('gsm8k')
  c.update(batch=8, microbatch=4, context=0)
  c.data.max_length = 256
  c.eval.update(problems=problems, batch=4, samples=2, max_prompt=32, max_response=128, final_problems=0)
  return dataclasses.replace(config.of_run(c), mesh=config.Mesh(**mesh))


def result(**changes):
  return (
    dict(
      argument_bytes=6 * 10**9,
      temp_bytes=4 * 10**9,
      code_bytes=0,
      peak_bytes=10**10,
      compiler_peak_bytes=10**10,
      refused=None,
      resident_beside_bytes=0,
      state_bytes=0,
      critic_bytes=0,
      compile_cpu_seconds=1.0,
      rss_bytes=10**9,
      dot_flops=10**12,
      open_loops=0,
      kernels=0,
      cached=False,
    )
    | changes
  )


@pytest.mark.parametrize('name', distill.STUDENTS)
def test_each_student_divides_over_the_slice_it_names(name):
  cfg = config.of_run(distill.get_config(name))
  slice_ = topology.find(cfg.topology)
  mesh = meshes.sizes(cfg.mesh, slice_.chips)
  assert cfg.microbatch % mesh['fsdp'] == 0 and cfg.batch % cfg.microbatch == 0 and programs.phases(cfg) == ['sft']
  planner.check_context(cfg, models.PRESETS[cfg.model.preset])


def test_a_row_longer_than_the_context_is_refused_unless_the_context_is_raised():
  c = distill.get_config('qwen2_5_math_7b')
  c.context = 0
  with pytest.raises(ConfigError, match='data.max_length 32768 .* 4096 tokens'):
    planner.check_context(config.of_run(c), models.PRESETS['qwen2_5_math_7b'])


def test_a_config_is_converted_to_the_class_of_its_run():
  assert isinstance(config_of(), config.SFT)
  from configs import r1_zero

  assert isinstance(config.of_run(r1_zero.get_config('toy')), config.RL)
  with pytest.raises(config.ConfigError, match='r1.py:deepseek_v3/zero'):
    config.of_run(r1.get_config('toy'))
  for name in ('base', 'people', 'curated'):
    with pytest.raises(config.ConfigError, match='no accelerator programs'):
      config.of_run(r1.get_config(f'toy/{name}'))
  with pytest.raises(ConfigError, match="'microbatches'.*'microbatch'"):
    config.of_run(sft.get_config('gsm8k').to_dict() | {'microbatches': 1})


def test_the_table_shows_what_fits_and_what_to_change(monkeypatch):
  results = {
    'sft/accumulate': result(peak_bytes=2 * 10**10, refused='RESOURCE_EXHAUSTED', dot_flops=None),
    'sft/apply': result(),
  }
  monkeypatch.setattr(processes, 'run', lambda job, watch: results[job.program])
  cfg, slice_ = config_of(fsdp=2, tp=2), topology.find('v5e:2x2')
  out, lines = planner.plan(cfg, models.PRESETS['bench'], slice_, [], cache='', price=2.0)
  assert [p['name'] for p in json.loads(json.dumps(out))['programs']] == list(programs.PHASES['sft'])
  text = '\n'.join(lines)
  assert 'step: 2 microbatches of 4 packed rows of 256 tokens.' in text and out['verdict'] == verdict.ORDER[-1]
  assert 'sft/accumulate: does not fit by 3.09 GB; more microbatches: --config.microbatch=2' in text
  assert out['bound']['cost_a_billion'] == 2 * out['bound']['chip_hours_a_billion'] > 0
  sampled = programs.names(programs.phases(config_of(problems=4)), config_of(problems=4))
  assert sampled == [*programs.PHASES['sft'], *programs.PHASES['sample']]


def test_analytic_flops():
  """Two FLOPs for each weight and token in a forward pass, and attention over half of the scores."""
  model, rows, t = models.PRESETS['bench'], 3, 100
  forward = roofline.packed_flops(model, rows, t, causal=True)
  table = model.vocab * model.embed  # the embedding is looked up, not multiplied with
  weights = (
    params_lib.count(models.specs(model))
    - 2 * table
    - model.embed * (2 * model.layers + 1)
    - (2 * model.layers * model.head_dim)
  )
  assert forward['weights'] == 2 * rows * t * weights and forward['logits'] == 2 * rows * t * table
  assert forward['attention'] == model.layers * rows * t * (t + 1) // 2 * 4 * model.heads * model.head_dim
  step = roofline.supervised_step(config_of(fsdp=4), model, topology.find('v5e:2x2'))
  assert step.seconds == max(step.flops / 197e12, step.bytes / 0.82e12)


@pytest.mark.parametrize('remat', ['none', 'full', 'products'])
def test_flops_of_multi_token_prediction_are_those_of_the_compiled_gradient(remat):
  model = models.ModelConfig(vocab=96, embed=32, layers=2, heads=4, kv_heads=2, head_dim=16, mlp=80, context=64, mtp=1)
  params, row = params_lib.abstract(models.specs(model)), jax.ShapeDtypeStruct((2, 12), jnp.int32)
  batch = sft_lib.PackedBatch(row, row, row, row.update(dtype=bool))
  loss = sft_lib.SFTLoss(model, models.ForwardOptions(remat=remat), 12, 0.3)
  gradient = jax.jit(jax.value_and_grad(lambda params, batch: loss(params, batch, jnp.float32(1))[0]))
  flops, open_loops = compiled.dot_flops(gradient.lower(params, batch).compile().as_text())
  want = roofline.update_flops(roofline.packed_flops(model, 2, 12, causal=False), remat)
  # Of a loop over one layer XLA may keep a score that others compute again.
  assert flops == pytest.approx(want['products'] + want['attention'], rel=5e-3) and not open_loops


def test_the_programs_with_multi_token_prediction_have_its_state_and_load():
  """Lowered, not compiled: the shapes fit each other."""
  model = models.PRESETS['toy_deepseek']
  cfg, more = dataclasses.replace(config_of(), mtp_coef=0.3), dataclasses.replace(model, mtp=1)
  at, without = (programs.setting(c, m, jax.devices()[:1]) for c, m in ((cfg, more), (config_of(), model)))
  for name in programs.PHASES['sft']:
    _, bytes_ = programs.lower(name, at)
  _, fewer = programs.lower('sft/apply', without)
  layer = params_lib.count(models.specs(more)['mtp'])
  assert layer == params_lib.count(models.specs(more)) - params_lib.count(models.specs(model))
  assert bytes_['state_bytes'] - fewer['state_bytes'] == layer * (
    4 + 2 * {'float32': 4, 'bfloat16': 2}[cfg.optimizer.moment_dtype]
  )
  with pytest.raises(ConfigError, match='mtp_coef is 0.3, but bench has 0 layers'):
    planner.plan(dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, preset='bench')), model, None, [], '')


@needs_compiler
def test_the_real_programs_compile_for_a_slice(tmp_path):
  cfg, slice_, model = config_of(fsdp=2, tp=2), topology.find('v5e:2x2'), models.PRESETS['toy']
  out, _ = planner.plan(cfg, model, slice_, [], str(tmp_path))
  rows = {p['name']: p for p in out['programs']}
  assert out['verdict'] == 'fits' and list(rows) == list(programs.PHASES['sft'])
  count = params_lib.count(models.specs(model))
  assert rows['sft/apply']['argument_bytes'] >= 4 * count  # four float32 copies over four chips
  analytic = sum(roofline.analytic_flops(cfg, model, 'sft/accumulate').values()) / 4
  assert rows['sft/accumulate']['dot_flops'] == pytest.approx(analytic, rel=0.05)
