"""From rewards to advantages, and dynamic sampling, on hand-made rollouts."""

import dataclasses
import types

import numpy as np
import pytest

from r1jax import config, losses, rollout, templates, tokenizers
from r1jax.batch import RolloutBatch, concatenate
from r1jax.rewards import mix
from r1jax.rollout import metrics

P, G, T = 2, 3, 8


def cfg(buffer=0, **loss):
  return types.SimpleNamespace(
    reward=types.SimpleNamespace(overlong_buffer=buffer),
    rollout=types.SimpleNamespace(max_response=T),
    loss=config.Loss('grpo', **{'advantage': 'group_centred', 'kl_coef': 0.0} | loss),
  )


def graded(lengths=((1, 4, 8), (5, 6, 7))):
  rng = np.random.default_rng(0)
  shape = (P, G, T)
  return RolloutBatch(
    prompts=np.ones((P, 4), np.int32),
    prompt_lengths=np.full(P, 4, np.int32),
    tokens=np.ones(shape, np.int32),
    lengths=np.array(lengths, np.int32),
    loss_mask=np.arange(T) < np.array(lengths)[..., None],
    sampler_logp=np.zeros(shape, np.float32),
    old_logp=rng.normal(size=shape).astype(np.float32),
    ref_logp=rng.normal(size=shape).astype(np.float32),
  )


REWARD = np.array([[1, 0, 1], [0, 0, 1]], np.float32)


def advantage(batch, settings, credit=None):
  """f32[P, G], or [P, G, T] with credit, from REWARD."""
  found = rollout.assign_advantage(batch, rollout.Scores(REWARD, {}, 0, credit), settings).advantage
  return found if found.shape[2] > 1 else found[..., 0]


def centred(reward):
  r = np.asarray(reward, np.float64)
  return r - r.mean(axis=1, keepdims=True)


def test_advantages_are_of_the_rewards_group_by_group():
  np.testing.assert_allclose(advantage(graded(), cfg()), centred(REWARD), atol=1e-6)
  scaled = advantage(graded(), cfg(advantage='group'))
  np.testing.assert_allclose(scaled, centred(REWARD) / np.sqrt(2 / 9), rtol=1e-4)


def test_overlong_responses_are_punished_in_tokens():
  # max_response 8, buffer 4: no punishment up to 4 tokens, then a quarter for each one more.
  punished = REWARD - np.array([[0, 0, 1], [0.25, 0.5, 0.75]])
  np.testing.assert_allclose(advantage(graded(), cfg(buffer=4)), centred(punished), atol=1e-6)


@pytest.mark.parametrize(
  ('name', 'estimate'), [('k1', lambda d: d), ('k2', lambda d: d * d / 2), ('k3', lambda d: np.exp(-d) - 1 + d)]
)
def test_kl_in_the_reward_is_the_sum_over_each_response(name, estimate):
  batch = graded()
  # What lies after a response's end must not count, not even as nan.
  mask = np.arange(T) < batch.lengths[..., None]
  poisoned = dataclasses.replace(
    batch, old_logp=np.where(mask, batch.old_logp, np.nan), ref_logp=np.where(mask, batch.ref_logp, np.inf)
  )
  got = advantage(poisoned, cfg(kl_coef=0.3, kl_place='reward', kl_estimator=name))
  kl = np.zeros((P, G))
  for p in range(P):
    for g in range(G):
      for t in range(batch.lengths[p, g]):
        kl[p, g] += estimate(float(batch.old_logp[p, g, t]) - float(batch.ref_logp[p, g, t]))
  np.testing.assert_allclose(got, centred(REWARD - 0.3 * kl), atol=1e-4)


def test_kl_in_the_loss_leaves_the_reward_alone():
  np.testing.assert_allclose(advantage(graded(), cfg(kl_coef=0.3)), centred(REWARD), atol=1e-6)


def test_groups_of_equal_rewards_lose_their_mask_where_they_are_dropped():
  batch, equal = graded(), np.array([[1.1, 1.1, 1.1], [0, 0, 1]], np.float32)
  given = lambda reward, settings, credit=None: rollout.assign_advantage(
    batch, rollout.Scores(reward, {}, 0, credit), settings
  )
  for estimator in ('group', 'group_centred', 'rloo'):
    dropped = given(equal, cfg(advantage=estimator, drop_zero_variance=True))
    assert not dropped.loss_mask[0].any() and (dropped.loss_mask[1] == batch.loss_mask[1]).all()
    kept = given(equal, cfg(advantage=estimator))
    assert (kept.loss_mask == batch.loss_mask).all() and (kept.advantage == dropped.advantage).all()
  # Lengths tell the responses apart, and so does credit by step.
  assert (given(equal, cfg(buffer=4, drop_zero_variance=True)).loss_mask == batch.loss_mask).all()
  settings, credit = cfg(drop_zero_variance=True), np.zeros((P, G, T), np.float32)
  settings.reward.step_credit, credit[0, 1, 3] = 0.5, 1
  assert (given(equal, settings, credit).loss_mask == batch.loss_mask).all()
  assert not given(np.ones((P, G), np.float32), cfg(drop_zero_variance=True)).loss_mask.any()


def test_groups_of_equal_rewards():
  assert metrics.equal_rewards(np.array([[1, 1, 1], [0, 1, 1], [0, 0, 0]])).tolist() == [True, False, True]


MATH = config.Reward(parts={'math': 1.0}, accuracy='math')


def drawn(name, rewards, samples=2, item=(), reward=MATH, step=None, **parts):
  """A rollout whose every row carries its own mark, and its scores."""
  item, shape = dict(item), (-1, samples)
  n = len(rewards)
  marks = [f'{name}{i}' for i in range(n // samples)]
  rows = np.array([f'{m}.{j}' for m in marks for j in range(samples)])
  items = [{'row': r, **item} for r in rows]
  tokens = np.arange(n * 3, dtype=np.int32).reshape(-1, samples, 3)
  batch = RolloutBatch(
    prompts=np.array([[ord(m[0]), int(m[1:])] for m in marks]),
    prompt_lengths=np.full(len(marks), 2),
    tokens=tokens,
    lengths=np.ones(tokens.shape[:2], np.int32),
    loss_mask=np.ones(tokens.shape, bool),
    sampler_logp=tokens * 2.0,
    stop=rows.reshape(shape),
    prompt_experts=np.array([[[[ord(m[0]), int(m[1:])]]] for m in marks], np.uint8),
    experts=tokens[:, :, None, None].astype(np.uint8),
  )
  made = rollout.Rollout([{'id': m} for m in marks], items, mix.weights(items, reward, step), batch)
  fold = lambda x: np.array(x, np.float32).reshape(shape)
  parts = {'math': np.array(rewards) * 2} | parts
  return made, rollout.Scores(fold(rewards), {k: fold(v) for k, v in parts.items()}, 1)


def test_dynamic_sampling_keeps_the_groups_that_differ_in_order():
  kept = rollout.DynamicSampling(3, MATH)
  kept.add(*drawn('a', [1, 1, 0, 1, 0, 0]))  # only a1 teaches anything
  assert kept.missing() == 2
  kept.add(*drawn('b', [1, 0, 1, 1, 0, 1]))  # b0 and b2
  assert kept.missing() == 0
  joined, scores = kept.result()
  assert [p['id'] for p in joined.problems] == ['a1', 'b0', 'b2']
  assert joined.batch.prompts.tolist() == [[ord('a'), 1], [ord('b'), 0], [ord('b'), 2]]
  want = ['a1.0', 'a1.1', 'b0.0', 'b0.1', 'b2.0', 'b2.1']
  assert [i['row'] for i in joined.items] == want and joined.batch.stop.reshape(-1).tolist() == want
  assert joined.batch.tokens[..., 0].tolist() == [[6, 9], [0, 3], [12, 15]]
  assert joined.batch.sampler_logp[..., 0].tolist() == [[12, 18], [0, 6], [24, 30]]
  np.testing.assert_array_equal(joined.batch.experts[:, :, 0, 0], joined.batch.tokens)
  np.testing.assert_array_equal(joined.batch.prompt_experts[:, 0, 0], joined.batch.prompts)
  assert scores.total.tolist() == [[0, 1], [1, 0], [0, 1]]
  assert scores.parts['math'].tolist() == [[0, 2], [2, 0], [0, 2]]
  assert scores.timeouts == 2


def test_dynamic_sampling_fills_up_with_dull_groups_and_takes_no_more_than_wanted():
  kept = rollout.DynamicSampling(2, MATH)
  kept.add(*drawn('a', [1, 1, 0, 0]))
  assert kept.missing() == 2
  kept.add(*drawn('b', [1, 1, 0, 1]))
  assert kept.missing() == 1
  assert [p['id'] for p in kept.result()[0].problems] == ['b1', 'a0']
  kept.add(*drawn('c', [0, 1, 1, 0]))
  assert [p['id'] for p in kept.result()[0].problems] == ['b1', 'c0'] and kept.missing() == 0


@pytest.mark.parametrize(
  ('right', 'totals', 'dull'),
  [
    ((0, 0, 0, 0), (1, 1, 0.99, 1), True),  # all wrong: language alone differs
    ((1, 1, 1, 1), (2, 1.5, 2, 1), True),  # all right, some of them not well formed
    ((0, 1, 0, 1), (1, 1, 1, 1), False),  # a gate or a long answer may even out what was right
    ((0, 0, 0.5, 0), (0, 0, 0.5, 0), True),  # half of the tests is not right
    ((1, 1, 1, 0), (3, 3, 3, 1), False),
  ],
)
def test_dynamic_sampling_goes_by_accuracy_alone(right, totals, dull):
  reward = config.Reward(parts={'math': 1.0, 'language': 1.0}, accuracy='math')
  kept = rollout.DynamicSampling(1, reward)
  kept.add(*drawn('a', totals, 4, reward=reward, math=right, language=np.subtract(totals, right)))
  assert kept.missing() == int(dull)


def test_dynamic_sampling_goes_by_the_accuracy_of_each_kind():
  reward = config.Reward(
    parts={'format': 0.5},
    accuracy='',
    parts_by_kind={'logic': {'logic': 1.0}, 'open': {'helpful': 1.0}, 'essay': {'length': 1.0}},
    accuracy_by_kind={'essay': ''},
    thresholds={'helpful': 0.5},
    start_step={'helpful': 3},
  )
  found = dict(logic=[0, 0, 1, 0], helpful=[0.1, 0.4, 0.4, 0.6], format=[1, 0, 1, 1], length=[0, 0, 0, 0])
  missing = {}
  for step in (2, 3):
    for kind in ('logic', 'open', 'essay'):
      kept = rollout.DynamicSampling(2, reward)
      kept.add(*drawn('a', [1, 0.5, 1, 1], item={'kind': kind}, reward=reward, step=step, **found))
      missing[kind, step] = kept.missing()
  # Logic: its second group. Open: what says that one is right has not begun, so the totals decide; then the bar does.
  # Nothing can say that an essay is right.
  assert missing == {('logic', 2): 1, ('logic', 3): 1, ('open', 2): 1, ('open', 3): 1, ('essay', 2): 1, ('essay', 3): 1}
  kept = rollout.DynamicSampling(1, reward)
  kept.add(*drawn('a', [1, 0.5, 1, 1], item={'kind': 'open'}, reward=reward, step=3, **found))
  assert kept.result()[0].problems[0]['id'] == 'a1'


def test_metrics_before_and_after_the_filter():
  kept = rollout.DynamicSampling(1, MATH)
  kept.add(*drawn('a', [1, 1, 0, 0, 0, 0], math=[1, 1, 0, 0, 0, 0]))
  kept.add(*drawn('b', [0, 1, 1, 1, 0, 0], math=[0, 1, 1, 1, 0, 0]))
  assert kept.metrics() == pytest.approx(
    {
      'filter/before/groups': 6,
      'filter/before/accuracy': 5 / 12,
      'filter/before/reward': 5 / 12,
      'filter/before/all_right': 2 / 6,
      'filter/before/all_wrong': 3 / 6,
      'filter/after/groups': 1,
      'filter/after/accuracy': 1 / 2,
      'filter/after/reward': 1 / 2,
      'filter/after/all_right': 0,
      'filter/after/all_wrong': 0,
    }
  )


def test_batches_are_joined_with_prompts_padded_to_the_longest():
  (first, _), (second, _) = drawn('a', [0, 1, 1, 0]), drawn('b', [0, 1])
  longer = second.batch.replace(prompts=np.array([[7, 8, 9]]), prompt_experts=np.array([[[[7, 8, 9]]]], np.uint8))
  joined = concatenate([first.batch, longer])
  assert joined.prompts.tolist() == [[ord('a'), 0, 0], [ord('a'), 1, 0], [7, 8, 9]]
  np.testing.assert_array_equal(joined.prompt_experts[:, 0, 0], joined.prompts)
  assert concatenate([first.batch.without_experts(), longer.without_experts()]).prompt_experts is None
  assert joined.tokens.shape == (3, 2, 3) and joined.stop[2].tolist() == ['b0.0', 'b0.1'] and joined.old_logp is None


def test_prompts_go_through_the_chat_template_where_the_template_says_so(tmp_path):
  tokenizers.train(['abc 1+1? User Assistant think'] * 9, tmp_path / 'tokenizer.model', 300)
  problem = {'problem': 'What is 1+1? <think>'}
  chat = lambda template: rollout.encode_prompt(
    tokenizers.load(tmp_path / 'tokenizer.model', template), templates.TEMPLATES['chat'], problem
  )
  text, ids = chat('r1')
  own = tokenizers.load(tmp_path / 'tokenizer.model')
  assert own.decode(ids).endswith('1+1? <think><｜Assistant｜><think>\n')
  assert templates.completed(text, 'x</think>') == '<think>x</think>'  # the template has opened the thinking
  talk = [{'role': role, 'content': role} for role in ('user', 'assistant', 'user')]
  problem['turns'] = [*talk[:2], {'role': 'user', 'content': 'And 2+2?'}]
  text, ids = chat('r1')
  said = own.decode(ids)
  assert said.startswith('<｜User｜>user<｜Assistant｜>assistant') and '<｜User｜>And 2+2?<｜' in said
  del problem['turns']
  template = 'Q: {{ messages[0].content }}{% if add_generation_prompt %} A:{% endif %}'
  (tmp_path / 'chat_template.jinja').write_text(template)
  text, ids = chat(None)
  assert own.decode(ids) == 'Q: What is 1+1? <think> A:'
  assert templates.completed(text, 'x') == 'x'  # the problem cannot
  text, ids = rollout.encode_prompt(own, templates.TEMPLATES['plain'], problem)
  assert text == 'What is 1+1? <think>.\n' and ids == own.encode(text) and own.bos is None


def test_credit_by_step_adds_to_the_advantage_of_single_tokens():
  credit = np.random.default_rng(1).normal(size=(P, G, T)).astype(np.float32)
  settings = cfg()
  settings.reward.step_credit = 0.5
  got = advantage(graded(), settings, credit)
  assert got.shape == (P, G, T)
  np.testing.assert_allclose(got, centred(REWARD)[..., None] + 0.5 * credit, rtol=1e-5, atol=1e-6)


def test_a_critic_gives_each_token_its_advantage_and_its_return():
  batch = graded()
  values = np.random.default_rng(1).normal(size=(P, G, T)).astype(np.float32)
  settings = cfg(advantage='gae', kl_coef=0.3, kl_place='reward', kl_estimator='k1')
  settings.critic = config.Critic(gamma=0.9, gae_lambda=0.8)
  found = rollout.assign_advantage(batch.replace(values=values), rollout.Scores(REWARD, {}, 0), settings)
  rewards = -0.3 * (batch.old_logp - batch.ref_logp)  # each token pays for its own KL
  for p in range(P):
    for g in range(G):
      rewards[p, g, batch.lengths[p, g] - 1] += REWARD[p, g]
  advantages, returns = losses.gae(rewards, values, batch.loss_mask, 0.9, 0.8)
  np.testing.assert_allclose(found.returns, returns, atol=1e-5)
  np.testing.assert_allclose(found.advantage, losses.whiten(advantages, batch.loss_mask), atol=1e-5)


def test_responses_are_right_by_the_accuracy_of_their_kind():
  reward = config.Reward(
    parts={'format': 0.5},
    accuracy='',
    parts_by_kind={'open': {'helpful': 1.0}, 'essay': {'length': 1.0}},
    accuracy_by_kind={'essay': ''},
    thresholds={'helpful': 0.5},
    start_step={'helpful': 3},
  )
  found = dict(helpful=[0.1, 0.4, 0.5, 0.6], format=[1, 1, 0, 0], length=[1, 1, 1, 1])
  for kind, step, want in (('open', 3, [True, True]), ('open', 2, [False, False]), ('essay', 3, [False, False])):
    made = drawn('a', [1, 1, 1, 1], item={'kind': kind}, reward=reward, step=step, **found)
    right, known = rollout.right_responses(*made, reward)
    assert known.tolist() == want
    if known.all():
      assert right.tolist() == [[False, False], [True, True]]
