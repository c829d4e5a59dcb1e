"""configs/r1.py: every stage of the recipes is built; deepseek_v3 has the paper's numbers, written down here again."""

import json
import types

import pytest

from configs import cold_start, distill, r1, r1_rl
from experiments import recipe
from r1jax import config, data, models, parallel
from r1jax.config import ConfigError
from r1jax.recipes import settings


def stages(variant):
  """{name: converted config}, things from outside lying in /given/NAME."""
  c = r1.get_config(variant)
  for name, stage in c.stages.items():
    if stage.experiment == 'external':
      stage.config.path = f'/given/{name}'
  cfg = config.convert(c, settings.Recipe)
  found = recipe.expand(cfg)
  return cfg, {name: recipe.convert(stage, found, '/w') for name, stage in found.items()}


@pytest.fixture(scope='module')
def v3():
  return stages('deepseek_v3')[1]


def test_the_record_of_a_stage_has_the_numbers_of_its_loss():
  """As records of older recipes have them, which so still agree."""
  found = recipe.expand(config.convert(r1.get_config('deepseek_v3'), settings.Recipe))
  losses = [stage.config['loss'] for stage in found.values() if 'loss' in stage.config]
  assert losses and not any(value in ('', -1.0) for loss in losses for key, value in loss.items() if key != 'average')


@pytest.mark.parametrize('variant', list(r1.VARIANTS))
def test_every_stage_is_built_and_each_is_a_config_by_itself(variant):
  cfg, found = stages(variant)
  assert cfg.seed == 0 and all(getattr(of, 'seed', 0) == 0 for of in found.values())
  for name, stage in cfg.stages.items():
    alone = r1.get_config(f'{variant}/{name}')
    assert 'stage:' not in str(alone) and stage.about
    if stage.experiment in ('rl', 'sft', 'pretrain'):  # what experiments.plan and the plain commands take
      config.convert(alone, recipe.EXPERIMENTS[stage.experiment].config)


def test_the_student_on_policy_learns_on_the_problems_of_the_recipe():
  found, taught = stages('toy')[1], config.convert(distill.get_config('toy_on_policy'), config.RL)
  assert dict(taught.data.parts) == dict(found['student_rl'].data.parts)
  others = {'evaluation', 'drop_solved', 'parts'}
  shared = lambda data: {key: value for key, value in vars(data).items() if key not in others}
  assert shared(taught.data) == shared(found['student_rl'].data)
  rule = lambda reward: (reward.parts_by_kind, {**reward.options}, reward.accuracy, reward.parts['format'])
  assert rule(taught.reward) == rule(found['student'].reward)
  rollout, other = taught.rollout, found['student_rl'].rollout
  assert (rollout.max_prompt, rollout.max_response) == (other.max_prompt, other.max_response)
  assert taught.distill.coef and taught.loss.advantage == 'zero' and not taught.loss.kl_coef


def test_a_forgotten_path_is_named_before_anything_runs(tmp_path):
  cfg = config.convert(r1.get_config('deepseek_v3'), settings.Recipe)
  with pytest.raises(ConfigError, match='stage base: path is empty'):
    recipe.run_recipe(cfg, str(tmp_path / 'w'))
  assert not (tmp_path / 'w').exists()


@pytest.mark.parametrize(
  ('variant', 'said'), [('nope', 'toy, smollm2, deepseek_v3'), ('toy/nope', 'base, zero, cold_data')]
)
def test_unknown_variants_are_refused_with_the_list(variant, said):
  with pytest.raises(ValueError, match=f"unknown variant 'nope'; known: {said}"):
    r1.get_config(variant)


@pytest.mark.parametrize(
  ('name', 'rate', 'temperature', 'length', 'clip'),
  [
    ('zero', 3e-6, 1.0, 32_768, 0.2),
    ('zero_long', 3e-6, 1.0, 65_536, 0.2),
    ('reasoning', 3e-6, 1.0, 32_768, 10.0),
    ('final', 3e-6, 0.7, 32_768, 10.0),
    ('student_zero', 2e-6, 1.0, 32_768, 0.2),
  ],
)
def test_the_papers_reinforcement(v3, name, rate, temperature, length, clip):
  c = v3[name]
  assert c.optimizer.learning_rate == rate and c.rollout.temperature == temperature
  assert c.rollout.max_response == length and c.rollout.samples == 16 and c.loss.clip_high == clip
  assert c.rollout.prompts * c.rollout.samples == 8192 and c.train.minibatches == 16 and c.train.epochs == 1
  assert c.rollout.prompts // c.train.minibatches == 32  # questions an optimizer step
  assert c.loss.kl_coef == 1e-3 and c.loss.kl_estimator == 'k3' and c.loss.name == 'grpo'
  assert c.train.reference_refresh * c.train.minibatches == 400


def test_the_papers_steps(v3):
  steps = {name: v3[name].steps * v3[name].train.minibatches for name in ('zero', 'zero_long', 'final')}
  assert steps['zero'] + steps['zero_long'] == 10_400 and abs(steps['zero'] - 8200) < 16
  assert abs(steps['final'] - 1700) < 16
  late = v3['final'].steps - v3['final'].reward.start_step['helpful']
  assert late * 16 == 400 and set(v3['final'].reward.start_step.values()) == {81}
  assert [name for name, part in v3['final'].data.parts.items() if part.start_step == 81] == ['harm', 'requests']


def test_the_papers_rewards(v3):
  zero, reasoning, final = (v3[name].reward for name in ('zero', 'reasoning', 'final'))
  assert zero.parts == {'format': 1.0} and all(list(r.values()) == [1.0] for r in zero.parts_by_kind.values())
  assert reasoning.parts == {'format': 1.0, 'language': 1.0} and v3['reasoning'].data.parts['cmath'].language == 'zh'
  assert final.options['helpful']['view'] == 'summary' and final.options['harmless']['view'] == 'whole'
  assert final.options['helpful']['path'] == '/w/helpful' and v3['final'].model.path == '/w/sft'
  assert zero.options['format']['form'] == 'r1_zero' and reasoning.options['format']['form'] == 'r1'


@pytest.mark.parametrize(
  ('name', 'rate', 'batch'),
  [
    ('cold', 5e-5, 128),
    ('sft', 5e-5, 128),
    ('student_qwen2_5_math_1_5b', 1e-4, 64),
    ('student_qwen2_5_math_7b', 8e-5, 64),
    ('student_qwen2_5_14b', 7e-5, 64),
    ('student_qwen2_5_32b', 6e-5, 64),
    ('student_llama_3_1_8b', 5e-5, 64),
    ('student_llama_3_3_70b', 2e-5, 64),
  ],
)
def test_the_papers_imitation(v3, name, rate, batch):
  c = v3[name]
  assert c.optimizer.learning_rate == rate and c.optimizer.schedule == 'cosine' and c.optimizer.final_fraction == 0.1
  assert c.batch == batch and 2 <= c.epochs <= 3 and c.data.max_length == 32_768
  assert c.model.path == ('/given/base' if batch == 128 else '/given/base_' + name.removeprefix('student_'))


@pytest.mark.parametrize(
  ('name', 'objective', 'view'), [('helpful', 'pairs', 'summary'), ('harmless', 'points', 'whole')]
)
def test_the_papers_reward_models(v3, name, objective, view):
  c = v3[name]
  assert (c.objective, c.data.view, c.epochs, c.batch, c.optimizer.learning_rate, c.data.max_length) == (
    objective,
    view,
    1.0,
    256,
    6e-6,
    8192,
  )


def test_data_goes_the_papers_way(v3):
  """R1-Zero's outputs into the cold start, the stage-2 checkpoint's samples into a set, the base learns both."""
  assert {name: way.model.path for name, way in v3['cold_data'].ways.items()} == {
    'few_shot': '/given/base',
    'direct': '/given/chat',
    'zero': '/w/zero_long',
    'rewritten': '/given/chat',
  }
  assert v3['cold'].data.path == '/w/cold_data' and v3['reasoning'].model.path == '/w/cold'
  assert v3['samples'].model.path == '/w/reasoning' and v3['curated'].samples == '/w/samples'
  assert v3['sft'].data.path == '/w/curated' == v3['student_qwen2_5_32b'].data.path
  assert v3['curated'].merge['general'].limit == 200_000 and v3['curated'].evaluation == ('/given/aime',)


def test_the_papers_evaluation(v3):
  e = v3['final/evaluation'].eval
  assert (e.final_samples, e.temperature, e.top_p, e.final_problems) == (64, 0.6, 0.95, 30)


def test_all_stages_after_the_first_ask_as_the_sft_has_taught(v3):
  chat = {name: of.chat_template for name in v3 for of in [getattr(v3[name], 'data', None)] if of is not None}
  zero = {'zero', 'zero_long', 'student_zero', 'zero/evaluation', 'zero_long/evaluation', 'student_zero/evaluation'}
  other = {'cold_data', 'helpful', 'harmless'}  # each way asks by itself; as the model's own tokenizer has it
  assert {name for name, of in chat.items() if of != 'r1'} == zero | other
  asked = lambda name: {key: part.template or v3[name].data.template for key, part in v3[name].data.parts.items()}
  assert (
    asked('samples')
    == asked('reasoning')
    == {'gsm8k': 'chat_boxed', 'cmath': 'chat_boxed_zh', 'mbpp': 'chat', 'stem': 'chat_boxed', 'knights': 'chat'}
  )
  assert asked('final') == asked('reasoning') | {'requests': 'chat', 'harm': 'chat'}
  # Rows of `samples` name their template; those of other sources, and what cold start has of mathematics, do not.
  assert v3['sft'].data.template == 'chat' and v3['cold'].data.template == 'chat_boxed'
  assert set(asked('zero').values()) == {'r1_zero'}


def test_cold_start_learns_nothing_that_rl_holds_out(tmp_path):
  path = tmp_path / 'math.jsonl'
  path.write_text('\n'.join(json.dumps({'problem': f'{i} + {i}?', 'answer': str(2 * i)}) for i in range(400)))
  cold, rl = cold_start.get_config('deepseek_v3'), r1_rl.get_config('reasoning')
  cold.data.path = rl.data.parts.gsm8k.path = str(path)
  for name in ('cmath', 'mbpp', 'stem', 'knights'):
    rl.data.parts[name].weight = 0.0
  texts = lambda problems: {p['problem'] for p in problems}
  cold, rl = (data.load(config.convert(c.data, config.Data)) for c in (cold, rl))
  assert texts(cold.train) == texts(rl.train) and texts(cold.held_out) == texts(rl.held_out) != set()


def test_given_problems_are_in_our_own_fields(tmp_path):
  path = tmp_path / 'code.jsonl'
  path.write_text('\n'.join(json.dumps({'problem': f'Write f{i}.', 'asserts': [f'assert f{i}()']}) for i in range(99)))
  c = r1.get_config('deepseek_v3/reasoning')
  c.data.parts = {'mbpp': c.data.parts.mbpp}
  c.data.parts.mbpp.path = str(path)
  one = data.load(config.convert(c.data, config.Data)).train[0]
  assert one['asserts'] and one['problem'].endswith(one['asserts'][0]) and one['kind'] == 'code'


def test_evaluations_divide_over_their_meshes(v3):
  found = {name: c for name, c in v3.items() if name.endswith('/evaluation')}
  assert {'student_zero/evaluation', 'student_qwen2_5_32b/evaluation', 'final/evaluation'} <= found.keys()
  for c in found.values():
    mesh = types.SimpleNamespace(shape=config.to_dict(c.mesh))
    parallel.check_divisible(models.specs(models.PRESETS[c.model.preset]), mesh)
    assert c.mesh.fsdp * c.mesh.tp == 256 and c.rollout.chunk % c.mesh.fsdp == 0 == c.train.microbatch % c.mesh.fsdp
