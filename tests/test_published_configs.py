"""configs/published.py: the published numbers, written down here again, and that each run can begin."""

import json

import pytest

from configs import published, r1_zero
from r1jax import config, data, models, rewards, templates
from r1jax.config import ConfigError
from r1jax.data.toy import countdown
from r1jax.planning import meshes, planner, programs, topology
from r1jax.rewards import needs
from r1jax.runs import policies, problems
from r1jax.training import policy

NAMES = list(published.VARIANTS)
# steps, prompts, samples, prompts of an optimizer step, learning rate, KL coefficient, entropy bonus, response.
NUMBERS = {
  'simplerl_0_5b': (100, 1024, 8, 256, 5e-7, 1e-4, 1e-3, 8192),
  'simplerl_1_5b': (100, 1024, 8, 256, 5e-7, 1e-4, 1e-3, 8192),
  'verl_gsm8k': (140, 1024, 5, 256, 1e-6, 1e-3, 0.0, 1024),
  'maxtext_gsm8k': (100, 64, 8, 64, 2e-6, 0.04, 0.0, 1024),
  'tinyzero': (250, 256, 5, 128, 1e-6, 1e-3, 1e-3, 1024),
}
MODELS = {
  'simplerl_0_5b': ('qwen2_5_0_5b', 'v5e:2x4'),
  'simplerl_1_5b': ('qwen2_5_1_5b', 'v5e:2x4'),
  'verl_gsm8k': ('qwen2_5_1_5b', 'v5e:2x4'),
  'maxtext_gsm8k': ('qwen3_1_7b', 'v6e:2x4'),
  'tinyzero': ('qwen2_5_3b', 'v5e:2x4'),
}


def of(name, **data_settings):
  c = r1_zero.get_config(name)
  c.data.update(data_settings)
  return config.convert(c, config.RL)


@pytest.mark.parametrize('name', NAMES)
def test_each_has_the_published_numbers(name):
  cfg = of(name)
  r, loss, optimizer = cfg.rollout, cfg.loss, cfg.optimizer
  minibatch = r.prompts // cfg.train.minibatches
  found = (cfg.steps, r.prompts, r.samples, minibatch, optimizer.learning_rate, loss.kl_coef, loss.entropy_coef)
  assert (*found, r.max_response) == NUMBERS[name]
  assert (loss.name, loss.advantage, loss.kl_estimator, loss.kl_place) == ('dapo', 'group', 'k3', 'loss')
  assert (loss.clip_low, loss.clip_high, loss.dual_clip) == (0.2, 0.2, 3.0 if name == 'verl_gsm8k' else 0.0)
  assert (r.temperature, r.top_p, optimizer.schedule, optimizer.grad_clip) == (1.0, 1.0, 'constant', 1.0)
  assert cfg.train.reference_refresh == 0 and cfg.train.epochs == 1


@pytest.mark.parametrize('name', NAMES)
def test_each_fits_the_context_of_its_model_and_divides_over_its_slice_and_over_one_device(name):
  cfg = of(name)
  assert (cfg.model.preset, cfg.topology) == MODELS[name]
  planner.check_context(cfg, models.PRESETS[cfg.model.preset])
  slice_ = topology.find(cfg.topology)
  shards = meshes.sizes(cfg.mesh, slice_.chips)['fsdp']
  assert shards == slice_.chips == 8
  sampled, groups = programs.sampling(cfg), policy.microbatch_shape(cfg)[1]
  assert (sampled.slots or sampled.prompts) % shards == sampled.slots % shards == groups % shards == 0
  assert meshes.sizes(cfg.mesh, 1)['fsdp'] == 1


@pytest.mark.parametrize('name', NAMES)
def test_each_names_a_template_and_rewards_with_options_that_exist(name):
  cfg = of(name)
  problems.get_template('data', cfg.data)
  assert {part.source for part in cfg.data.parts.values()} | {cfg.data.source} <= {'mixture', *data.SOURCES}
  for part in cfg.reward.names():
    rewards.check(cfg.reward.function(part), cfg.reward.options.get(part, {}))
  with pytest.raises(ConfigError, match='model.path is empty; pass a model directory'):
    policies.open_policy(cfg.model.path)


@pytest.fixture
def files(tmp_path):
  """{name: path} of MATH's problems in both published forms of a level, and of GSM8K's."""
  rows = {
    'numbers': [{'problem': f'p{n}', 'answer': str(n), 'level': n} for n in range(1, 6)],
    'words': [{'problem': f'p{n}', 'answer': str(n), 'level': f'Level {n}'} for n in range(1, 6)],
    'gsm8k': [{'question': f'q{n}', 'answer': f'Half of {2 * n} is {n}.\n#### {n}'} for n in range(9)],
    'test': [{'question': f't{n}', 'answer': f'so\n#### {n}'} for n in range(3)],
  }
  for name, lines in rows.items():
    (tmp_path / name).write_text(''.join(json.dumps(line) + '\n' for line in lines))
  return {name: str(tmp_path / name) for name in rows}


@pytest.mark.parametrize('form', ['numbers', 'words'])
@pytest.mark.parametrize(('name', 'levels'), [('simplerl_0_5b', [1, 2, 3, 4]), ('simplerl_1_5b', [3, 4, 5])])
def test_simplerl_learns_its_levels_of_math_and_is_evaluated_on_gsm8k(files, form, name, levels):
  c = r1_zero.get_config(name)
  c.data.parts.math.update(path=files[form], eval_path=files['test'])
  cfg = config.convert(c, config.RL)
  loaded = problems.load_problems(cfg.data, cfg.reward)
  assert [p['problem'] for p in loaded.train] == [f'p{n}' for n in levels]
  assert sorted(p['problem'] for p in loaded.held_out) == ['t0', 't1', 't2']
  prompt = problems.get_template('data', cfg.data).format(loaded.train[0])
  assert prompt == f"Question:\np{levels[0]}\nAnswer:\nLet's think step by step.\n"


@pytest.mark.parametrize('name', ['verl_gsm8k', 'maxtext_gsm8k'])
def test_gsm8k_is_learned_and_evaluated_on_its_own_split(files, name):
  cfg = of(name, path=files['gsm8k'], eval_path=files['test'])
  loaded = problems.load_problems(cfg.data, cfg.reward)
  assert (len(loaded.train), len(loaded.held_out)) == (9, 3) and loaded.train[2]['answer'] == '2'
  options = cfg.reward.options['math']
  for response, score in (
    ('It is 2.\n#### 2', 1),
    ('It is 2.\n#### 3', 0),
    ('#### 3\nno, \\boxed{2}', 1),
    ('The answer is 2.', 1),
    ('2', 0),
  ):
    assert rewards.REWARDS['math']([loaded.train[2] | {'response': response}], **options) == [score], response


def test_verl_asks_for_the_mark_that_its_reward_reads():
  template = templates.TEMPLATES[of('verl_gsm8k').data.template]
  asked = template.format({'problem': 'How many?'})
  assert template.chat and asked == 'How many? Let\'s think step by step and output the final answer after "####".'


def test_tinyzero_plays_countdown_which_its_reward_can_score():
  cfg = of('tinyzero')
  (problem,) = countdown.problems(0, 1, held_out=False)
  needs.checker(cfg.reward)(problem)
  assert cfg.reward.options['countdown'] == {'where': 'tags', 'attempt': 0.1}
  item = problem | {
    'prompt': templates.TEMPLATES[cfg.data.template].format(problem),
    'response': f' t</think>\n<answer>{problem["answer"]}</answer>',
  }
  assert rewards.REWARDS['countdown']([item], **cfg.reward.options['countdown']) == [1.0]
