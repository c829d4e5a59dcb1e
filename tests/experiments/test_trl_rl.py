"""RL by TRL: its settings from ours, the order of prompts, and the rewards. With TRL installed, its updates too."""

import contextlib
import dataclasses
import functools
import json
import time
import types
from typing import Any

import jax
import numpy as np
import pytest

from configs import r1
from experiments import rl, trl_rl
from r1jax import checkpoint, config, models, parallel, rollout, templates, tokenizers
from r1jax import params as params_lib
from r1jax.batch import LENGTH, RolloutBatch
from r1jax.checkpoint import families, hf
from r1jax.config import ConfigError
from r1jax.data import order
from r1jax.data.toy import stories
from r1jax.metrics.writer import read_metrics
from r1jax.rewards.workers import pool
from r1jax.rollout.metrics import reward_metrics
from r1jax.runs.rl import load_fitting_problems, make_run
from r1jax.training import policy
from r1jax.training import state as state_lib

PROMPTS, SAMPLES = 3, 2
RESPONSES = [
  '<think>\n4 + 3 = 7.\n</think>\n\nThe answer is \\boxed{7}.',
  '<think>\nsieben\n</think>\n\nWait. The answer is \\boxed{8}.',
  'The answer is \\boxed{7}.',
  '<think>\n7',
  '',
  '<think>\n7\n</think>\n\n\\boxed{7} and <|x|>',
]


def settings(**changes):
  c = r1.get_config('smollm2').stages.reasoning.config
  c.update_from_flattened_dict({'model.path': 'unused', 'steps': 4, 'train.microbatch': 0} | changes)
  return config.convert(c, config.RL)


DISTINCT = {
  'seed': 11,
  'steps': 13,
  'model.remat': 'full',
  'rollout.prompts': 6,
  'rollout.samples': 4,
  'rollout.max_response': 96,
  'rollout.temperature': 0.9,
  'rollout.top_p': 0.95,
  'rollout.top_k': 50,
  'rollout.min_p': 0.02,
  'loss.name': 'grpo',
  'loss.advantage': 'group',
  'loss.clip_low': 0.2,
  'loss.clip_high': 0.28,
  'loss.kl_coef': 0.005,
  'optimizer.grad_clip': 0.7,
  'train.microbatch': 8,
  'train.reference_refresh': 5,
}


def test_each_setting_becomes_the_one_of_trl():
  assert trl_rl.grpo_arguments(settings(**DISTINCT)) == {
    'seed': 11,
    'max_steps': 13,
    'shuffle_dataset': False,
    'num_generations': 4,
    'per_device_train_batch_size': 8,
    'gradient_accumulation_steps': 3,
    'max_completion_length': 96,
    'temperature': 0.9,
    'top_p': 0.95,
    'top_k': 50,
    'min_p': 0.02,
    'loss_type': 'grpo',
    'importance_sampling_level': 'token',
    'scale_rewards': 'group',
    'epsilon': 0.2,
    'epsilon_high': 0.28,
    'beta': 0.005,
    'use_bias_correction_kl': False,
    'sync_ref_model': True,
    'ref_model_mixup_alpha': 1.0,
    'ref_model_sync_steps': 5,
    'max_grad_norm': 0.7,
    'bf16': False,
    'gradient_checkpointing': True,
  }


@pytest.mark.parametrize(
  ('changes', 'expected'),
  [
    ({'train.microbatch': 0}, {'per_device_train_batch_size': 24, 'gradient_accumulation_steps': 1}),
    ({'model.remat': 'products'}, {'gradient_checkpointing': False}),
    ({'rollout.min_p': 0.0, 'rollout.top_k': 0}, {'min_p': None, 'top_k': 0}),
    ({'loss.name': 'dr_grpo', 'loss.advantage': 'group_centred'}, {'loss_type': 'dr_grpo', 'scale_rewards': 'none'}),
    ({'loss.name': 'dapo'}, {'loss_type': 'dapo', 'importance_sampling_level': 'token'}),
    ({'loss.name': 'gspo'}, {'loss_type': 'grpo', 'importance_sampling_level': 'sequence'}),
    ({'train.reference_refresh': 0}, {'sync_ref_model': False, 'beta': 0.005}),
    ({'loss.kl_coef': 0.0, 'loss.kl_estimator': 'k1'}, {'sync_ref_model': False, 'beta': 0.0}),
  ],
)
def test_other_values_become_others(changes, expected):
  found = trl_rl.grpo_arguments(settings(**DISTINCT | changes))
  assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize(
  ('key', 'value', 'shown'),
  [
    ('model.dtype', 'bfloat16', 'float32'),
    ('data.drop_solved', 0.9, '0.0'),
    ('rollout.stop', ('\n\n',), '()'),
    ('rollout.weight_dtype', 'int8', "''"),
    ('reward.overlong_buffer', 16, '0'),
    ('loss.name', 'reinforce', 'dr_grpo'),
    ('loss.advantage', 'rloo', 'group_centred'),
    ('loss.average', 'token', "''"),
    ('loss.kl_estimator', 'k1', 'k3'),
    ('loss.kl_place', 'reward', 'loss'),
    ('loss.dual_clip', 3.0, '0.0'),
    ('loss.sequence_mask', 0.5, '0.0'),
    ('loss.tv_mask', 0.2, '0.0'),
    ('loss.entropy_coef', 0.01, '0.0'),
    ('loss.resample_limit', 2, '0'),
    ('loss.drop_zero_variance', True, 'False'),
    ('optimizer.name', 'muon', 'adam'),
    ('optimizer.moment_dtype', 'bfloat16', 'float32'),
    ('train.minibatches', 2, '1'),
    ('train.epochs', 2, '1'),
  ],
)
def test_what_trl_cannot_do_is_refused_by_name(key, value, shown):
  with pytest.raises(ConfigError) as caught:
    trl_rl.grpo_arguments(settings(**{'loss.kl_coef': 0.001, key: value}))
  message = str(caught.value)
  assert message.startswith(f'{key} is ') and shown in message and '\n' not in message


def test_learning_rates_warm_up_from_the_first_step_and_fall_to_the_floor():
  changes = {'optimizer.learning_rate': 3.0, 'optimizer.warmup': 3, 'optimizer.final_fraction': 0.1, 'steps': 7}
  rates = trl_rl.learning_rates(settings(**{'optimizer.schedule': 'linear'} | changes))
  np.testing.assert_allclose(rates, [1, 2, 3, 3, 2.325, 1.65, 0.975], rtol=1e-6)


@pytest.fixture(scope='module')
def tokenizer(tmp_path_factory):
  path = tmp_path_factory.mktemp('tokenizer') / 'tokenizer.model'
  tokenizers.train([*RESPONSES * 9, *(p['problem'] for p in stories.problems(0, 50, held_out=False))], path, 400)
  return tokenizers.load(path)


def test_prompts_of_a_step_are_those_of_our_own_run(tokenizer):
  cfg = settings(**{'data.template': 'plain', 'rollout.prompts': PROMPTS, 'rollout.max_prompt': 500})
  prompts, _ = trl_rl.draw_prompts(cfg, tokenizer)
  assert len(prompts) == cfg.steps * PROMPTS
  problems, _ = load_fitting_problems(cfg, tokenizer, templates.TEMPLATES['plain'])
  sampler: Any = types.SimpleNamespace(start=lambda params, drawn, *_: (drawn, None))
  run: Any = types.SimpleNamespace(
    cfg=cfg, sampler=sampler, draws=order.Draws(problems.train, cfg.data, cfg.seed, PROMPTS)
  )
  for step in range(cfg.steps):
    drawn, _, _ = rl.sample(run, None, step, jax.random.key(0))
    assert [problem for problem, _, _ in prompts[step * PROMPTS : (step + 1) * PROMPTS]] == drawn
  problem, text, ids = prompts[0]
  assert (text, ids) == (problem['problem'] + '\n', tokenizer.encode(problem['problem'] + '\n', bos=True))


class Engine:
  """Gives the responses that it was made with, whatever the prompts."""

  shards, any_batch, watch = 1, True, None

  def __init__(self, responses):
    self.responses = responses

  def prepare_params(self, params):
    return params

  def sample(self, params, prompts, keys, sampling, version=0):
    return as_batch(prompts, self.responses, len(self.responses) // len(prompts))


def padded(rows):
  return np.array([row + [0] * (max(map(len, rows)) - len(row)) for row in rows], np.int32)


def as_batch(prompts, responses, samples):
  """The RolloutBatch of ids. responses: those of a prompt adjacent."""
  shape = (len(prompts), samples)
  lengths = np.array([len(ids) for ids in responses], np.int32).reshape(shape)
  tokens = padded(responses).reshape(*shape, -1)
  return RolloutBatch(
    prompts=padded(prompts),
    prompt_lengths=np.array([len(ids) for ids in prompts], np.int32),
    tokens=tokens,
    lengths=lengths,
    loss_mask=np.arange(tokens.shape[2]) < lengths[..., None],
    sampler_logp=np.zeros(tokens.shape, np.float32),
    stop=np.full(shape, LENGTH),
  )


def test_rewards_and_their_metrics_are_those_of_our_own_run(tokenizer):
  reward = {'reward.parts': {'math': 1.0, 'format': 0.5, 'language': 0.2}, 'rollout.samples': SAMPLES}
  cfg = settings(**{'data.template': 'plain'} | reward)
  problems = [{'id': f'p{i}', 'problem': 'How many?', 'answer': '7'} for i in range(PROMPTS)]
  encoded = [rollout.encode_prompt(tokenizer, templates.TEMPLATES['plain'], problem) for problem in problems]
  prompts = [(problem, *texts) for problem, texts in zip(problems, encoded, strict=True)]
  ids = [tokenizer.encode(text) + [tokenizer.eos[0]] * (i != 3) for i, text in enumerate(RESPONSES)]
  options = {name: cfg.reward.options.get(name, {}) for name in cfg.reward.parts}
  with pool.Grader(options) as grader:
    sampler = rollout.Sampler(Engine(ids), tokenizer, templates.TEMPLATES['plain'], grader, cfg.reward, PROMPTS)
    drawn, pending = sampler.start(None, problems, SAMPLES, jax.random.key(0), None, step=0)
    scores, lines = pending.result(), []
    writer: Any = types.SimpleNamespace(write=lambda step, metrics: lines.append((step, metrics)))
    bar: Any = types.SimpleNamespace(update=lambda metrics: None)
    recorder = trl_rl.Recorder(cfg, tokenizer, prompts, grader, writer, bar)
    with recorder.clock('sample'):
      time.sleep(0.01)
    found = recorder.reward(
      completion_ids=ids, index=[0, 0, 1, 1, 2, 2], trainer_state=types.SimpleNamespace(global_step=0), completions=[]
    )
    recorder.end()
    recorder.write(5, {'loss': 0.25, 'grad_norm': 1.5, 'learning_rate': 1e-5})
  assert found == scores.total.reshape(-1).tolist() and len(set(found)) > 3
  (step, metrics), expected = lines[0], reward_metrics(drawn, scores, cfg.reward)
  assert step == 5 and {name: metrics[name] for name in expected} == expected
  assert metrics['reward/math/mean'] == 3 / 6 and metrics['response/truncated_fraction'] == 1 / 6
  assert metrics['response/length_mean'] == np.mean([len(x) for x in ids])
  assert (metrics['policy/loss'], metrics['policy/grad_norm']) == (0.25, 1.5)
  phases = ('sample', 'reward_wait', 'update')
  assert sum(metrics[f'time/{phase}'] for phase in phases) == pytest.approx(metrics['time/step'])
  assert metrics['time/sample'] >= 0.01
  assert metrics['throughput/sample_tokens_per_second'] == pytest.approx(sum(map(len, ids)) / metrics['time/sample'])


class Processor:
  """Encodes as transformers might: numbers in a text are ids."""

  def __init__(self, before=''):
    self.before = before

  def decode(self, ids, **_):
    return self.before + ' '.join(map(str, ids))

  def __call__(self, text):
    return {'input_ids': [[int(i) for i in t.split()] for t in text]}


def test_a_prompt_that_transformers_encodes_otherwise_is_refused():
  prompts = [({'id': 'a'}, '', [1, 2]), ({'id': 'b'}, '', [3])]
  assert trl_rl.prompt_texts(Processor(), prompts) == ['1 2', '3']
  with pytest.raises(ConfigError, match='problem a has 2 ids here and 3 others'):
    trl_rl.prompt_texts(Processor('0 '), prompts)


def test_only_new_folders_and_hugging_face_directories_are_taken(tmp_path, monkeypatch):
  monkeypatch.setattr(trl_rl.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ConfigError, match='TRL is missing'):
    trl_rl.run_trl(settings(), str(tmp_path))
  monkeypatch.setattr(trl_rl.importlib.util, 'find_spec', lambda name: name)
  (tmp_path / 'model').mkdir()
  with pytest.raises(ConfigError, match='holds a run'):
    trl_rl.run_trl(settings(), str(tmp_path))
  monkeypatch.setattr(trl_rl, 'open_policy', lambda path: types.SimpleNamespace(step='checkpoints/step_000001'))
  with pytest.raises(ConfigError, match='scripts/convert export'):
    trl_rl.open_directory(str(tmp_path))


def trl_advantages(rewards):
  """f32[P, G, 1]: TRL divides by the standard deviation of a sample, where we take that of the group."""
  centred = rewards - rewards.mean(axis=1, keepdims=True)
  return (centred / (rewards.std(axis=1, ddof=1, keepdims=True) + 1e-4))[..., None].astype(np.float32)


@pytest.fixture
def policy_path(tmp_path):
  """A small random model whose responses often end early, as many tokens end one."""
  path = tmp_path / 'policy'
  (path / 'text').mkdir(parents=True)
  tokenizers.train(
    [p['problem'] for p in stories.problems(0, 200, held_out=False)], path / 'text' / 'tokenizer.model', 400
  )
  own = tokenizers.load(path / 'text')
  tokenizers.to_tokenizer_json(path / 'text' / 'tokenizer.model', path / 'text' / 'tokenizer.json')
  (path / 'text' / 'tokenizer_config.json').write_text(json.dumps(tokenizers.transformers_config(own)))
  ends = {'eos_token_id': [own.eos[0], *range(50, 70)]}
  (path / 'text' / 'generation_config.json').write_text(json.dumps(ends))
  model = dataclasses.replace(models.PRESETS['toy_student'], vocab=448)
  params = jax.jit(functools.partial(params_lib.init, models.specs(model)))(jax.random.key(0))
  exported = families.for_export(families.to_hf(model), 'float32') | {'eos_token_id': own.eos[0]}
  hf.save(path / 'hf', model, params, exported, tokenizers.files(path / 'text'))
  return str(path / 'hf')


def weights(path):
  """{dotted name: array} of a model directory's parameters."""
  source = checkpoint.open_model(path)
  return named(source.load(source.abstract(parallel.make_mesh(config.Mesh()))))


def named(params):
  leaves = jax.tree_util.tree_leaves_with_path(params)
  return {jax.tree_util.keystr(at, simple=True, separator='.'): np.asarray(x) for at, x in leaves}


def replay(cfg, workdir, drawn):
  """Our updates with the responses and rewards that TRL had: the parameters by name, and the metrics of each step."""
  found, shape = [], (cfg.rollout.prompts, cfg.rollout.samples)
  with contextlib.closing(make_run(cfg, workdir)) as run:
    state, _ = run.restore_or_init()
    encode = functools.partial(rollout.encode_prompt, run.sampler.tokenizer, run.sampler.template)
    for step, (responses, rewards) in enumerate(drawn):
      batch = as_batch([encode(problem)[1] for problem in run.draws.next(step)], responses, shape[1])
      batch = rl.with_logprobs(run, state, batch)
      batch = batch.replace(advantage=trl_advantages(np.array(rewards).reshape(shape)))
      state, metrics = policy.update(run.trainer, state, batch, cfg, step)
      if (step + 1) % cfg.train.reference_refresh == 0:
        state = state.replace(reference=state_lib.refresh(state.params, state.reference))
      found.append(metrics)
    return named(state.params), found


@pytest.mark.slow
@pytest.mark.parametrize('loss', ['grpo', 'dapo', 'gspo'])
def test_updates_are_ours_given_the_same_responses(loss, policy_path, tmp_path, monkeypatch):
  pytest.importorskip('trl', reason="needs TRL: pip install -c constraints.txt -e '.[trl]'.")
  # With this epsilon Adam's step is no jump in the sign of a gradient, which rounding decides where it is small.
  steady = {'optimizer.learning_rate': 1e-2, 'optimizer.eps': 1e-3, 'optimizer.weight_decay': 0.1}
  run = {'steps': 4, 'model.path': policy_path, 'model.remat': 'none', 'data.template': 'plain', 'loss.name': loss}
  sizes = {'rollout.prompts': 4, 'rollout.samples': 4, 'rollout.max_response': 24, 'rollout.max_prompt': 200}
  update = {'train.microbatch': 8, 'train.reference_refresh': 3, 'loss.kl_coef': 5.0, 'optimizer.grad_clip': 0.3}
  cfg, drawn = settings(**steady | run | sizes | update), []

  class Scored(trl_rl.Recorder):
    """Rewards that differ within each group, which a random model does not earn."""

    def reward(self, completion_ids, index, **kwargs):
      super().reward(completion_ids, index, **kwargs)
      drawn.append((completion_ids, [sum(ids) % 7 / 3 for ids in completion_ids]))
      return drawn[-1][1]

  monkeypatch.setattr(trl_rl, 'Recorder', Scored)
  trl_rl.run_trl(cfg, str(tmp_path / 'trl'), threads=1)
  ours, metrics = replay(cfg, str(tmp_path / 'ours'), drawn)
  records = read_metrics(tmp_path / 'trl')
  assert len(records) == len(metrics) == cfg.steps
  for record, found in zip(records, metrics):
    for name in ('policy/loss', 'policy/grad_norm'):
      assert record[name] == pytest.approx(found[name], rel=1e-4, abs=1e-6)
  assert all(0.3 < found['policy/grad_norm'] for found in metrics) and metrics[1]['policy/kl'] > 0
  assert len({len(ids) for responses, _ in drawn for ids in responses}) > 5
  theirs, base = weights(tmp_path / 'trl' / 'model'), weights(policy_path)
  assert ours.keys() == theirs.keys()
  far = lambda a, b: np.sqrt(sum(np.square(a[name] - b[name]).sum() for name in a))
  assert far(ours, theirs) < 1e-4 * far(ours, base)
